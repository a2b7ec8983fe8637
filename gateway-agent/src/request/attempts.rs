//! From a routed request to a backend's response: admit, pick, forward, and all
//! of it again where that is safe.

use http::{HeaderValue, Request, Response, Uri, Version, header, request::Parts};
use hyper::body::Incoming;

use crate::{
    admit::permit::Permit,
    backend::{
        forward::forward,
        pool::Pool,
        upload::Upload,
        upstream::{Core, Table, Upstream},
    },
    limits::{BODY_IDLE, STREAM_IDLE},
    request::{
        answer::Fault,
        body::Body,
        drill,
        headers::{self, Via},
        proxy::Client,
        rejection::Rejection,
        router::Destination,
        upgrade::Upgrade,
    },
};

/// A request that is known to be for a service.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) parts: Parts,
    pub(crate) body: Incoming,
    /// Host and port as the client sent them; empty if it named none.
    pub(crate) authority: String,
    /// Normalised, without query.
    pub(crate) path: String,
    pub(crate) grpc: bool,
    /// It asks to switch protocols, as it may.
    pub(crate) upgrade: Option<Box<Upgrade>>,
}

/// Gets a service's answer to a request.
pub(crate) async fn run(
    core: &Core,
    table: &Table,
    destination: &Destination,
    client: &Client,
    asked: Asked,
) -> Result<Response<Body>, Rejection> {
    let Asked {
        parts,
        body,
        authority,
        path,
        grpc,
        upgrade,
    } = asked;
    // Classify priority, shed key and caller.
    let idempotent = parts.method.is_idempotent() && !grpc;
    let wish = destination.ranking.wish(&parts.headers, idempotent);
    // Admit, within the quota, to the region that the plan picks.
    let permit = core.gate.admit(&destination.service, &wish)?;
    // Pick.
    let upstream = table.upstream(permit.backend()).ok_or(Fault::Internal)?;
    let pool = upstream.pick(core.roll()).ok_or(Fault::Internal)?;
    let permit = drilled(permit, upstream).await?;
    // Forward and classify.
    let host = upstream_host(&parts, &authority, pool);
    // A caller of a gRPC stream pauses as its server does.
    let idle = if grpc { STREAM_IDLE } else { BODY_IDLE };
    let body = Upload::new(body, destination.max_request_bytes, idle);
    let hop = (client, &core.via);
    let request = outgoing(parts, &path, host, hop, grpc, body)?;
    let decision = permit.version();
    let timeouts = &upstream.timeouts;
    let sent = match upgrade {
        None => forward(permit, pool, timeouts, request, grpc).await,
        Some(upgrade) => Box::pin(upgrade.forward(permit, pool, timeouts, request)).await,
    };
    sent.map_err(|fault| Rejection::FaultAt(fault, upstream.name.clone(), decision))
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
fn upstream_host(parts: &Parts, authority: &str, pool: &Pool) -> HeaderValue {
    let sent = parts.headers.get(header::HOST).cloned();
    let host = sent.or_else(|| match authority {
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
    (client, via): (&Client, &Via),
    grpc: bool,
    body: Upload,
) -> Result<Request<Upload>, Fault> {
    headers::prepare_request(&mut parts.headers, client, &host);
    via.add_to(&mut parts.headers, parts.version);
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
