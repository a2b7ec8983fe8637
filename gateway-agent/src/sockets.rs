//! Where an agent listens, and how its sockets come from the one before it and go
//! to the one after.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
};

use crate::serve::{
    handover::{self, Copies, Predecessor, Waiting},
    listener::Listeners,
};

/// Where it listens.
#[derive(Debug)]
pub struct Sockets {
    /// For requests.
    pub listen: Listeners,
    /// For `/metrics`, `/state` and the like.
    pub admin: TcpListener,
    /// From whom they come, and to whom they go; `None`: nobody.
    pub handover: Option<Handover>,
}

/// A restart without a lost connection.
#[derive(Debug)]
pub struct Handover {
    /// Where the successor is awaited.
    pub path: PathBuf,
    /// Who is to be relieved.
    pub(crate) predecessor: Option<std::os::unix::net::UnixStream>,
}

impl Sockets {
    /// Listens on `addresses` and `admin`, for `cores`. If an agent waits for its
    /// successor at `handover`, takes its sockets.
    ///
    /// # Errors
    /// In a sentence that names what is wrong.
    pub async fn open(
        addresses: &[SocketAddr],
        admin: SocketAddr,
        cores: usize,
        handover: Option<PathBuf>,
    ) -> Result<Self, String> {
        let new_admin = || {
            let bound = TcpListener::bind(admin);
            bound.map_err(|error| format!("cannot listen on --admin {admin}: {error}"))
        };
        let taken = match &handover {
            Some(path) => handover::take(path).await.map_err(|error| {
                let path = path.display();
                format!("cannot take over from the agent at --handover {path}: {error}")
            })?,
            None => None,
        };
        let Some(taken) = taken else {
            return Ok(Self {
                listen: Listeners::bind_all(addresses, cores).map_err(|error| error.to_string())?,
                admin: new_admin()?,
                handover: handover.map(|path| Handover {
                    path,
                    predecessor: None,
                }),
            });
        };
        let listen = Listeners::take_over(addresses, cores, taken.ports);
        let there = taken
            .admin
            .local_addr()
            .map_err(|error| error.to_string())?;
        let any = admin.port() == 0 && admin.ip() == there.ip();
        let predecessor = taken.predecessor.detach();
        Ok(Self {
            listen: listen.map_err(|error| error.to_string())?,
            admin: match any || admin == there {
                true => taken.admin,
                false => new_admin()?,
            },
            handover: Some(Handover {
                path: handover.unwrap_or_default(),
                predecessor: Some(predecessor.map_err(|error| error.to_string())?),
            }),
        })
    }
}

impl Handover {
    /// Relieves the agent before, and then waits for the one after.
    pub(crate) async fn wait(self, copies: Copies) -> Option<Waiting> {
        if let Some(stream) = self.predecessor {
            match Predecessor::attach(stream) {
                Ok(predecessor) => predecessor.relieve().await,
                Err(error) => tracing::error!(%error, "the agent before cannot be told"),
            }
        }
        let waiting = Waiting::at(&self.path, copies);
        let path = self.path.display();
        waiting
            .inspect_err(|error| {
                tracing::error!("no successor can take over at --handover {path}: {error}");
            })
            .ok()
    }
}
