//! One request to one endpoint, until its response's header is there; whatever
//! happens, its outcome is settled once.
//!
//! Time-outs count what the backend keeps us waiting for, never what the client
//! does: `response_headers` runs from the last byte of the request that the
//! client let us send, and the rest of `total` is what the body may make us
//! wait. Streams (gRPC, server-sent events) pause by design: once they have
//! started, only their idle time ends them.

use std::{cell::RefCell, pin::pin, rc::Rc, time::Duration};

use breaker_core::outcome::{FailureKind, OutcomeClass};
use fleet_config::{HostLimits, Retry, Timeouts};
use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::time::Instant;

use crate::{
    admit::{
        permit::{Owed, Permit},
        refusal::RefusalReason,
    },
    backend::{
        classify,
        exchange::Exchange,
        failure::Failure,
        lent::Connection,
        patience::{Limit, header_limit, header_within},
        pool::{Load, Pool, Protocol},
        relay::Relay,
        retry,
        upload::{Progress, Upload},
        watchdog::Watchdog,
    },
    cache::run::UntilClose,
    request::{answer::Fault, body::Body, headers},
};

/// What is known of a request besides itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) grpc: bool,
    /// How to retry it; `None`: not at all, or not again.
    pub(crate) retry: Option<&'a Retry>,
    /// Of the client's connection.
    pub(crate) limits: &'a HostLimits,
}

/// What came of sending a request.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) answer: Result<Response<Body>, Fault>,
    /// For how long the backend kept us waiting.
    pub(crate) waited: Duration,
    /// It failed in a way that another attempt may better. Boxed, because it is
    /// rare and every request's future would have to be as large.
    pub(crate) again: Option<Box<Again>>,
}

/// What another attempt needs.
#[derive(Debug)]
pub(crate) struct Again {
    pub(crate) request: Request<Upload>,
    pub(crate) owed: Owed,
}

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
    call: Call<'a>,
) -> impl Future<Output = Attempt> + use<'a> {
    let load = pool.enter();
    let progress = request.body().progress().clone();
    let started = Instant::now();
    attempt(pool, timeouts, request, call).map(move |attempted| {
        let owed_since = progress.owed_since(started).unwrap_or_else(Instant::now);
        let waited = owed_since.elapsed();
        match attempted {
            Ok(answered) => {
                permit.answered(waited);
                let left = timeouts.total.saturating_sub(waited);
                let Answered {
                    response,
                    connection,
                    connecting,
                    spare,
                } = answered;
                let exchange = Exchange::new(permit, connection, progress, load);
                if response.status().as_u16() < 400 {
                    exchange.observe(waited.saturating_sub(connecting));
                }
                deliver((response, spare), exchange, (waited, left), call)
            }
            Err(failed) => {
                tracing::debug!(endpoint = %pool.endpoint(), why = ?failed.why, "no response");
                failed.conclude(permit, &load, waited, call)
            }
        }
    })
}

/// A response's header.
struct Answered {
    response: Response<Incoming>,
    connection: Connection,
    /// How long making the connection took.
    connecting: Duration,
    spare: Option<Box<Request<Upload>>>,
}

/// No response.
pub(crate) struct Failed {
    pub(crate) why: Failure,
    /// The request, if it may be sent again: nothing of it was written, or it may
    /// be done twice.
    pub(crate) again: Option<Box<Request<Upload>>>,
}

impl Failed {
    /// Records it.
    pub(crate) fn conclude(
        self,
        permit: Permit,
        load: &Load,
        waited: Duration,
        call: Call<'_>,
    ) -> Attempt {
        let fault = self.why.fault();
        let hopeful = call.retry.is_some() && self.why.is_worth_it();
        let request = self
            .again
            .filter(|again| hopeful && again.body().is_whole());
        let mut again = None;
        let kind = self.why.held_against_backend();
        // Who made no connection knows at which address.
        if let Some(kind) = kind.filter(|kind| *kind != FailureKind::Connect) {
            load.judge(OutcomeClass::Failure(kind));
            if kind == FailureKind::Timeout {
                load.observe(waited);
            }
        }
        match (kind, request) {
            (Some(kind), Some(request)) => {
                let owed = permit.finish_attempt(OutcomeClass::Failure(kind), None);
                let request = *request;
                again = Some(Box::new(Again { request, owed }));
            }
            (Some(kind), None) => permit.finish(OutcomeClass::Failure(kind), None),
            (None, _) if fault == Fault::Limit => permit.withdraw(RefusalReason::Limit),
            // The client's own doing: dropped as its leaving.
            (None, _) => {}
        }
        Attempt {
            answer: Err(fault),
            waited,
            again,
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
    call: Call<'_>,
) -> Result<Answered, Failed> {
    let protocol = match request.version() {
        http::Version::HTTP_2 => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let Some(mut connection) = pool.take(protocol) else {
        return Box::pin(attempt_afresh(pool, protocol, timeouts, request, call)).await;
    };
    let progress = request.body().progress().clone();
    let spare = match call.retry {
        Some(_) => spare(&request, call),
        None if connection.reused && request.body().is_end_stream() => spare(&request, call),
        None => None,
    };
    let limit = header_limit(timeouts, Duration::ZERO);
    let sent = pin!(connection.send(request));
    let answered = header_within(limit.time, sent, &progress).await;
    let failure = match judge(answered, limit, &progress) {
        Ok(response) => {
            return Ok(Answered {
                response,
                connection,
                connecting: Duration::ZERO,
                spare,
            });
        }
        Err(failure) => failure,
    };
    let spare = spare.filter(|spare| spare.method().is_idempotent());
    let stale = connection.reused && went_stale(&failure.why, &connection);
    match (failure.unsent, spare) {
        (Some(request), _) if connection.reused => {
            Box::pin(attempt_afresh(pool, protocol, timeouts, *request, call)).await
        }
        (None, Some(spare)) if stale && spare.body().is_end_stream() => {
            Box::pin(attempt_afresh(pool, protocol, timeouts, *spare, call)).await
        }
        (unsent, spare) => Err(Failed {
            why: failure.why,
            again: unsent.or(spare),
        }),
    }
}

async fn attempt_afresh(
    pool: &Rc<Pool>,
    protocol: Protocol,
    timeouts: &Timeouts,
    request: Request<Upload>,
    call: Call<'_>,
) -> Result<Answered, Failed> {
    let progress = request.body().progress().clone();
    let started = Instant::now();
    let limit = timeouts
        .connect
        .min(header_limit(timeouts, Duration::ZERO).time);
    let mut connection = match pool.connect(protocol, limit).await {
        Ok(connection) => connection,
        Err(error) => {
            return Err(Failed {
                why: Failure::Connect(error),
                again: Some(Box::new(request)),
            });
        }
    };
    let spare = call.retry.and_then(|_| spare(&request, call));
    let connecting = started.elapsed();
    let limit = header_limit(timeouts, connecting);
    let sent = pin!(connection.send(request));
    let answered = header_within(limit.time, sent, &progress).await;
    match judge(answered, limit, &progress) {
        Ok(response) => Ok(Answered {
            response,
            connection,
            connecting,
            spare,
        }),
        Err(failure) => Err(Failed {
            why: failure.why,
            again: failure
                .unsent
                .or(spare.filter(|spare| spare.method().is_idempotent())),
        }),
    }
}

/// A failed send, with the request if nothing of it was written.
struct Unanswered {
    why: Failure,
    unsent: Option<Box<Request<Upload>>>,
}

type Sent = Result<Response<Incoming>, TrySendError<Request<Upload>>>;

/// What came of a send; `None`: nothing, in time.
fn judge(
    answered: Option<Sent>,
    Limit { per_try, .. }: Limit,
    progress: &Progress,
) -> Result<Response<Incoming>, Unanswered> {
    match answered {
        None => Err(Unanswered {
            why: Failure::Timeout { per_try },
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

/// The same request once more, if it may be done twice and its body be read twice.
fn spare(request: &Request<Upload>, call: Call<'_>) -> Option<Box<Request<Upload>>> {
    if !may_be_done_twice(request.method(), call) {
        return None;
    }
    let mut spare = Request::new(request.body().another()?);
    *spare.method_mut() = request.method().clone();
    *spare.uri_mut() = request.uri().clone();
    *spare.version_mut() = request.version();
    *spare.headers_mut() = request.headers().clone();
    Some(Box::new(spare))
}

/// By its method (RFC 9110 §9.2.2); or, for gRPC, whose calls are all POST, if the
/// server answers with a code that promises that it did nothing.
pub(crate) fn may_be_done_twice(method: &Method, call: Call<'_>) -> bool {
    let named = |retry: &Retry| !retry.grpc_codes.is_empty();
    method.is_idempotent() || (call.grpc && call.retry.is_some_and(named))
}

/// The connection ended before a byte of the response came.
fn went_stale(why: &Failure, connection: &Connection) -> bool {
    matches!(why, Failure::Reset(error) if !error.is_parse()) && connection.is_closed()
}

/// Turns a backend's response into ours.
pub(crate) fn deliver(
    (response, spare): (Response<Incoming>, Option<Box<Request<Upload>>>),
    mut exchange: Exchange,
    (waited, left): (Duration, Duration),
    call: Call<'_>,
) -> Attempt {
    let grpc = call.grpc;
    let (mut parts, body) = response.into_parts();
    let mut again = None;
    if let Some(verdict) = classify::at_header(grpc, parts.status, &parts.headers) {
        let worth_it = |retry| retry::is_worth_it(retry, grpc, parts.status, &parts.headers);
        let hopeful = call.retry.is_some_and(worth_it);
        match spare.filter(|spare| hopeful && spare.body().is_whole()) {
            Some(request) => {
                let owed = exchange.settle_attempt(verdict);
                let request = *request;
                again = owed.map(|owed| Box::new(Again { request, owed }));
            }
            None => exchange.settle(verdict),
        }
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
            true => Watchdog::new(call.limits.stream_idle_timeout, None),
            false => Watchdog::new(call.limits.body_idle_timeout, Some(left)),
        };
        if is_until_close(&parts) {
            parts.extensions.insert(UntilClose);
        }
        let relay = Relay::new(body, exchange, watchdog, grpc, parts.status);
        Body::Relay(Rc::new(RefCell::new(relay)))
    };
    headers::strip_hop_by_hop(&mut parts.headers);
    Attempt {
        answer: Ok(Response::from_parts(parts, body)),
        waited,
        again,
    }
}

/// Its body has no end but its connection's: it may be cut and nobody could tell.
fn is_until_close(parts: &http::response::Parts) -> bool {
    let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let framed = framed.iter().any(|name| parts.headers.contains_key(name));
    parts.version <= http::Version::HTTP_11 && !framed
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
