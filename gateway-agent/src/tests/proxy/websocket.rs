//! WebSocket on real sockets: what is sent comes back whole, and a drain says
//! goodbye between two frames.

use http::{Method, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::{client::conn::http2, ext::Protocol};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    rig::{Rig, Scripted, Wire, field, fleet, within},
    tls,
};
use crate::{admit::recorder::Tally, tests::pki::Authority};
use std::net::SocketAddr;

const SETTINGS: &str = "upgrades: [websocket]";

const OFFER: &str = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: chat, super\r\n\
    sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
    connection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    sec-websocket-protocol: super\r\nsec-websocket-extensions: permessage-deflate\r\n\r\n";

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    last: bool,
    opcode: u8,
    payload: Vec<u8>,
}

fn frame(last: bool, opcode: u8, payload: &[u8]) -> Frame {
    Frame {
        last,
        opcode,
        payload: payload.to_owned(),
    }
}

impl Frame {
    /// As it goes over the wire; with a mask from a client.
    fn bytes(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut out = vec![u8::from(self.last) << 7 | self.opcode];
        let masked = u8::from(mask.is_some()) << 7;
        match self.payload.len() {
            length @ 0..=125 => out.push(masked | length as u8),
            length @ 126..=0xffff => {
                out.push(masked | 126);
                out.extend((length as u16).to_be_bytes());
            }
            length => {
                out.push(masked | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend(mask.iter().flatten());
        let mask = mask.unwrap_or_default();
        let masked = self.payload.iter().zip(mask.iter().cycle());
        out.extend(masked.map(|(byte, mask)| byte ^ mask));
        out
    }

    fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk().copied();
        code.map(u16::from_be_bytes)
            .filter(|_| self.opcode == CLOSE)
    }
}

/// The next frame, and whether it had a mask.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(Frame, bool)> {
    let (first, second) = (stream.read_u8().await?, stream.read_u8().await?);
    let length = match second & 0x7f {
        126 => stream.read_u16().await?.into(),
        127 => stream.read_u64().await?,
        short => short.into(),
    };
    let masked = second & 0x80 != 0;
    let mut mask = [0; 4];
    if masked {
        stream.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
    Ok((
        Frame {
            last,
            opcode,
            payload,
        },
        masked,
    ))
}

async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Frame {
    within(read(stream)).await.expect("a frame").0
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), frame: &Frame) {
    let bytes = frame.bytes(Some([1, 2, 3, 4]));
    within(stream.write_all(&bytes)).await.expect("it is open");
    within(stream.flush()).await.expect("it is open");
}

/// A backend that sends back what it gets, and answers a close frame with one.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut wire = Wire(stream);
                wire.head().await;
                wire.write(SWITCHED).await;
                while let Ok((frame, masked)) = read(&mut wire.0).await {
                    assert!(masked, "from a client");
                    let sent = wire.0.write_all(&frame.bytes(None)).await;
                    if sent.is_err() || frame.opcode == CLOSE {
                        break;
                    }
                }
            });
        }
    });
    address
}

async fn websocket(rig: &Rig) -> Wire {
    let mut client = rig.client().await;
    client.write(OFFER).await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    client
}

/// Sends frames of every size and kind and gets them back.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20] {
        let sent = frame(true, BINARY, &vec![b'x'; length]);
        send(stream, &sent).await;
        assert!(next(stream).await == sent, "{length}");
    }
    let fragments = [
        frame(false, TEXT, b"one "),
        frame(true, PING, b"are you there"),
        frame(false, CONTINUATION, &[b'y'; 70_000]),
        frame(true, CONTINUATION, b""),
    ];
    for sent in &fragments {
        send(stream, sent).await;
    }
    for sent in &fragments {
        assert!(next(stream).await == *sent);
    }
}

#[tokio::test]
async fn the_handshake_passes_whole() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, SETTINGS);
    let mut client = rig.client().await;
    client.write(OFFER).await;
    let mut upstream = backend.accept().await;
    let head = upstream.head().await;
    for (name, value) in [
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dghlihnhbxbszsbub25jzq=="),
        ("sec-websocket-protocol", "chat, super"),
        (
            "sec-websocket-extensions",
            "permessage-deflate; client_max_window_bits",
        ),
    ] {
        assert_eq!(field(&head, name), value);
    }
    upstream.write(SWITCHED).await;
    let head = client.head().await;
    for (name, value) in [
        ("sec-websocket-accept", "s3pplmbitxaq9kygzzhzrbk+xoo="),
        ("sec-websocket-protocol", "super"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ] {
        assert_eq!(field(&head, name), value);
    }
}

#[tokio::test]
async fn frames_of_every_size_and_kind_come_back() {
    let rig = Rig::in_front_of(echo().await, SETTINGS);
    let mut client = websocket(&rig).await;
    exchange(&mut client.0).await;
    send(&mut client.0, &frame(true, CLOSE, &1000u16.to_be_bytes())).await;
    assert_eq!(next(&mut client.0).await.close_code(), Some(1000));
    client.close().await;
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn through_tls_it_is_the_same() {
    let authority = Authority::new();
    authority.sign("one", &["a.example"]);
    let (rig, _file) = tls::start(&authority, &authority.host(&["one"], ""));
    rig.configure(&fleet(&[("r", echo().await)], SETTINGS));
    let client = tls::connect(rig.address, authority.client(None), "a.example").await;
    let mut client = client.expect("a handshake");
    let offer = within(client.write_all(OFFER.as_bytes())).await;
    offer.expect("it is open");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(client.read_u8()).await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    exchange(&mut client).await;
    rig.drain();
    assert_eq!(next(&mut client).await.close_code(), Some(1001));
    send(&mut client, &frame(true, CLOSE, &1001u16.to_be_bytes())).await;
    let mut rest = Vec::new();
    let read = within(client.read_to_end(&mut rest)).await;
    read.expect("a whole end, with close_notify");
    assert_eq!(rest, b"");
    rig.settled(Tally::Success).await;
}

#[tokio::test]
async fn a_drain_says_1001_between_two_messages() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, SETTINGS);
    let mut client = rig.client().await;
    client.write(OFFER).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(SWITCHED).await;
    client.head().await;

    // Half of a message is on its way.
    let whole = frame(true, BINARY, &vec![b'z'; 100_000]).bytes(None);
    let (half, rest) = whole.split_at(50_000);
    within(upstream.0.write_all(half))
        .await
        .expect("it is open");
    rig.drain();
    // What the client says meanwhile still arrives.
    let last = frame(true, TEXT, b"meanwhile");
    send(&mut client.0, &last).await;
    assert_eq!(next(&mut upstream.0).await, last);
    within(upstream.0.write_all(rest))
        .await
        .expect("it is open");
    assert_eq!(next(&mut client.0).await.payload.len(), 100_000);
    assert_eq!(next(&mut client.0).await.close_code(), Some(1001));

    // What the backend still says has nowhere to go.
    let late = frame(true, TEXT, b"too late").bytes(None);
    within(upstream.0.write_all(&late))
        .await
        .expect("it is open");
    send(&mut client.0, &frame(true, CLOSE, &1001u16.to_be_bytes())).await;
    let (told, masked) = within(read(&mut upstream.0)).await.expect("a frame");
    assert_eq!((told.close_code(), masked), (Some(1001), true));
    let answer = told.bytes(None);
    within(upstream.0.write_all(&answer))
        .await
        .expect("it is open");
    assert_eq!(client.rest().await, "", "nothing after the goodbye");
    assert_eq!(upstream.rest().await, "");
    rig.ended().await;
}

#[tokio::test]
async fn when_a_client_does_not_say_goodbye_the_backend_is_told_by_us() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, SETTINGS);
    let mut client = rig.client().await;
    client.write(OFFER).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(SWITCHED).await;
    client.head().await;
    // A message that never ends: the goodbye goes between its fragments.
    let begun = frame(false, TEXT, b"once upon a time");
    within(upstream.0.write_all(&begun.bytes(None)))
        .await
        .expect("it is open");
    rig.drain();
    assert_eq!(next(&mut client.0).await, begun);
    assert_eq!(next(&mut client.0).await.close_code(), Some(1001));
    let (told, masked) = within(read(&mut upstream.0)).await.expect("a frame");
    assert_eq!((told.close_code(), masked), (Some(1001), true));
}

/// A stream of HTTP/2 to speak WebSocket on (RFC 8441).
async fn over_http_2(rig: &Rig) -> TokioIo<hyper::upgrade::Upgraded> {
    let stream = TcpStream::connect(rig.address).await.expect("it listens");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    within(sender.ready()).await.expect("it is open");
    // The server's settings say that it may be asked.
    let ask = async || {
        let request = http::Request::builder()
            .method(Method::CONNECT)
            .version(Version::HTTP_2)
            .uri("http://a.example/ws")
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13")
            .body(Empty::<bytes::Bytes>::new());
        sender.send_request(request.expect("a request")).await
    };
    let mut ask = ask;
    let response = within(async {
        loop {
            match ask().await {
                Ok(response) => return response,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    assert_eq!(response.headers()["sec-websocket-protocol"], "super");
    TokioIo::new(hyper::upgrade::on(response).await.expect("a stream"))
}

#[tokio::test]
async fn websocket_over_http_2_is_websocket_over_http_1_to_the_backend() {
    let rig = Rig::in_front_of(echo().await, SETTINGS);
    let mut client = over_http_2(&rig).await;
    exchange(&mut client).await;
    rig.in_flight(1).await;
    rig.drain();
    assert_eq!(next(&mut client).await.close_code(), Some(1001));
    send(&mut client, &frame(true, CLOSE, &1001u16.to_be_bytes())).await;
    let mut rest = Vec::new();
    within(client.read_to_end(&mut rest)).await.expect("an end");
    assert_eq!(rest, b"");
    rig.settled(Tally::Success).await;
    drop(client);
    rig.ended().await;
}

#[tokio::test]
async fn connect_is_refused_over_http_2_for_everything_else() {
    let rig = Rig::in_front_of(echo().await, "");
    let stream = TcpStream::connect(rig.address).await.expect("it listens");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    for protocol in [None, Some("websocket"), Some("connect-udp")] {
        let mut request = http::Request::builder().method(Method::CONNECT);
        request = match protocol {
            None => request.uri("a.example:80"),
            Some(name) => request
                .uri("http://a.example/ws")
                .extension(Protocol::from_static(name)),
        };
        let request = request.body(Empty::<bytes::Bytes>::new());
        let response = within(sender.send_request(request.expect("a request"))).await;
        let response = response.expect("an answer");
        assert_eq!(
            response.status(),
            StatusCode::METHOD_NOT_ALLOWED,
            "{protocol:?}"
        );
        let body = within(response.into_body().collect())
            .await
            .expect("a body");
        assert!(!body.to_bytes().is_empty());
    }
}
