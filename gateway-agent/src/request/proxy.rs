//! One request's way, from the client's header to the answer's.

use std::{panic::AssertUnwindSafe, rc::Rc};

use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, Version, header, request::Parts};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::{
    backend::{
        classify,
        upstream::{Core, Table},
    },
    request::{
        answer::{self, Fault},
        attempts::{self, Asked},
        body::Body,
        intake::{self, Target},
        rejection::Rejection,
        router::Destination,
        upgrade::{self, Offer},
    },
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
        Ok(Err(rejection)) => rejection.answer(grpc),
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
    let (mut parts, body) = request.into_parts();
    upgrade::translate(&mut parts);
    // Normalise and refuse.
    let target = intake::inspect(&parts).map_err(Fault::Unfit)?;
    if core.via.is_in(&parts.headers) {
        return Err(Fault::Loop.into());
    }
    // Route.
    let destination = route(&table, &parts, &target).ok_or(Fault::NoRoute)?;
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
    // Admit, pick, forward, retry.
    let mut answered = attempts::run(core, &table, destination, client, asked).await;
    if let Ok(response) = &mut answered {
        let version = response.version();
        core.via.add_to(response.headers_mut(), version);
    }
    match last {
        false => answered,
        true => Ok(upgrade::close_after(answered)),
    }
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
