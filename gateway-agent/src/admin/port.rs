//! The admin port: `/metrics`, `/healthz`, `/readyz`, `/state`. Read-only.

use std::{net::TcpListener, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    admin::{metrics, state},
    fleet::drive::{Shared, stopped},
    serve::listener,
};

/// Connections at once: scrapers and people.
const MAX_CONNECTIONS: usize = 64;

/// For a whole connection: a scraper that keeps one open reconnects.
const MAX_CONNECTION: Duration = Duration::from_secs(60);

/// For answers that are being written when the port is left to a successor.
const LAST_ANSWERS: Duration = Duration::from_millis(250);

/// From connecting to a whole request header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers until `finish`; not ready from `stopping` on.
pub async fn serve(
    socket: TcpListener,
    control: Shared,
    stopping: watch::Receiver<bool>,
    mut finish: watch::Receiver<bool>,
) {
    let listening = socket.set_nonblocking(true);
    let listening = listening.and_then(|()| tokio::net::TcpListener::from_std(socket));
    let socket = match listening {
        Ok(socket) => socket,
        Err(error) => return tracing::error!("the admin port cannot be served: {error}"),
    };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener::next(async || socket.accept().await) => accepted,
            () = stopped(&mut finish) => break,
        };
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let (control, stopping) = (control.clone(), stopping.clone());
        connections.spawn(async move {
            let _place = place;
            let service = service_fn(async |request: Request<Incoming>| {
                let draining = *stopping.borrow();
                let path = request.uri().path();
                Ok::<_, std::convert::Infallible>(answer(
                    request.method(),
                    path,
                    &control,
                    draining,
                ))
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // Whatever ends it early concerns that client only.
            let _ = timeout(MAX_CONNECTION, connection).await;
        });
    }
    drop(socket);
    let last = async { while connections.join_next().await.is_some() {} };
    // Those that idle are cut.
    let _ = timeout(LAST_ANSWERS, last).await;
}

fn answer(method: &Method, path: &str, control: &Shared, draining: bool) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "the admin port is read-only: GET\n",
        );
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => ready(control, draining),
        "/metrics" => {
            let page = metrics::page(&control.lock());
            respond(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                page,
            )
        }
        "/state" => {
            let state = state::state(&control.lock());
            respond(StatusCode::OK, "application/json", format!("{state:#}\n"))
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "here are /metrics, /healthz, /readyz and /state\n",
        ),
    }
}

fn ready(control: &Shared, draining: bool) -> Response<Full<Bytes>> {
    if draining {
        return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    let control = control.lock();
    if control.is_ready() {
        return text(StatusCode::OK, "ready\n");
    }
    let refused = control.config_error.as_ref();
    let why = refused.or(control.status.last_error.as_ref());
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    respond(
        StatusCode::SERVICE_UNAVAILABLE,
        "text/plain; charset=utf-8",
        format!("no configuration yet{why}\n"),
    )
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text)
}

fn respond(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
