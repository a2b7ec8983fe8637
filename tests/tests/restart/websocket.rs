//! As much of WebSocket as an echo needs: short messages, and close frames.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::traffic::{Kind, Traffic};

const OFFER: &str = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const GOING_AWAY: [u8; 2] = 1001u16.to_be_bytes();

/// For one answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

type Stream = BufReader<TcpStream>;

async fn head(stream: &mut Stream) -> std::io::Result<String> {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&seen).into_owned())
}

/// First byte and payload of a frame of less than 126 bytes.
async fn read(stream: &mut Stream) -> std::io::Result<(u8, Vec<u8>)> {
    let (first, second) = (stream.read_u8().await?, stream.read_u8().await?);
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        stream.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; usize::from(second & 0x7f)];
    stream.read_exact(&mut payload).await?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok((first, payload))
}

async fn write(
    stream: &mut Stream,
    first: u8,
    payload: &[u8],
    masked: bool,
) -> std::io::Result<()> {
    let length = payload.len() as u8 | u8::from(masked) << 7;
    let mut frame = vec![first, length];
    // A mask of zeroes changes nothing.
    frame.extend(masked.then_some([0; 4]).iter().flatten());
    frame.extend(payload);
    stream.write_all(&frame).await
}

/// A server that sends back what it gets.
pub(crate) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                head(&mut stream).await?;
                stream.write_all(SWITCHED.as_bytes()).await?;
                loop {
                    let (first, payload) = read(&mut stream).await?;
                    write(&mut stream, first, &payload, false).await?;
                    if first == CLOSE {
                        return Ok::<_, std::io::Error>(());
                    }
                }
            });
        }
    });
    address
}

/// Speaks until told to go elsewhere, and then to whoever listens now.
pub(crate) async fn client(traffic: Arc<Traffic>, address: SocketAddr) {
    while !traffic.is_stopped() {
        if let Err(error) = conversation(&traffic, address).await {
            traffic.note(Kind::WebSocket, Err(error));
        }
    }
}

async fn conversation(traffic: &Traffic, address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.write_all(OFFER.as_bytes()).await?;
    let head = timeout(PATIENCE, head(&mut stream)).await??;
    ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for number in 0u64.. {
        if traffic.is_stopped() {
            break;
        }
        let said = number.to_string();
        write(&mut stream, TEXT, said.as_bytes(), true).await?;
        match timeout(PATIENCE, read(&mut stream)).await?? {
            (TEXT, heard) if heard == said.as_bytes() => {}
            (CLOSE, code) if code == GOING_AWAY => {
                write(&mut stream, CLOSE, &code, true).await?;
                let end = timeout(PATIENCE, stream.read_u8()).await?;
                ensure!(end.is_err(), "something follows the goodbye");
                traffic.goodbye();
                return Ok(());
            }
            other => bail!("{other:?} for {said}"),
        }
        traffic.note(Kind::WebSocket, Ok(()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
