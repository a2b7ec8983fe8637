//! The data plane as a whole: one thread with its own runtime for each core,
//! which share nothing on a request's way but the table of decisions.

use std::{io, net::SocketAddr, rc::Rc, thread};

use breaker_core::AgentId;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Duration, Instant, interval, timeout},
};

use crate::{
    admit::gate::CoreGate,
    backend::upstream::Core,
    config::host::SharedHost,
    limits::{BACKLOG, DRAIN_DEADLINE, LOOK_FOR_IDLE, MAX_CONNECTIONS},
    serve::{
        connection,
        listener::{self, Listeners, Place, Places},
        opening::Arrived,
    },
};

/// How often it is logged that there are too many connections.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What all cores know beside the table.
#[derive(Debug, Clone, Default)]
pub struct Edge {
    /// The host in force.
    pub host: SharedHost,
    /// Who this is, for `Via`.
    pub agent: Option<AgentId>,
}

/// The running cores.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    cores: Vec<oneshot::Receiver<()>>,
}

impl Server {
    /// Serves on `listeners` with one core for each gate. When `drain` turns
    /// true, it takes no more connections, tells clients to go elsewhere and
    /// ends when their requests have, at the latest after [`DRAIN_DEADLINE`].
    pub fn start(
        listeners: Listeners,
        gates: Vec<CoreGate>,
        edge: &Edge,
        drain: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let addresses = listeners.addresses();
        let places = Places::default();
        let count = gates.len();
        let mut cores = Vec::with_capacity(count);
        for (gate, sockets) in gates.into_iter().zip(listeners.by_core(count)) {
            let runtime_places = places.clone();
            let edge = edge.clone();
            let drain = drain.clone();
            let (ended, end) = oneshot::channel();
            let name = format!("core-{}", gate.core());
            thread::Builder::new().name(name).spawn(move || {
                if let Err(error) = run_core((gate, count, edge), sockets, &runtime_places, drain) {
                    tracing::error!(%error, "a core cannot run");
                }
                let _ = ended.send(());
            })?;
            cores.push(end);
        }
        Ok(Self { addresses, cores })
    }

    /// Where it listens, in the order of the host file.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until every core has drained.
    pub async fn ended(self) {
        for core in self.cores {
            // A core that panicked has ended, too.
            let _ = core.await;
        }
    }
}

fn run_core(
    (gate, cores, edge): (CoreGate, usize, Edge),
    sockets: Vec<(usize, std::net::TcpListener)>,
    places: &Places,
    drain: watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listeners = sockets.into_iter();
        let listeners =
            listeners.map(|(place, socket)| Ok((place, TcpListener::from_std(socket)?)));
        let listeners: Vec<_> = listeners.collect::<io::Result<_>>()?;
        let core = Core::new(gate, cores, edge);
        let sweeper = tokio::task::spawn_local(sweep(core.clone()));
        let (open, mut all_closed) = mpsc::channel::<()>(1);
        let mut taking = JoinSet::new();
        for (place, listener) in listeners {
            let door = Door {
                core: core.clone(),
                listener: place,
                places: places.clone(),
                drain: drain.clone(),
                open: open.clone(),
            };
            taking.spawn_local(door.take_all(listener));
        }
        drop(open);
        while taking.join_next().await.is_some() {}
        if timeout(DRAIN_DEADLINE, all_closed.recv()).await.is_err() {
            tracing::warn!("some connections were cut at the drain deadline");
        }
        sweeper.abort();
        Ok(())
    })
}

async fn sweep(core: Rc<Core>) {
    let mut tick = interval(LOOK_FOR_IDLE);
    loop {
        tick.tick().await;
        core.sweep();
    }
}

/// Connections that the kernel has taken for us already: closing the socket
/// would reset them, though their clients did nothing wrong.
fn waiting(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let mut waiting = Vec::new();
    if let Ok(listener) = listener.into_std() {
        while waiting.len() < BACKLOG as usize
            && let Ok((stream, peer)) = listener.accept()
        {
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream));
            waiting.extend(stream.map(|stream| (stream, peer)));
        }
    }
    waiting
}

/// One listener of a core.
struct Door {
    core: Rc<Core>,
    /// Its place in the list of listeners.
    listener: usize,
    places: Places,
    drain: watch::Receiver<bool>,
    /// Held by every connection, so that it is known when the last one is gone.
    open: mpsc::Sender<()>,
}

impl Door {
    /// Takes connections until the drain, and then those that wait already.
    async fn take_all(self, listener: TcpListener) {
        let mut draining = self.drain.clone();
        tokio::select! {
            () = self.take(&listener) => {}
            _ = draining.wait_for(|drain| *drain) => {}
        }
        for (stream, peer) in waiting(listener) {
            let Some(place) = self.places.take() else {
                continue;
            };
            self.start(stream, peer, place);
        }
    }

    /// Takes connections for ever.
    async fn take(&self, listener: &TcpListener) {
        let mut told: Option<Instant> = None;
        loop {
            let (stream, peer) = listener::next(async || listener.accept().await).await;
            // Over the limit it is closed at once: waiting would look like an outage.
            let Some(place) = self.places.take() else {
                if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                    told = Some(Instant::now());
                    let limit = MAX_CONNECTIONS;
                    tracing::warn!(limit, "too many connections: new ones are closed at once");
                }
                continue;
            };
            self.start(stream, peer, place);
        }
    }

    fn start(&self, stream: TcpStream, peer: SocketAddr, place: Place) {
        // Without it, answers are merely later.
        let _ = stream.set_nodelay(true);
        let host = self.core.edge.host.load_full();
        let arrived = Arrived {
            stream,
            peer: peer.ip().to_canonical(),
            listener: self.listener,
            host,
        };
        let held = (self.open.clone(), place);
        let (core, drain) = (self.core.clone(), self.drain.clone());
        tokio::task::spawn_local(async move {
            connection::serve(core, arrived, drain).await;
            drop(held);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_that_wait_to_be_accepted_are_not_reset_by_a_drain() {
        let listeners = Listeners::bind(([127, 0, 0, 1], 0).into(), 1).expect("a port");
        let address = listeners.address();
        let mut sockets = listeners.by_core(1).into_iter().flatten();
        let (_, socket) = sockets.next().expect("one core");
        let listener = TcpListener::from_std(socket).expect("a socket");
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.expect("it listens"));
        }
        assert_eq!(waiting(listener).len(), clients.len());
    }
}
