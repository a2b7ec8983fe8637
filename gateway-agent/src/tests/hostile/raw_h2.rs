//! An HTTP/2 client that sends whatever frame it is told to. Its fields are never
//! compressed, so that nothing it sends is made well-formed on the way.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, Instant, timeout},
};

use super::super::rig::within;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// How long a hostile connection may live.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A frame of the other side.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// One frame's bytes.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Fields as literals that are not to be remembered (RFC 7541 §6.2.2).
pub(super) fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(&mut out, name.as_bytes());
        string(&mut out, value.as_bytes());
    }
    out
}

/// A field that goes into the table (§6.2.1).
pub(super) fn remembered(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0x40];
    string(&mut out, name.as_bytes());
    string(&mut out, value.as_bytes());
    out
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        length @ 0..127 => out.push(length as u8),
        length => {
            out.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                out.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            out.push(rest as u8);
        }
    }
    out.extend(bytes);
}

/// What every request begins with.
pub(super) fn request(method: &str, path: &str) -> Vec<u8> {
    literals(&[
        (":method", method),
        (":scheme", "http"),
        (":authority", "a.example"),
        (":path", path),
    ])
}

/// The client.
pub(super) struct RawH2 {
    stream: TcpStream,
    next: u32,
}

impl RawH2 {
    /// Connected, with these settings.
    pub(super) async fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let settings = settings.iter().flat_map(|(id, value)| {
            let id = id.to_be_bytes().to_vec();
            [id, value.to_be_bytes().to_vec()].concat()
        });
        let settings: Vec<u8> = settings.collect();
        let hello = [PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat();
        within(stream.write_all(&hello)).await.expect("it is open");
        Self { stream, next: 1 }
    }

    /// The next stream's number.
    pub(super) fn stream(&mut self) -> u32 {
        let stream = self.next;
        self.next += 2;
        stream
    }

    /// Sends bytes; whether it could.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        within(self.stream.write_all(bytes)).await.is_ok()
    }

    /// A request without a body.
    pub(super) async fn get(&mut self, block: &[u8]) -> u32 {
        let stream = self.stream();
        let get = frame(HEADERS, END_HEADERS | END_STREAM, stream, block);
        self.send(&get).await;
        stream
    }

    /// The next frame; `None` at the end.
    pub(super) async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within(self.stream.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        within(self.stream.read_exact(&mut payload)).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// The frames up to one that ends this stream, or the connection.
    pub(super) async fn until_end_of(&mut self, stream: u32) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.frame().await {
            let ends = matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0;
            let ends = (ends || frame.kind == RST_STREAM) && frame.stream == stream;
            let over = ends || frame.kind == GOAWAY;
            frames.push(frame);
            if over {
                break;
            }
        }
        frames
    }

    /// Sends `attack` again and again, reading nothing but what is in the way,
    /// until the connection is closed; how long that took, and the bytes sent.
    pub(super) async fn flood(
        mut self,
        mut attack: impl FnMut(&mut Self) -> Vec<u8>,
    ) -> (Duration, usize) {
        let started = Instant::now();
        let mut sent = 0;
        let ended = timeout(PATIENCE, async {
            let mut unread = vec![0; 64 << 10];
            loop {
                let bytes = attack(&mut self);
                sent += bytes.len();
                let (mut reading, mut writing) = self.stream.split();
                let closed = async {
                    loop {
                        match reading.read(&mut unread).await {
                            Ok(0) | Err(_) => return,
                            Ok(_) => {}
                        }
                    }
                };
                tokio::select! {
                    () = closed => return,
                    written = writing.write_all(&bytes) => if written.is_err() { return },
                }
                tokio::task::yield_now().await;
            }
        });
        ended.await.expect("a flood ends its connection in time");
        (started.elapsed(), sent)
    }
}
