//! The small HTTP port: Prometheus, probes, and a page that points to them.

mod steering;

use std::{convert::Infallible, sync::Arc, time::Duration};

use breaker_core::{BackendName, Breaker, BreakerPolicy, breaker::StateName};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    board::Seen,
    metrics::Page,
    plane::{Plane, until_set},
};

/// Connections at a time: scrapers and probes.
const CONNECTIONS: usize = 64;

/// How long a request's head may take.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection may live: scrapers come back.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);

/// Serves until the process ends.
pub async fn serve(plane: Arc<Plane>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = until_set(&plane.ending) => return,
        };
        let (Ok((stream, _)), Ok(permit)) = (accepted, room.clone().try_acquire_owned()) else {
            // No descriptors, or no room: the scraper comes back.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let plane = plane.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request| {
                let plane = plane.clone();
                async move { Ok::<_, Infallible>(answer(&plane, &request)) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .serve_connection(TokioIo::new(stream), service);
            // A broken connection is the peer's affair.
            let _ = tokio::time::timeout(CONNECTION_LIMIT, connection).await;
        });
    }
}

fn answer(plane: &Plane, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is allowed\n".to_owned(),
        );
    }
    match request.uri().path() {
        "/metrics" => text(StatusCode::OK, metrics(plane)),
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => ready(plane),
        "/" => text(StatusCode::OK, index(plane)),
        _ => text(
            StatusCode::NOT_FOUND,
            format!("no such page\n\n{}", index(plane)),
        ),
    }
}

/// Ready once decisions may be sent. A store that goes away later does not make
/// a replica unready: agents are better off with its last decisions than with
/// no replica at all.
fn ready(plane: &Plane) -> Response<Full<Bytes>> {
    let configured = plane.fleet().is_some();
    let settled = *plane.settled.borrow();
    let store = if *plane.store_up.borrow() {
        "ok"
    } else {
        "unavailable: last decisions stay in force"
    };
    let code = if configured && settled {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let word = if configured && settled {
        "ready"
    } else {
        "not ready"
    };
    let config = if configured { "ok" } else { "none yet" };
    let decisions = if settled { "ok" } else { "being gathered" };
    text(
        code,
        format!("{word}\nconfig: {config}\ndecisions: {decisions}\nstore: {store}\n"),
    )
}

fn index(plane: &Plane) -> String {
    let revision = plane.fleet().map_or(0, |f| f.revision);
    format!(
        "Rampmeter control plane {} {}\n\n\
         configuration revision {revision}, {} agents connected, {} backends OPEN, store {}\n\n\
         /metrics  Prometheus\n/healthz  alive\n/readyz   ready to serve agents\n",
        plane.name,
        env!("CARGO_PKG_VERSION"),
        plane.agents.connected().len(),
        plane.board.count(StateName::Open),
        plane.store_name,
    )
}

fn metrics(plane: &Plane) -> String {
    let mut page = Page::default();
    let up = |flag: bool| u8::from(flag);
    page.gauge(
        "agents",
        "Agents connected to this replica.",
        plane.agents.connected().len(),
    );
    page.gauge(
        "store_up",
        "The store answers.",
        up(*plane.store_up.borrow()),
    );
    let revision = plane.fleet().map_or(0, |f| f.revision);
    page.gauge(
        "config_revision",
        "Configuration in force; 0 for none.",
        revision,
    );
    states(plane, &mut page);
    steering::write(plane, &mut page);
    crate::quota::write(plane, &mut page);
    plane.metrics.write(&mut page);
    page.finish()
}

fn states(plane: &Plane, page: &mut Page) {
    let Some(fleet) = plane.fleet() else { return };
    let name = "rampmeter_control_backend_state";
    page.head(
        name,
        "gauge",
        "State of each backend's breaker: 1 for the one it is in.",
    );
    let board = plane.board.all();
    let each = |page: &mut Page,
                write: &dyn Fn(&mut Page, &BackendName, &Breaker, &BreakerPolicy)| {
        for (backend, seen) in &board {
            if let Some(policy) = fleet.config.policy(backend) {
                write(page, backend, &seen.breaker, policy);
            }
        }
    };
    each(page, &|page, backend, breaker, _| {
        for state in [StateName::Closed, StateName::Open, StateName::HalfOpen] {
            let word = rampmeter_api::v1::BreakerState::from(state).as_str_name();
            let word = word.trim_start_matches("BREAKER_STATE_");
            let is = u8::from(breaker.fleet.state() == state);
            let labels = labels(backend);
            page.line(format_args!("{name}{{{labels},state=\"{word}\"}} {is}"));
        }
    });
    let now = plane.clock.now();
    let name = "rampmeter_control_backend_admission";
    page.head(name, "gauge", "Share of requests let through, 0 to 1.");
    each(page, &|page, backend, breaker, policy| {
        let admission = breaker.admission(policy, None, now);
        page.line(format_args!("{name}{{{}}} {admission}", labels(backend)));
    });
    throttles(page, &board);
    let name = "rampmeter_control_drill_running";
    page.head(name, "gauge", "A drill fails requests of the service.");
    for (service, seen) in plane.board.services.all() {
        let runs = u8::from(seen.steering.running_drill().is_some());
        page.line(format_args!("{name}{{service=\"{service}\"}} {runs}"));
    }
}

fn throttles(page: &mut Page, board: &[(BackendName, Arc<Seen>)]) {
    let name = "rampmeter_control_backend_throttle";
    let text = "Share of requests that the throttle lets through; absent: all.";
    page.head(name, "gauge", text);
    for (backend, seen) in board {
        if let Some(throttle) = seen.breaker.throttle {
            let admission = throttle.admission;
            page.line(format_args!("{name}{{{}}} {admission}", labels(backend)));
        }
    }
}

fn labels(backend: &BackendName) -> String {
    let (service, region) = (backend.service(), backend.region());
    format!("service=\"{service}\",backend=\"{region}\"")
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
