//! What a drill does to a request that was admitted, before it is sent: what a
//! failing backend would do, so that everything behind it is rehearsed.

use breaker_core::{
    outcome::{FailureKind, OutcomeClass},
    steering,
};
use fleet_config::Timeouts;
use tokio::time::sleep;

use crate::{admit::permit::Permit, request::answer::Fault};

/// Lets a drill have its way with a request. What is left is sent.
pub(crate) async fn rehearse(
    mut permit: Permit,
    fault: steering::Fault,
    timeouts: &Timeouts,
) -> Result<Permit, Fault> {
    let kind = match fault {
        steering::Fault::Error => FailureKind::Http5xx,
        steering::Fault::Dead => FailureKind::Connect,
        // A backend that is too late is not waited for.
        steering::Fault::Delay(by) if by >= timeouts.response_headers => {
            sleep(timeouts.response_headers).await;
            FailureKind::Timeout
        }
        steering::Fault::Delay(by) => {
            sleep(by).await;
            permit.delayed(by);
            return Ok(permit);
        }
    };
    permit.finish(OutcomeClass::Failure(kind), None);
    Err(Fault::Drill(kind))
}
