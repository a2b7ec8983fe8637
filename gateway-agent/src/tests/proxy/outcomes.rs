//! Every forwarded request is counted exactly once, and as what it was.

use std::time::Duration;

use super::{
    GET,
    rig::{Rig, Scripted},
};
use crate::admit::recorder::Tally;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn statuses_have_their_classes() {
    for (status, tally) in [
        ("200 OK", Tally::Success),
        ("404 Not Found", Tally::Success),
        ("500 Internal Server Error", Tally::Http5xx),
        ("502 Bad Gateway", Tally::Http5xx),
        ("503 Service Unavailable", Tally::Overload),
        ("429 Too Many Requests", Tally::Overload),
    ] {
        let backend = Scripted::start().await;
        let rig = Rig::in_front_of(backend.address, "");
        let mut client = rig.client().await;
        client.write(GET).await;
        let mut upstream = backend.accept().await;
        upstream.head().await;
        upstream
            .write(&format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok"))
            .await;
        let head = client.head().await;
        assert!(
            head.starts_with(&format!("http/1.1 {}", status.to_ascii_lowercase())),
            "{head}"
        );
        assert!(!head.contains("x-rampmeter"), "it is the backend's: {head}");
        client.until("ok").await;
        rig.settled(tally).await;
    }
}

#[tokio::test]
async fn a_failing_status_is_counted_before_its_body_ends() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream
        .write("HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\n")
        .await;
    client.head().await;
    rig.settled(Tally::Overload).await;
    assert_eq!(rig.retry_after("r"), Duration::from_secs(7));
    upstream.write("no").await;
    client.until("no").await;
    rig.settled(Tally::Overload).await;
}

#[tokio::test]
async fn a_success_is_one_only_when_its_body_has_ended() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(CHUNKED).await;
    upstream.write("2\r\nok\r\n").await;
    client.until("ok\r\n").await;
    assert_eq!(rig.count("r", Tally::Success), 0);
    upstream.write("0\r\n\r\n").await;
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn a_backend_that_breaks_off_is_a_reset_wherever_it_does() {
    for begun in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\ncontent-length: 90000\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n",
    ] {
        let backend = Scripted::start().await;
        let rig = Rig::in_front_of(backend.address, "");
        let mut client = rig.client().await;
        client.write(GET).await;
        let mut upstream = backend.accept().await;
        upstream.head().await;
        upstream.write(begun).await;
        drop(upstream);
        let answer = client.rest_or_open().await;
        match begun.contains("half") {
            true => assert!(
                answer.contains("half") && !answer.contains("\r\n0\r\n"),
                "{answer}"
            ),
            false => assert!(answer.starts_with("HTTP/1.1 502"), "{begun}: {answer}"),
        }
        rig.settled(Tally::Reset).await;
    }
}

#[tokio::test]
async fn a_backend_that_stalls_in_its_body_is_a_timeout() {
    let backend = Scripted::start().await;
    let timeouts = "timeouts: {connect: 50ms, response_headers: 100ms, total: 100ms}";
    let rig = Rig::in_front_of(backend.address, timeouts);
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(CHUNKED).await;
    upstream.write("4\r\nhalf\r\n").await;
    let answer = client.rest().await;
    assert!(answer.ends_with("half\r\n"), "{answer}");
    rig.settled(Tally::Timeout).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_header_is_no_outcome_and_cancels() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    drop(client);
    assert_eq!(
        upstream.rest().await,
        "",
        "the upstream request is cancelled"
    );
    rig.settled(Tally::ClientGone).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_body_is_no_outcome_and_cancels() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(CHUNKED).await;
    upstream.write("2\r\nok\r\n").await;
    client.until("ok\r\n").await;
    drop(client);
    upstream.write_until_closed("2\r\nok\r\n").await;
    rig.settled(Tally::ClientGone).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_its_own_body_is_no_outcome_and_cancels() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client
        .write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 90000\r\n\r\nhalf")
        .await;
    let mut upstream = backend.accept().await;
    upstream.until("half").await;
    drop(client);
    assert_eq!(
        upstream.rest().await,
        "",
        "the upstream request is cancelled"
    );
    rig.settled(Tally::ClientGone).await;
}

#[tokio::test]
async fn a_slow_client_is_not_held_against_the_backend() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "timeouts: {response_headers: 60ms}");
    let mut slow = rig.client().await;
    slow.write("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    // A request that came later has waited for as long as the backend may take.
    let mut later = rig.client().await;
    later.write(GET).await;
    assert!(later.head().await.starts_with("http/1.1 504"));
    slow.write("4\r\nslow\r\n0\r\n\r\n").await;
    upstream.until("slow").await;
    upstream.write(super::OK).await;
    assert!(slow.head().await.starts_with("http/1.1 200"));
    slow.until("ok").await;
    assert_eq!(rig.count("r", Tally::Timeout), 1, "the later one");
    assert_eq!(rig.count("r", Tally::Success), 1);
}

#[tokio::test]
async fn a_client_that_reads_slowly_costs_the_backend_nothing() {
    let backend = Scripted::start().await;
    let timeouts = "timeouts: {response_headers: 1s, total: 1s}";
    let rig = Rig::in_front_of(backend.address, timeouts);
    let mut slow = rig.client().await;
    slow.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    // More than all buffers on the way hold, so that it waits for the client.
    let body = "x".repeat(16 << 20);
    let response = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let sending = tokio::spawn(async move {
        upstream.write(&response).await;
        upstream
    });
    slow.head().await;
    let mut later = rig.client().await;
    later.write(GET).await;
    assert!(later.head().await.starts_with("http/1.1 504"));
    let mut seen = vec![0; body.len()];
    slow.fill(&mut seen).await;
    assert!(seen == body.as_bytes());
    drop(sending.await.expect("all was sent"));
    assert_eq!(rig.count("r", Tally::Timeout), 1, "the later one");
    assert_eq!(rig.count("r", Tally::Success), 1);
}

#[tokio::test]
async fn a_call_is_slow_by_its_header_and_not_by_who_reads_its_body() {
    let backend = Scripted::start().await;
    let settings = "timeouts: {response_headers: 200ms}\n    breaker: {slow_call_duration: 100ms}";
    let rig = Rig::in_front_of(backend.address, settings);
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(CHUNKED).await;
    client.head().await;
    let mut later = rig.client().await;
    later.write(GET).await;
    assert!(later.head().await.starts_with("http/1.1 504"));
    assert_eq!(rig.count("r", Tally::Slow), 1, "the later one");
    upstream.write("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
    assert_eq!(rig.count("r", Tally::Success), 1);
    assert_eq!(rig.count("r", Tally::Slow), 1);
}

#[tokio::test]
async fn a_client_whose_body_breaks_off_after_the_header_is_not_held_against_the_backend() {
    let backend = Scripted::start().await;
    let routes = "routes: [{path_prefix: /, max_request_bytes: 4}]";
    let rig = Rig::in_front_of(backend.address, routes);
    let mut client = rig.client().await;
    client
        .write("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        .await;
    let mut upstream = backend.accept().await;
    upstream.until("hi\r\n").await;
    upstream.write(CHUNKED).await;
    upstream.write("2\r\nok\r\n").await;
    client.until("ok\r\n").await;
    client.write("9\r\n123456789\r\n").await;
    rig.settled(Tally::ClientGone).await;
}

#[tokio::test]
async fn a_backend_that_answered_early_may_wait_for_the_client_s_body() {
    let backend = Scripted::start().await;
    let timeouts = "timeouts: {connect: 50ms, response_headers: 100ms, total: 100ms}";
    let rig = Rig::in_front_of(backend.address, timeouts);
    let mut slow = rig.client().await;
    slow.write("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(CHUNKED).await;
    upstream.write("2\r\nok\r\n").await;
    slow.until("ok\r\n").await;
    // A request that came later has waited for as long as the backend may take.
    let mut later = rig.client().await;
    later.write(GET).await;
    assert!(later.head().await.starts_with("http/1.1 504"));
    slow.write("4\r\nslow\r\n0\r\n\r\n").await;
    upstream.until("slow").await;
    upstream.write("0\r\n\r\n").await;
    slow.until("0\r\n\r\n").await;
    assert_eq!(rig.count("r", Tally::Timeout), 1, "the later one");
    assert_eq!(rig.count("r", Tally::Success), 1);
}
