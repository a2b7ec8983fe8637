//! A backend that keeps every byte it gets, and answers each whole request.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What one connection brought.
#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    pub(super) bytes: Vec<u8>,
    /// Where requests that were read whole end.
    ends: Vec<usize>,
}

impl Record {
    /// Requests, and one more if bytes of another have come.
    pub(super) fn requests(&self) -> usize {
        let last = self.ends.last().copied().unwrap_or(0);
        self.ends.len() + usize::from(last < self.bytes.len())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// The backend.
#[derive(Debug, Clone)]
pub(super) struct Recorder {
    pub(super) address: SocketAddr,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Recorder {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let records = Arc::new(Mutex::new(Vec::new()));
        let all = records.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(record(stream, all.clone()));
            }
        });
        Self { address, records }
    }

    /// What came since the last call, by connection; one that stays open goes on
    /// in a record of its own.
    pub(super) fn take(&self) -> Vec<Record> {
        let mut records = self.records.lock().expect("no panic");
        let taken: Vec<_> = records.iter_mut().map(std::mem::take).collect();
        taken.into_iter().filter(|r| !r.bytes.is_empty()).collect()
    }

    /// Requests since the last call.
    pub(super) fn requests(&self) -> usize {
        self.take().iter().map(Record::requests).sum()
    }
}

async fn record(mut stream: TcpStream, all: Arc<Mutex<Vec<Record>>>) {
    let place = {
        let mut all = all.lock().expect("no panic");
        all.push(Record::default());
        all.len() - 1
    };
    let mut unread = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        unread.extend_from_slice(&buffer[..count]);
        all.lock().expect("no panic")[place]
            .bytes
            .extend_from_slice(&buffer[..count]);
        while let Some(length) = whole(&unread) {
            unread.drain(..length);
            {
                let record = &mut all.lock().expect("no panic")[place];
                let end = record.bytes.len() - unread.len();
                record.ends.push(end);
            }
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}

/// The length of the request that `bytes` begin with, once it is whole, read as
/// RFC 9112 says.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
    };
    if field("transfer-encoding:").is_some() {
        return Some(head + find(&bytes[head..], b"0\r\n\r\n")? + 5);
    }
    let length = field("content-length:").map_or(0, |length| length.parse().expect("a length"));
    (bytes.len() >= head + length).then_some(head + length)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
