//! gRPC calls that are made again, and those that are given up.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, sync::Notify};

use super::{
    http2::{Sent, backend, client, full, grpc},
    rig::{Rig, within},
};
use crate::admit::recorder::Tally;

#[tokio::test]
async fn a_caller_s_deadline_bounds_the_call_and_is_passed_on_less_what_went_by() {
    let address = backend(async |request: Request<Incoming>| {
        let left = request.headers()["grpc-timeout"]
            .to_str()
            .expect("text")
            .to_owned();
        if request.uri().path().ends_with("/Hang") {
            std::future::pending::<()>().await;
        }
        let response = Response::builder().header("grpc-status", "0");
        let response = response.header("x-left", left);
        response.body(full("")).expect("a response")
    })
    .await;
    let limits = "limits: {max_concurrency: 1, max_queue: 9, queue_timeout: 10s}";
    let rig = Rig::in_front_of(address, limits);
    let mut client = client(rig.address).await;
    let call = |path: &str, timeout: &'static str| {
        let request = Request::post(format!("http://grpc.example/pkg.Service/{path}"));
        let request = request.header("content-type", "application/grpc");
        let request = request.header("grpc-timeout", timeout);
        request.body(full("?")).expect("a request")
    };
    let hung = client.send_request(call("Hang", "200m"));
    rig.in_flight(1).await;
    let waits = client.send_request(call("Call", "5S"));
    let response = within(hung).await.expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "4");
    let response = within(waits).await.expect("an answer");
    let left = response.headers()["x-left"].to_str().expect("text");
    let micros: u64 = left
        .strip_suffix('u')
        .expect("less than it was")
        .parse()
        .expect("digits");
    assert!((1_000_000..5_000_000).contains(&micros), "{left}");
    assert_eq!(rig.count("r", Tally::Timeout), 1);
}

#[tokio::test]
async fn a_call_is_made_again_after_a_code_that_promises_that_nothing_was_done() {
    for (settings, pushback, calls) in [
        (
            "retry: {grpc_codes: [UNAVAILABLE], base_backoff: 1ms}",
            false,
            3,
        ),
        (
            "retry: {grpc_codes: [UNAVAILABLE], base_backoff: 1ms}",
            true,
            1,
        ),
        ("retry: {base_backoff: 1ms}", false, 1),
        ("", false, 1),
    ] {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = seen.clone();
        let address = backend(move |request: Request<Incoming>| {
            let kept = kept.clone();
            async move {
                let body = request.into_body().collect().await.expect("a body");
                kept.lock().expect("no panic").push(body.to_bytes());
                let mut response = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "14");
                if pushback {
                    response = response.header("grpc-retry-pushback-ms", "5");
                }
                response.body(full("")).expect("a response")
            }
        })
        .await;
        let rig = Rig::in_front_of(address, settings);
        let mut client = client(rig.address).await;
        let response = within(client.send_request(grpc(full("question"))))
            .await
            .expect("an answer");
        assert_eq!(response.headers()["grpc-status"], "14");
        let seen = seen.lock().expect("no panic").clone();
        assert_eq!(seen, vec!["question"; calls], "{settings} {pushback}");
    }
}

#[tokio::test]
async fn a_call_that_may_have_been_done_is_not_made_again() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = calls.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = count.clone();
            // The connection ends as soon as there is a call on it.
            let cut = Arc::new(Notify::new());
            let cutting = cut.clone();
            let service = service_fn(move |_| {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                cutting.notify_one();
                std::future::pending::<Result<Response<Sent>, Infallible>>()
            });
            let http2 = server::conn::http2::Builder::new(TokioExecutor::new());
            let serving = http2.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = serving => {}
                () = cut.notified() => {}
            }
        }
    });
    let settings = "retry: {grpc_codes: [UNAVAILABLE], base_backoff: 1ms}";
    let rig = Rig::in_front_of(address, settings);
    let mut client = client(rig.address).await;
    let response = within(client.send_request(grpc(full("?"))))
        .await
        .expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1);
    rig.settled(Tally::Reset).await;
}
