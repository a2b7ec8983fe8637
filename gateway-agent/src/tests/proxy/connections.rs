//! Which upstream connections are used again, and what happens when one that
//! idled is closed at the wrong moment.

use super::{
    GET, OK,
    rig::{Rig, Scripted, Wire, within},
};
use crate::admit::recorder::Tally;

const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";

/// A client and the upstream connection of its first request, which is over.
async fn after_one_request(rig: &Rig, backend: &Scripted, response: &str) -> (Wire, Wire) {
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(response).await;
    client.until("ok").await;
    (client, upstream)
}

#[tokio::test]
async fn an_idle_connection_that_the_backend_closed_is_not_used() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let (mut client, mut upstream) = after_one_request(&rig, &backend, OK).await;
    upstream.close().await;
    client.write(POST).await;
    let mut upstream = backend.accept().await;
    upstream.until("hi").await;
    upstream.write(OK).await;
    client.until("ok").await;
    assert_eq!(rig.count("r", Tally::Success), 2);
    assert_eq!(rig.count("r", Tally::Reset), 0);
}

#[tokio::test]
async fn a_keep_alive_race_is_run_again_and_not_held_against_the_backend() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let (mut client, mut upstream) = after_one_request(&rig, &backend, OK).await;
    client.write(GET).await;
    upstream.head().await;
    drop(upstream);
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    client.until("ok").await;
    assert_eq!(rig.count("r", Tally::Success), 2);
    assert_eq!(rig.count("r", Tally::Reset), 0);
}

#[tokio::test]
async fn what_is_not_idempotent_is_not_sent_twice() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let (mut client, mut upstream) = after_one_request(&rig, &backend, OK).await;
    client.write(POST).await;
    upstream.until("hi").await;
    drop(upstream);
    assert!(client.head().await.starts_with("http/1.1 502"));
    assert_eq!(rig.count("r", Tally::Reset), 1);
}

#[tokio::test]
async fn a_fresh_connection_that_breaks_off_is_a_reset_at_once() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    drop(upstream);
    assert!(client.head().await.starts_with("http/1.1 502"));
    rig.settled(Tally::Reset).await;
}

#[tokio::test]
async fn connections_that_the_backend_will_close_are_not_used_again() {
    for fields in ["connection: close", "keep-alive: timeout=1"] {
        let backend = Scripted::start().await;
        let rig = Rig::in_front_of(backend.address, "");
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{fields}\r\n\r\nok");
        let (mut client, mut upstream) = after_one_request(&rig, &backend, &response).await;
        client.write(GET).await;
        assert_eq!(upstream.rest().await, "", "{fields}");
        backend.accept().await.head().await;
    }
}

#[tokio::test]
async fn a_connection_with_half_a_request_on_it_is_not_used_again() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client
        .write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 90000\r\n\r\nhalf")
        .await;
    let mut upstream = backend.accept().await;
    upstream.until("half").await;
    upstream.write(OK).await;
    client.until("ok").await;
    rig.settled(Tally::Success).await;
    let mut other = rig.client().await;
    other.write(GET).await;
    let mut upstream = backend.accept().await;
    assert!(upstream.head().await.starts_with("get / "));
}

#[tokio::test]
async fn bytes_after_a_response_are_never_another_request_s() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let poisoned = format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison");
    let (mut client, mut upstream) = after_one_request(&rig, &backend, &poisoned).await;
    assert_eq!(upstream.rest().await, "", "it is closed");
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    let answer = client.until("ok").await;
    assert!(!answer.contains("poison"), "{answer}");
}

#[tokio::test]
async fn a_new_configuration_keeps_the_connections_of_endpoints_that_stay() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let (mut client, mut upstream) = after_one_request(&rig, &backend, OK).await;
    let other = "timeouts: {response_headers: 9s}";
    rig.configure(&super::rig::fleet(&[("r", backend.address)], other));
    client.write(GET).await;
    upstream.head().await;
}

#[tokio::test]
async fn requests_go_to_the_less_loaded_endpoint() {
    let (first, second) = (Scripted::start().await, Scripted::start().await);
    let rig = Rig::start(&format!(
        "pops: {{p: {{region_order: [r]}}}}\nservices:\n  s: {{routes: [{{path_prefix: /}}], \
         backends: {{r: {{endpoints: ['http://{}', 'http://{}']}}}}}}",
        first.address, second.address
    ));
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = rig.client().await;
        client.write(GET).await;
        clients.push(client);
        rig.in_flight(clients.len()).await;
    }
    // None was answered, so each went where fewer were.
    for endpoint in [&first, &second] {
        for _ in 0..2 {
            endpoint.accept().await.head().await;
        }
    }
}

#[tokio::test]
async fn connections_to_an_endpoint_that_left_the_configuration_are_closed() {
    let (old, new) = (Scripted::start().await, Scripted::start().await);
    let rig = Rig::in_front_of(old.address, "");
    let (mut client, mut idle) = after_one_request(&rig, &old, OK).await;
    let mut busy = rig.client().await;
    busy.write(GET).await;
    let mut last = idle;
    last.head().await;
    let mut third = rig.client().await;
    third.write(GET).await;
    idle = old.accept().await;
    idle.head().await;
    idle.write(OK).await;
    third.until("ok").await;
    rig.in_flight(1).await;

    rig.configure(&super::rig::fleet(&[("r", new.address)], ""));
    client.write(GET).await;
    new.accept().await.head().await;
    assert_eq!(idle.rest().await, "", "what idles is closed");
    last.write(OK).await;
    busy.until("ok").await;
    assert_eq!(last.rest().await, "", "what was in use is not kept");
}

#[tokio::test]
async fn who_takes_nothing_of_a_long_response_makes_room_for_others() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "limits: {max_connections: 1}");
    let mut slow = rig.client().await;
    slow.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    let long = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
    upstream.write(long).await;
    slow.until("1000000000").await;
    upstream.write_until_stuck().await;
    // Refused while the client may still go on.
    let mut refused = 0;
    let (mut other, mut fresh) = within(async {
        loop {
            let mut other = rig.client().await;
            other.write(GET).await;
            tokio::select! {
                fresh = backend.accept() => return (other, fresh),
                head = other.head() => {
                    assert!(head.contains("reason=limit"), "{head}");
                    refused += 1;
                }
            }
        }
    })
    .await;
    fresh.head().await;
    fresh.write(OK).await;
    other.until("ok").await;
    assert!(refused > 0, "it had a moment to go on");
    upstream.write_until_closed("more").await;
    // To the backend, that client has left.
    rig.in_flight(0).await;
    assert_eq!(rig.count("r", Tally::Reset), 0);
}
