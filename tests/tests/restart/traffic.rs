//! Clients that do not stop, and remember what failed.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use e2e::{eventually, get, settled};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::websocket;

/// For so many exchanges, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Between two exchanges of a client.
const PAUSE: Duration = Duration::from_millis(5);

/// Kinds of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connection for each request of HTTP/1.1.
    Fresh,
    /// gRPC, which is HTTP/2, on both sides.
    Grpc,
    /// WebSocket echo.
    WebSocket,
}

const KINDS: [Kind; 3] = [Kind::Fresh, Kind::Grpc, Kind::WebSocket];

/// Clients of every kind.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    served: [AtomicU64; KINDS.len()],
    goodbyes: AtomicU64,
    failed: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

impl Traffic {
    /// Four clients of each kind.
    pub(crate) fn start(self: &Arc<Self>, address: SocketAddr) {
        for _ in 0..4 {
            tokio::spawn(fresh(self.clone(), address));
            tokio::spawn(grpc(self.clone(), address));
            tokio::spawn(websocket::client(self.clone(), address));
        }
    }

    /// Waits for so many more exchanges of every kind.
    pub(crate) async fn more(&self, count: u64) {
        let before = self.counts();
        eventually("traffic", SOON, || async {
            let now = self.counts();
            settled(
                now.iter()
                    .zip(&before)
                    .all(|(now, before)| *now >= before + count),
            )
        })
        .await;
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    fn counts(&self) -> Vec<u64> {
        self.served
            .iter()
            .map(|count| count.load(Relaxed))
            .collect()
    }

    /// Exchanges by kind, and what failed.
    pub(crate) fn result(&self) -> (Vec<(Kind, u64)>, Vec<String>) {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        (
            KINDS.into_iter().zip(self.counts()).collect(),
            failed.clone(),
        )
    }

    /// WebSockets that were told to go elsewhere.
    pub(crate) fn goodbyes(&self) -> u64 {
        self.goodbyes.load(Relaxed)
    }

    pub(crate) fn goodbye(&self) {
        self.goodbyes.fetch_add(1, Relaxed);
    }

    pub(crate) fn note(&self, kind: Kind, outcome: anyhow::Result<()>) {
        match outcome {
            Ok(()) => drop(self.served[kind as usize].fetch_add(1, Relaxed)),
            // What is cut by the end of the test is no failure.
            Err(_) if self.is_stopped() => {}
            Err(error) => {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.push(format!("{kind:?}: {error:#}"));
            }
        }
    }
}

async fn fresh(traffic: Arc<Traffic>, address: SocketAddr) {
    while !traffic.is_stopped() {
        let outcome = get(address, "/pay/").await.and_then(|reply| {
            anyhow::ensure!(reply.status == 200, "{reply:?}");
            Ok(())
        });
        traffic.note(Kind::Fresh, outcome);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn grpc(traffic: Arc<Traffic>, address: SocketAddr) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
    let mut client: HealthClient<Channel> = HealthClient::new(endpoint.connect_lazy());
    while !traffic.is_stopped() {
        let outcome = client.check(HealthCheckRequest::default()).await;
        traffic.note(Kind::Grpc, outcome.map(drop).map_err(anyhow::Error::from));
        tokio::time::sleep(PAUSE).await;
    }
}

/// A server of gRPC's own health service.
pub(crate) async fn grpc_backend() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (_, service) = tonic_health::server::health_reporter();
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}
