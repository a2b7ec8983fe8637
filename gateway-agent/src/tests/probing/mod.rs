//! Health checks: what is asked, what is believed, and where requests go then.

mod findings;
mod living;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// An endpoint that answers health checks as the test says, and requests with its
/// own port.
pub(in crate::tests) struct Checked {
    pub(in crate::tests) address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

struct State {
    /// What health checks get; 0: never an answer.
    status: AtomicU16,
    probes: AtomicU64,
    requests: AtomicU64,
}

impl Checked {
    pub(in crate::tests) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State {
            status: AtomicU16::new(200),
            probes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        });
        let shared = state.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, shared.clone()));
            }
        });
        Self {
            address,
            state,
            server,
        }
    }

    pub(in crate::tests) fn answer(&self, status: u16) {
        self.state.status.store(status, SeqCst);
    }

    pub(in crate::tests) fn probes(&self) -> u64 {
        self.state.probes.load(SeqCst)
    }

    pub(in crate::tests) fn requests(&self) -> u64 {
        self.state.requests.load(SeqCst)
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// One request on one connection. A client that goes away is its own affair.
async fn answer(mut stream: TcpStream, state: Arc<State>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let status = if head.contains("user-agent: rampmeter-health/") {
        assert!(head.starts_with("get /ready http/1.1\r\n"), "{head}");
        assert!(head.contains("host: 127.0.0.1:"), "{head}");
        state.probes.fetch_add(1, SeqCst);
        state.status.load(SeqCst)
    } else {
        state.requests.fetch_add(1, SeqCst);
        200
    };
    if status == 0 {
        std::future::pending::<()>().await;
    }
    let response = format!(
        "HTTP/1.1 {status} x\r\nlocation: /elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    let _ = stream.write_all(response.as_bytes()).await;
}

/// A fleet file with these endpoints and a health check with these settings.
pub(in crate::tests) fn fleet(endpoints: &[SocketAddr], check: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|e| format!("'http://{e}'")).collect();
    format!(
        "pops: {{fra1: {{region_order: [us-east]}}}}
services:
  pay:
    routes: [{{path_prefix: /}}]
    backends: {{us-east: {{endpoints: [{}]}}}}
    health_check: {{{check}}}
",
        endpoints.join(", ")
    )
}
