//! What passes, and what does not, between client and backend.

use super::rig::{Rig, Scripted};
use crate::recorder::Tally;

const GET: &str = "GET / HTTP/1.1\r\nhost: a.example\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

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
