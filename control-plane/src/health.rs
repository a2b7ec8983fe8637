//! gRPC health, by service: what still works while the store is away is serving,
//! what does not is not.

use std::sync::Arc;

use tonic_health::{ServingStatus, server::HealthReporter};

use crate::plane::{Plane, until_set};

/// Keeps the statuses up to date until the process ends.
pub async fn run(plane: Arc<Plane>, reporter: HealthReporter) {
    let mut store_up = plane.store_up.subscribe();
    loop {
        let up = *store_up.borrow_and_update();
        let operators = if up {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        let statuses = [
            ("", ServingStatus::Serving),
            ("rampmeter.v1.AgentService", ServingStatus::Serving),
            ("rampmeter.v1.FleetService", ServingStatus::Serving),
            // Nothing can be changed without the store.
            ("rampmeter.v1.OperatorService", operators),
        ];
        for (service, status) in statuses {
            reporter.set_service_status(service, status).await;
        }
        tokio::select! {
            _ = store_up.changed() => {}
            () = until_set(&plane.ending) => break,
        }
    }
    for service in [
        "",
        "rampmeter.v1.AgentService",
        "rampmeter.v1.FleetService",
        "rampmeter.v1.OperatorService",
    ] {
        reporter
            .set_service_status(service, ServingStatus::NotServing)
            .await;
    }
}
