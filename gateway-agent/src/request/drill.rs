//! What a drill does to a request that was admitted, before it is sent: what a
//! failing backend would do, so that everything behind it is rehearsed.

use std::{rc::Rc, time::Duration};

use breaker_core::{
    outcome::{FailureKind, OutcomeClass},
    steering,
};
use fleet_config::{Retry, Timeouts};
use http::Request;
use tokio::time::sleep;

use crate::{
    admit::permit::Permit,
    backend::{
        forward::{Again, Attempt, Call, forward},
        pool::Pool,
        upload::Upload,
    },
    request::{answer::Fault, upgrade::Upgrade},
};

/// gRPC's `UNAVAILABLE`: what a call that a drill fails is answered with.
const UNAVAILABLE: u8 = 14;

/// Lets a drill have its way with a request. What is left is sent.
pub(crate) async fn rehearse(
    mut permit: Permit,
    fault: steering::Fault,
    pool: &Rc<Pool>,
    timeouts: &Timeouts,
    (request, upgrade): (Request<Upload>, Option<Box<Upgrade>>),
    call: Call<'_>,
) -> Attempt {
    let (kind, waited) = match fault {
        steering::Fault::Error => (FailureKind::Http5xx, Duration::ZERO),
        steering::Fault::Dead => (FailureKind::Connect, Duration::ZERO),
        // A backend that is too late is not waited for.
        steering::Fault::Delay(by) if by >= timeouts.response_headers => {
            sleep(timeouts.response_headers).await;
            (FailureKind::Timeout, timeouts.response_headers)
        }
        steering::Fault::Delay(by) => {
            sleep(by).await;
            permit.delayed(by);
            return match upgrade {
                None => forward(permit, pool, timeouts, request, call).await,
                Some(upgrade) => upgrade.forward(permit, pool, timeouts, request, call).await,
            };
        }
    };
    let hopeful = |retry| is_worth_it(kind, retry, &request, call.grpc);
    let class = OutcomeClass::Failure(kind);
    let again = match call.retry.is_some_and(hopeful) {
        true => {
            let owed = permit.finish_attempt(class, None);
            Some(Box::new(Again { request, owed }))
        }
        false => {
            permit.finish(class, None);
            None
        }
    };
    Attempt {
        answer: Err(Fault::Drill(kind)),
        waited,
        again,
    }
}

/// As if a backend had failed like this.
fn is_worth_it(kind: FailureKind, retry: &Retry, request: &Request<Upload>, grpc: bool) -> bool {
    match kind {
        FailureKind::Connect => true,
        FailureKind::Timeout => false,
        FailureKind::Http5xx | FailureKind::Reset | FailureKind::Grpc => match grpc {
            true => retry.grpc_codes.contains(&UNAVAILABLE),
            false => request.method().is_idempotent(),
        },
    }
}
