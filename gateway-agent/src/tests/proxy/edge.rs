//! How clients come: several listeners, through load balancers and proxies that
//! say who is behind them, and in circles.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use breaker_core::AgentId;

use super::{
    GET, OK,
    rig::{Rig, Scripted, Wire, field, fleet, local},
};
use crate::{config::host::HostFile, serve::server::Edge};

/// PROXY protocol v2: a client 192.0.2.7, port 4660, at a load balancer.
const V4: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\x0a\x00\x00\x01\x12\x34\x01\xbb";

/// The same from 2001:db8::7, with an extension.
const V6: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x29\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\
    \x12\x34\x01\xbb\x04\x00\x02\xff\xff";

/// A load balancer's own connection.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// An edge by a host file.
pub(super) fn edge(dir: &tempfile::TempDir, host: &str) -> (Edge, HostFile) {
    let path = dir.path().join("host.yaml");
    std::fs::write(&path, host).expect("written");
    let file = HostFile::open(Some(path)).expect("a good host file");
    let edge = Edge {
        host: file.host().clone(),
        agent: AgentId::new("a1").ok(),
        ..Edge::default()
    };
    (edge, file)
}

/// In front of a backend, with a host file of so many listeners.
fn start(backend: &Scripted, host: &str) -> Rig {
    let dir = tempfile::tempdir().expect("a directory");
    let (edge, _) = edge(&dir, host);
    let addresses: Vec<_> = edge.host.load().addresses().collect();
    let rig = match addresses.is_empty() {
        true => Rig::on(&[local()], &edge),
        false => Rig::on(&addresses, &edge),
    };
    rig.configure(&fleet(&[("r", backend.address)], ""));
    rig
}

/// What a backend hears when these bytes, and then a request, are sent.
async fn heard(backend: &Scripted, client: &mut Wire, first: &[u8]) -> String {
    client.write_bytes(first).await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    upstream.write(OK).await;
    client.head().await;
    head
}

#[tokio::test]
async fn every_listener_is_served_and_drained() {
    let backend = Scripted::start().await;
    let rig = start(
        &backend,
        "listeners: [{address: \"127.0.0.1:0\"}, {address: \"127.0.0.1:0\", proxy_protocol: true}]",
    );
    let addresses = rig.addresses().to_vec();
    assert_eq!(addresses.len(), 2);
    let mut plain = Wire::connect(addresses[0]).await;
    let mut proxied = Wire::connect(addresses[1]).await;
    let head = heard(&backend, &mut plain, b"").await;
    assert_eq!(field(&head, "x-forwarded-for"), "127.0.0.1");
    let head = heard(&backend, &mut proxied, V4).await;
    assert_eq!(field(&head, "x-forwarded-for"), "192.0.2.7");
    rig.drain();
    plain.until("ok").await;
    proxied.until("ok").await;
    assert_eq!(
        (plain.rest().await, proxied.rest().await),
        Default::default()
    );
    rig.ended().await;
    for address in addresses {
        let refused = tokio::net::TcpStream::connect(address).await;
        refused.expect_err("nobody listens");
    }
}

const PROXIED: &str = "listeners: [{address: \"127.0.0.1:0\", proxy_protocol: true}]";

#[tokio::test]
async fn a_load_balancer_says_who_its_client_is() {
    for (header, expected) in [(V4, "192.0.2.7"), (V6, "2001:db8::7"), (LOCAL, "127.0.0.1")] {
        let backend = Scripted::start().await;
        let rig = start(&backend, PROXIED);
        let mut client = rig.client().await;
        let head = heard(&backend, &mut client, header).await;
        assert_eq!(field(&head, "x-forwarded-for"), expected);
    }
}

#[tokio::test]
async fn a_header_of_the_proxy_protocol_may_come_byte_by_byte() {
    let backend = Scripted::start().await;
    let rig = start(&backend, PROXIED);
    let mut client = rig.client().await;
    for byte in V4 {
        client.write_bytes(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    let head = heard(&backend, &mut client, b"").await;
    assert_eq!(field(&head, "x-forwarded-for"), "192.0.2.7");
}

#[tokio::test]
async fn without_a_header_of_the_proxy_protocol_a_connection_is_closed() {
    let backend = Scripted::start().await;
    let rig = start(&backend, PROXIED);
    let unix = [&V4[..13], b"\x31\0\0", GET.as_bytes()].concat();
    for first in [
        GET.as_bytes(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        &unix,
    ] {
        let mut client = rig.client().await;
        client.write_bytes(first).await;
        assert_eq!(client.rest().await, "", "{}", first.escape_ascii());
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_says_who_is_behind_it() {
    for (trusted, expected) in [
        ("127.0.0.0/8", "203.0.113.9, 127.0.0.1"),
        ("10.0.0.0/8", "127.0.0.1"),
    ] {
        let backend = Scripted::start().await;
        let rig = start(&backend, &format!("trusted_proxies: [{trusted}]"));
        let mut client = rig.client().await;
        client
            .write("GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 203.0.113.9\r\n\r\n")
            .await;
        let head = backend.accept().await.head().await;
        assert_eq!(field(&head, "x-forwarded-for"), expected);
    }
}

#[tokio::test]
async fn behind_the_proxy_protocol_it_is_the_client_that_is_trusted_or_not() {
    let backend = Scripted::start().await;
    let rig = start(
        &backend,
        &format!("trusted_proxies: [127.0.0.1]\n{PROXIED}"),
    );
    let mut client = rig.client().await;
    client.write_bytes(V4).await;
    client
        .write("GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 203.0.113.9\r\n\r\n")
        .await;
    let head = backend.accept().await.head().await;
    assert_eq!(field(&head, "x-forwarded-for"), "192.0.2.7");
}

fn named(agent: &str) -> Rig {
    let edge = Edge {
        host: Arc::new(ArcSwap::default()),
        agent: AgentId::new(agent).ok(),
        ..Edge::default()
    };
    Rig::on(&[local()], &edge)
}

#[tokio::test]
async fn a_request_that_goes_in_a_circle_is_refused() {
    let (one, other) = (named("a1"), named("a2"));
    let to = |address: SocketAddr| fleet(&[("r", address)], "");
    one.configure(&to(other.address));
    other.configure(&to(one.address));
    let mut client = one.client().await;
    client.write(GET).await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 508 "), "{head}");
    assert_eq!(field(&head, "x-rampmeter"), "reason=loop");
    let problem = client.until("}").await;
    assert!(problem.contains("\"reason\":\"loop\""), "{problem}");
}

#[tokio::test]
async fn agents_may_be_chained() {
    let backend = Scripted::start().await;
    let (one, other) = (named("a1"), named("a2"));
    one.configure(&fleet(&[("r", other.address)], ""));
    other.configure(&fleet(&[("r", backend.address)], ""));
    let mut client = one.client().await;
    let head = heard(&backend, &mut client, b"").await;
    let hops: Vec<_> = head
        .lines()
        .filter(|line| line.starts_with("via:"))
        .collect();
    assert_eq!(hops, ["via: 1.1 rampmeter-a1", "via: 1.1 rampmeter-a2"]);
}
