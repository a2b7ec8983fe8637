//! When a kept answer may stand in for a backend's.

use futures_util::FutureExt;
use http::StatusCode;
use http_body_util::BodyExt;

use crate::request::{answer::Fault, body::Body, rejection::Rejection};

/// Frames of a backend's failure that are read so that its connection can be used
/// again; only those that are there already.
const LEFTOVERS: usize = 16;

/// Statuses for which RFC 5861 §4 allows a stale answer.
pub(crate) fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// No backend took the request, or the last one failed it. A quota is for its
/// caller to keep, and a body that stalls is the client's.
pub(crate) fn is_outage(rejection: &Rejection) -> bool {
    match rejection {
        Rejection::Refused(_) | Rejection::Shed(_) => true,
        Rejection::OverQuota(_) => false,
        Rejection::Fault(fault) | Rejection::FaultAt(fault, ..) => matches!(
            fault,
            Fault::NoRegion
                | Fault::Limit
                | Fault::Connect
                | Fault::ConnectTimeout
                | Fault::Reset
                | Fault::Upgraded
                | Fault::Timeout
                | Fault::Drill(_)
        ),
    }
}

/// Reads what has come already of a failure's body, so that its connection can be
/// used again; an outage is the wrong time to connect anew for each request.
pub(crate) fn finish(mut body: Body) {
    for _ in 0..LEFTOVERS {
        if !matches!(body.frame().now_or_never(), Some(Some(Ok(_)))) {
            break;
        }
    }
}
