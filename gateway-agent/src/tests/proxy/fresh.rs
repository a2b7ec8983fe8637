//! Answers that are served without asking, because their service wants that.

use std::time::Duration;

use super::{
    GET,
    rig::{Rig, Scripted, Wire, field},
};
use crate::admit::refusal::RefusalReason;

/// Later than any test.
const LONG: Duration = Duration::from_secs(7 * 24 * 3600);

const FRESH: &str = "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\netag: \"1\"\r\n\
    content-length: 2\r\n\r\nok";

/// Fresh for a second, and older than that already.
const OLD: &str = "HTTP/1.1 200 OK\r\ncache-control: max-age=1\r\nage: 5\r\netag: \"1\"\r\n\
    content-length: 2\r\n\r\nok";

async fn gateway() -> (Rig, Scripted) {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "fallback: {serve_fresh: true}");
    (rig, backend)
}

async fn primed(response: &str) -> (Rig, Scripted, Wire) {
    let (rig, backend) = gateway().await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(response).await;
    let head = client.head().await;
    assert_eq!(field(&head, "cache-status"), "rampmeter; fwd=miss; stored");
    client.until("ok").await;
    (rig, backend, upstream)
}

/// The whole answer, without the backend: it closes its connection.
async fn alone(rig: &Rig, request: &str) -> String {
    let request = request.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    rig.ask(&request).await.to_ascii_lowercase()
}

fn with(request: &str, line: &str) -> String {
    request.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"))
}

#[tokio::test]
async fn a_fresh_answer_is_served_without_asking() {
    let (rig, _backend, _upstream) = primed(FRESH).await;
    let answer = alone(&rig, GET).await;
    assert!(
        answer.starts_with("http/1.1 200 ok") && answer.ends_with("\r\n\r\nok"),
        "{answer}"
    );
    assert_eq!(field(&answer, "cache-status"), "rampmeter; hit; ttl=60");
    assert_eq!(field(&answer, "age"), "0");
    assert!(
        !answer.contains("x-rampmeter"),
        "it is the backend's: {answer}"
    );
}

#[tokio::test]
async fn a_client_gets_as_much_of_it_as_it_wants() {
    let (rig, _backend, _upstream) = primed(FRESH).await;
    let head = alone(&rig, &GET.replace("GET", "HEAD")).await;
    assert!(
        head.contains("content-length: 2\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let known = alone(&rig, &with(GET, "if-none-match: \"0\", W/\"1\"")).await;
    assert!(
        known.starts_with("http/1.1 304") && known.ends_with("\r\n\r\n"),
        "{known}"
    );
    assert_eq!(field(&known, "etag"), "\"1\"");
    let part = alone(&rig, &with(GET, "range: bytes=1-")).await;
    assert!(
        part.starts_with("http/1.1 206") && part.ends_with("\r\n\r\nk"),
        "{part}"
    );
    assert_eq!(field(&part, "content-range"), "bytes 1-1/2");
    let beyond = alone(&rig, &with(GET, "range: bytes=2-")).await;
    assert!(beyond.starts_with("http/1.1 416"), "{beyond}");
    assert_eq!(field(&beyond, "content-range"), "bytes */2");
}

#[tokio::test]
async fn who_wants_nobody_asked_gets_what_is_kept_or_a_time_out() {
    let (rig, _backend, _upstream) = primed(FRESH).await;
    let only = with(GET, "cache-control: only-if-cached");
    assert!(alone(&rig, &only).await.ends_with("\r\n\r\nok"));
    let missed = alone(&rig, &only.replace("GET / ", "GET /other ")).await;
    assert!(missed.starts_with("http/1.1 504"), "{missed}");
    assert_eq!(field(&missed, "x-rampmeter"), "reason=only_if_cached");
}

#[tokio::test]
async fn a_stale_answer_is_asked_about_and_renewed() {
    let (rig, _backend, mut upstream) = primed(OLD).await;
    let mut client = rig.client().await;
    client.write(&with(GET, "if-none-match: \"0\"")).await;
    let asked = upstream.head().await;
    assert!(asked.contains("\r\nif-none-match: \"1\"\r\n"), "{asked}");
    upstream
        .write(
            "HTTP/1.1 304 Not Modified\r\ncache-control: max-age=60\r\netag: \"1\"\r\n\
             x-new: 1\r\n\r\n",
        )
        .await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 200 ok"), "{head}");
    let status = field(&head, "cache-status");
    assert_eq!(
        status,
        "rampmeter; fwd=stale; fwd-status=304; stored; ttl=60"
    );
    client.until("ok").await;
    let answer = alone(&rig, GET).await;
    assert_eq!(field(&answer, "x-new"), "1");
    assert_eq!(field(&answer, "age"), "0");
}

#[tokio::test]
async fn a_stale_answer_serves_while_a_newer_one_is_fetched() {
    let old = with(OLD, "cache-control: stale-while-revalidate=60");
    let (rig, _backend, mut upstream) = primed(&old).await;
    let answer = alone(&rig, GET).await;
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    assert!(field(&answer, "cache-status").ends_with("; detail=stale-while-revalidate"));
    let asked = upstream.head().await;
    assert!(asked.contains("\r\nif-none-match: \"1\"\r\n"), "{asked}");
    upstream
        .write(&FRESH.replace("\r\n\r\nok", "\r\n\r\nno"))
        .await;
    rig.in_flight(0).await;
    let answer = alone(&rig, GET).await;
    assert!(answer.ends_with("\r\n\r\nno"), "{answer}");
}

#[tokio::test]
async fn concurrent_misses_ask_once() {
    let (rig, backend) = gateway().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = rig.client().await;
        client.write(GET).await;
        clients.push(client);
    }
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(FRESH).await;
    // Nobody answers a second request.
    for client in &mut clients {
        client.until("ok").await;
    }
    assert_eq!(rig.kept().1, 1);
}

#[tokio::test]
async fn nobody_waits_for_an_answer_that_will_not_be_kept() {
    let (rig, backend) = gateway().await;
    let mut first = rig.client().await;
    first.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    let mut second = rig.client().await;
    second.write(GET).await;
    upstream
        .write("HTTP/1.1 200 OK\r\ncache-control: no-store\r\ncontent-length: 2\r\n\r\n")
        .await;
    // Its body is not there yet, and the second is on its way.
    let mut other = backend.accept().await;
    other.head().await;
    let mut third = rig.client().await;
    third.write(GET).await;
    let mut another = backend.accept().await;
    another.head().await;
}

#[tokio::test]
async fn whoever_waits_is_released_when_the_first_fails_or_leaves() {
    for leaves in [true, false] {
        let (rig, backend) = gateway().await;
        let mut first = rig.client().await;
        first.write(GET).await;
        let mut upstream = backend.accept().await;
        upstream.head().await;
        let mut second = rig.client().await;
        second.write(GET).await;
        match leaves {
            true => drop(first),
            false => {
                upstream.write("nonsense\r\n\r\n").await;
                first.head().await;
            }
        }
        let mut other = backend.accept().await;
        other.head().await;
        other.write(FRESH).await;
        second.until("ok").await;
    }
}

#[tokio::test]
async fn cve_2025_4366_the_body_of_a_get_is_never_the_next_request() {
    let (rig, _backend, mut upstream) = primed(FRESH).await;
    let evil = "GET /evil HTTP/1.1\r\nhost: a.example\r\n\r\n";
    let smuggled = with(GET, &format!("content-length: {}", evil.len())) + evil;
    // It goes to its backend, body and all, though an answer is kept.
    let mut client = rig.client().await;
    client.write(&smuggled).await;
    let head = upstream.head().await;
    assert!(head.starts_with("get / "), "{head}");
    assert_eq!(upstream.until(evil).await, evil);
    upstream.write(FRESH).await;
    client.until("ok").await;
    client.write(GET).await;
    let head = client.head().await;
    assert!(head.contains("cache-status: rampmeter; hit"), "{head}");
    assert_eq!(client.until("ok").await, "ok");
    // And where we answer without reading it, nothing comes of it either.
    rig.refuse("r", RefusalReason::Open, LONG);
    let mut client = rig.client().await;
    client.write(&smuggled).await;
    client
        .write(&with(
            &GET.replace("GET / ", "POST / "),
            "connection: close",
        ))
        .await;
    let answers = client.rest().await;
    let count = answers.matches("HTTP/1.1 503").count();
    assert!((1..=2).contains(&count), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 ").count(), count, "{answers}");
}
