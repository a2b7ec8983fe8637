//! The last good answer, when no backend gives a new one.

use std::time::Duration;

use super::{
    GET, OK,
    rig::{Rig, Scripted, Wire, field},
};
use crate::admit::refusal::RefusalReason;

const ANSWERS: &str = "fallback: {}";

/// Later than any test.
const LONG: Duration = Duration::from_secs(7 * 24 * 3600);

/// A gateway that keeps answers, in front of a backend that gave `response` to
/// `request`; with the connection between them.
async fn primed(request: &str, response: &str) -> (Rig, Scripted, Wire) {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, ANSWERS);
    let mut client = rig.client().await;
    client.write(request).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(response).await;
    let head = client.head().await;
    client.until("ok").await;
    assert!(
        head.contains("cache-status: rampmeter; fwd=bypass"),
        "{head}"
    );
    (rig, backend, upstream)
}

/// What a client gets for `request` now, header in lower case and body.
async fn now(rig: &Rig, request: &str) -> (String, String) {
    let mut client = rig.client().await;
    client.write(request).await;
    let head = client.head().await;
    let length: usize = field(&head, "content-length").parse().expect("a length");
    let mut body = vec![0; length];
    client.fill(&mut body).await;
    (head, String::from_utf8(body).expect("text"))
}

#[tokio::test]
async fn a_backend_that_died_is_answered_for() {
    let (rig, backend, upstream) = primed(GET, OK).await;
    drop((backend, upstream));
    let (head, body) = now(&rig, GET).await;
    assert!(
        head.starts_with("http/1.1 200 ok\r\n") && body == "ok",
        "{head}"
    );
    assert!(
        field(&head, "x-rampmeter").starts_with("reason=connect; backend=s/r"),
        "{head}"
    );
    assert!(field(&head, "x-rampmeter").ends_with("; stale"), "{head}");
    let status = field(&head, "cache-status");
    assert_eq!(status, "rampmeter; fwd=stale; ttl=0; detail=stale-if-error");
    assert_eq!(field(&head, "age"), "0");
}

#[tokio::test]
async fn an_open_breaker_is_answered_for_without_asking() {
    let (rig, _backend, _upstream) = primed(GET, OK).await;
    rig.refuse("r", RefusalReason::Open, LONG);
    let (head, body) = now(&rig, GET).await;
    assert!(
        head.starts_with("http/1.1 200 ok\r\n") && body == "ok",
        "{head}"
    );
    let mark = field(&head, "x-rampmeter");
    assert_eq!(mark, "reason=open; backend=s/r; decision=3.42; stale");
    let (head, _) = now(&rig, &GET.replace("GET / ", "GET /other ")).await;
    assert!(
        head.starts_with("http/1.1 503"),
        "nothing is kept for it: {head}"
    );
}

#[tokio::test]
async fn a_backend_s_failure_is_answered_for_and_its_word_about_the_request_is_not() {
    for (status, expected) in [
        ("500 Internal Server Error", "200"),
        ("502 Bad Gateway", "200"),
        ("503 Service Unavailable", "200"),
        ("504 Gateway Timeout", "200"),
        ("501 Not Implemented", "501"),
        ("429 Too Many Requests", "429"),
        ("404 Not Found", "404"),
    ] {
        let (rig, _backend, mut upstream) = primed(GET, OK).await;
        let mut client = rig.client().await;
        client.write(GET).await;
        upstream.head().await;
        upstream
            .write(&format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nno"))
            .await;
        let head = client.head().await;
        assert!(
            head.starts_with(&format!("http/1.1 {expected}")),
            "{status}: {head}"
        );
        if expected == "200" {
            let code = &status[..3];
            assert_eq!(
                field(&head, "x-rampmeter"),
                format!("reason=status_{code}; stale")
            );
            let how =
                format!("rampmeter; fwd=stale; fwd-status={code}; ttl=0; detail=stale-if-error");
            assert_eq!(field(&head, "cache-status"), how);
            // The failure was read, so that its connection serves again.
            client.until("ok").await;
            client.write(GET).await;
            upstream.head().await;
        }
    }
}

#[tokio::test]
async fn what_is_fresh_still_is_no_stale_answer() {
    let fresh = "HTTP/1.1 200 OK\r\ncache-control: s-maxage=60\r\ncontent-length: 2\r\n\r\nok";
    let (rig, _backend, _upstream) = primed(GET, fresh).await;
    rig.refuse("r", RefusalReason::Open, LONG);
    let (head, _) = now(&rig, GET).await;
    assert!(field(&head, "x-rampmeter").ends_with("; kept"), "{head}");
    let status = field(&head, "cache-status");
    assert_eq!(status, "rampmeter; hit; ttl=60; detail=fallback");
}

/// A field line more.
fn with(request: &str, line: &str) -> String {
    request.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"))
}

/// What is kept from `request` and `response` does not help `other`.
async fn keeps_apart(why: &str, request: &str, response: &str, other: &str) {
    let (rig, _backend, _upstream) = primed(request, response).await;
    rig.refuse("r", RefusalReason::Open, LONG);
    let (head, body) = now(&rig, other).await;
    assert!(head.starts_with("http/1.1 503"), "{why}: {head}");
    assert!(
        !body.starts_with("ok") && !head.contains("\r\nage:"),
        "{why}"
    );
}

#[tokio::test]
async fn cve_2026_2836_no_host_gets_another_s_answer() {
    for host in ["b.example", "a.example:8080", "a.example."] {
        let other = GET.replace("a.example", host);
        keeps_apart(host, GET, OK, &other).await;
    }
}

#[tokio::test]
async fn no_user_gets_another_s_answer() {
    let ann = with(GET, "authorization: Basic YW5u");
    let bob = with(GET, "authorization: Basic Ym9i");
    keeps_apart("authorization", &ann, OK, &bob).await;
    keeps_apart("authorization", &ann, OK, GET).await;
    keeps_apart("no one's, to one who shows who she is", GET, OK, &ann).await;
    let cookie = with(GET, "cookie: id=ann");
    keeps_apart("cookie", &cookie, OK, &with(GET, "cookie: id=bob")).await;
    let cookie_set = with(OK, "set-cookie: id=ann");
    keeps_apart("set-cookie", GET, &cookie_set, GET).await;
    keeps_apart("private", GET, &with(OK, "cache-control: private"), GET).await;
}

#[tokio::test]
async fn an_answer_marked_as_everybody_s_helps_everybody() {
    let ann = with(GET, "authorization: Basic YW5u");
    let public = with(OK, "cache-control: public, max-age=1");
    let (rig, _backend, _upstream) = primed(&ann, &public).await;
    rig.refuse("r", RefusalReason::Open, LONG);
    let (head, _) = now(&rig, &with(GET, "authorization: Basic Ym9i")).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

#[tokio::test]
async fn no_request_gets_an_answer_that_varies_from_its_own() {
    let vary = with(OK, "vary: accept-language");
    let german = with(GET, "accept-language: de");
    keeps_apart("other", &german, &vary, &with(GET, "accept-language: en")).await;
    keeps_apart("none", &german, &vary, GET).await;
    keeps_apart("star", GET, &with(OK, "vary: *"), GET).await;
    let (rig, _backend, _upstream) = primed(&german, &vary).await;
    rig.refuse("r", RefusalReason::Open, LONG);
    assert_eq!(now(&rig, &german).await.1, "ok");
}

#[tokio::test]
async fn an_answer_that_must_not_be_stale_is_not() {
    for said in [
        "max-age=0, must-revalidate",
        "max-age=1, proxy-revalidate",
        "s-maxage=1",
        "no-cache",
        "no-store",
        "stale-if-error=0",
    ] {
        let old = with(&with(OK, &format!("cache-control: {said}")), "age: 5");
        keeps_apart(said, GET, &old, GET).await;
    }
    keeps_apart(
        "the client's wish",
        GET,
        OK,
        &with(GET, "cache-control: no-cache"),
    )
    .await;
}

#[tokio::test]
async fn an_answer_that_broke_off_or_has_no_clear_end_is_not_kept() {
    for cut in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\n\r\nok",
    ] {
        let (rig, _backend, upstream) = primed(GET, cut).await;
        drop(upstream);
        rig.in_flight(0).await;
        rig.refuse("r", RefusalReason::Open, LONG);
        let (head, _) = now(&rig, GET).await;
        assert!(head.starts_with("http/1.1 503"), "{cut:?}: {head}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_passes_and_is_not_kept() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "fallback: {max_entry_bytes: 1KiB}");
    for head in [
        "content-length: 2000\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n7d0\r\n",
    ] {
        let mut client = rig.client().await;
        client.write(GET).await;
        let mut upstream = backend.accept().await;
        upstream.head().await;
        let body = "x".repeat(2000);
        let end = if head.contains("chunked") {
            "\r\n0\r\n\r\n"
        } else {
            ""
        };
        upstream
            .write(&format!("HTTP/1.1 200 OK\r\n{head}{body}{end}"))
            .await;
        client.head().await;
        client.until(&body).await;
        client.until(end).await;
        drop(upstream);
        assert_eq!(rig.kept(), (0, 0));
    }
}

#[tokio::test]
async fn a_client_that_leaves_early_leaves_nothing_behind() {
    let (rig, _backend, mut upstream) = primed(GET, OK).await;
    let mut client = rig.client().await;
    client.write(&GET.replace("GET / ", "GET /other ")).await;
    upstream.head().await;
    upstream
        .write("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nnew")
        .await;
    client.until("new").await;
    drop(client);
    assert_eq!(upstream.rest().await, "");
    rig.in_flight(0).await;
    assert_eq!(rig.kept().1, 1, "of the other nothing is kept");
}

#[tokio::test]
async fn over_its_quota_nobody_is_helped() {
    let backend = Scripted::start().await;
    let settings = "throttle: {rate: 0.001, burst: 1}\n    fallback: {}";
    let rig = Rig::in_front_of(backend.address, settings);
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    client.until("ok").await;
    let (head, _) = now(&rig, GET).await;
    assert!(head.starts_with("http/1.1 429"), "{head}");
}

#[tokio::test]
async fn a_change_forgets_the_answer_before_it_even_one_on_its_way() {
    let (rig, backend, mut upstream) = primed(GET, OK).await;
    assert_eq!(rig.kept().1, 1);
    let mut reader = rig.client().await;
    reader.write(GET).await;
    upstream.head().await;
    let mut writer = rig.client().await;
    writer
        .write("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 0\r\n\r\n")
        .await;
    let mut second = backend.accept().await;
    second.head().await;
    second.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    let head = writer.head().await;
    assert!(
        head.contains("cache-status: rampmeter; fwd=method\r\n"),
        "{head}"
    );
    assert_eq!(rig.kept().1, 0);
    upstream.write(OK).await;
    reader.until("ok").await;
    assert_eq!(rig.kept().1, 0, "it was asked for before the change");
}
