//! TLS from clients: which certificate they see, what they speak inside it, who
//! has to show one, and what happens to all of it when files change.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    CertificateError, ClientConfig, Error, HandshakeKind, ProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    version::TLS12,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    GET, OK,
    edge::edge,
    rig::{Rig, Scripted, field, fleet, within},
};
use crate::{config::host::HostFile, tests::pki::Authority};

pub(super) type Client = TlsStream<TcpStream>;

/// A data plane without configuration, with this host file.
pub(super) fn start(authority: &Authority, host: &str) -> (Rig, HostFile) {
    let (edge, file) = edge(&authority.dir, host);
    let addresses: Vec<_> = edge.host.load().addresses().collect();
    (Rig::on(&addresses, &edge), file)
}

pub(super) async fn connect(
    address: SocketAddr,
    config: ClientConfig,
    name: &str,
) -> io::Result<Client> {
    connect_again(address, &Arc::new(config), name).await
}

/// With what the client kept of connections before.
async fn connect_again(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
) -> io::Result<Client> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    within(TlsConnector::from(config.clone()).connect(name, stream)).await
}

pub(super) fn shown(client: &Client) -> &CertificateDer<'static> {
    &client
        .get_ref()
        .1
        .peer_certificates()
        .expect("one is shown")[0]
}

/// A request's whole answer; its connection ends with it, as TLS wants.
pub(super) async fn ask(client: &mut Client) -> String {
    let request = GET.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    within(client.write_all(request.as_bytes()))
        .await
        .expect("it is open");
    let mut answer = String::new();
    let read = within(client.read_to_string(&mut answer)).await;
    read.expect("without a close_notify, it could have been cut");
    answer
}

/// On a connection that stays open.
pub(super) async fn ask_and_stay(client: &mut Client) {
    client.write_all(GET.as_bytes()).await.expect("it is open");
    let mut answer = Vec::new();
    while !answer.ends_with(b"}\n") {
        let byte = within(client.read_u8()).await;
        answer.push(byte.expect("an answer"));
    }
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_picks_the_certificate() {
    let authority = Authority::new();
    let first = authority.sign("first", &["first.example"]);
    let exact = authority.sign("exact", &["Pay.Shop.example", "other.example"]);
    let wild = authority.sign("wild", &["*.shop.example"]);
    let host = authority.host(&["first", "wild", "exact"], "");
    let (rig, _) = start(&authority, &host);
    for (name, expected) in [
        ("first.example", &first),
        ("other.example", &exact),
        ("pay.shop.example", &exact),
        ("PAY.shop.example", &exact),
        ("x.shop.example", &wild),
    ] {
        let client = connect(rig.address, authority.client(None), name).await;
        let mut client = client.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(shown(&client), expected, "{name}");
        assert!(ask(&mut client).await.starts_with("HTTP/1.1 404 "));
    }
}

#[tokio::test]
async fn a_client_that_asks_for_no_or_an_unknown_name_sees_the_first() {
    let authority = Authority::new();
    authority.sign("first", &["first.example"]);
    authority.sign("wild", &["*.shop.example"]);
    let (rig, _) = start(&authority, &authority.host(&["first", "wild"], ""));
    for name in [
        "unknown.example",
        "a.b.shop.example",
        "shop.example",
        "127.0.0.1",
    ] {
        let client = connect(rig.address, authority.client(None), name).await;
        let error = client.expect_err("it is for another name");
        let error = error.get_ref().and_then(|error| error.downcast_ref());
        let Some(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) = error
        else {
            panic!("{name}: {error:?}");
        };
        assert!(
            presented[0].contains("first.example"),
            "{name}: {presented:?}"
        );
    }
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken() {
    let authority = Authority::new();
    authority.sign("a", &["a.example"]);
    let (rig, _) = start(&authority, &authority.host(&["a"], ""));
    for (versions, expected) in [
        (&[&TLS12][..], ProtocolVersion::TLSv1_2),
        (rustls::DEFAULT_VERSIONS, ProtocolVersion::TLSv1_3),
    ] {
        let config = authority.client_of(None, versions);
        let mut client = connect(rig.address, config, "a.example")
            .await
            .expect("TLS");
        assert_eq!(client.get_ref().1.protocol_version(), Some(expected));
        assert!(ask(&mut client).await.starts_with("HTTP/1.1 404 "));
    }
}

#[tokio::test]
async fn the_protocol_is_what_alpn_says_and_without_it_what_the_client_begins_with() {
    let authority = Authority::new();
    authority.sign("a", &["a.example"]);
    let (rig, _) = start(&authority, &authority.host(&["a"], ""));
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["spdy/3", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let mut config = authority.client(None);
        config.alpn_protocols = offered
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let mut client = connect(rig.address, config, "a.example")
            .await
            .expect("TLS");
        let alpn = client.get_ref().1.alpn_protocol();
        assert_eq!(alpn, agreed.map(str::as_bytes), "{offered:?}");
        match agreed {
            Some("h2") => assert_eq!(ask_http2(client).await, 404),
            _ => assert!(ask(&mut client).await.starts_with("HTTP/1.1 404 ")),
        }
    }
    let client = connect(rig.address, authority.client(None), "a.example").await;
    assert_eq!(ask_http2(client.expect("TLS")).await, 404, "by its preface");
    let mut config = authority.client(None);
    config.alpn_protocols = vec![b"spdy/3".to_vec()];
    let refused = connect(rig.address, config, "a.example").await;
    refused.expect_err("there is nothing to agree on");
}

async fn ask_http2(client: Client) -> u16 {
    let connected =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client));
    let (mut sender, connection) = within(connected).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = http::Request::get("https://a.example/").body(Empty::<Bytes>::new());
    let response = within(sender.send_request(request.expect("a request"))).await;
    let (head, body) = response.expect("an answer").into_parts();
    within(body.collect()).await.expect("a whole answer");
    head.status.as_u16()
}

#[tokio::test]
async fn a_backend_is_told_that_its_client_came_by_https() {
    let authority = Authority::new();
    authority.sign("a", &["a.example"]);
    let (rig, _) = start(&authority, &authority.host(&["a"], ""));
    let backend = Scripted::start().await;
    rig.configure(&fleet(&[("r", backend.address)], ""));
    let client = connect(rig.address, authority.client(None), "a.example").await;
    let mut client = client.expect("TLS");
    let answered = async {
        let mut upstream = backend.accept().await;
        let head = upstream.head().await;
        assert_eq!(field(&head, "x-forwarded-proto"), "https");
        upstream.write(OK).await;
        upstream
    };
    let (answer, _upstream) = tokio::join!(ask(&mut client), answered);
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test]
async fn a_large_response_comes_whole() {
    const LENGTH: usize = 4 << 20;
    let authority = Authority::new();
    authority.sign("a", &["a.example"]);
    let (rig, _) = start(&authority, &authority.host(&["a"], ""));
    let backend = Scripted::start().await;
    rig.configure(&fleet(&[("r", backend.address)], ""));
    let client = connect(rig.address, authority.client(None), "a.example").await;
    let mut client = client.expect("TLS");
    let body: String = (0..LENGTH)
        .map(|n| char::from(b'a' + (n % 23) as u8))
        .collect();
    let answered = async {
        let mut upstream = backend.accept().await;
        upstream.head().await;
        upstream
            .write(&format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n"
            ))
            .await;
        upstream.write(&body).await;
        upstream
    };
    let (answer, _upstream) = tokio::join!(ask(&mut client), answered);
    let (_, received) = answer.split_once("\r\n\r\n").expect("a header");
    assert!(received == body, "{} of {LENGTH} bytes", received.len());
}

#[tokio::test]
async fn sessions_are_resumed() {
    let authority = Authority::new();
    authority.sign("a", &["a.example"]);
    let (rig, _) = start(&authority, &authority.host(&["a"], ""));
    for versions in [&[&TLS12][..], rustls::DEFAULT_VERSIONS] {
        let config = Arc::new(authority.client_of(None, versions));
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let client = connect_again(rig.address, &config, "a.example").await;
            let mut client = client.expect("TLS");
            ask(&mut client).await;
            assert_eq!(client.get_ref().1.handshake_kind(), Some(expected));
        }
    }
}

/// Whether a client gets an answer. With TLS 1.3 it learns only when it reads
/// that its certificate is missing or wrong.
async fn is_served(address: SocketAddr, config: ClientConfig) -> bool {
    let Ok(mut client) = connect(address, config, "a.example").await else {
        return false;
    };
    let mut answer = String::new();
    let asked = async {
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        client.read_to_string(&mut answer).await
    };
    within(asked).await.is_ok() && answer.starts_with("HTTP/1.0 404 ")
}

#[tokio::test]
async fn clients_show_certificates_where_they_must_and_only_good_ones() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("a", &["a.example"]);
    authority.sign("client", &["client.example"]);
    stranger.sign("client", &["client.example"]);
    let ca = authority.path("ca.pem").display().to_string();
    // With none, one of ours, a stranger's.
    for (auth, expected) in [
        (String::new(), [true, true, true]),
        (
            format!(", client_auth: optional, client_ca_file: {ca}"),
            [true, true, false],
        ),
        (
            format!(", client_auth: required, client_ca_file: {ca}"),
            [false, true, false],
        ),
    ] {
        let (rig, _) = start(&authority, &authority.host(&["a"], &auth));
        for versions in [&[&TLS12][..], rustls::DEFAULT_VERSIONS] {
            let identities = [None, Some(&authority), Some(&stranger)];
            let mut served = [false; 3];
            for (identity, served) in identities.into_iter().zip(&mut served) {
                let identity = identity.map(|authority| (authority, "client"));
                let config = authority.client_of(identity, versions);
                *served = is_served(rig.address, config).await;
            }
            assert_eq!(served, expected, "{auth:?}");
        }
    }
}

#[tokio::test]
async fn plain_text_on_a_tls_port_reaches_nothing() {
    let authority = Authority::new();
    authority.sign("a", &["a.example"]);
    let (rig, _) = start(&authority, &authority.host(&["a"], ""));
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut told = Vec::new();
    within(client.0.read_to_end(&mut told))
        .await
        .expect("an end");
    assert_eq!(told.first(), Some(&21), "an alert");
}

#[tokio::test]
async fn a_drain_ends_connections_as_tls_wants() {
    let authority = Authority::new();
    authority.sign("a", &["a.example"]);
    let (rig, _) = start(&authority, &authority.host(&["a"], ""));
    let client = connect(rig.address, authority.client(None), "a.example").await;
    let mut client = client.expect("TLS");
    ask_and_stay(&mut client).await;
    rig.drain();
    let ended = within(client.read_u8()).await;
    let ended = ended.expect_err("there is nothing more");
    let told = std::error::Error::source(&ended).is_none() && ended.get_ref().is_none();
    assert!(
        told,
        "without a close_notify, it could have been cut: {ended}"
    );
    rig.ended().await;
}
