//! From a routed request to a backend's response: admit, pick, forward, and all
//! of it again where that is safe.

use std::rc::Rc;

use breaker_core::Version;
use fleet_config::{Scheme, Timeouts};
use futures_util::{FutureExt, future::Either};
use http::{HeaderValue, Request, Response, Uri, header, request::Parts};
use hyper::body::Incoming;

use crate::{
    admit::{permit::Permit, refusal::Denied},
    backend::{
        forward::{Attempt, Call, forward, may_be_done_twice},
        pool::Pool,
        upload::{Pace, Upload},
        upstream::{Core, Table, Upstream},
    },
    request::{
        answer::Fault,
        body::Body,
        deadline::Deadline,
        drill,
        headers::{self, Via},
        intake::Unfit,
        proxy::Client,
        rejection::Rejection,
        retries::Trip,
        router::Destination,
        upgrade::Upgrade,
    },
    sight::telling::Telling,
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
    telling: &mut Telling,
) -> Result<Response<Body>, Rejection> {
    let Asked {
        parts,
        body,
        authority,
        path,
        grpc,
        upgrade,
    } = asked;
    // A request for another protocol is no call of gRPC, whatever it says.
    let grpc = grpc && upgrade.is_none();
    // Classify priority, shed key and caller.
    let idempotent = parts.method.is_idempotent() && !grpc;
    let wish = destination.ranking.wish(&parts.headers, idempotent);
    // Few have one, so it is boxed: every request's future would have to be larger.
    let deadline = grpc.then(|| Deadline::of(&parts.headers).map(Box::new));
    let deadline = deadline.flatten();
    // Admit, within the quota, to the region that the plan picks.
    let permit = match core.gate.admit(&destination.service, &wish) {
        Ok(permit) => permit,
        // Wait for a place: also rare.
        Err(Denied::Full(full)) => {
            Box::pin(core.gate.wait(&destination.service, &wish, full)).await?
        }
        Err(denied) => return Err(denied.into()),
    };
    // Pick.
    let upstream = table.upstream(permit.backend()).ok_or(Fault::Internal)?;
    let pool = upstream
        .endpoints
        .pick(core.roll())
        .ok_or(Fault::Internal)?;
    // What was said on a connection that tried to switch is known to nobody, so such
    // a request is never sent again.
    let retries = upstream.retries.as_deref();
    let retries = retries.filter(|_| upgrade.is_none());
    if let Some(retries) = retries {
        retries.request(core.second());
    }
    let call = Call {
        grpc,
        retry: retries.map(|retries| &retries.settings),
        limits: &client.host.limits,
    };
    // Forward and classify.
    let host = upstream_host(&parts, &authority, &pool);
    // A caller of a gRPC stream pauses as its server does.
    let limits = &client.host.limits;
    let pace = match grpc {
        true => Pace {
            idle: limits.stream_idle_timeout,
            trickle: None,
        },
        false => Pace {
            idle: limits.body_idle_timeout,
            trickle: Some(limits.body_idle_timeout),
        },
    };
    let keep = retries.is_some() && may_be_done_twice(&parts.method, call);
    let body = match keep {
        true => Upload::kept(body, destination.max_request_bytes, pace),
        false => Upload::new(body, destination.max_request_bytes, pace),
    };
    telling.uploads(body.progress());
    let http2 = grpc || (upstream.http2 && upgrade.is_none());
    let http2 = http2.then(|| pool.endpoint().scheme);
    let mut request = outgoing(parts, &path, host, (client, &core.via), http2, body)?;
    let decision = permit.version();
    let bounded = deadline.as_ref().map(|deadline| {
        deadline.pass_on(request.headers_mut());
        Box::new(deadline.bound(upstream.timeouts))
    });
    let timeouts = bounded.as_deref().unwrap_or(&upstream.timeouts);
    let at = (upstream, &pool);
    let mut attempt = send(permit, at, timeouts, (request, upgrade), call, telling).await;
    // Retry: the rare case, so its future is boxed.
    if let Some(again) = attempt.again.take() {
        let trip = Trip {
            core,
            table,
            service: &destination.service,
            wish,
            grpc,
            limits,
            deadline: deadline.as_deref().copied(),
        };
        return Box::pin(trip.again(attempt, again, (upstream, pool), decision, telling)).await;
    }
    conclude(attempt.answer, upstream, decision)
}

/// Makes one attempt. Drills and other protocols are rare cases, so their futures
/// are boxed: every request's would have to be as large.
pub(crate) fn send<'a>(
    permit: Permit,
    (upstream, pool): (&'a Upstream, &'a Rc<Pool>),
    timeouts: &'a Timeouts,
    (mut request, upgrade): (Request<Upload>, Option<Box<Upgrade>>),
    call: Call<'a>,
    telling: &'a mut Telling,
) -> impl Future<Output = Attempt> + use<'a> {
    let http2 = request.version() == http::Version::HTTP_2;
    let headers = request.headers_mut();
    let at = (&upstream.name, pool.endpoint());
    telling.attempt(at, permit.version(), http2, headers);
    let sent = match (permit.fault(), upgrade) {
        (None, None) => Either::Left(forward(permit, pool, timeouts, request, call)),
        (None, Some(upgrade)) => {
            let switching = upgrade.forward(permit, pool, timeouts, request, call);
            Either::Right(switching.boxed_local())
        }
        (Some(fault), upgrade) => {
            let sent = (request, upgrade);
            let rehearsal = drill::rehearse(permit, fault, pool, timeouts, sent, call);
            Either::Right(rehearsal.boxed_local())
        }
    };
    sent.map(|attempt| {
        telling.attempted(&attempt.answer);
        attempt
    })
}

/// The last attempt's answer is the request's.
pub(crate) fn conclude(
    answer: Result<Response<Body>, Fault>,
    upstream: &Upstream,
    decision: Version,
) -> Result<Response<Body>, Rejection> {
    answer.map_err(|fault| Rejection::FaultAt(fault, upstream.name.clone(), decision))
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

/// The request as a backend gets it: HTTP/2, with its scheme, for gRPC, which needs
/// it, and where it is configured, else HTTP/1.1; the path that was routed; the header without what is not its business.
fn outgoing(
    mut parts: Parts,
    path: &str,
    host: HeaderValue,
    (client, via): (&Client, &Via),
    http2: Option<Scheme>,
    body: Upload,
) -> Result<Request<Upload>, Fault> {
    headers::prepare_request(&mut parts.headers, client, &host);
    via.add_to(&mut parts.headers, parts.version);
    parts.extensions.clear();
    parts.uri = upstream_uri(&parts.uri, path, http2.map(|scheme| (scheme, &host)))
        .ok_or(Fault::Internal)?;
    if http2.is_some() {
        if parts.headers.contains_key(header::TRANSFER_ENCODING) {
            let why = "HTTP/2, which this backend speaks, has no transfer codings";
            return Err(Fault::Unfit(Unfit::Ambiguous(why)));
        }
        parts.version = http::Version::HTTP_2;
        parts.headers.remove(header::HOST);
    } else {
        parts.version = http::Version::HTTP_11;
        parts.headers.insert(header::HOST, host);
    }
    Ok(Request::from_parts(parts, body))
}

/// The path that was routed, with the query as it came; absolute for HTTP/2.
fn upstream_uri(uri: &Uri, path: &str, authority: Option<(Scheme, &HeaderValue)>) -> Option<Uri> {
    let untouched = uri.path() == path;
    let path = match (untouched, uri.query()) {
        (true, _) if uri.authority().is_none() && authority.is_none() => return Some(uri.clone()),
        (true, _) => uri.path_and_query()?.clone(),
        (false, None) => path.try_into().ok()?,
        (false, Some(query)) => format!("{path}?{query}").try_into().ok()?,
    };
    match authority {
        None => Some(Uri::from(path)),
        Some((scheme, authority)) => {
            let scheme = match scheme {
                Scheme::Http => "http",
                Scheme::Https => "https",
            };
            let uri = Uri::builder()
                .scheme(scheme)
                .authority(authority.as_bytes());
            uri.path_and_query(path).build().ok()
        }
    }
}
