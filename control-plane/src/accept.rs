//! Connections to the gRPC port. What does not speak HTTP/2 is told so in its own
//! language and turned away before any state is kept for it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::plane::{Plane, until_set};

/// Connections at a time: ten thousand agents and their readers, with
/// descriptors to spare.
const CONNECTIONS: usize = 12_000;

/// How long the first bytes may take.
const PREFACE_WITHIN: Duration = Duration::from_secs(5);

/// What every HTTP/2 connection starts with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A pause after an accept error, which would repeat at once: no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection that counts.
pub struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

/// Accepts until the process ends.
pub fn accept(
    plane: Arc<Plane>,
    listener: TcpListener,
) -> ReceiverStream<Result<Connection, io::Error>> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let permit = room.clone().acquire_owned();
            let accepted = tokio::select! {
                permit = permit => match permit {
                    Ok(permit) => listener.accept().await.map(|(stream, _)| (stream, permit)),
                    Err(_) => return,
                },
                () = until_set(&plane.ending) => return,
            };
            match accepted {
                Ok((stream, permit)) => {
                    tokio::spawn(admit(plane.clone(), stream, permit, sender.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}

async fn admit(
    plane: Arc<Plane>,
    mut stream: TcpStream,
    permit: OwnedSemaphorePermit,
    sender: mpsc::Sender<Result<Connection, io::Error>>,
) {
    let speaks = timeout(PREFACE_WITHIN, preface(&stream)).await;
    match speaks {
        Ok(Ok(Speaks::Http2)) => {
            let connection = Connection {
                stream,
                _permit: permit,
            };
            // The server is gone: so is the connection.
            let _ = sender.send(Ok(connection)).await;
        }
        Ok(Ok(Speaks::Http1)) => {
            plane.metrics.turned_away.add(1);
            // Best effort: it is turned away in any case.
            let _ = timeout(PREFACE_WITHIN, stream.write_all(NO_HTTP1)).await;
            let _ = timeout(PREFACE_WITHIN, stream.shutdown()).await;
        }
        Ok(Ok(Speaks::Other) | Err(_)) | Err(_) => {
            plane.metrics.turned_away.add(1);
            tracing::debug!(peer = ?stream.peer_addr().ok(), "not HTTP/2: turned away");
        }
    }
}

const NO_HTTP1: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\n\
    content-type: text/plain\r\ncontent-length: 79\r\nconnection: close\r\n\r\n\
    this port speaks gRPC (HTTP/2); /metrics and /healthz are on the --http address";

enum Speaks {
    Http2,
    Http1,
    Other,
}

async fn preface(stream: &TcpStream) -> io::Result<Speaks> {
    let mut seen = [0; PREFACE.len()];
    let mut before = 0;
    loop {
        let n = stream.peek(&mut seen).await?;
        let start = &seen[..n];
        if n == 0 {
            return Ok(Speaks::Other);
        }
        if start == PREFACE {
            return Ok(Speaks::Http2);
        }
        if !PREFACE.starts_with(start) {
            let upper = start.iter().take(3).all(u8::is_ascii_uppercase);
            return Ok(if upper { Speaks::Http1 } else { Speaks::Other });
        }
        if n == before {
            // Half a preface stays readable: look again a little later.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        before = n;
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::NO_HTTP1;

    #[test]
    fn the_answer_to_http1_counts_its_bytes_right() {
        let text = std::str::from_utf8(NO_HTTP1).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a body");
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
    }
}
