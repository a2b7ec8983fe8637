//! HTTP/2 from clients, and to backends for gRPC.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, client::conn::http2, server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Barrier, Notify},
};

use super::{
    OK,
    rig::{Rig, Scripted, within},
};
use crate::admit::{recorder::Tally, refusal::RefusalReason};

pub(super) type Sent = BoxBody<Bytes, Infallible>;

pub(super) fn full(text: &'static str) -> Sent {
    Full::new(Bytes::from_static(text.as_bytes())).boxed()
}

/// A body with trailers.
pub(super) fn with_trailers(text: &'static str, trailers: &[(&'static str, &'static str)]) -> Sent {
    let trailers: HeaderMap = trailers
        .iter()
        .map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect();
    let frames = [
        Frame::data(Bytes::from_static(text.as_bytes())),
        Frame::trailers(trailers),
    ];
    BodyExt::boxed(StreamBody::new(stream::iter(frames.map(Ok))))
}

pub(super) async fn client(address: SocketAddr) -> http2::SendRequest<Sent> {
    let stream = TcpStream::connect(address).await.expect("someone listens");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = handshake.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// An HTTP/2 backend that answers each request with `answer`.
pub(super) async fn backend<F>(
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = Response<Sent>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            let http2 = server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http2.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

pub(super) fn grpc(body: Sent) -> Request<Sent> {
    let request = Request::post("http://grpc.example/pkg.Service/Call");
    let request = request
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    request.body(body).expect("a request")
}

#[tokio::test]
async fn an_http_2_client_reaches_an_http_1_backend() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = client(rig.address).await;
    let request = Request::get("http://a.example:81/x?y=1")
        .body(full(""))
        .expect("a request");
    let answer = tokio::spawn(client.send_request(request));
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    assert!(head.starts_with("get /x?y=1 http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: a.example:81\r\n"), "{head}");
    upstream.write(OK).await;
    let response = within(answer).await.expect("no panic").expect("an answer");
    assert_eq!(
        (response.status(), response.version()),
        (StatusCode::OK, Version::HTTP_2)
    );
    let body = within(response.into_body().collect())
        .await
        .expect("a body")
        .to_bytes();
    assert_eq!(body, "ok");
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let address = backend(async |request| {
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.uri(), "http://grpc.example/pkg.Service/Call");
        assert_eq!(request.headers()["te"], "trailers");
        let body = request.into_body().collect().await.expect("a body");
        assert_eq!(body.trailers().expect("trailers")["x-sum"], "7");
        assert_eq!(body.to_bytes(), "question");
        Response::builder()
            .header("content-type", "application/grpc")
            .body(with_trailers(
                "answer",
                &[("grpc-status", "0"), ("x-extra", "1")],
            ))
            .expect("a response")
    })
    .await;
    let rig = Rig::in_front_of(address, "");
    let mut client = client(rig.address).await;
    let sent = client.send_request(grpc(with_trailers("question", &[("x-sum", "7")])));
    let response = within(sent).await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let body = within(response.into_body().collect())
        .await
        .expect("a body");
    let trailers = body.trailers().expect("trailers").clone();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-extra"]),
        (
            &HeaderValue::from_static("0"),
            &HeaderValue::from_static("1")
        )
    );
    assert_eq!(body.to_bytes(), "answer");
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn grpc_is_counted_by_its_status_in_header_or_trailers() {
    for (status, pushback, tally) in [
        ("0", None, Tally::Success),
        ("5", None, Tally::Success),
        ("14", None, Tally::Grpc),
        ("13", None, Tally::Grpc),
        ("8", None, Tally::Overload),
        ("14", Some("1500"), Tally::Overload),
    ] {
        for in_header in [true, false] {
            let address = backend(move |_| async move {
                let mut fields = vec![("grpc-status", status)];
                fields.extend(pushback.map(|ms| ("grpc-retry-pushback-ms", ms)));
                let mut response = Response::builder().header("content-type", "application/grpc");
                if in_header {
                    for (name, value) in &fields {
                        response = response.header(*name, *value);
                    }
                    return response.body(full("")).expect("a response");
                }
                response
                    .body(with_trailers("x", &fields))
                    .expect("a response")
            })
            .await;
            let rig = Rig::in_front_of(address, "");
            let mut client = client(rig.address).await;
            let response = within(client.send_request(grpc(full("?"))))
                .await
                .expect("an answer");
            within(response.into_body().collect())
                .await
                .expect("a body");
            rig.settled(tally).await;
            let expected =
                Duration::from_millis(pushback.map_or(0, |ms| ms.parse().expect("a number")));
            assert_eq!(rig.retry_after("r"), expected, "{status} {in_header}");
        }
    }
}

#[tokio::test]
async fn grpc_without_a_status_is_a_failure() {
    let address = backend(async |_| {
        let response = Response::builder().header("content-type", "application/grpc");
        response.body(full("answer")).expect("a response")
    })
    .await;
    let rig = Rig::in_front_of(address, "");
    let mut client = client(rig.address).await;
    let response = within(client.send_request(grpc(full("?"))))
        .await
        .expect("an answer");
    within(response.into_body().collect())
        .await
        .expect("a body");
    rig.settled(Tally::Grpc).await;
}

#[tokio::test]
async fn refused_grpc_is_told_so_in_grpc() {
    let address = backend(async |_| unreachable!("it is refused")).await;
    let rig = Rig::in_front_of(address, "");
    rig.refuse("r", RefusalReason::Open, Duration::from_secs(20));
    let mut client = client(rig.address).await;
    let response = within(client.send_request(grpc(full("?"))))
        .await
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers();
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(headers["grpc-status"], "14");
    assert_eq!(
        headers["x-rampmeter"],
        "reason=open; backend=s/r; decision=3.42"
    );
    let pushback = headers["grpc-retry-pushback-ms"].to_str().expect("text");
    assert!(
        pushback.parse::<u64>().expect("a number") >= 1000,
        "{pushback}"
    );
    let body = within(response.into_body().collect())
        .await
        .expect("no body");
    assert_eq!(body.to_bytes(), "");
}

#[tokio::test]
async fn grpc_failures_of_ours_have_grpc_s_codes() {
    let silent = Scripted::start().await;
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    for (endpoint, code, tally) in [
        (silent.address, "4", Tally::Timeout),
        (nobody, "14", Tally::Connect),
    ] {
        let rig = Rig::in_front_of(endpoint, "timeouts: {response_headers: 50ms}");
        let mut client = client(rig.address).await;
        let response = within(client.send_request(grpc(full("?"))))
            .await
            .expect("an answer");
        assert_eq!(response.headers()["grpc-status"], code);
        rig.settled(tally).await;
    }
}

/// Tells when it is dropped.
struct Alive(Arc<Notify>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_client_s_reset_cancels_at_the_backend_and_is_no_outcome() {
    let cancelled = Arc::new(Notify::new());
    let told = cancelled.clone();
    let address = backend(move |_| {
        let alive = Alive(told.clone());
        async move {
            let _alive = alive;
            std::future::pending().await
        }
    })
    .await;
    let rig = Rig::in_front_of(address, "");
    let mut client = client(rig.address).await;
    let call = tokio::spawn(client.send_request(grpc(full("?"))));
    rig.in_flight(1).await;
    call.abort();
    within(cancelled.notified()).await;
    rig.settled(Tally::ClientGone).await;
}

#[tokio::test]
async fn a_client_s_reset_in_the_body_is_no_outcome() {
    let address = backend(async |_| {
        let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"first")))]);
        let body = BodyExt::boxed(StreamBody::new(first.chain(stream::pending())));
        Response::new(body)
    })
    .await;
    let rig = Rig::in_front_of(address, "");
    let mut client = client(rig.address).await;
    let mut response = within(client.send_request(grpc(full("?"))))
        .await
        .expect("an answer");
    let frame = within(response.frame())
        .await
        .expect("a frame")
        .expect("a good one");
    assert_eq!(frame.data_ref().expect("data"), "first");
    drop(response);
    rig.settled(Tally::ClientGone).await;
}

#[tokio::test]
async fn streams_share_one_upstream_connection() {
    const STREAMS: usize = 8;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    // All must be open at once for any to be answered, and this backend takes
    // one connection only.
    let meet = Arc::new(Barrier::new(STREAMS));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let service = service_fn(move |_| {
            let meet = meet.clone();
            async move {
                meet.wait().await;
                let body = with_trailers("x", &[("grpc-status", "0")]);
                Ok::<_, Infallible>(Response::new(body))
            }
        });
        let http2 = server::conn::http2::Builder::new(TokioExecutor::new());
        http2.serve_connection(TokioIo::new(stream), service).await
    });
    let rig = Rig::in_front_of(address, "");
    let mut client = client(rig.address).await;
    let calls: Vec<_> = (0..STREAMS)
        .map(|_| tokio::spawn(client.send_request(grpc(full("?")))))
        .collect();
    for call in calls {
        let response = within(call).await.expect("no panic").expect("an answer");
        within(response.into_body().collect())
            .await
            .expect("a body");
    }
    assert_eq!(rig.count("r", Tally::Success), STREAMS as u64);
}
