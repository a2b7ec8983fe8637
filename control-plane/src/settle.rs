//! The first moments of a replica. A store without records may be a new one, or
//! one that lost everything while agents hold decisions. So before agents are told
//! that everything is CLOSED, those that come back are heard first.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    commit::{Known, KnownService},
    plane::{Plane, pause},
    store::SyncRequest,
};

/// How long agents are heard before an empty store is believed.
const HEAR_FIRST: Duration = Duration::from_secs(1);

/// How often the store is tried.
const RETRY: Duration = Duration::from_millis(250);

/// Lets decisions flow as soon as they can be believed.
pub async fn run(plane: &Plane) {
    let start = Instant::now();
    let mut fleet = plane.fleet.subscribe();
    loop {
        let configured = fleet.borrow_and_update().clone();
        let Some(configured) = configured else {
            // The sender lives in the plane.
            let _ = fleet.changed().await;
            continue;
        };
        let read = configured
            .config
            .backends()
            .map(|(name, ..)| name.clone())
            .collect();
        let services = configured.config.services.keys();
        let request = SyncRequest {
            read,
            services: services.map(|name| (name.clone(), None)).collect(),
            ..SyncRequest::default()
        };
        if let Ok(reply) = plane.sync(request).await {
            let empty = reply.backends.iter().all(|b| b.record.is_none())
                && reply.services.iter().all(|s| s.record.is_none());
            if !empty || start.elapsed() >= HEAR_FIRST {
                for state in reply.backends {
                    if let Some(policy) = configured.config.policy(&state.name) {
                        Known::of(state).publish(plane, policy);
                    }
                }
                for state in reply.services {
                    KnownService::of(state).publish(plane);
                }
                plane.settled.send_replace(true);
                return;
            }
        }
        let rest = HEAR_FIRST.saturating_sub(start.elapsed());
        if !pause(
            plane,
            if rest.is_zero() {
                RETRY
            } else {
                rest.min(RETRY)
            },
        )
        .await
        {
            return;
        }
    }
}
