//! What passes, and what does not, between client and backend.

use super::{
    GET, OK,
    rig::{Rig, Scripted},
};
use crate::admit::recorder::Tally;

#[tokio::test]
async fn a_request_reaches_its_backend_and_the_response_its_client() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client
        .write("GET /a/../b?c=//d HTTP/1.1\r\nhost: A.example:80\r\nx-mine: 1\r\n\r\n")
        .await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    assert!(head.starts_with("get /b?c=//d http/1.1\r\n"), "{head}");
    for field in [
        "host: a.example:80",
        "x-mine: 1",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: a.example:80",
        "via: 1.1 rampmeter",
    ] {
        assert!(
            head.contains(&format!("\r\n{field}\r\n")),
            "{field} in {head}"
        );
    }
    upstream.write(OK).await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    assert!(head.contains("via: 1.1 rampmeter\r\n"), "{head}");
    assert_eq!(client.until("ok").await, "ok");
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn bodies_stream_both_ways_at_the_same_time() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client
        .write("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    client.write("3\r\none\r\n").await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    assert_eq!(upstream.until("one\r\n").await, "3\r\none\r\n");
    upstream
        .write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    upstream.write("5\r\nfirst\r\n").await;
    client.head().await;
    assert_eq!(client.until("first\r\n").await, "5\r\nfirst\r\n");
    client.write("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(upstream.until("0\r\n\r\n").await, "3\r\ntwo\r\n0\r\n\r\n");
    upstream.write("6\r\nsecond\r\n0\r\n\r\n").await;
    assert_eq!(client.until("0\r\n\r\n").await, "6\r\nsecond\r\n0\r\n\r\n");
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    for _ in 0..3 {
        upstream.head().await;
        upstream.write(OK).await;
        client.head().await;
        client.until("ok").await;
        client.write(GET).await;
    }
    upstream.head().await;
    assert_eq!(rig.count("r", Tally::Success), 3);
}

#[tokio::test]
async fn trailers_pass_to_a_client_that_takes_them() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client
        .write("GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n")
        .await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    assert!(head.contains("\r\nte: trailers\r\n"), "{head}");
    upstream
        .write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n")
        .await;
    upstream.write("2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n").await;
    client.head().await;
    assert_eq!(
        client.until("\r\n\r\n").await,
        "2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"
    );
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn fields_of_one_hop_stay_on_it() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client
        .write(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\n\
             keep-alive: timeout=9\r\nupgrade: websocket\r\nproxy-connection: x\r\n\
             x-forwarded-for: 10.9.8.7\r\n\r\n",
        )
        .await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    for gone in [
        "x-hop",
        "keep-alive",
        "upgrade",
        "proxy-connection",
        "10.9.8.7",
        "connection:",
    ] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    upstream
        .write(
            "HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=9\r\n\
             content-length: 0\r\n\r\n",
        )
        .await;
    let head = client.head().await;
    for gone in ["x-hop", "keep-alive"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
}

#[tokio::test]
async fn a_head_response_has_a_length_and_no_body() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream
        .write("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(head.contains("content-length: 1234\r\n"), "{head}");
    rig.settled(Tally::Success).await;
    client.write(GET).await;
    upstream.head().await;
}

#[tokio::test]
async fn an_expectation_is_met_by_us() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client
        .write("PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await;
    let head = client.head().await;
    assert_eq!(head, "http/1.1 100 continue\r\n\r\n");
    client.write("hi").await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    assert!(!head.contains("expect"), "{head}");
    assert_eq!(upstream.until("hi").await, "hi");
}

#[tokio::test]
async fn an_http_1_0_client_is_served_and_its_connection_closed() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write("GET / HTTP/1.0\r\n\r\n").await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    let host = format!("host: {}\r\n", backend.address);
    assert!(
        head.starts_with("get / http/1.1\r\n") && head.contains(&host),
        "{head}"
    );
    upstream
        .write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        .await;
    let answer = client.rest().await;
    assert!(
        answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nok"),
        "{answer}"
    );
}
