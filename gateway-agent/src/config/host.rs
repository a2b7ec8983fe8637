//! What is about this host: its file, with the certificates that it names, loaded
//! whole or not at all, and again when any of it changes on disk.
//!
//! Connections keep the [`Host`] that they were accepted under, so a change is
//! for new ones, and none that is open is disturbed by it.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use fleet_config::{AddressRange, HostConfig, HostLimits};
use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    fleet::drive::stopped,
    serve::tls::{self, ServerTls},
};

/// How often files are looked at: who renews a certificate waits about so long.
const LOOK: Duration = Duration::from_secs(5);

/// Largest file that is read: a host file, and a bundle of authorities, have less.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The host in force, for everyone who accepts connections.
pub type SharedHost = Arc<ArcSwap<Host>>;

/// What a host file says, ready to use.
#[derive(Debug, Default)]
pub struct Host {
    /// In the file's order; empty: one on the address that the command line says,
    /// in plain text.
    pub(crate) listeners: Vec<Listener>,
    /// What clients may make this agent hold.
    pub limits: HostLimits,
    /// Whose word about other addresses is believed.
    trusted_proxies: Vec<AddressRange>,
    /// All of the file, as read.
    pub config: HostConfig,
}

/// How connections of one address begin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listener {
    /// With a PROXY protocol v2 header.
    pub(crate) proxy_protocol: bool,
    /// Then with a TLS handshake.
    pub(crate) tls: Option<ServerTls>,
}

impl Host {
    /// Where requests are taken; empty: where the command line says.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.config
            .listeners
            .iter()
            .map(|listener| listener.address)
    }

    /// How connections of the listener at this place of the list begin.
    pub(crate) fn listener(&self, place: usize) -> Listener {
        self.listeners.get(place).cloned().unwrap_or_default()
    }

    /// Whether a client is a proxy whose `Forwarded` and `X-Forwarded-*` are
    /// believed.
    pub(crate) fn trusts(&self, client: std::net::IpAddr) -> bool {
        self.trusted_proxies
            .iter()
            .any(|range| range.contains(client))
    }

    fn load(path: &Path, files: &Files) -> Result<Self, String> {
        let config = files.config(path)?;
        let listener = |listener: &fleet_config::Listener| {
            let address = listener.address;
            let tls = listener.tls.as_ref();
            let tls = tls.map(|tls| tls::load(tls, |path| files.bytes(path)));
            let tls = tls.transpose();
            Ok(Listener {
                proxy_protocol: listener.proxy_protocol,
                tls: tls
                    .map_err(|error| format!("{}: listener {address}: {error}", path.display()))?,
            })
        };
        let listeners: Result<_, String> = config.listeners.iter().map(listener).collect();
        Ok(Self {
            listeners: listeners?,
            limits: config.limits.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            config,
        })
    }
}

/// The bytes of a host file and of every file that it names, or why they cannot
/// be had: equal ones make equal hosts, so nothing is loaded for nothing.
#[derive(Debug, Default, PartialEq)]
struct Files(BTreeMap<PathBuf, Result<Vec<u8>, String>>);

impl Files {
    fn read(path: &Path) -> Self {
        let mut files = Self::default();
        files.add(path);
        // What is wrong with it is told when it is loaded.
        let config = files.config(path).unwrap_or_default();
        for tls in config.listeners.iter().filter_map(|l| l.tls.as_ref()) {
            for pair in &tls.certificates {
                files.add(&pair.cert_file);
                files.add(&pair.key_file);
            }
            if let Some(path) = &tls.client_ca_file {
                files.add(path);
            }
        }
        files
    }

    fn add(&mut self, path: &Path) {
        if !self.0.contains_key(path) {
            self.0.insert(path.to_owned(), read(path));
        }
    }

    fn bytes(&self, path: &Path) -> Result<&[u8], String> {
        match self.0.get(path) {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(error)) => Err(format!("{} cannot be read: {error}", path.display())),
            None => Err(format!("{} was not read", path.display())),
        }
    }

    fn config(&self, path: &Path) -> Result<HostConfig, String> {
        let named = path.display().to_string();
        let text = std::str::from_utf8(self.bytes(path)?);
        let text = text.map_err(|_| format!("{named} is not text in UTF-8"))?;
        HostConfig::parse(text, &named).map_err(|errors| errors.to_string())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("its {length} bytes are more than {MAX_FILE_BYTES}"));
    }
    fs::read(path).map_err(|error| error.to_string())
}

/// A host, and the file it can be loaded from again.
#[derive(Debug, Default)]
pub struct HostFile {
    path: Option<PathBuf>,
    seen: Files,
    host: SharedHost,
}

impl HostFile {
    /// Loads the file given with `--host-config`; without one, everything is as
    /// it is by default.
    ///
    /// # Errors
    /// In sentences for the person who wrote it.
    pub fn open(path: Option<PathBuf>) -> Result<Self, String> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let seen = Files::read(&path);
        let host = Host::load(&path, &seen)?;
        Ok(Self {
            path: Some(path),
            seen,
            host: Arc::new(ArcSwap::from_pointee(host)),
        })
    }

    /// The host in force.
    pub fn host(&self) -> &SharedHost {
        &self.host
    }

    /// Loads everything again if any of it has changed; whether it had.
    ///
    /// # Errors
    /// In sentences, when what is there now is of no use; the host before stays
    /// in force. The same error is not told twice.
    pub fn reload(&mut self) -> Result<bool, String> {
        let Some(path) = &self.path else {
            return Ok(false);
        };
        let now_there = Files::read(path);
        if now_there == self.seen {
            return Ok(false);
        }
        self.seen = now_there;
        let next = Host::load(path, &self.seen)?;
        if !next.addresses().eq(self.host.load().addresses()) {
            return Err(format!(
                "{}: the addresses of listeners have changed, which needs a restart",
                path.display()
            ));
        }
        self.host.store(Arc::new(next));
        Ok(true)
    }
}

/// Puts every good change of the file, or of a certificate, into force, until
/// stopped.
pub(crate) async fn watch(
    mut file: HostFile,
    reload: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = reload.notified() => {}
            () = stopped(&mut stop) => return,
        }
        // Disks are slow, and a key takes a while to be checked.
        let reloaded = tokio::task::spawn_blocking(move || (file.reload(), file)).await;
        let Ok((outcome, same)) = reloaded else {
            tracing::error!("the host file is no longer watched: reading it panicked");
            return;
        };
        file = same;
        match outcome {
            Ok(false) => {}
            Ok(true) => tracing::info!("the changed host file and certificates are in force"),
            Err(error) => tracing::error!(
                "the changed host file is refused, the one before stays in force: {error}"
            ),
        }
    }
}
