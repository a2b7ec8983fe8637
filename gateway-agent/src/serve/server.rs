//! The data plane as a whole: one thread with its own runtime for each core,
//! which share nothing on a request's way but the table of decisions.

use std::{io, net::SocketAddr, rc::Rc, thread};

use http::HeaderValue;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot, watch},
    time::{Duration, Instant, interval, timeout},
};

use crate::{
    admit::gate::CoreGate,
    backend::upstream::Core,
    limits::{BACKLOG, DRAIN_DEADLINE, LOOK_FOR_IDLE, MAX_CONNECTIONS},
    request::proxy::Client,
    serve::{
        connection,
        listener::{self, Listeners, Place, Places},
    },
};

/// How often it is logged that there are too many connections.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The running cores.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    cores: Vec<oneshot::Receiver<()>>,
}

impl Server {
    /// Serves on `listeners` with one core for each gate. When `drain` turns
    /// true, it takes no more connections, tells clients to go elsewhere and
    /// ends when their requests have, at the latest after [`DRAIN_DEADLINE`].
    pub fn start(
        listeners: Listeners,
        gates: Vec<CoreGate>,
        drain: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let address = listeners.address();
        let places = Places::default();
        let count = gates.len();
        let mut cores = Vec::with_capacity(count);
        for (gate, socket) in gates.into_iter().zip(listeners.sockets) {
            let runtime_places = places.clone();
            let drain = drain.clone();
            let (ended, end) = oneshot::channel();
            let name = format!("core-{}", gate.core());
            thread::Builder::new().name(name).spawn(move || {
                if let Err(error) = run_core(gate, count, socket, &runtime_places, drain) {
                    tracing::error!(%error, "a core cannot run");
                }
                let _ = ended.send(());
            })?;
            cores.push(end);
        }
        Ok(Self { address, cores })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
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
    gate: CoreGate,
    cores: usize,
    socket: std::net::TcpListener,
    places: &Places,
    drain: watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(socket)?;
        let core = Core::new(gate, cores);
        let sweeper = tokio::task::spawn_local(sweep(core.clone()));
        let (open, mut all_closed) = mpsc::channel::<()>(1);
        let mut draining = drain.clone();
        tokio::select! {
            () = accept(&core, &listener, places, &drain, &open) => {}
            _ = draining.wait_for(|drain| *drain) => {}
        }
        for (stream, peer) in waiting(listener) {
            let Some(place) = places.take() else { continue };
            start(&core, stream, peer, &drain, (open.clone(), place));
        }
        drop(open);
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

/// Takes connections for ever. Each holds `open`, so that it is known when the
/// last one is gone.
async fn accept(
    core: &Rc<Core>,
    listener: &TcpListener,
    places: &Places,
    drain: &watch::Receiver<bool>,
    open: &mpsc::Sender<()>,
) {
    let mut told: Option<Instant> = None;
    loop {
        let (stream, peer) = listener::next(async || listener.accept().await).await;
        // Over the limit it is closed at once: waiting would look like an outage.
        let Some(place) = places.take() else {
            if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                told = Some(Instant::now());
                let limit = MAX_CONNECTIONS;
                tracing::warn!(limit, "too many connections: new ones are closed at once");
            }
            continue;
        };
        start(core, stream, peer, drain, (open.clone(), place));
    }
}

fn start(
    core: &Rc<Core>,
    stream: TcpStream,
    peer: SocketAddr,
    drain: &watch::Receiver<bool>,
    held: (mpsc::Sender<()>, Place),
) {
    let address = peer.ip().to_canonical().to_string();
    let Ok(address) = HeaderValue::try_from(address) else {
        return;
    };
    // Without it, answers are merely later.
    let _ = stream.set_nodelay(true);
    let limits = core.limits();
    let client = Rc::new(Client { address, limits });
    let (core, drain) = (core.clone(), drain.clone());
    tokio::task::spawn_local(async move {
        connection::serve(core, client, stream, drain).await;
        drop(held);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_that_wait_to_be_accepted_are_not_reset_by_a_drain() {
        let listeners = Listeners::bind(([127, 0, 0, 1], 0).into(), 1).expect("a port");
        let address = listeners.address();
        let mut sockets = listeners.sockets;
        let listener = TcpListener::from_std(sockets.remove(0)).expect("a socket");
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.expect("it listens"));
        }
        assert_eq!(waiting(listener).len(), clients.len());
    }
}
