//! Taking connections: one listening socket for each core on each address, which
//! the kernel spreads connections over. It gives each its share whether or not
//! anybody serves it, so all of them are served, however many there are.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::sleep;

use crate::limits::{ACCEPT_PAUSE, BACKLOG};

/// The listening sockets of an agent: for each address one for each core.
#[derive(Debug)]
pub struct Listeners {
    /// In the order of the host file; never empty.
    pub(crate) ports: Vec<Port>,
}

/// The listening sockets of one address.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    /// One for each core; after a hand-over from an agent with more cores, more.
    pub(crate) sockets: Vec<TcpListener>,
}

impl Listeners {
    /// Listens on `address`, with one socket for each core; port 0 takes a free
    /// one. A port that someone else listens on is an error, also when they
    /// would share it: two agents on one port are a mistake.
    pub fn bind(address: SocketAddr, cores: usize) -> io::Result<Self> {
        Self::bind_all(&[address], cores)
    }

    /// Listens on all of these, of which there is at least one.
    ///
    /// # Errors
    /// In a sentence that names the address.
    pub fn bind_all(addresses: &[SocketAddr], cores: usize) -> io::Result<Self> {
        let port = |address: &SocketAddr| {
            Port::bind(*address, cores).map_err(|error| {
                let told = format!("cannot listen on {address}: {error}");
                io::Error::new(error.kind(), told)
            })
        };
        let ports: Vec<_> = addresses.iter().map(port).collect::<io::Result<_>>()?;
        match ports.is_empty() {
            true => Err(io::Error::other("there is no address to listen on")),
            false => Ok(Self { ports }),
        }
    }

    /// Where the first of them is.
    pub fn address(&self) -> SocketAddr {
        self.ports[0].address
    }

    /// Where all of them are, in the order of the host file.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.ports.iter().map(|port| port.address).collect()
    }

    /// On the same addresses as `taken`, as far as they are still wanted, and newly
    /// on the others. Sockets that nobody wants close with their own agent.
    ///
    /// # Errors
    /// As [`Listeners::bind_all`].
    pub(crate) fn take_over(
        addresses: &[SocketAddr],
        cores: usize,
        mut taken: Vec<Port>,
    ) -> io::Result<Self> {
        let mut ports = Vec::new();
        for address in addresses {
            let known = taken.iter().position(|port| port.is_for(*address));
            ports.push(match known {
                Some(at) => taken.remove(at).widen(cores)?,
                None => Self::bind_all(&[*address], cores)?.ports.remove(0),
            });
        }
        Ok(Self { ports })
    }

    /// For each of `cores` its sockets, each with the place of its address in the
    /// order of the host file.
    pub(crate) fn by_core(self, cores: usize) -> Vec<Vec<(usize, TcpListener)>> {
        let mut by_core: Vec<Vec<_>> = (0..cores).map(|_| Vec::new()).collect();
        for (place, port) in self.ports.into_iter().enumerate() {
            for (at, socket) in port.sockets.into_iter().enumerate() {
                by_core[at % cores].push((place, socket));
            }
        }
        by_core
    }
}

impl Port {
    fn bind(address: SocketAddr, cores: usize) -> io::Result<Self> {
        drop(socket(address, false)?);
        let first = listen(address)?;
        let address = first.local_addr()?;
        let mut sockets = vec![first];
        for _ in 1..cores {
            sockets.push(listen(address)?);
        }
        Ok(Self { address, sockets })
    }

    /// Port 0 is any port.
    fn is_for(&self, wanted: SocketAddr) -> bool {
        let any = wanted.port() == 0 && wanted.ip() == self.address.ip();
        any || wanted == self.address
    }

    /// With a socket for each core at least.
    fn widen(mut self, cores: usize) -> io::Result<Self> {
        for _ in self.sockets.len()..cores {
            self.sockets.push(listen(self.address)?);
        }
        Ok(self)
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The next connection, however many attempts fail: a lack of descriptors or
/// memory passes, and ending the server for it would be the larger outage.
pub(crate) async fn next<T>(mut accept: impl AsyncFnMut() -> io::Result<T>) -> T {
    let mut warned = false;
    loop {
        match accept().await {
            Ok(connection) => return connection,
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                if !warned {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    warned = true;
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
