//! One request to one endpoint, until its response's header is there; whatever
//! happens, its outcome is settled once.
//!
//! Time-outs count what the backend keeps us waiting for, never what the client
//! does: `response_headers` runs from the last byte of the request that the
//! client let us send, and the rest of `total` is what the body may make us
//! wait. Streams (gRPC, server-sent events) pause by design: once they have
//! started, only [`STREAM_IDLE`] ends them.

use std::{
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use breaker_core::outcome::{FailureKind, OutcomeClass};
use fleet_config::Timeouts;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::time::{Instant, sleep_until};

use crate::{
    admit::{permit::Permit, refusal::RefusalReason},
    backend::{
        classify,
        exchange::Exchange,
        lent::Connection,
        pool::{ConnectError, Pool, Protocol},
        relay::Relay,
        upload::{Progress, Upload, UploadFault},
        watchdog::Watchdog,
    },
    limits::{BODY_IDLE, STREAM_IDLE},
    request::{answer::Fault, body::Body, headers},
};

/// Sends an admitted request to an endpoint.
///
/// This and what it calls chain futures instead of awaiting them where an
/// `async fn` would hold its argument twice: hyper moves a request's future into
/// place, and moving kilobytes for each request shows.
pub(crate) fn forward<'a>(
    mut permit: Permit,
    pool: &'a Rc<Pool>,
    timeouts: &'a Timeouts,
    request: Request<Upload>,
    grpc: bool,
) -> impl Future<Output = Result<Response<Body>, Fault>> + use<'a> {
    let load = pool.enter();
    let progress = request.body().progress().clone();
    let started = Instant::now();
    attempt(pool, timeouts, request).map(move |attempted| match attempted {
        Ok((response, connection)) => {
            let owed_since = progress.owed_since(started).unwrap_or_else(Instant::now);
            let waited = owed_since.elapsed();
            permit.answered(waited);
            let exchange = Exchange::new(permit, connection, progress, load);
            let left = timeouts.total.saturating_sub(waited);
            Ok(deliver(response, exchange, left, grpc))
        }
        Err(failure) => Err(settle(permit, pool, &failure)),
    })
}

/// Records that there is no response.
pub(crate) fn settle(permit: Permit, pool: &Pool, failure: &Failure) -> Fault {
    tracing::debug!(endpoint = %pool.endpoint, ?failure, "no response");
    let fault = failure.fault();
    match failure.held_against_backend() {
        Some(kind) => permit.finish(OutcomeClass::Failure(kind), None),
        None if fault == Fault::Limit => permit.withdraw(RefusalReason::Limit),
        // The client's own doing: dropped as its leaving.
        None => {}
    }
    fault
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum Failure {
    Connect(ConnectError),
    Upload(UploadFault),
    Reset(hyper::Error),
    Upgraded,
    Timeout,
}

impl Failure {
    /// `None`: it says nothing about the backend.
    fn held_against_backend(&self) -> Option<FailureKind> {
        match self {
            Self::Connect(ConnectError::Limit) | Self::Upload(_) => None,
            Self::Connect(_) => Some(FailureKind::Connect),
            Self::Reset(_) | Self::Upgraded => Some(FailureKind::Reset),
            Self::Timeout => Some(FailureKind::Timeout),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Connect(ConnectError::Limit) => Fault::Limit,
            Self::Connect(ConnectError::Timeout(_)) => Fault::ConnectTimeout,
            Self::Connect(_) => Fault::Connect,
            Self::Upload(UploadFault::TooLarge) => Fault::BodyTooLarge,
            Self::Upload(UploadFault::Stalled | UploadFault::Gone) => Fault::BodyStalled,
            Self::Reset(_) => Fault::Reset,
            Self::Upgraded => Fault::Upgraded,
            Self::Timeout => Fault::Timeout,
        }
    }
}

/// Sends a request, on a fresh connection if the one that had idled turns out
/// to have been closed by the endpoint meanwhile: that race is nobody's fault.
///
/// A fresh connection is the rare case and its futures are large, so they are
/// boxed: every request's future would have to be as large, and be moved, too.
async fn attempt(
    pool: &Rc<Pool>,
    timeouts: &Timeouts,
    request: Request<Upload>,
) -> Result<(Response<Incoming>, Connection), Failure> {
    let protocol = match request.version() {
        http::Version::HTTP_2 => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let Some(mut connection) = pool.take(protocol) else {
        return Box::pin(attempt_afresh(pool, protocol, timeouts, request)).await;
    };
    let progress = request.body().progress().clone();
    let spare = if connection.reused {
        spare(&request)
    } else {
        None
    };
    let sent = pin!(connection.send(request));
    let answered = header_within(timeouts.response_headers, sent, &progress).await;
    let failure = match judge(answered, &progress) {
        Ok(response) => return Ok((response, connection)),
        Err(failure) => failure,
    };
    let again = failure
        .unsent
        .or(spare.filter(|_| went_stale(&failure.why, &connection)));
    match again.filter(|_| connection.reused) {
        Some(request) => Box::pin(attempt_afresh(pool, protocol, timeouts, *request)).await,
        None => Err(failure.why),
    }
}

async fn attempt_afresh(
    pool: &Rc<Pool>,
    protocol: Protocol,
    timeouts: &Timeouts,
    request: Request<Upload>,
) -> Result<(Response<Incoming>, Connection), Failure> {
    let progress = request.body().progress().clone();
    let started = Instant::now();
    let connection = pool.connect(protocol, timeouts.connect).await;
    let mut connection = connection.map_err(Failure::Connect)?;
    let limit = header_limit(timeouts, started.elapsed());
    let sent = pin!(connection.send(request));
    let answered = header_within(limit, sent, &progress).await;
    match judge(answered, &progress) {
        Ok(response) => Ok((response, connection)),
        Err(failure) => Err(failure.why),
    }
}

/// How long a header may take once `spent` went by for the connection: a trial's
/// lease counts on `total` for all of a request.
pub(crate) fn header_limit(timeouts: &Timeouts, spent: Duration) -> Duration {
    let left = timeouts.total.saturating_sub(spent);
    timeouts.response_headers.min(left)
}

/// A failed send, with the request if nothing of it was written.
struct Unanswered {
    why: Failure,
    unsent: Option<Box<Request<Upload>>>,
}

type Sent = Result<Response<Incoming>, TrySendError<Request<Upload>>>;

/// What came of a send; `None`: nothing, in time.
fn judge(answered: Option<Sent>, progress: &Progress) -> Result<Response<Incoming>, Unanswered> {
    match answered {
        None => Err(Unanswered {
            why: Failure::Timeout,
            unsent: None,
        }),
        // Nobody asked for it: `Upgrade` does not pass.
        Some(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            Err(Unanswered {
                why: Failure::Upgraded,
                unsent: None,
            })
        }
        Some(Ok(response)) => Ok(response),
        Some(Err(mut error)) => Err(Unanswered {
            unsent: error.take_message().map(Box::new),
            why: match progress.fault() {
                Some(fault) => Failure::Upload(fault),
                None => Failure::Reset(error.into_error()),
            },
        }),
    }
}

/// A request that may be sent twice: idempotent, and without a body.
fn spare(request: &Request<Upload>) -> Option<Box<Request<Upload>>> {
    let safe = request.method().is_idempotent() && request.body().is_end_stream();
    safe.then(|| {
        let mut spare = Request::new(Upload::none(request.body().progress().clone()));
        *spare.method_mut() = request.method().clone();
        *spare.uri_mut() = request.uri().clone();
        *spare.version_mut() = request.version();
        *spare.headers_mut() = request.headers().clone();
        Box::new(spare)
    })
}

/// The connection ended before a byte of the response came.
fn went_stale(why: &Failure, connection: &Connection) -> bool {
    matches!(why, Failure::Reset(error) if !error.is_parse()) && connection.is_closed()
}

/// Waits for a response's header while the backend owes it, for `limit`.
pub(crate) async fn header_within<T>(
    limit: Duration,
    mut sent: Pin<&mut impl Future<Output = T>>,
    progress: &Progress,
) -> Option<T> {
    let started = Instant::now();
    let mut alarm = pin!(sleep_until(started + limit));
    loop {
        tokio::select! {
            biased;
            response = &mut sent => return Some(response),
            () = &mut alarm => {
                let now = Instant::now();
                let owed_since = progress.owed_since(started).unwrap_or(now);
                if owed_since + limit <= now {
                    return None;
                }
                alarm.as_mut().reset(owed_since + limit);
            }
        }
    }
}

/// Turns a backend's response into ours.
pub(crate) fn deliver(
    response: Response<Incoming>,
    mut exchange: Exchange,
    left: Duration,
    grpc: bool,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if let Some(verdict) = classify::at_header(grpc, parts.status, &parts.headers) {
        exchange.settle(verdict);
    }
    if let Some(promised) = keep_alive(&parts.headers) {
        exchange.connection.expires_after(promised);
    }
    let body = if body.is_end_stream() {
        exchange.complete(classify::at_end(grpc, parts.status, None));
        Body::Empty
    } else {
        let streams = grpc || is_event_stream(&parts.headers);
        let watchdog = match streams {
            true => Watchdog::new(STREAM_IDLE, None),
            false => Watchdog::new(BODY_IDLE, Some(left)),
        };
        let relay = Relay::new(body, exchange, watchdog, grpc, parts.status);
        Body::Relay(Box::new(relay))
    };
    headers::strip_hop_by_hop(&mut parts.headers);
    Response::from_parts(parts, body)
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map(|v| v.as_bytes());
    value.is_some_and(|value| value.starts_with(b"text/event-stream"))
}

/// How long the endpoint says it keeps the connection, less a second for the way.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("keep-alive")?.to_str().ok()?;
    let mut items = value.split(',').map(str::trim);
    let seconds = items.find_map(|item| item.strip_prefix("timeout="))?;
    let seconds: u64 = seconds.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_owes_a_header_has_the_limit() {
        let started = Instant::now();
        let progress = Progress::new(true);
        assert_eq!(
            header_within(LIMIT, pin!(pending::<()>()), &progress).await,
            None
        );
        assert_eq!(started.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_runs_from_the_client_s_last_byte() {
        let started = Instant::now();
        let progress = Progress::new(false);
        let client = async {
            progress.wait_for_client();
            tokio::time::sleep(3 * LIMIT).await;
            progress.moved();
            pending::<()>().await;
        };
        assert_eq!(header_within(LIMIT, pin!(client), &progress).await, None);
        assert_eq!(started.elapsed().as_secs(), 4 * LIMIT.as_secs());
    }

    #[test]
    fn connecting_and_the_header_together_take_no_longer_than_the_total() {
        let timeouts = Timeouts {
            connect: Duration::from_secs(8),
            response_headers: Duration::from_secs(9),
            per_try: None,
            total: Duration::from_secs(10),
        };
        for (spent, left) in [(0, 9), (1, 9), (7, 3), (10, 0), (11, 0)] {
            let limit = header_limit(&timeouts, Duration::from_secs(spent));
            assert_eq!(limit.as_secs(), left, "after {spent} s");
        }
    }

    #[test]
    fn a_keep_alive_hint_is_believed_less_a_second() {
        for (value, expected) in [
            ("timeout=5, max=100", Some(4)),
            ("max=100, timeout=60", Some(59)),
            ("timeout=0", Some(0)),
            ("timeout=soon", None),
            ("max=100", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("keep-alive", value.parse().expect("a value"));
            assert_eq!(
                keep_alive(&headers),
                expected.map(Duration::from_secs),
                "{value}"
            );
        }
    }
}
