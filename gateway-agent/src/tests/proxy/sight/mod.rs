//! What is told about single requests: the access log in a file, spans at a
//! collector, and the context that backends see.

mod context;
mod log;
mod spans;

use fleet_config::{AccessLog, Tracing};

use super::rig::within;
use crate::sight::{
    desk::Desk,
    export::{PACE, Pace},
    setup::Sight,
};

/// Waits until something holds.
async fn until(holds: impl Fn() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A desk that batches and gives up faster than life.
fn desk(sight: &Sight) -> Desk {
    let ms = std::time::Duration::from_millis;
    Desk::new(sight, "a1").with_pace(Pace {
        look: ms(2),
        batch: ms(10),
        call: ms(200),
        backoff: ms(1),
        ..PACE
    })
}

fn tracing(collector: std::net::SocketAddr, sample: f64) -> Tracing {
    Tracing {
        otlp_endpoint: format!("http://{collector}"),
        sample,
        service_name: "edge".to_owned(),
    }
}

fn to_file(file: &std::path::Path, sample: f64) -> AccessLog {
    AccessLog {
        file: Some(file.to_owned()),
        sample,
    }
}
