//! Accidents that others had on HTTP/1.1, each by its name.

use tokio::time::Duration;

use super::{
    super::{
        GET, OK,
        rig::{Rig, Scripted, Wire},
    },
    recorder::Recorder,
};

const UPGRADE: &str =
    "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

/// Bytes of a request that come to the backend without being one of ours.
async fn nothing_more(upstream: &mut Wire) {
    let mut one = [0];
    let more = tokio::time::timeout(Duration::from_millis(200), upstream.0.peek(&mut one)).await;
    assert!(
        !matches!(more, Ok(Ok(1))),
        "something came behind the request"
    );
}

/// What a client sends behind an upgrade request must not pass before a 101.
#[tokio::test]
async fn an_upgrade_passed_through_before_101_cve_2026_2833() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write(&[UPGRADE, SMUGGLED].concat()).await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    assert!(head.starts_with("get /ws "), "{head}");
    nothing_more(&mut upstream).await;
    upstream.write(OK).await;
    // Refused: what came behind it is a request like any other.
    assert!(client.head().await.starts_with("http/1.1 200"));
    client.until("ok").await;
    let head = upstream.head().await;
    assert!(head.starts_with("get /smuggled "), "{head}");
    assert!(head.contains("x-forwarded-for: 127.0.0.1"), "{head}");
    upstream.write(OK).await;
    client.until("ok").await;
}

#[tokio::test]
async fn http_1_0_and_multi_valued_transfer_encoding_cve_2026_2835() {
    let backend = Recorder::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    for (version, codings) in [
        ("1.0", "transfer-encoding: chunked\r\n"),
        ("1.0", "transfer-encoding: gzip, chunked\r\n"),
        ("1.0", "content-length: 5\r\ntransfer-encoding: chunked\r\n"),
        ("1.1", "transfer-encoding: identity\r\n"),
        ("1.1", "transfer-encoding: chunked, identity\r\n"),
        ("1.1", "transfer-encoding: chunked, chunked\r\n"),
        (
            "1.1",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        ),
        ("1.1", "transfer-encoding: xchunked\r\n"),
        ("1.1", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
        ("1.1", "content-length: 5\r\ntransfer-encoding: chunked\r\n"),
        ("1.1", "transfer-encoding:\r\n"),
        ("1.1", "transfer-encoding: ,chunked\r\n"),
        ("1.1", "content-length: 5\r\ncontent-length: 5\r\n"),
    ] {
        let request =
            format!("POST / HTTP/{version}\r\nhost: a\r\n{codings}\r\n0\r\n\r\n{SMUGGLED}");
        let answer = rig.ask(&request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{codings:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{codings:?}");
        assert_eq!(backend.requests(), 0, "{codings:?}");
    }
}

#[tokio::test]
async fn codings_before_chunked_pass_on_in_one_form_on_a_connection_of_their_own() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    let request = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: GZIP;q=1\r\n\
                   Transfer-Encoding: identity , Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    client.write(request).await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    assert!(
        head.contains("\r\ntransfer-encoding: gzip, chunked\r\n"),
        "{head}"
    );
    assert_eq!(head.matches("encoding").count(), 1, "{head}");
    assert_eq!(upstream.until("0\r\n\r\n").await, "5\r\nhello\r\n0\r\n\r\n");
    upstream.write(OK).await;
    client.until("ok").await;
    assert_eq!(upstream.rest().await, "");
}

/// A body of an upgrade request is a body, and its connection is not used again.
#[tokio::test]
async fn an_upgrade_with_content_length_cve_2026_58055() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    let body = SMUGGLED;
    let request = format!(
        "POST /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         content-length: {}\r\n\r\n{body}{SMUGGLED}",
        body.len()
    );
    client.write(&request).await;
    let answer = if let Ok(mut upstream) =
        tokio::time::timeout(Duration::from_secs(1), backend.accept()).await
    {
        let head = upstream.head().await;
        let length = format!("content-length: {}", body.len());
        assert!(head.contains(&length), "{head}");
        assert_eq!(upstream.until("\r\n\r\n").await, body);
        nothing_more(&mut upstream).await;
        upstream.write(OK).await;
        client.rest().await
    } else {
        // Refused as a whole is as well.
        client.rest().await
    };
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_request_after_a_refused_upgrade_is_checked_like_any() {
    let backend = Recorder::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write(UPGRADE).await;
    client.until("ok").await;
    client.write(GET).await;
    client.until("ok").await;
    client
        .write("GET / HTTP/1.1\r\nhost: a\r\nx: 1\n\r\n")
        .await;
    assert!(client.rest().await.starts_with("HTTP/1.1 400"));
    assert_eq!(backend.requests(), 2);
}

/// Its name is in `serve::listener`, where an accept that fails is tried again.
#[tokio::test]
async fn an_accept_error_does_not_end_the_server_rustsec_2024_0376() {
    use crate::serve::listener::next;
    let mut failures = vec![
        std::io::Error::from_raw_os_error(24),
        std::io::Error::from_raw_os_error(23),
        std::io::Error::from(std::io::ErrorKind::ConnectionAborted),
        std::io::Error::from_raw_os_error(12),
    ];
    let accepted = next(async || failures.pop().map_or(Ok("a connection"), Err)).await;
    assert_eq!(accepted, "a connection");
}

#[tokio::test]
async fn a_small_body_that_comes_slowly_holds_no_place_at_a_backend() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut slow = rig.client().await;
    slow.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nsl")
        .await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    assert!(head.starts_with("get / "), "the first that it hears of");
    upstream.write(OK).await;
    client.until("ok").await;
    slow.write(&["ow", GET].concat()).await;
    assert!(upstream.head().await.starts_with("post / "));
    assert_eq!(upstream.until("slow").await, "slow");
    upstream.write(OK).await;
    slow.until("ok").await;
    assert!(upstream.head().await.starts_with("get / "));
}
