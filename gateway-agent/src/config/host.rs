//! What is about this host: its file, with the certificates that it names, loaded
//! whole or not at all, and again when any of it changes on disk.
//!
//! Connections keep the [`Host`] that they were accepted under, so a change is
//! for new ones, and none that is open is disturbed by it.

use std::{
    collections::BTreeMap,
    fs,
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use fleet_config::{HostConfig, HostLimits};
use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    config::configuration::cut,
    fleet::drive::{Shared, stopped},
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
        let mut trusted = self.config.trusted_proxies.iter();
        trusted.any(|range| range.contains(client))
    }

    fn load(path: &Path, config: HostConfig, files: &Files) -> Result<Self, String> {
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
            config,
        })
    }
}

/// The bytes of a host file and of every file that it names, or why they cannot
/// be had. There are keys among them, so they are not kept, nor ever printed: a
/// hash of them tells whether anything has changed.
#[derive(Default, Hash)]
struct Files(BTreeMap<PathBuf, Result<Vec<u8>, String>>);

impl Files {
    /// Of the file that is there, and of the one that is in force.
    fn read(path: &Path, running: &HostConfig) -> Self {
        let mut files = Self::default();
        files.add(path);
        // What is wrong with it is told when it is loaded.
        files.add_named_by(&files.config(path).unwrap_or_default());
        files.add_named_by(running);
        files
    }

    fn add_named_by(&mut self, config: &HostConfig) {
        for tls in config.listeners.iter().filter_map(|l| l.tls.as_ref()) {
            for pair in &tls.certificates {
                self.add(&pair.cert_file);
                self.add(&pair.key_file);
            }
            if let Some(path) = &tls.client_ca_file {
                self.add(path);
            }
        }
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
    /// The hash of what was loaded or refused last.
    seen: u64,
    hasher: RandomState,
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
        let files = Files::read(&path, &HostConfig::default());
        let host = Host::load(&path, files.config(&path)?, &files)?;
        let hasher = RandomState::new();
        Ok(Self {
            path: Some(path),
            seen: hasher.hash_one(&files),
            hasher,
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
    /// In sentences, when what is there now is of no use; the file before stays in
    /// force. Certificates that it names are renewed all the same: a mistake that
    /// nobody mends for weeks must not let them expire. The same error is not told
    /// twice.
    pub fn reload(&mut self) -> Result<bool, String> {
        let Some(path) = &self.path else {
            return Ok(false);
        };
        let running = self.host.load_full();
        let files = Files::read(path, &running.config);
        let seen = self.hasher.hash_one(&files);
        if seen == std::mem::replace(&mut self.seen, seen) {
            return Ok(false);
        }
        let config = files.config(path);
        let config = config.and_then(|config| fits(path, &running, config));
        match config.and_then(|config| Host::load(path, config, &files)) {
            Ok(next) => {
                self.host.store(Arc::new(next));
                Ok(true)
            }
            Err(error) => {
                if let Ok(renewed) = Host::load(path, running.config.clone(), &files) {
                    self.host.store(Arc::new(renewed));
                }
                Err(error)
            }
        }
    }
}

/// Whether the running sockets are those of a new file.
fn fits(path: &Path, running: &Host, config: HostConfig) -> Result<HostConfig, String> {
    let addresses = config.listeners.iter().map(|listener| listener.address);
    match addresses.eq(running.addresses()) {
        true => Ok(config),
        false => Err(format!(
            "{}: the addresses of listeners have changed, which needs a restart",
            path.display()
        )),
    }
}

/// Puts every good change of the file, or of a certificate, into force, until
/// stopped.
pub(crate) async fn watch(
    control: Shared,
    mut file: HostFile,
    reload: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    if file.path.is_none() {
        return;
    }
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
            Ok(true) => {
                tracing::info!("the changed host file and certificates are in force");
                control.lock().host_error = None;
            }
            Err(error) => {
                tracing::error!(
                    "the changed host file is refused, the one before stays in force: {error}"
                );
                control.lock().host_error = Some(cut(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use breaker_core::{AgentId, PopId};

    use super::*;
    use crate::fleet::{control::Control, local::Identity};

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("host.yaml");
        fs::write(&path, text).expect("written");
        (dir, path)
    }

    #[test]
    fn without_a_file_everything_is_as_by_default() {
        let mut file = HostFile::open(None).expect("there is nothing to read");
        let host = file.host().load_full();
        assert_eq!(host.limits, HostLimits::default());
        assert_eq!(host.addresses().count(), 0);
        assert!(!host.listener(0).proxy_protocol && host.listener(0).tls.is_none());
        assert_eq!(file.reload(), Ok(false));
    }

    #[test]
    fn a_file_of_no_use_is_refused_with_everything_that_is_wrong() {
        let (_dir, path) = file("limits: {max_headers: 1}\nlisteners: []\n");
        let told = HostFile::open(Some(path)).expect_err("two things are wrong");
        assert!(
            told.contains("max_headers") && told.contains("0 listeners"),
            "{told}"
        );
        let (dir, _) = file("");
        let missing = dir.path().join("missing.yaml");
        let told = HostFile::open(Some(missing)).expect_err("there is none");
        assert!(told.contains("missing.yaml cannot be read"), "{told}");
    }

    #[test]
    fn a_good_change_is_taken_and_a_bad_one_leaves_what_was() {
        let (_dir, path) = file("trusted_proxies: [10.0.0.0/8]\n");
        let mut file = HostFile::open(Some(path.clone())).expect("a good file");
        let client = "10.1.2.3".parse().expect("an address");
        assert!(file.host().load().trusts(client));
        for bad in ["trusted_proxies: [10.0.0.0/99]\n", "\u{0}", "unknown: 1\n"] {
            fs::write(&path, bad).expect("written");
            file.reload().expect_err(bad);
            assert!(file.host().load().trusts(client), "{bad}");
        }
        fs::write(&path, "trusted_proxies: []\n").expect("written");
        assert_eq!(file.reload(), Ok(true));
        assert!(!file.host().load().trusts(client));
    }

    #[test]
    fn other_addresses_need_a_restart_and_other_settings_of_a_listener_do_not() {
        let (_dir, path) = file("listeners: [{address: \"127.0.0.1:8080\"}]\n");
        let mut file = HostFile::open(Some(path.clone())).expect("a good file");
        for other in [
            "listeners: [{address: \"127.0.0.1:8081\"}]\n",
            "listeners: [{address: \"127.0.0.1:8080\"}, {address: \"127.0.0.1:8081\"}]\n",
            "limits: {max_headers: 50}\n",
        ] {
            fs::write(&path, other).expect("written");
            let told = file.reload().expect_err(other);
            assert!(told.ends_with("which needs a restart"), "{told}");
        }
        let same = "listeners: [{address: \"127.0.0.1:8080\", proxy_protocol: true}]\n";
        fs::write(&path, same).expect("written");
        assert_eq!(file.reload(), Ok(true));
        assert!(file.host().load().listener(0).proxy_protocol);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_found_when_told_and_by_itself() {
        let (_dir, path) = file("limits: {max_headers: 50}\n");
        let file = HostFile::open(Some(path.clone())).expect("a good file");
        let host = file.host().clone();
        let (stop, stopping) = watch::channel(false);
        let reload = Arc::new(Notify::new());
        let identity = Identity {
            agent: AgentId::new("a1").expect("a name"),
            pop: PopId::new("p").expect("a name"),
        };
        let control = Shared::new(Control::new(identity, 1));
        let watching = super::watch(control.clone(), file, reload.clone(), stopping);
        let watching = tokio::spawn(watching);
        fs::write(&path, "limits: {max_headers: 60}\n").expect("written");
        reload.notify_one();
        until(|| host.load().limits.max_headers == 60).await;
        fs::write(&path, "limits: {max_headers: 70}\n").expect("written");
        until(|| host.load().limits.max_headers == 70).await;
        fs::write(&path, "limits: {max_headers: 7}\n").expect("written");
        reload.notify_one();
        until(|| control.lock().host_error.is_some()).await;
        fs::write(&path, "limits: {max_headers: 80}\n").expect("written");
        reload.notify_one();
        until(|| control.lock().host_error.is_none()).await;
        stop.send_replace(true);
        watching.await.expect("it stops");
    }

    async fn until(holds: impl Fn() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let held = tokio::time::timeout(4 * LOOK, waiting).await;
        held.expect("it is seen in time");
    }
}
