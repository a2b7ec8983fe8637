//! The network between an agent and its control plane, which can be cut.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// A port that leads somewhere, until it is cut: then what is sent on it
/// disappears and nothing answers, as behind a broken router. Dropping it closes
/// the port.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    relay: AbortHandle,
}

impl Cable {
    /// A cable to this address, on a free port.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn to(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (cut, is_cut) = watch::channel(false);
        Ok(Self {
            address: listener.local_addr()?,
            cut,
            relay: tokio::spawn(relay(listener, address, is_cut)).abort_handle(),
        })
    }

    /// What an agent connects to: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on nothing gets through, and nobody is told.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

async fn relay(listener: TcpListener, to: SocketAddr, cut: watch::Receiver<bool>) {
    let mut pairs = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let cut = cut.clone();
        pairs.spawn(async move {
            let Ok(far) = TcpStream::connect(to).await else {
                return;
            };
            let ((near_read, near_write), (far_read, far_write)) =
                (near.into_split(), far.into_split());
            let forth = pass(near_read, far_write, cut.clone());
            let back = pass(far_read, near_write, cut);
            // Both ends stay open when cut, until the relay is dropped.
            tokio::join!(forth, back);
        });
    }
}

async fn pass(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        if *cut.borrow() {
            // Swallowed; the writing half is kept open.
            std::future::pending::<()>().await;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
