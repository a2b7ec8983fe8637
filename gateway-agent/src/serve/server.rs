//! The data plane as a whole: one thread with its own runtime for each core,
//! which share nothing on a request's way but the table of decisions.

use std::{cell::Cell, io, net::SocketAddr, rc::Rc, sync::Arc, thread};

use breaker_core::AgentId;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Duration, Instant, interval, timeout},
};

use crate::{
    admit::gate::CoreGate,
    backend::{upkeep, upstream::Core},
    config::host::{Host, SharedHost},
    limits::{BACKLOG, LOOK_FOR_IDLE, MAX_UNSENT_BYTES},
    serve::{
        connection,
        listener::{self, Listeners},
        opening::Arrived,
        places::{Place, Places, Seat},
    },
    sight::setup::Sight,
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
    /// Where their connections are counted.
    pub(crate) places: Places,
    /// What is told about requests.
    pub(crate) sight: Sight,
    /// Connections that there are descriptors for; `None`: as many as allowed.
    pub connections: Option<usize>,
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
    /// ends when their requests have, at the latest after the drain's time-out.
    pub fn start(
        listeners: Listeners,
        gates: Vec<CoreGate>,
        edge: &Edge,
        drain: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let addresses = listeners.addresses();
        let places = edge.places.clone();
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
        let host = edge.host.clone();
        let core = Core::new(gate, cores, edge);
        let sweeper = tokio::task::spawn_local(sweep(core.clone()));
        // One core's work is every core's.
        let first = core.gate.core() == 0;
        let upkeep = first.then(|| tokio::task::spawn_local(upkeep::run(core.clone())));
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
        let patience = host.load().limits.drain_timeout;
        if timeout(patience, all_closed.recv()).await.is_err() {
            tracing::warn!("some connections were cut at the drain deadline");
        }
        sweeper.abort();
        upkeep.inspect(|upkeep| upkeep.abort());
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
            self.admit(stream, peer);
        }
    }

    /// Takes connections for ever.
    async fn take(&self, listener: &TcpListener) {
        loop {
            let (stream, peer) = listener::next(async || listener.accept().await).await;
            self.admit(stream, peer);
        }
    }

    /// Over a limit it is closed at once: waiting would look like an outage.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let host = self.core.edge.host.load_full();
        let most = self.core.edge.connections.unwrap_or(usize::MAX);
        let most = most.min(host.limits.max_connections as usize);
        let Some(place) = self.places.take(most) else {
            return tell(format_args!("more than {most} connections"));
        };
        // Behind a load balancer, who it is for is not known yet.
        let seat = match host.listener(self.listener).proxy_protocol {
            true => None,
            false => {
                let most = host.limits.max_connections_per_address;
                let Some(seat) = self.places.seat(peer.ip(), most) else {
                    return tell(format_args!(
                        "more than {most} connections of {}",
                        peer.ip()
                    ));
                };
                Some(seat)
            }
        };
        self.start(stream, peer, host, (place, seat));
    }

    fn start(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        host: Arc<Host>,
        (place, seat): (Place, Option<Seat>),
    ) {
        // Without it, answers are merely later.
        let _ = stream.set_nodelay(true);
        // Without it, who reads slowly has the kernel hold megabytes.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT_BYTES);
        let arrived = Arrived {
            stream,
            peer: peer.ip().to_canonical(),
            listener: self.listener,
            host,
            places: self.places.clone(),
            seat,
        };
        let held = (self.open.clone(), place);
        let (core, drain) = (self.core.clone(), self.drain.clone());
        tokio::task::spawn_local(async move {
            connection::serve(core, arrived, drain).await;
            drop(held);
        });
    }
}

/// Logs that connections are closed at once, each core every ten seconds at most.
fn tell(what: std::fmt::Arguments<'_>) {
    thread_local! {
        static TOLD: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let recently = |told: Instant| told.elapsed() < TELL_EVERY;
    if !TOLD.get().is_some_and(recently) {
        TOLD.set(Some(Instant::now()));
        tracing::warn!("{what}: new ones are closed at once");
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
