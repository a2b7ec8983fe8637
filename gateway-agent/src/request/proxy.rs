//! One request's way, from the client's header to the answer's.

use std::{panic::AssertUnwindSafe, rc::Rc};

use breaker_core::ids::BackendName;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, Uri, Version, header, request::Parts};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::{
    admit::{
        permit::Permit,
        refusal::{Denied, OverQuota, Refusal, Shed},
    },
    backend::{
        classify,
        forward::forward,
        pool::Pool,
        upload::Upload,
        upstream::{Core, Table, Upstream},
    },
    limits::{BODY_IDLE, STREAM_IDLE},
    request::{
        answer::{self, Fault},
        body::Body,
        drill, headers,
        intake::{self, Target},
        router::Destination,
    },
};

/// Who sent a request.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its address, for backends.
    pub(crate) address: HeaderValue,
}

/// Why a request gets an answer of ours.
enum Rejection {
    /// It failed before it got to a backend.
    Fault(Fault),
    /// It failed at this backend, admitted under this decision.
    FaultAt(Fault, BackendName, breaker_core::Version),
    /// It is over its quota.
    OverQuota(OverQuota),
    /// No backend takes it.
    Refused(Refusal),
    /// No region has room for it.
    Shed(Shed),
}

impl From<Denied> for Rejection {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::OverQuota(over) => Self::OverQuota(over),
            Denied::Refused(refusal) => Self::Refused(refusal),
            Denied::Shed(shed) => Self::Shed(shed),
            Denied::NoRegion => Self::Fault(Fault::NoRegion),
        }
    }
}

impl From<Fault> for Rejection {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Answers a request. A bug that panics costs this request only.
pub(crate) async fn serve(
    core: Rc<Core>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Response<Body> {
    let version = request.version();
    let grpc = classify::is_grpc(request.headers());
    let mut response = guarded(grpc, handle(&core, &client, request, grpc)).await;
    if version == Version::HTTP_2 {
        // It has no such field; hyper ends the stream.
        response.headers_mut().remove(header::CONNECTION);
    }
    response
}

fn guarded(
    grpc: bool,
    work: impl Future<Output = Result<Response<Body>, Rejection>>,
) -> impl Future<Output = Response<Body>> {
    let ended = AssertUnwindSafe(work).catch_unwind();
    ended.map(move |ended| match ended {
        Ok(Ok(response)) => response,
        Ok(Err(Rejection::Refused(refusal))) => answer::refused(&refusal, grpc),
        Ok(Err(Rejection::OverQuota(over))) => answer::over_quota(&over, grpc),
        Ok(Err(Rejection::Shed(shed))) => answer::shed(&shed, grpc),
        Ok(Err(Rejection::Fault(fault))) => answer::fault(fault, None, grpc),
        Ok(Err(Rejection::FaultAt(fault, backend, version))) => {
            answer::fault(fault, Some((backend.as_str(), version)), grpc)
        }
        Err(_) => {
            tracing::error!("a request panicked");
            answer::fault(Fault::Internal, None, grpc)
        }
    })
}

/// The steps of a request. Accepting is the listener's, classifying and
/// recording the exchange's, because they must also happen when the client is
/// gone and nobody waits for this any more.
async fn handle(
    core: &Core,
    client: &Client,
    request: Request<Incoming>,
    grpc: bool,
) -> Result<Response<Body>, Rejection> {
    let table = core.table();
    let (parts, body) = request.into_parts();
    // Normalise and refuse.
    let target = intake::inspect(&parts).map_err(Fault::Unfit)?;
    // Route.
    let destination = route(&table, &parts, &target).ok_or(Fault::NoRoute)?;
    check_declared_length(destination, &body)?;
    // Classify priority, shed key and caller.
    let idempotent = parts.method.is_idempotent() && !grpc;
    let wish = destination.ranking.wish(&parts.headers, idempotent);
    // Admit, within the quota, to the region that the plan picks. (A queue, and
    // the fallback cache, come before refusing.)
    let permit = core.gate.admit(&destination.service, &wish)?;
    // Pick.
    let upstream = table.upstream(permit.backend()).ok_or(Fault::Internal)?;
    let pool = upstream.pick(core.roll()).ok_or(Fault::Internal)?;
    let permit = drilled(permit, upstream).await?;
    // Forward and classify. (Retries wrap this.)
    let host = upstream_host(&parts, &target, pool);
    let path = target.path.into_owned();
    // A caller of a gRPC stream pauses as its server does.
    let idle = if grpc { STREAM_IDLE } else { BODY_IDLE };
    let body = Upload::new(body, destination.max_request_bytes, idle);
    let request = outgoing(parts, &path, host, client, grpc, body)?;
    let decision = permit.version();
    let sent = forward(permit, pool, &upstream.timeouts, request, grpc).await;
    sent.map_err(|fault| Rejection::FaultAt(fault, upstream.name.clone(), decision))
}

fn route<'t>(table: &'t Table, parts: &Parts, target: &Target<'_>) -> Option<&'t Destination> {
    let Target { host, path, .. } = target;
    let found = table
        .router
        .route(host, path, &parts.method, &parts.headers);
    found.map(Rc::as_ref)
}

/// A body that says it is too long is refused before any backend hears of it.
fn check_declared_length(destination: &Destination, body: &Incoming) -> Result<(), Fault> {
    let declared = body.size_hint().lower();
    match destination.max_request_bytes {
        Some(allowed) if declared > allowed => Err(Fault::BodyTooLarge),
        _ => Ok(()),
    }
}

/// Lets a drill have its way with the request. It is the rare case, so its
/// future is boxed: every request's would have to be as large.
async fn drilled(permit: Permit, upstream: &Upstream) -> Result<Permit, Rejection> {
    let Some(fault) = permit.fault() else {
        return Ok(permit);
    };
    let decision = permit.version();
    let rehearsed = Box::pin(drill::rehearse(permit, fault, &upstream.timeouts)).await;
    rehearsed.map_err(|fault| Rejection::FaultAt(fault, upstream.name.clone(), decision))
}

/// The client's host, or the endpoint's own for a client that named none.
fn upstream_host(parts: &Parts, target: &Target<'_>, pool: &Pool) -> HeaderValue {
    let sent = parts.headers.get(header::HOST).cloned();
    let host = sent.or_else(|| match target.authority {
        "" => None,
        authority => HeaderValue::from_str(authority).ok(),
    });
    host.unwrap_or_else(|| pool.authority.clone())
}

/// The request as a backend gets it: HTTP/2 for gRPC, which needs it, else
/// HTTP/1.1; the path that was routed; the header without what is not its business.
fn outgoing(
    mut parts: Parts,
    path: &str,
    host: HeaderValue,
    client: &Client,
    grpc: bool,
    body: Upload,
) -> Result<Request<Upload>, Fault> {
    headers::prepare_request(&mut parts.headers, &client.address, &host);
    parts.extensions.clear();
    parts.uri = upstream_uri(&parts.uri, path, grpc.then_some(&host)).ok_or(Fault::Internal)?;
    if grpc {
        parts.version = Version::HTTP_2;
        parts.headers.remove(header::HOST);
    } else {
        parts.version = Version::HTTP_11;
        parts.headers.insert(header::HOST, host);
    }
    Ok(Request::from_parts(parts, body))
}

/// The path that was routed, with the query as it came; absolute for HTTP/2.
fn upstream_uri(uri: &Uri, path: &str, authority: Option<&HeaderValue>) -> Option<Uri> {
    let untouched = uri.path() == path;
    let path = match (untouched, uri.query()) {
        (true, _) if uri.authority().is_none() && authority.is_none() => return Some(uri.clone()),
        (true, _) => uri.path_and_query()?.clone(),
        (false, None) => path.try_into().ok()?,
        (false, Some(query)) => format!("{path}?{query}").try_into().ok()?,
    };
    match authority {
        None => Some(Uri::from(path)),
        Some(authority) => {
            let uri = Uri::builder()
                .scheme("http")
                .authority(authority.as_bytes());
            uri.path_and_query(path).build().ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_internal_error_for_that_request_only() {
        async fn bug() -> Result<Response<Body>, Rejection> {
            Ok("a bug"
                .parse::<u8>()
                .map(|_| Response::new(Body::Empty))
                .expect("a number"))
        }
        let response = guarded(false, bug()).await;
        assert_eq!(response.status(), http::StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()["x-rampmeter"], "reason=internal");
        let response = guarded(true, bug()).await;
        assert_eq!(response.headers()["grpc-status"], "13");
    }
}
