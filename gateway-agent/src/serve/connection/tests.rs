use super::*;
use crate::{
    admit::{gate::CoreGate, snapshot::Snapshot},
    clock::Clock,
    config::host::{Host, HostFile, Listener},
    limits::{BODY_IDLE, HEADER_READ_TIMEOUT, KEEP_ALIVE_IDLE},
    serve::{places::Places, server::Edge},
    tests::pki::Authority,
};
use arc_swap::ArcSwap;
use http_body_util::{BodyExt, Empty};
use std::sync::Arc;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

/// A connection served without any configuration, so that all answers are ours.
async fn connected() -> (TcpStream, impl Future<Output = ()>) {
    connected_to(Arc::default()).await
}

/// The same, to the first listener of a host.
async fn connected_to(host: Arc<Host>) -> (TcpStream, impl Future<Output = ()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = TcpStream::connect(address).await.expect("it listens");
    let (stream, peer) = listener.accept().await.expect("a connection");
    let table = Arc::new(ArcSwap::from_pointee(Snapshot::empty()));
    let gate = CoreGate::new(0, table, Clock::new(), Arc::default());
    let core = Core::new(gate, 1, Edge::default());
    let arrived = Arrived {
        stream,
        peer: peer.ip(),
        listener: 0,
        host,
        places: Places::default(),
        seat: None,
    };
    let (stay, drain) = watch::channel(false);
    let served = async move {
        serve(core, arrived, drain).await;
        drop(stay);
    };
    (client, served)
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_header_does_not_end_in_time_is_told_so() {
    let (mut client, served) = connected().await;
    client.write_all(b"GET / HT").await.expect("it is open");
    let started = Instant::now();
    served.await;
    assert_eq!(started.elapsed().as_secs(), HEADER_READ_TIMEOUT.as_secs());
    let mut told = String::new();
    client.read_to_string(&mut told).await.expect("an end");
    let (head, body) = told.split_once("\r\n\r\n").expect("a header");
    assert!(
        head.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
        "{head}"
    );
    assert!(
        head.contains("x-rampmeter: reason=header_timeout"),
        "{head}"
    );
    let length = format!("content-length: {}", body.len());
    assert!(head.contains(&length), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["status"], 408);
}

#[test]
fn a_body_that_panics_is_a_broken_body_and_nothing_more() {
    let bug = || -> Poll<Option<Result<(), Broken>>> { panic!("a bug") };
    let polled = contained(bug);
    assert!(matches!(polled, Poll::Ready(Some(Err(Broken::Panicked)))));
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_comes_is_closed_without_a_word() {
    let (mut client, served) = connected().await;
    served.await;
    let mut told = String::new();
    client.read_to_string(&mut told).await.expect("an end");
    assert_eq!(told, "");
}

#[tokio::test(start_paused = true)]
async fn a_header_of_the_proxy_protocol_must_come_in_time() {
    let proxied = Listener {
        proxy_protocol: true,
        tls: None,
    };
    let signature = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0";
    closes_when_late(proxied, &[b"", b"\r\n\r\n", signature]).await;
}

#[tokio::test(start_paused = true)]
async fn a_handshake_must_end_in_time() {
    let tls = Listener {
        proxy_protocol: false,
        tls: Some(tls()),
    };
    // Nothing, and the beginning of a record.
    closes_when_late(tls, &[b"", b"\x16\x03\x01\x02\0\x01"]).await;
}

fn tls() -> crate::serve::tls::ServerTls {
    let authority = Authority::new();
    authority.sign("a", &["a.example"]);
    let path = authority.path("host.yaml");
    authority.write("host.yaml", &authority.host(&["a"], ""));
    let file = HostFile::open(Some(path)).expect("a good host file");
    file.host().load().listener(0).tls.expect("it has TLS")
}

async fn closes_when_late(listener: Listener, firsts: &[&[u8]]) {
    for first in firsts {
        let host = Host {
            listeners: vec![listener.clone()],
            ..Host::default()
        };
        let (mut client, served) = connected_to(Arc::new(host)).await;
        client.write_all(first).await.expect("it is open");
        let started = Instant::now();
        served.await;
        assert_eq!(started.elapsed().as_secs(), HEADER_READ_TIMEOUT.as_secs());
        // A reset is an end as well: not all of it was read.
        let mut told = Vec::new();
        let _ = client.read_to_end(&mut told).await;
        assert_eq!(told, b"");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_client_takes_nothing_is_reset_alone() {
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            let (client, served) = connected().await;
            let served = tokio::task::spawn_local(served);
            let (mut sender, connection) =
                hyper::client::conn::http2::Builder::new(crate::serve::executor::LocalExecutor)
                    .initial_stream_window_size(0)
                    .handshake(TokioIo::new(client))
                    .await
                    .expect("HTTP/2");
            tokio::task::spawn_local(connection);
            let request = http::Request::get("http://a/").body(Empty::<Bytes>::new());
            let response = sender.send_request(request.expect("a request")).await;
            let body = response.expect("an answer").into_body();
            let started = Instant::now();
            let ended = timeout(2 * KEEP_ALIVE_IDLE, body.collect()).await;
            ended.expect("it ends").expect_err("it is reset");
            let waited = started.elapsed();
            assert!((BODY_IDLE..KEEP_ALIVE_IDLE).contains(&waited), "{waited:?}");
            assert!(!served.is_finished(), "the connection lives");
        })
        .await;
}
