//! One request's way, from the client's header to the answer's.

use std::{panic::AssertUnwindSafe, rc::Rc, sync::Arc};

use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, Version, header, request::Parts};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::{
    backend::{
        classify,
        upstream::{Core, Table},
    },
    cache,
    config::host::Host,
    request::{
        answer::Fault,
        attempts::{self, Asked},
        body::Body,
        intake::{self, Target},
        rejection::Rejection,
        router::Destination,
        upgrade::{self, Offer},
    },
    sight::telling::Telling,
};

/// Who sent a request.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its address, for backends.
    pub(crate) address: HeaderValue,
    /// Whether it came by `http` or `https`, for backends.
    pub(crate) scheme: HeaderValue,
    /// A proxy whose word about the clients behind it is passed on.
    pub(crate) trusted: bool,
    /// The host in force when it connected.
    pub(crate) host: Arc<Host>,
}

/// Answers a request. A bug that panics costs this request only.
pub(crate) async fn serve(
    core: Rc<Core>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Response<Body> {
    let version = request.version();
    let grpc = classify::is_grpc(request.headers());
    let mut telling = Telling::begin(core.sight.view(), &client, &request);
    let handled = handle(&core, &client, request, grpc, &mut telling);
    let mut response = match guarded(handled).await {
        Ok(response) => telling.respond(false, response),
        Err(rejection) => telling.respond(true, rejection.answer(grpc)),
    };
    if version == Version::HTTP_2 {
        // It has no such field; hyper ends the stream.
        response.headers_mut().remove(header::CONNECTION);
    }
    response
}

fn guarded<T>(
    work: impl Future<Output = Result<T, Rejection>>,
) -> impl Future<Output = Result<T, Rejection>> {
    let ended = AssertUnwindSafe(work).catch_unwind();
    ended.map(|ended| {
        ended.unwrap_or_else(|_| {
            tracing::error!("a request panicked");
            Err(Rejection::Fault(Fault::Internal))
        })
    })
}

/// The steps of a request. Accepting is the listener's, classifying and
/// recording the exchange's, because they must also happen when the client is
/// gone and nobody waits for this any more.
async fn handle(
    core: &Rc<Core>,
    client: &Rc<Client>,
    request: Request<Incoming>,
    grpc: bool,
    telling: &mut Telling,
) -> Result<Response<Body>, Rejection> {
    let table = core.table();
    let (mut parts, body) = request.into_parts();
    upgrade::translate(&mut parts);
    // Normalise and refuse.
    let target = intake::inspect(&parts, &client.host.limits).map_err(Fault::Unfit)?;
    if core.via.is_in(&parts.headers) {
        return Err(Fault::Loop.into());
    }
    // Route.
    let destination = route(&table, &parts, &target).ok_or(Fault::NoRoute)?;
    telling.service(&destination.service.name);
    check_declared_length(destination, &body)?;
    let offer = Offer::of(&parts, body.is_end_stream(), &destination.upgrades)?;
    let last = offer.is_last_on_its_connection();
    let asked = Asked {
        authority: target.authority.to_owned(),
        path: target.path.into_owned(),
        parts,
        body,
        grpc,
        upgrade: offer.accepted(),
    };
    // Look for a kept answer, or fall back on one, where the service has any. Few
    // do, so the others' futures need not be as large.
    let kept = destination.service.kept.as_ref();
    let mut answered = if let Some(kept) = kept.filter(|_| asked.upgrade.is_none()) {
        let way = cache::run::Way {
            core: core.clone(),
            table: table.clone(),
            destination: destination.clone(),
            client: client.clone(),
            kept: kept.clone(),
        };
        Box::pin(cache::run::run(way, asked, telling)).await
    } else {
        // Admit, pick, forward, retry.
        attempts::run(core, &table, destination, client, asked, telling).await
    };
    if let Ok(response) = &mut answered {
        let version = response.version();
        core.via.add_to(response.headers_mut(), version);
    }
    match last {
        false => answered,
        true => Ok(upgrade::close_after(answered, grpc, telling)),
    }
}

fn route<'t>(table: &'t Table, parts: &Parts, target: &Target<'_>) -> Option<&'t Rc<Destination>> {
    let Target { host, path, .. } = target;
    table
        .router
        .route(host, path, &parts.method, &parts.headers)
}

/// A body that says it is too long is refused before any backend hears of it.
fn check_declared_length(destination: &Destination, body: &Incoming) -> Result<(), Fault> {
    let declared = body.size_hint().lower();
    match destination.max_request_bytes {
        Some(allowed) if declared > allowed => Err(Fault::BodyTooLarge),
        _ => Ok(()),
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
        let rejection = guarded(bug()).await.expect_err("it panicked");
        let response = rejection.answer(false);
        assert_eq!(response.status(), http::StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()["x-rampmeter"], "reason=internal");
        let response = rejection.answer(true);
        assert_eq!(response.headers()["grpc-status"], "13");
    }
}
