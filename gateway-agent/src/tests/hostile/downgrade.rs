//! HTTP/2 requests that would be two, or another one, in HTTP/1.1.

use super::{
    super::rig::Rig,
    raw_h2::{self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RawH2, frame, literals},
    recorder::Recorder,
};

const METHOD: (&str, &str) = (":method", "POST");
const SCHEME: (&str, &str) = (":scheme", "http");
const AUTHORITY: (&str, &str) = (":authority", "a.example");
const PATH: (&str, &str) = (":path", "/");

/// Sends a request of these fields, and `hello` as its body. Whether it was
/// refused, with a status or a reset.
async fn is_refused(rig: &Rig, fields: &[(&str, &str)]) -> bool {
    let mut client = RawH2::connect(rig.address, &[]).await;
    let stream = client.stream();
    let head = frame(HEADERS, END_HEADERS, stream, &literals(fields));
    client.send(&head).await;
    client
        .send(&frame(DATA, END_STREAM, stream, b"hello"))
        .await;
    let answer = client.until_end_of(stream).await;
    // Of what is indexed in the static table, 8 is :status 200.
    let served = answer
        .iter()
        .any(|frame| frame.kind == HEADERS && frame.payload.first() == Some(&0x88));
    !served
}

#[tokio::test]
async fn what_http_2_may_not_say_never_reaches_a_backend() {
    let backend = Recorder::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let good = [METHOD, SCHEME, AUTHORITY, PATH];
    assert!(!is_refused(&rig, &good).await);
    assert_eq!(backend.requests(), 1);
    let good_and = |field| [METHOD, SCHEME, AUTHORITY, PATH, field].to_vec();
    for fields in [
        // CR, LF and NUL, wherever they are put.
        good_and(("x\r\nhost", "b")),
        good_and(("x\n", "b")),
        good_and(("x\r", "b")),
        good_and(("x", "1\r\nhost: b")),
        good_and(("x", "1\nhost: b")),
        good_and(("x", "1\r")),
        good_and(("x", "\0")),
        good_and(("x: 1\r\ny", "b")),
        vec![
            METHOD,
            SCHEME,
            AUTHORITY,
            (":path", "/ HTTP/1.1\r\nhost: b"),
        ],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "/\n")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "/a b")],
        vec![(":method", "GET / HTTP/1.1\r\n"), SCHEME, AUTHORITY, PATH],
        vec![(":method", "GET\n"), SCHEME, AUTHORITY, PATH],
        vec![(":method", "GET /admin"), SCHEME, AUTHORITY, PATH],
        vec![METHOD, (":scheme", "http\r\nx: y"), AUTHORITY, PATH],
        vec![METHOD, SCHEME, (":authority", "a.example\r\nx: y"), PATH],
        // Framing.
        good_and(("transfer-encoding", "chunked")),
        good_and(("connection", "keep-alive")),
        good_and(("connection", "x-private")),
        good_and(("keep-alive", "timeout=5")),
        good_and(("proxy-connection", "keep-alive")),
        good_and(("upgrade", "websocket")),
        good_and(("te", "gzip")),
        good_and(("te", "trailers, gzip")),
        good_and(("content-length", "4")),
        good_and(("content-length", "6")),
        good_and(("content-length", "+5")),
        good_and(("content-length", "5, 5")),
        good_and(("content-length", "five")),
        // Names.
        good_and(("X-Upper", "1")),
        good_and(("", "1")),
        good_and(("x y", "1")),
        good_and(("x:", "1")),
        good_and((":unknown", "1")),
        // Pseudo-fields that are doubled, missing or late.
        good_and((":method", "GET")),
        good_and((":path", "/other")),
        good_and((":authority", "b.example")),
        good_and((":scheme", "https")),
        vec![SCHEME, AUTHORITY, PATH],
        vec![METHOD, AUTHORITY, PATH],
        vec![METHOD, SCHEME, AUTHORITY],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "")],
        vec![METHOD, SCHEME, ("x", "1"), AUTHORITY, PATH],
        vec![METHOD, SCHEME, AUTHORITY, ("x", "1"), PATH],
        vec![METHOD, SCHEME, AUTHORITY, PATH, (":status", "200")],
        // Hosts.
        good_and(("host", "b.example")),
        vec![METHOD, SCHEME, PATH, ("host", "a"), ("host", "b")],
        vec![METHOD, SCHEME, PATH],
        vec![METHOD, SCHEME, (":authority", "user@a.example"), PATH],
        vec![METHOD, SCHEME, (":authority", "a.example/x"), PATH],
    ] {
        let refused = is_refused(&rig, &fields).await;
        let reached = backend.take();
        let text: Vec<_> = reached.iter().map(|record| record.text()).collect();
        assert!(refused && reached.is_empty(), "{fields:?}: {text:?}");
    }
}

#[tokio::test]
async fn lengths_that_differ_are_one_mistake_and_equal_ones_one_length() {
    let backend = Recorder::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let length = |length| ("content-length", length);
    let twice = |a, b| [METHOD, SCHEME, AUTHORITY, PATH, length(a), length(b)];
    assert!(is_refused(&rig, &twice("5", "6")).await);
    assert_eq!(backend.requests(), 0);
    let refused = is_refused(&rig, &twice("5", "5")).await;
    assert!(refused || backend.requests() == 1);
}

#[tokio::test]
async fn trailers_do_not_change_what_was_said_in_the_header() {
    let backend = Recorder::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    for trailer in [
        ("transfer-encoding", "chunked"),
        ("content-length", "0"),
        ("host", "b.example"),
        (":path", "/admin"),
        ("x", "1\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a"),
    ] {
        let mut client = RawH2::connect(rig.address, &[]).await;
        let stream = client.stream();
        let block = raw_h2::request("POST", "/");
        client
            .send(&frame(HEADERS, END_HEADERS, stream, &block))
            .await;
        client.send(&frame(DATA, 0, stream, b"hello")).await;
        let flags = END_HEADERS | END_STREAM;
        let trailers = literals(&[trailer]);
        client.send(&frame(HEADERS, flags, stream, &trailers)).await;
        client.until_end_of(stream).await;
        let records = backend.take();
        let text: String = records.iter().map(|record| record.text()).collect();
        let requests = text.matches("HTTP/1.1\r\n").count();
        assert!(requests <= 1, "{trailer:?}: {text}");
        let after = text.split_once("hello").map_or("", |(_, after)| after);
        for said in ["transfer", "content", "host", "admin", "smuggled"] {
            assert!(!after.contains(said), "{trailer:?}: {text}");
        }
    }
}

#[tokio::test]
async fn a_header_in_pieces_is_the_same_header() {
    let backend = Recorder::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = RawH2::connect(rig.address, &[]).await;
    let stream = client.stream();
    let block = raw_h2::request("GET", "/");
    let (first, rest) = block.split_at(3);
    client
        .send(&frame(HEADERS, END_STREAM, stream, first))
        .await;
    client
        .send(&frame(CONTINUATION, END_HEADERS, stream, rest))
        .await;
    client.until_end_of(stream).await;
    assert_eq!(backend.requests(), 1);
}
