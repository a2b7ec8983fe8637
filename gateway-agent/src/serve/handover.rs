//! A restart that no client notices: a new agent takes the listening sockets of
//! the one that runs, over a Unix socket that only their user may open.
//!
//! 1. The new one connects and gets the sockets. Both listen now, and connections
//!    wait in queues that belong to both, so none is lost whoever ends.
//! 2. The new one serves, and says so. Until then its end changes nothing.
//! 3. The old one leaves to it what only one of them may do (the admin port, the
//!    state directory, the stream to the control plane), says that it has, and
//!    drains as on SIGTERM.
//! 4. The new one does all that, and waits for a successor of its own.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{Duration, timeout},
};

use crate::serve::{
    descriptors,
    listener::{Listeners, Port},
};

/// First words of the list of sockets, with the version of all this.
const MAGIC: &str = "rampmeter-handover-1";

/// For the sockets to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// For a successor to serve once it has the sockets. It has read its
/// configuration before, so it is a matter of threads.
const READY: Duration = Duration::from_secs(60);

/// For a predecessor to say goodbye to the control plane.
const LEAVE: Duration = Duration::from_secs(5);

/// Bytes of the list of sockets; one of 100 listeners has less.
const MAX_LIST: usize = 16 << 10;

/// Sockets; 100 listeners on 1,024 cores, and the admin port.
const MAX_SOCKETS: usize = 100 * 1024 + 1;

/// What the new one says once it serves, and what it hears then.
const SERVES: u8 = b'!';
const GONE: u8 = b'.';

/// What an agent got from the one before it.
#[derive(Debug)]
pub struct Taken {
    /// Sockets for requests, by address.
    pub(crate) ports: Vec<Port>,
    /// The admin port.
    pub(crate) admin: TcpListener,
    /// Whom to tell that we serve.
    pub(crate) predecessor: Predecessor,
}

/// Takes over from the agent that waits at `path`; `None`: there is none.
///
/// # Errors
/// There is one, and it cannot be: then it serves on, and this one must not start.
pub async fn take(path: &Path) -> io::Result<Option<Taken>> {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error),
    };
    check_user(&stream)?;
    timeout(PATIENCE, receive(stream)).await?.map(Some)
}

/// The other end runs as our user: it may do what we may.
fn check_user(stream: &UnixStream) -> io::Result<()> {
    let (ours, theirs) = (
        rustix::process::geteuid().as_raw(),
        stream.peer_cred()?.uid(),
    );
    match theirs == ours {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the other agent runs as user {theirs}, this one as {ours}"),
        )),
    }
}

async fn receive(mut stream: UnixStream) -> io::Result<Taken> {
    let length = stream.read_u32().await?;
    let fits = usize::try_from(length).ok().filter(|n| *n <= MAX_LIST);
    let mut list = vec![0; fits.ok_or_else(nonsense)?];
    stream.read_exact(&mut list).await?;
    let list = String::from_utf8(list).map_err(|_| nonsense())?;
    let list = read_list(&list).ok_or_else(nonsense)?;
    let count = list.iter().map(|(_, count)| count).sum::<usize>() + 1;
    let mut sockets = descriptors::receive(&stream, count).await?.into_iter();
    let mut ports = Vec::new();
    for (address, count) in list {
        let sockets: Vec<_> = sockets.by_ref().take(count).collect();
        let there = |socket: &TcpListener| socket.local_addr().is_ok_and(|is| is == address);
        if sockets.len() != count || !sockets.iter().all(there) {
            return Err(nonsense());
        }
        ports.push(Port { address, sockets });
    }
    Ok(Taken {
        ports,
        admin: sockets.next().ok_or_else(nonsense)?,
        predecessor: Predecessor(stream),
    })
}

fn nonsense() -> io::Error {
    let told = "who answers there is no agent of this version";
    io::Error::new(io::ErrorKind::InvalidData, told)
}

/// One line for each address: it, and how many sockets it has.
fn write_list(ports: &[Port]) -> String {
    let line = |port: &Port| format!("\n{} {}", port.address, port.sockets.len());
    let lines: String = ports.iter().map(line).collect();
    format!("{MAGIC}{lines}")
}

fn read_list(list: &str) -> Option<Vec<(SocketAddr, usize)>> {
    let mut lines = list.lines();
    lines.next().filter(|magic| *magic == MAGIC)?;
    let line = |line: &str| {
        let (address, count) = line.split_once(' ')?;
        let count = count.parse().ok().filter(|n| *n <= MAX_SOCKETS)?;
        Some((address.parse().ok()?, count))
    };
    let list: Vec<_> = lines.map(line).collect::<Option<_>>()?;
    let all: usize = list.iter().map(|(_, count)| count).sum();
    (all < MAX_SOCKETS).then_some(list)
}

/// The agent that served until now.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// To be awaited on another runtime.
    pub(crate) fn detach(self) -> io::Result<std::os::unix::net::UnixStream> {
        self.0.into_std()
    }

    /// Attached to this runtime again.
    pub(crate) fn attach(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        Ok(Self(UnixStream::from_std(stream)?))
    }

    /// Tells it that we serve, and waits until it has left the rest to us. One that
    /// has died meanwhile has left everything.
    pub(crate) async fn relieve(mut self) {
        let left = async {
            self.0.write_u8(SERVES).await?;
            self.0.read_u8().await
        };
        match timeout(LEAVE, left).await {
            Ok(Ok(GONE)) => tracing::info!("took over from the agent before"),
            Ok(Ok(_) | Err(_)) => tracing::warn!("the agent before has ended by itself"),
            Err(_) => tracing::warn!("the agent before does not say that it stops"),
        }
    }
}

/// Where an agent waits for its successor.
#[derive(Debug)]
pub(crate) struct Waiting {
    door: UnixListener,
    /// Copies of the sockets in use. While they exist, the sockets do not close.
    ports: Vec<Port>,
    admin: TcpListener,
}

/// An agent that serves in our place and waits for us to leave it the rest.
#[derive(Debug)]
pub(crate) struct Successor(UnixStream);

/// Copies of what is listened on.
#[derive(Debug)]
pub(crate) struct Copies {
    ports: Vec<Port>,
    admin: TcpListener,
}

impl Copies {
    pub(crate) fn of(listen: &Listeners, admin: &TcpListener) -> io::Result<Self> {
        let copies = |port: &Port| {
            let sockets = port.sockets.iter().map(TcpListener::try_clone);
            Ok(Port {
                address: port.address,
                sockets: sockets.collect::<io::Result<_>>()?,
            })
        };
        let ports: io::Result<Vec<_>> = listen.ports.iter().map(copies).collect();
        Ok(Self {
            ports: ports?,
            admin: admin.try_clone()?,
        })
    }
}

impl Waiting {
    /// At `path`, in place of whoever waited there before. It is made beside and
    /// renamed, so that at no time anyone else may open it, and nobody finds nothing.
    pub(crate) fn at(path: &Path, Copies { ports, admin }: Copies) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let door = UnixListener::bind(&beside)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        fs::rename(&beside, path)?;
        Ok(Self { door, ports, admin })
    }

    /// Waits until another agent serves on our sockets. One that does not get that
    /// far is forgotten.
    pub(crate) async fn successor(&self) -> Successor {
        loop {
            let stream = match self.door.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a successor cannot connect");
                    tokio::time::sleep(crate::limits::ACCEPT_PAUSE).await;
                    continue;
                }
            };
            tracing::info!("a successor asks for the sockets");
            match self.hand_over(stream).await {
                Ok(successor) => return successor,
                Err(error) => {
                    tracing::warn!("the successor does not serve, so this agent goes on: {error}");
                }
            }
        }
    }

    async fn hand_over(&self, mut stream: UnixStream) -> io::Result<Successor> {
        check_user(&stream)?;
        timeout(PATIENCE, self.send(&mut stream)).await??;
        match timeout(READY, stream.read_u8()).await?? {
            SERVES => Ok(Successor(stream)),
            _ => Err(nonsense()),
        }
    }

    async fn send(&self, stream: &mut UnixStream) -> io::Result<()> {
        let list = write_list(&self.ports);
        let length = u32::try_from(list.len()).map_err(io::Error::other)?;
        stream.write_u32(length).await?;
        stream.write_all(list.as_bytes()).await?;
        let sockets = self.ports.iter().flat_map(|port| &port.sockets);
        let sockets: Vec<_> = sockets.chain([&self.admin]).collect();
        descriptors::send(stream, &sockets).await
    }
}

impl Successor {
    /// Nothing is left that only one may do.
    pub(crate) async fn leave(mut self) {
        // One that has died meanwhile needs no word.
        let _ = self.0.write_u8(GONE).await;
    }
}
