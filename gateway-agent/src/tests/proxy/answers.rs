//! The answers that are ours.

use std::time::Duration;

use super::{
    GET, OK,
    rig::{Rig, Scripted, field, fleet},
};
use crate::{
    admit::{recorder::Tally, refusal::RefusalReason},
    limits::MAX_FIELD_BYTES,
};

/// An endpoint where nobody listens: port 1 is reserved and unused.
const NOBODY: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

#[tokio::test]
async fn a_refusal_says_why_and_when_and_keeps_the_connection() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    rig.refuse("r", RefusalReason::Open, Duration::from_secs(20));
    let mut client = rig.client().await;
    for _ in 0..2 {
        client.write(GET).await;
        let head = client.head().await;
        assert!(
            head.starts_with("http/1.1 503 service unavailable\r\n"),
            "{head}"
        );
        let wait: u64 = field(&head, "retry-after").parse().expect("whole seconds");
        assert!((1..=40).contains(&wait), "{wait}");
        assert_eq!(field(&head, "content-type"), "application/problem+json");
        assert_eq!(
            field(&head, "x-rampmeter"),
            "reason=open; backend=s/r; decision=3.42"
        );
        let body = client.until("}\n").await;
        let problem: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(problem["status"], 503);
        assert_eq!(problem["reason"], "open");
        assert_eq!(problem["backend"], "s/r");
    }
    assert_eq!(rig.count("r", Tally::RefusedOpen), 2);
    assert_eq!(rig.count("r", Tally::Demand), 2);
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_body_it_will_not_use() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    rig.refuse("r", RefusalReason::Override, Duration::from_secs(20));
    let mut client = rig.client().await;
    client
        .write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nbegin")
        .await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("reason=override"), "{answer}");
}

#[tokio::test]
async fn a_refused_request_goes_to_the_next_region() {
    let (first, second) = (Scripted::start().await, Scripted::start().await);
    let rig = Rig::start(&fleet(&[("r", first.address), ("q", second.address)], ""));
    rig.refuse("r", RefusalReason::Open, Duration::from_secs(20));
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = second.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    assert!(client.head().await.starts_with("http/1.1 200"));
    assert_eq!(rig.count("r", Tally::RefusedOpen), 1);
}

#[tokio::test]
async fn refused_everywhere_is_answered_for_the_preferred_region() {
    let (first, second) = (Scripted::start().await, Scripted::start().await);
    let rig = Rig::start(&fleet(&[("r", first.address), ("q", second.address)], ""));
    rig.refuse("r", RefusalReason::Open, Duration::from_secs(20));
    rig.refuse("q", RefusalReason::Local, Duration::from_secs(20));
    let mut client = rig.client().await;
    client.write(GET).await;
    let head = client.head().await;
    assert!(head.contains("reason=open; backend=s/r"), "{head}");
}

#[tokio::test]
async fn a_backend_that_takes_no_connection_is_a_bad_gateway() {
    let rig = Rig::in_front_of(NOBODY, "");
    let mut client = rig.client().await;
    client.write(GET).await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 502 bad gateway\r\n"), "{head}");
    assert!(
        head.contains("x-rampmeter: reason=connect; backend=s/r; decision=0.0\r\n"),
        "{head}"
    );
    rig.settled(Tally::Connect).await;
}

#[tokio::test]
async fn a_connection_that_takes_too_long_is_a_gateway_timeout() {
    // A listener that accepts nothing, its queue full: connecting hangs.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a port");
    socket.listen(0).expect("a listener");
    let address = socket
        .local_addr()
        .expect("an address")
        .as_socket()
        .expect("IPv4");
    let _queued = std::net::TcpStream::connect(address).expect("a place in the queue");
    let rig = Rig::in_front_of(address, "timeouts: {connect: 50ms}");
    let mut client = rig.client().await;
    client.write(GET).await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 504"), "{head}");
    assert!(
        head.contains("reason=connect_timeout; backend=s/r"),
        "{head}"
    );
    rig.settled(Tally::Connect).await;
}

#[tokio::test]
async fn a_backend_that_does_not_answer_in_time_is_a_gateway_timeout() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "timeouts: {response_headers: 50ms}");
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    let head = client.head().await;
    assert!(
        head.starts_with("http/1.1 504 gateway timeout\r\n"),
        "{head}"
    );
    assert!(head.contains("reason=timeout; backend=s/r"), "{head}");
    assert_eq!(
        upstream.rest().await,
        "",
        "the upstream request is cancelled"
    );
    rig.settled(Tally::Timeout).await;
}

#[tokio::test]
async fn bad_bytes_from_a_backend_are_a_bad_gateway() {
    for bytes in [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let backend = Scripted::start().await;
        let rig = Rig::in_front_of(backend.address, "");
        let mut client = rig.client().await;
        client.write(GET).await;
        let mut upstream = backend.accept().await;
        upstream.head().await;
        upstream.write(bytes).await;
        let head = client.head().await;
        assert!(head.starts_with("http/1.1 502"), "{bytes}: {head}");
        rig.settled(Tally::Reset).await;
    }
}

#[tokio::test]
async fn a_header_too_large_from_a_backend_is_a_bad_gateway() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    let long = "x".repeat(3 * MAX_FIELD_BYTES);
    upstream
        .write(&format!("HTTP/1.1 200 OK\r\nx: {long}\r\n\r\n"))
        .await;
    assert!(client.head().await.starts_with("http/1.1 502"));
    rig.settled(Tally::Reset).await;
}

#[tokio::test]
async fn requests_that_are_unclear_or_too_large_are_refused_and_their_connection_closed() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let long = "x".repeat(MAX_FIELD_BYTES + 1);
    let fields: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(),
            400,
        ),
        ("GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n".to_owned(), 400),
        ("GET /%zz HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), 400),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"
                .to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n".to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx".to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx"
                .to_owned(),
            400,
        ),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n".to_owned(),
            400,
        ),
        (
            "CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n".to_owned(),
            405,
        ),
        (format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), 414),
        (
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"),
            431,
        ),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"), 431),
    ] {
        let answer = rig.ask(&request).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(
            answer.starts_with(&expected),
            "{status}: {request:.80} {answer}"
        );
    }
    assert_eq!(rig.count("r", Tally::Demand), 0);
}

#[tokio::test]
async fn a_body_that_says_it_is_too_long_never_reaches_a_backend() {
    let backend = Scripted::start().await;
    let routes = "routes: [{path_prefix: /, max_request_bytes: 4}]";
    let rig = Rig::in_front_of(backend.address, routes);
    let answer = rig
        .ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n12345")
        .await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(rig.count("r", Tally::Demand), 0);
}

#[tokio::test]
async fn a_body_that_grows_too_long_is_cut_and_not_held_against_the_backend() {
    let backend = Scripted::start().await;
    let routes = "routes: [{path_prefix: /, max_request_bytes: 4}]";
    let rig = Rig::in_front_of(backend.address, routes);
    let mut client = rig.client().await;
    client
        .write("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\n1234\r\n")
        .await;
    let mut upstream = backend.accept().await;
    upstream.until("1234\r\n").await;
    client.write("1\r\n5\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(
        upstream.rest().await,
        "",
        "the backend sees no end of the body"
    );
    rig.settled(Tally::ClientGone).await;
}
