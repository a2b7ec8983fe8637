//! Who plays: three POPs with two agents each, two services, three backends.
//! `sin1` may not send payments out of us-east, so its clients are refused
//! while it is dead; the other POPs fail over.

use std::{io, net::SocketAddr, time::Duration};

use serde_json::json;

use crate::{
    backend::ScriptedBackend,
    load::{Load, Target},
};

/// The POPs, each with its two agents.
pub const POPS: [&str; 3] = ["fra1", "iad1", "sin1"];

/// The POP whose requests may not leave us-east.
pub const BOUND_POP: &str = "sin1";

/// Agents of each POP.
pub const AGENTS_PER_POP: usize = 2;

/// The backend that dies.
pub const VICTIM: &str = "payments/us-east";

/// Requests a second for payments, and for search.
pub const PAYMENTS_RATE: f64 = 240.0;
/// See [`PAYMENTS_RATE`].
pub const SEARCH_RATE: f64 = 60.0;

/// Short open periods and a short ramp: the real defaults are 30 s each.
pub const OPEN: Duration = Duration::from_secs(3);
/// See [`OPEN`].
pub const RAMP: Duration = Duration::from_secs(8);

/// The demonstration's backends.
#[derive(Debug)]
pub struct Backends {
    /// `payments/us-east`, the one that dies.
    pub east: ScriptedBackend,
    /// `payments/us-west`.
    pub west: ScriptedBackend,
    /// `search/us-east`, which must not notice anything.
    pub search: ScriptedBackend,
}

impl Backends {
    /// Starts them on free ports.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> io::Result<Self> {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let start = async |name| ScriptedBackend::start_remote(anywhere, name).await;
        Ok(Self {
            east: start(VICTIM).await?,
            west: start("payments/us-west").await?,
            search: start("search/us-east").await?,
        })
    }

    /// The fleet file that names them.
    pub fn fleet_file(&self) -> String {
        let endpoint = |backend: &ScriptedBackend| json!({ "endpoints": [format!("http://{}", backend.address())] });
        let file = json!({
            "pops": {
                "fra1": { "region_order": ["us-east", "us-west"] },
                "iad1": { "region_order": ["us-east", "us-west"] },
                "sin1": { "region_order": ["us-east"] },
            },
            "defaults": { "breaker": {
                "open_duration": seconds(OPEN), "max_open_duration": seconds(OPEN), "ramp_duration": seconds(RAMP),
            } },
            "services": {
                "payments": {
                    "routes": [{ "path_prefix": "/payments" }],
                    "backends": { "us-east": endpoint(&self.east), "us-west": endpoint(&self.west) },
                },
                "search": {
                    "routes": [{ "path_prefix": "/search" }],
                    "backends": { "us-east": endpoint(&self.search) },
                },
            },
        });
        format!("{file:#}")
    }
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// Names and POPs of the agents.
pub fn agents() -> impl Iterator<Item = (String, &'static str)> {
    POPS.into_iter()
        .flat_map(|pop| (1..=AGENTS_PER_POP).map(move |number| (format!("{pop}-{number}"), pop)))
}

/// Traffic for a service over all agents.
pub fn load(agents: &[(String, SocketAddr)], service: &str, rate: f64, seed: u64) -> Load {
    let targets = agents
        .iter()
        .map(|(name, address)| Target::new(name, *address))
        .collect();
    Load {
        rate,
        seed,
        path: format!("/{service}/"),
        ..Load::new(targets)
    }
}
