//! A backend that does as it is told and remembers what reached it: a real
//! HTTP/1.1 and HTTP/2 (h2c) server on a real port.

mod answer;
mod behaviour;
mod receipts;

use std::{io, net::SocketAddr, sync::Arc};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
};

pub use behaviour::{Affected, Answer, Behaviour, WORDS};
pub use receipts::{Receipt, Receipts};

use answer::Answering;

/// Header with which a client says which agent it uses, so that a script can
/// break the path of one agent and receipts tell who forwarded. Any gateway
/// passes it on.
pub const MARK: &str = "x-demo-agent";

/// Connections waiting for `accept`; the kernel's usual cap.
const BACKLOG: u32 = 1024;

/// A running backend. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct ScriptedBackend {
    name: String,
    address: SocketAddr,
    behaviour: Arc<watch::Sender<Behaviour>>,
    receipts: Arc<Receipts>,
    acceptor: JoinHandle<()>,
}

impl ScriptedBackend {
    /// Serves on `listen` (port 0 for a free one) on the caller's runtime.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(listen: SocketAddr, name: &str) -> io::Result<Self> {
        Self::launch(listen, name, false)
    }

    /// As [`Self::start`], and a `POST /_script/WORD` changes the behaviour
    /// (see [`WORDS`]): for a backend in a process of its own.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start_remote(listen: SocketAddr, name: &str) -> io::Result<Self> {
        Self::launch(listen, name, true)
    }

    fn launch(listen: SocketAddr, name: &str, remote: bool) -> io::Result<Self> {
        let reserved = bind(listen)?;
        let address = reserved.local_addr()?;
        let listener = bind(address)?.listen(BACKLOG)?;
        let behaviour = Arc::new(watch::Sender::new(Behaviour::ok()));
        let receipts = Arc::new(Receipts::default());
        let remote = remote.then(|| behaviour.clone());
        let answering = Arc::new(Answering::new(
            name,
            behaviour.subscribe(),
            receipts.clone(),
            remote,
        ));
        let acceptor = tokio::spawn(accept(reserved, listener, behaviour.subscribe(), answering));
        Ok(Self {
            name: name.to_owned(),
            address,
            behaviour,
            receipts,
            acceptor,
        })
    }

    /// A backend on a free port of this machine.
    ///
    /// # Errors
    /// No port is free.
    pub async fn local(name: &str) -> io::Result<Self> {
        Self::start(SocketAddr::from(([127, 0, 0, 1], 0)), name).await
    }

    /// What it calls itself in its answers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it serves, also while it refuses connections.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does from the next request on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// What it does now.
    pub fn behaviour(&self) -> Behaviour {
        self.behaviour.borrow().clone()
    }

    /// What reached it.
    pub fn receipts(&self) -> &Receipts {
        &self.receipts
    }
}

impl Drop for ScriptedBackend {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Binds so that a second socket may hold the port too: one that never listens
/// keeps it ours while connections are refused.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Accepts until dropped; while the script refuses, the port is closed.
async fn accept(
    reserved: TcpSocket,
    mut listener: TcpListener,
    mut behaviour: watch::Receiver<Behaviour>,
    answering: Arc<Answering>,
) {
    let Ok(address) = reserved.local_addr() else {
        return;
    };
    // Dropped with this task: cuts the connections.
    let alive = watch::Sender::new(());
    loop {
        tokio::select! {
            refused = refuses(&mut behaviour) => if !refused { return },
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(serve(stream, alive.subscribe(), answering.clone()));
                }
                continue;
            }
        }
        drop(listener);
        if behaviour.wait_for(|now| !now.refuses()).await.is_err() {
            return;
        }
        match bind(address).and_then(|socket| socket.listen(BACKLOG)) {
            Ok(again) => listener = again,
            Err(error) => {
                tracing::error!(%address, %error, "the backend cannot listen again");
                return;
            }
        }
    }
}

/// Waits until the port shall be closed; false if no one is left to say so.
async fn refuses(behaviour: &mut watch::Receiver<Behaviour>) -> bool {
    behaviour.wait_for(Behaviour::refuses).await.is_ok()
}

async fn serve(stream: TcpStream, mut alive: watch::Receiver<()>, answering: Arc<Answering>) {
    // Failing to set it costs latency only.
    let _ = stream.set_nodelay(true);
    let mut behaviour = answering.script();
    let service = hyper::service::service_fn(move |request| answering.clone().answer(request));
    let server = auto::Builder::new(TokioExecutor::new());
    let connection = server.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // The client or the script ended it: nothing to add.
        _ = connection => {}
        _ = refuses(&mut behaviour) => {}
        _ = alive.changed() => {}
    }
}

#[cfg(test)]
mod tests;
