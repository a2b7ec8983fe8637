//! TLS to endpoints: only to whom we trust, and HTTP/2 where it is wanted.

use std::{convert::Infallible, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use fleet_config::{Endpoint, HealthCheck, Scheme, UpstreamTls};
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{GET, rig::Rig};
use crate::{admit::recorder::Tally, backend::tls::Tls, probe::ask::ask};

/// An authority, and what it signed.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.0.der().to_vec())
    }

    /// A certificate for a name, and its key, both PEM.
    fn sign(&self, name: &str) -> (String, String, Vec<u8>, Vec<u8>) {
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let der = certificate.der().to_vec();
        (
            certificate.pem(),
            key.serialize_pem(),
            der,
            key.serialize_der(),
        )
    }

    /// Its own certificate in a file.
    fn write(&self, path: &Path) {
        std::fs::write(path, self.0.pem()).expect("a file");
    }

    /// A server whose certificate it signed; it answers with what it saw.
    async fn server(&self, name: &str, clients: Option<&Self>, alpn: &[&[u8]]) -> SocketAddr {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.der()).expect("a good one");
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let (_, _, certificate, key) = self.sign(name);
        let key = PrivateKeyDer::try_from(key).expect("a key");
        let mut config = builder
            .with_single_cert(vec![CertificateDer::from(certificate)], key)
            .expect("they match");
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let http = auto::Builder::new(TokioExecutor::new());
                        let service = service_fn(answer);
                        let _ = http
                            .serve_connection_with_upgrades(TokioIo::new(stream), service)
                            .await;
                    }
                });
            }
        });
        address
    }
}

/// Says which protocol and scheme it was asked with, and ends with a trailer.
async fn answer(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let version = match request.version() {
        Version::HTTP_2 => "h2",
        _ => "h1",
    };
    if request.headers().contains_key("upgrade") {
        return Ok(echo(request));
    }
    let scheme = request.uri().scheme_str().unwrap_or("-").to_owned();
    let seen = request.into_body().collect().await.expect("a body");
    let sum = seen.trailers().and_then(|trailers| trailers.get("x-sum"));
    let sum = sum.map_or("-", |sum| sum.to_str().expect("text"));
    let text = format!("{version} {scheme} {sum}");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", HeaderValue::from_static("1"));
    let frames = [Frame::data(Bytes::from(text)), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok)));
    let response = Response::builder().header("trailer", "x-end");
    Ok(response.body(BodyExt::boxed(body)).expect("a response"))
}

/// Switches protocols, and sends back what comes then.
fn echo(request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    tokio::spawn(async move {
        let stream = hyper::upgrade::on(request).await.expect("a stream");
        let (mut from, mut to) = tokio::io::split(TokioIo::new(stream));
        let _ = tokio::io::copy(&mut from, &mut to).await;
    });
    let response = Response::builder().status(101);
    let response = response.header("connection", "upgrade");
    let response = response.header("upgrade", "chat");
    let body = http_body_util::Empty::new().boxed();
    response.body(body).expect("a response")
}

fn fleet(endpoint: SocketAddr, ca: &Path, settings: &str, tls: &str) -> String {
    format!(
        "pops: {{p: {{region_order: [r]}}}}\nservices:\n  s:\n    routes: [{{path_prefix: /}}]\n    \
         backends: {{r: {{endpoints: ['https://{endpoint}']}}}}\n    \
         tls: {{ca_file: '{}'{tls}}}\n    {settings}",
        ca.display()
    )
}

const HTTP1: &[&[u8]] = &[b"http/1.1"];
const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

/// A folder with the certificate of an authority as `ca.pem`.
fn trusting(authority: &Authority) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    authority.write(&dir.path().join("ca.pem"));
    dir
}

async fn get(rig: &Rig) -> String {
    let mut client = rig.client().await;
    client
        .write("GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close, te\r\n\r\n")
        .await;
    client.rest().await
}

#[tokio::test]
async fn an_endpoint_with_a_good_certificate_is_asked_by_the_protocol_that_is_configured() {
    let authority = Authority::new();
    let dir = trusting(&authority);
    let ca = dir.path().join("ca.pem");
    let endpoint = authority.server("127.0.0.1", None, BOTH).await;
    for (settings, seen) in [("", "h1 -"), ("protocol: http2", "h2 https")] {
        let rig = Rig::start(&fleet(endpoint, &ca, settings, ""));
        let answer = get(&rig).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(seen), "{answer}");
        assert!(answer.contains("x-end: 1"), "trailers pass: {answer}");
        rig.settled(Tally::Success).await;
    }
}

#[tokio::test]
async fn protocols_are_switched_over_http_1_whatever_else_is_spoken() {
    let authority = Authority::new();
    let dir = trusting(&authority);
    let ca = dir.path().join("ca.pem");
    let endpoint = authority.server("127.0.0.1", None, BOTH).await;
    for settings in ["", "protocol: http2\n    "] {
        let settings = format!("{settings}upgrades: [chat]");
        let rig = Rig::start(&fleet(endpoint, &ca, &settings, ""));
        let mut client = rig.client().await;
        let offer = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n";
        client.write(&format!("{offer}early")).await;
        let head = client.head().await;
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert_eq!(client.until("early").await, "early");
        client.write("late").await;
        assert_eq!(client.until("late").await, "late");
        drop(client);
        rig.settled(Tally::Success).await;
    }
}

#[tokio::test]
async fn nobody_else_is_asked() {
    let (authority, other) = (Authority::new(), Authority::new());
    let dir = trusting(&authority);
    let ca = dir.path().join("ca.pem");
    let wrong_name = authority.server("other.example", None, HTTP1).await;
    let wrong_authority = other.server("127.0.0.1", None, HTTP1).await;
    let no_h2 = authority.server("127.0.0.1", None, HTTP1).await;
    let no_tls = super::endpoints::Same::start(http::StatusCode::OK).await;
    for (endpoint, settings) in [
        (wrong_name, ""),
        (wrong_authority, ""),
        (no_h2, "protocol: http2"),
        (no_tls.address, ""),
    ] {
        let rig = Rig::start(&fleet(endpoint, &ca, settings, ""));
        let answer = get(&rig).await;
        assert!(answer.contains("reason=connect"), "{endpoint}: {answer}");
        rig.settled(Tally::Connect).await;
    }
    // Unless the configuration says that this is its name.
    let named = fleet(wrong_name, &ca, "", ", server_name: other.example");
    assert!(get(&Rig::start(&named)).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn without_its_files_nothing_is_asked_until_they_are_there() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().expect("a folder");
    let ca = dir.path().join("ca.pem");
    let endpoint = authority.server("127.0.0.1", None, HTTP1).await;
    let rig = Rig::start(&fleet(endpoint, &ca, "", ""));
    assert!(get(&rig).await.contains("reason=connect"));
    authority.write(&ca);
    let settings = UpstreamTls {
        ca_file: Some(ca.clone()),
        ..UpstreamTls::default()
    };
    let before = Tls::load(&settings);
    assert_eq!((before.error(), before.reload().is_none()), (None, true));
    // A new configuration reads them, and so does the upkeep in time.
    rig.configure(&fleet(endpoint, &ca, "", ", server_name: 127.0.0.1"));
    assert!(get(&rig).await.starts_with("HTTP/1.1 200"));
}

#[test]
fn files_that_change_are_read_again_unless_they_are_of_no_use() {
    let dir = trusting(&Authority::new());
    let ca = dir.path().join("ca.pem");
    let settings = UpstreamTls {
        ca_file: Some(ca.clone()),
        ..UpstreamTls::default()
    };
    let loaded = Tls::load(&settings);
    let touch = |text: &str, seconds| {
        std::fs::write(&ca, text).expect("a file");
        let file = std::fs::File::options()
            .append(true)
            .open(&ca)
            .expect("a file");
        let later = std::time::SystemTime::now() + Duration::from_secs(seconds);
        file.set_modified(later).expect("a time");
    };
    touch("nonsense", 10);
    assert!(loaded.reload().is_none(), "what was read stays");
    touch(&Authority::new().0.pem(), 20);
    let next = loaded.reload().expect("it is another");
    assert_eq!(next.error(), None);
    assert!(next.reload().is_none(), "nothing changed since");
}

#[tokio::test]
async fn an_endpoint_that_wants_to_know_us_gets_our_certificate() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let dir = trusting(&authority);
    let path = |name: &str| dir.path().join(name);
    let (certificate, key, ..) = clients.sign("agent");
    std::fs::write(path("own.pem"), certificate).expect("a file");
    std::fs::write(path("own.key"), key).expect("a file");
    let endpoint = authority.server("127.0.0.1", Some(&clients), HTTP1).await;
    let ca = path("ca.pem");
    let anonymous = Rig::start(&fleet(endpoint, &ca, "", ""));
    assert!(get(&anonymous).await.starts_with("HTTP/1.1 502"));
    let tls = format!(
        ", cert_file: '{}', key_file: '{}'",
        path("own.pem").display(),
        path("own.key").display()
    );
    let rig = Rig::start(&fleet(endpoint, &ca, "", &tls));
    assert!(get(&rig).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_probe_trusts_whom_requests_trust() {
    let (authority, other) = (Authority::new(), Authority::new());
    let dir = trusting(&authority);
    let settings = UpstreamTls {
        ca_file: Some(dir.path().join("ca.pem")),
        ..UpstreamTls::default()
    };
    let tls = Tls::load(&settings);
    for (signer, good) in [(&authority, true), (&other, false)] {
        let address = signer.server("127.0.0.1", None, HTTP1).await;
        let endpoint = Endpoint {
            scheme: Scheme::Https,
            host: address.ip().to_string(),
            port: address.port(),
        };
        let check = HealthCheck::default();
        let asked = tokio::task::LocalSet::new()
            .run_until(ask(&endpoint, &check, Some(&tls)))
            .await;
        assert_eq!(asked.is_ok(), good, "{asked:?}");
    }
}

#[tokio::test]
async fn plain_http_2_goes_with_prior_knowledge_and_comes_back_with_its_trailers() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    let rig = Rig::in_front_of(address, "protocol: http2");
    let mut client = rig.client().await;
    client
        .write(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\
             te: trailers\r\nconnection: te\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n",
        )
        .await;
    let answer = client.until("0\r\nx-end: 1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("h2 http 7"), "{answer}");
    // The same connection takes the next one, which has no body.
    client.write(GET).await;
    assert!(client.head().await.starts_with("http/1.1 200"));
}
