//! One agent as a whole: the data plane's cores, and one thread beside them for
//! everything that is not a request.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    thread,
};

use breaker_core::{AgentId, PopId};
use rampmeter_api::v1;
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{Notify, oneshot, watch},
    task::JoinSet,
};

use crate::{
    admin::port,
    clock::unix_ms,
    config::{
        alone,
        configuration::{ConfigSource, FleetText},
        host::{self, HostFile},
        memory,
        state_dir::{Saved, StateDir},
    },
    dice::random,
    fleet::{
        control::Control,
        drive::{self, Shared, stopped},
        local::Identity,
        stream::{ControlPlane, Dialer},
    },
    probe::prober,
    serve::{
        capacity::{self, Memory},
        handover::{Copies, Successor, Waiting},
        server::{Edge, Server},
    },
    sight::{
        desk::{self, Desk},
        setup::Sight,
    },
};

pub use crate::sockets::{Handover, Sockets};

/// What an agent is told at its start.
#[derive(Debug)]
pub struct Settings {
    /// Its name; `None`: the one in the state directory, or a new one.
    pub id: Option<AgentId>,
    /// Where it is.
    pub pop: PopId,
    /// Threads that serve requests, 1 and up.
    pub cores: usize,
    /// Whom it obeys.
    pub source: Source,
    /// Where it keeps what it must remember; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// What is about its host.
    pub host: HostFile,
}

/// Whom an agent obeys.
#[derive(Debug)]
pub enum Source {
    /// The control plane, at the first of these that answers.
    ControlPlane(Vec<ControlPlane>),
    /// Nobody: this fleet file, and local breakers only.
    File(PathBuf),
}

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The fleet file.
    #[error("{0}")]
    Config(String),
    /// The state directory.
    #[error("--state-dir {path} cannot be created or written: {error}", path = path.display())]
    StateDir {
        /// As given.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Sockets or threads.
    #[error("cannot run: {0}")]
    System(#[from] io::Error),
}

/// A running agent. Dropping it stops it.
#[derive(Debug)]
pub struct Agent {
    /// Its name.
    pub id: AgentId,
    /// Where it serves: the first listener.
    pub listen: SocketAddr,
    /// Where it serves: all listeners, in the order of the host file.
    pub listeners: Vec<SocketAddr>,
    /// Where it answers operators.
    pub admin: SocketAddr,
    stop: watch::Sender<bool>,
    reload: Reload,
    sight: Sight,
    ended: oneshot::Receiver<End>,
}

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// Another one serves in its place.
    Succeeded,
    /// It broke.
    Failed,
}

impl Agent {
    /// Starts one; it serves when this returns.
    ///
    /// # Errors
    /// When it was told something that cannot be.
    pub fn start(settings: Settings, sockets: Sockets) -> Result<Self, StartError> {
        let state_dir = settings.state_dir.as_deref().map(|path| {
            StateDir::open(path).map_err(|error| StartError::StateDir {
                path: path.to_owned(),
                error,
            })
        });
        let state_dir = state_dir.transpose()?;
        let id = name(&settings, state_dir.as_ref())?;
        let identity = Identity {
            agent: id.clone(),
            pop: settings.pop,
        };
        let mut control = Control::new(identity, settings.cores);
        control.keep_answers(settings.host.host().load().config.cache_bytes);
        let link = prepare(&mut control, settings.source, state_dir.as_ref())?;
        let handover = sockets.handover;
        let takes_over = handover.as_ref().is_some_and(|h| h.predecessor.is_some());
        if takes_over && !control.is_ready() {
            let why = "cannot take over from another agent: there is no configuration yet";
            return Err(StartError::Config(why.to_owned()));
        }
        let copies = handover
            .as_ref()
            .map(|_| Copies::of(&sockets.listen, &sockets.admin));
        let copies = copies.transpose()?;

        let (stop, stopping) = watch::channel(false);
        let (drain, draining) = watch::channel(false);
        let (ended_tx, ended) = oneshot::channel();
        let reload = Reload::default();
        let agent = Self {
            id,
            listen: sockets.listen.address(),
            listeners: sockets.listen.addresses(),
            admin: sockets.admin.local_addr()?,
            stop,
            reload: reload.clone(),
            sight: control.sight.clone(),
            ended,
        };
        let gates = control.gates();
        let connections = capacity(&settings.host, gates.len(), agent.listeners.len());
        let edge = Edge {
            host: settings.host.host().clone(),
            agent: Some(agent.id.clone()),
            connections: Some(connections),
            places: control.places.clone(),
            sight: control.sight.clone(),
        };
        let mut desk = Desk::new(&control.sight, agent.id.as_str());
        desk.follow(&settings.host.host().load().config);
        let server = Server::start(sockets.listen, gates, &edge, &draining)?;
        let beside = Beside {
            control: Shared::new(control),
            link,
            state_dir,
            host: settings.host,
            desk,
            admin: sockets.admin,
            address: agent.listen,
            reload,
            stopping,
            drain,
            handover: handover.zip(copies),
        };
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let local = LocalOptions::default();
                match Builder::new_current_thread()
                    .enable_all()
                    .build_local(local)
                {
                    // Nobody may be waiting for it.
                    Ok(runtime) => drop(ended_tx.send(runtime.block_on(beside.run(server)))),
                    Err(error) => tracing::error!(%error, "the control thread cannot run"),
                }
            })?;
        Ok(agent)
    }

    /// Reads the host file and its certificates again (SIGHUP), and without a
    /// control plane the fleet file; opens the access log anew.
    pub fn reload(&self) {
        self.reload.fleet.notify_one();
        self.reload.host.notify_one();
        self.sight.reopen();
    }

    /// Drains, says goodbye, and returns when all is done.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // A control thread that panicked has ended, too.
        let _ = self.ended.await;
    }

    /// Waits for an end that nobody asked for.
    pub async fn ended(&mut self) -> End {
        (&mut self.ended).await.unwrap_or(End::Failed)
    }
}

/// How many connections of clients this host has descriptors for; tells what the
/// agent may take of the host.
fn capacity(host: &HostFile, cores: usize, listeners: usize) -> usize {
    let descriptors = capacity::raise_descriptors();
    let connections = capacity::connections(descriptors, cores, listeners);
    let host = host.host().load();
    let allowed = host.limits.max_connections as usize;
    if connections < allowed {
        tracing::warn!(
            "there are descriptors for {connections} connections only, not the {allowed} allowed: \
             raise the limit of open files (ulimit -n, LimitNOFILE) or lower max_connections"
        );
    }
    let memory = Memory::of(&host, connections);
    tracing::info!("memory for clients, backends and cache: {memory}");
    connections
}

/// The name it was given, kept, or made up: unique in the fleet.
fn name(settings: &Settings, state_dir: Option<&StateDir>) -> Result<AgentId, StartError> {
    if let Some(id) = &settings.id {
        return Ok(id.clone());
    }
    // 63 characters at most: a POP's name may take them all.
    let pop: String = settings.pop.as_str().chars().take(40).collect();
    let fresh = AgentId::new(&format!("{pop}-{:016x}", random()));
    let fresh = fresh.map_err(|error| StartError::Config(error.to_string()))?;
    match state_dir {
        Some(dir) => Ok(dir.agent_id(fresh)?),
        None => Ok(fresh),
    }
}

/// Wakes those who read files again.
#[derive(Debug, Clone, Default)]
struct Reload {
    fleet: Arc<Notify>,
    host: Arc<Notify>,
}

/// How an agent gets its configuration while it runs.
#[derive(Debug)]
enum Way {
    Stream(Vec<ControlPlane>),
    File { path: PathBuf, text: String },
}

fn prepare(
    control: &mut Control,
    source: Source,
    state_dir: Option<&StateDir>,
) -> Result<Way, StartError> {
    let now = control.clock.now();
    match source {
        Source::File(path) => {
            let (text, config) = alone::read(&path).map_err(StartError::Config)?;
            let installed = control.install(ConfigSource::File, 0, config, now);
            installed.map_err(StartError::Config)?;
            Ok(Way::File { path, text })
        }
        Source::ControlPlane(addresses) => {
            if addresses.is_empty() {
                return Err(StartError::Config("no control plane is named".to_owned()));
            }
            match state_dir {
                Some(dir) => remember(control, dir),
                None => tracing::info!(
                    "without --state-dir: after a restart, this agent waits for the control plane"
                ),
            }
            Ok(Way::Stream(addresses))
        }
    }
}

/// Takes up what an earlier run kept.
fn remember(control: &mut Control, dir: &StateDir) {
    let now = control.clock.now();
    if let Some(saved) = dir.load::<v1::Decisions>(memory::DECISIONS) {
        control.restore(&saved, unix_ms(), now);
    }
    if let Some(Saved { message, .. }) = dir.load::<v1::Config>(memory::CONFIG) {
        let text = FleetText::read(message.revision, message.yaml);
        if let Err(error) = control.install_text(ConfigSource::Disk, text, now) {
            tracing::warn!("the configuration of the last run is of no use: {error}");
        }
    }
}

/// What runs beside the requests.
struct Beside {
    control: Shared,
    link: Way,
    state_dir: Option<StateDir>,
    admin: TcpListener,
    address: SocketAddr,
    host: HostFile,
    desk: Desk,
    reload: Reload,
    stopping: watch::Receiver<bool>,
    /// Tells the cores to drain.
    drain: watch::Sender<bool>,
    handover: Option<(Handover, Copies)>,
}

impl Beside {
    /// Until stopped or succeeded, and then until the last request, report and
    /// goodbye.
    async fn run(self, server: Server) -> End {
        let control = self.control;
        let (finish, finishing) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn_local(drive::run(control.clone(), finishing.clone()));
        tasks.spawn_local(prober::run(control.clone(), finishing.clone()));
        let waiting = match self.handover {
            Some((handover, copies)) => handover.wait(copies).await,
            None => None,
        };
        // What only one of two agents may do.
        let (leave, leaving) = watch::channel(false);
        let mut alone = JoinSet::new();
        alone.spawn_local(port::serve(
            self.admin,
            control.clone(),
            self.stopping.clone(),
            leaving.clone(),
        ));
        if let Some(dir) = self.state_dir {
            alone.spawn_local(memory::keep(control.clone(), dir, leaving.clone()));
        }
        let host = self.host.host().clone();
        tasks.spawn_local(desk::run(self.desk, host, finishing.clone()));
        let reload = self.reload;
        tasks.spawn_local(host::watch(
            control.clone(),
            self.host,
            reload.host,
            finishing.clone(),
        ));
        match self.link {
            Way::Stream(addresses) => {
                let dialer = Dialer::new(control.clone(), addresses, self.address);
                alone.spawn_local(dialer.run(leaving));
            }
            Way::File { path, text } => {
                tasks.spawn_local(alone::watch(
                    control.clone(),
                    path,
                    text,
                    reload.fleet,
                    finishing,
                ));
            }
        }
        let mut stopping = self.stopping;
        let successor = tokio::select! {
            () = stopped(&mut stopping) => None,
            successor = next(waiting.as_ref()) => Some(successor),
        };
        // The copies go first: what waits in a queue that closes with the last of
        // them would be reset.
        drop(waiting);
        let end = match successor {
            None => End::Stopped,
            Some(successor) => {
                leave.send_replace(true);
                while alone.join_next().await.is_some() {}
                successor.leave().await;
                End::Succeeded
            }
        };
        tracing::info!("draining");
        self.drain.send_replace(true);
        server.ended().await;
        leave.send_replace(true);
        finish.send_replace(true);
        while alone.join_next().await.is_some() {}
        while tasks.join_next().await.is_some() {}
        tracing::info!("stopped");
        end
    }
}

/// The successor, if one is awaited.
async fn next(waiting: Option<&Waiting>) -> Successor {
    match waiting {
        Some(waiting) => waiting.successor().await,
        None => std::future::pending().await,
    }
}
