//! `Upgrade`: who may switch protocols, and when the two sides are joined.

use super::{
    GET, OK,
    rig::{Rig, Scripted, Wire, field, within},
    steering::drill,
};
use crate::admit::{recorder::Tally, refusal::RefusalReason};
use breaker_core::steering::Fault;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An offer to speak `chat`, with more fields.
fn offer(fields: &str) -> String {
    format!("GET /c HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: Chat\r\n{fields}\r\n")
}

const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n";

const CHAT: &str = "upgrades: [chat, websocket]";

/// A client and a backend that speak `chat`.
async fn chatting(rig: &Rig, backend: &Scripted) -> (Wire, Wire) {
    let mut client = rig.client().await;
    client.write(&offer("")).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(SWITCHED).await;
    client.head().await;
    (client, upstream)
}

#[tokio::test]
async fn after_the_101_bytes_pass_both_ways_and_the_request_keeps_its_place() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    let mut client = rig.client().await;
    client.write(&offer("x-mine: 1\r\n")).await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    for expected in [
        "connection: upgrade",
        "upgrade: chat",
        "x-mine: 1",
        "x-forwarded-for: 127.0.0.1",
    ] {
        assert!(head.contains(&format!("\r\n{expected}\r\n")), "{head}");
    }
    for gone in ["content-length", "transfer-encoding"] {
        assert!(!head.contains(gone), "{head}");
    }
    upstream
        .write(&SWITCHED.replace(
            "\r\n\r\n",
            "\r\nx-theirs: 2\r\ncontent-length: 3\r\n\r\nhi!",
        ))
        .await;
    let head = client.head().await;
    assert!(
        head.starts_with("http/1.1 101 switching protocols\r\n"),
        "{head}"
    );
    assert_eq!(field(&head, "upgrade"), "chat");
    assert_eq!(field(&head, "connection"), "upgrade");
    assert_eq!(field(&head, "x-theirs"), "2");
    assert!(!head.contains("content-length"), "{head}");
    assert_eq!(client.until("!").await, "hi!", "what came with the 101");
    assert_eq!(rig.count("r", Tally::Success), 1, "known at the 101");
    rig.in_flight(1).await;
    client.write("ping").await;
    assert_eq!(upstream.until("ping").await, "ping");
    upstream.write("pong").await;
    assert_eq!(client.until("pong").await, "pong");
    client.close_after(&mut upstream).await;
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn one_side_may_end_before_the_other() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    let (mut client, mut upstream) = chatting(&rig, &backend).await;
    client.write("question").await;
    client.end().await;
    assert_eq!(upstream.rest().await, "question");
    upstream.write("a late answer").await;
    drop(upstream);
    assert_eq!(client.rest().await, "a late answer");
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn nothing_reaches_the_backend_before_its_101() {
    // CVE-2026-2833.
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    let mut client = rig.client().await;
    client.write(&offer("")).await;
    client
        .write("GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.quiet().await;
    upstream.write(SWITCHED).await;
    client.head().await;
    assert_eq!(
        upstream.until("\r\n\r\n").await,
        "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        "part of the tunnel now"
    );
}

#[tokio::test]
async fn what_is_held_back_before_the_101_arrives_once_and_in_order() {
    for length in [7, 50_000, 300_000] {
        let backend = Scripted::start().await;
        let rig = Rig::in_front_of(backend.address, CHAT);
        let client = rig.client().await;
        let early: String = (0..length)
            .map(|n| char::from(b'a' + n as u8 % 23))
            .collect();
        let all = format!("{}{early}", offer(""));
        // Not all of it is taken before the 101.
        let (mut reader, mut writer) = client.0.into_split();
        let write = tokio::spawn(async move {
            let written = writer.write_all(all.as_bytes()).await;
            written.expect("it is open");
            writer
        });
        let mut upstream = backend.accept().await;
        upstream.head().await;
        upstream.quiet().await;
        upstream.write(SWITCHED).await;
        let mut arrived = vec![0; length];
        upstream.fill(&mut arrived).await;
        assert!(arrived == early.as_bytes(), "{length}");
        let mut writer = within(write).await.expect("no panic");
        writer.write_all(b"later").await.expect("it is open");
        assert_eq!(upstream.until("later").await, "later");
        drop(writer);
        assert_eq!(upstream.rest().await, "");
        drop(upstream);
        let mut head = String::new();
        let read = within(reader.read_to_string(&mut head)).await;
        read.expect("an end");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }
}

#[tokio::test]
async fn a_service_that_keeps_answers_or_retries_switches_as_any() {
    let kept = "fallback: {serve_fresh: true}";
    let retried = "retry: {max_retries: 2}";
    for settings in [kept, retried] {
        let backend = Scripted::start().await;
        let rig = Rig::in_front_of(backend.address, &format!("{settings}\n    {CHAT}"));
        let (mut client, mut upstream) = chatting(&rig, &backend).await;
        client.write("ping").await;
        assert_eq!(upstream.until("ping").await, "ping");
        client.close_after(&mut upstream).await;
        // An attempt that failed is the last one.
        let mut client = rig.client().await;
        client.write(&offer("")).await;
        drop(backend.accept().await);
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert_eq!(rig.count("r", Tally::Reset), 1, "{settings}");
    }
}

#[tokio::test]
async fn a_drill_may_delay_it_or_fail_it() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    drill(&rig, Fault::Delay(Duration::from_millis(30)));
    let started = std::time::Instant::now();
    let (mut client, mut upstream) = chatting(&rig, &backend).await;
    assert!(started.elapsed() >= Duration::from_millis(30));
    client.close_after(&mut upstream).await;
    drill(&rig, Fault::Error);
    let mut client = rig.client().await;
    client.write(&offer("")).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("reason=drill"), "{answer}");
}

#[tokio::test]
async fn a_declined_offer_is_answered_and_its_connections_not_used_again() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    let mut client = rig.client().await;
    client.write(&offer("")).await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "one answer only: {answer}");
    assert_eq!(upstream.rest().await, "", "nothing follows");
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn an_offer_with_a_body_is_refused() {
    // CVE-2026-58055.
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    for fields in ["content-length: 4\r\n", "transfer-encoding: chunked\r\n"] {
        let answer = rig.ask(&(offer(fields) + "body")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.contains("must not have a body"), "{answer}");
    }
    assert_eq!(rig.count("r", Tally::Success), 0);
}

#[tokio::test]
async fn what_a_service_does_not_allow_is_not_offered_to_it() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "upgrades: [websocket]");
    let mut client = rig.client().await;
    // Java's client offers h2c on every request.
    client.write(&offer("").replace("Chat", "h2c, chat")).await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    assert!(!head.contains("upgrade"), "{head}");
    upstream.write(OK).await;
    client.until("ok").await;
    client.write(&offer("content-length: 2\r\n")).await;
    client.write("hi").await;
    let head = upstream.head().await;
    assert!(!head.contains("upgrade"), "{head}");
    upstream.until("hi").await;
    upstream.write(OK).await;
    let answer = client.rest().await;
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(rig.count("r", Tally::Success), 2);
}

#[tokio::test]
async fn of_several_protocols_the_allowed_ones_pass() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    let mut client = rig.client().await;
    let request = offer("upgrade: websocket\r\n").replace("Chat", "h2c, Chat");
    client.write(&request).await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    assert_eq!(field(&head, "upgrade"), "chat, websocket");
    upstream.write(SWITCHED).await;
    assert_eq!(field(&client.head().await, "upgrade"), "chat");
}

#[tokio::test]
async fn without_connection_upgrade_the_field_means_nothing() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    let mut client = rig.client().await;
    client
        .write("GET / HTTP/1.1\r\nhost: a\r\nupgrade: chat\r\n\r\n")
        .await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    assert!(!head.contains("upgrade"), "{head}");
    upstream.write(OK).await;
    client.until("ok").await;
}

#[tokio::test]
async fn a_backend_that_switches_to_something_else_has_failed() {
    let wrong = [
        SWITCHED.replace(": chat", ": other"),
        SWITCHED.replace(": chat", ": chat, websocket"),
        SWITCHED.replace("upgrade: chat\r\n", ""),
    ];
    for switched in wrong {
        let backend = Scripted::start().await;
        let rig = Rig::in_front_of(backend.address, CHAT);
        let mut client = rig.client().await;
        client.write(&offer("")).await;
        let mut upstream = backend.accept().await;
        upstream.head().await;
        upstream.write(&switched).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert!(answer.contains("reason=upgraded"), "{answer}");
        assert_eq!(upstream.rest().await, "");
        rig.settled(Tally::Reset).await;
    }
}

#[tokio::test]
async fn an_offer_to_an_open_breaker_is_refused_and_the_backend_not_asked() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    rig.refuse("r", RefusalReason::Open, Duration::from_secs(60));
    let answer = rig.ask(&offer("")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("x-rampmeter: reason=open"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn a_backend_that_dies_ends_the_tunnel_and_frees_its_place() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    let (mut client, mut upstream) = chatting(&rig, &backend).await;
    upstream.write("last words").await;
    client.until("last words").await;
    drop(upstream);
    client.close().await;
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn a_client_that_dies_ends_the_tunnel_and_frees_its_place() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    let (client, mut upstream) = chatting(&rig, &backend).await;
    client.0.set_zero_linger().expect("a socket");
    drop(client);
    assert_eq!(upstream.rest().await, "");
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_101_is_its_own_doing() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    let mut client = rig.client().await;
    client.write(&offer("")).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    drop(client);
    assert_eq!(upstream.rest().await, "");
    rig.settled(Tally::ClientGone).await;
}

#[tokio::test]
async fn what_the_reader_does_not_take_stops_the_writer() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    let (mut client, mut upstream) = chatting(&rig, &backend).await;
    let sent = upstream.write_until_stuck().await;
    assert!(sent > 0);
    client.take(sent).await;
    upstream.write("on it goes").await;
    assert_eq!(client.until("goes").await, "on it goes");
}

#[tokio::test]
async fn a_drain_lets_a_tunnel_that_is_no_websocket_go_on() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, CHAT);
    let (mut client, mut upstream) = chatting(&rig, &backend).await;
    rig.drain();
    client.write("still").await;
    assert_eq!(upstream.until("still").await, "still");
    client.close_after(&mut upstream).await;
    rig.ended().await;
}
