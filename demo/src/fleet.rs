//! Control plane and agents, in this process, over real sockets.

use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use breaker_core::{AgentId, PopId};
use control_plane::{
    Listeners as ControlPlaneListeners, Options,
    config::ConfigFile,
    serve,
    store::{self, ReplicaId},
};
use gateway_agent::{
    agent::{Agent, Settings, Sockets, Source},
    config::host::HostFile,
    fleet::stream::ControlPlane,
    serve::listener::Listeners,
};
use tempfile::TempDir;

use crate::{
    http,
    patience::{PATIENCE, POLL},
    scene,
};

/// A free port of this machine.
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// The control plane's store: nothing to install.
const STORE: &str = "memory";

/// Threads that serve requests, of each agent: six agents share the machine
/// with their backends and their clients.
const CORES: usize = 1;

/// A control plane and its agents.
#[derive(Debug)]
pub struct Fleet {
    /// The gRPC port.
    pub control_plane: SocketAddr,
    /// The HTTP port.
    pub http: SocketAddr,
    /// The agents.
    pub agents: Agents,
    /// The fleet file, which the control plane watches.
    _dir: TempDir,
}

impl Fleet {
    /// Starts them and waits until every agent is ready.
    ///
    /// # Errors
    /// One does not start.
    pub async fn start(fleet_file: &str) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("rampmeter-demo-")?;
        let path = dir.path().join("fleet.yaml");
        std::fs::write(&path, fleet_file)?;
        let name = ReplicaId::new("demo");
        let listeners = ControlPlaneListeners {
            grpc: tokio::net::TcpListener::bind(ANY).await?,
            http: tokio::net::TcpListener::bind(ANY).await?,
        };
        let (control_plane, http) = (listeners.grpc.local_addr()?, listeners.http.local_addr()?);
        let options = Options {
            config: Some(ConfigFile::read(&path).map_err(anyhow::Error::msg)?),
            store: store::open(STORE, name.clone()).await?,
            store_name: STORE.to_owned(),
            name,
        };
        tokio::spawn(async move {
            if let Err(error) = serve(options, listeners, std::future::pending()).await {
                tracing::error!("the control plane ended: {error:#}");
            }
        });
        let agents = Agents::of(control_plane)?;
        agents.ready().await?;
        Ok(Self {
            control_plane,
            http,
            agents,
            _dir: dir,
        })
    }
}

/// The demonstration's agents; they stop when dropped.
#[derive(Debug)]
pub struct Agents {
    agents: Vec<Agent>,
    /// The fleet file of agents that are alone.
    _dir: Option<TempDir>,
}

impl Agents {
    /// Agents that obey a control plane.
    ///
    /// # Errors
    /// One does not start.
    pub fn of(control_plane: SocketAddr) -> anyhow::Result<Self> {
        let url = format!("http://{control_plane}");
        let source = || {
            Ok(Source::ControlPlane(vec![
                ControlPlane::new(&url).map_err(anyhow::Error::msg)?,
            ]))
        };
        Ok(Self {
            agents: start(source)?,
            _dir: None,
        })
    }

    /// Agents that are told nothing by anyone.
    ///
    /// # Errors
    /// One does not start.
    pub fn alone(fleet_file: &str) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("rampmeter-demo-")?;
        let path = dir.path().join("fleet.yaml");
        std::fs::write(&path, fleet_file)?;
        Ok(Self {
            agents: start(|| Ok(Source::File(path.clone())))?,
            _dir: Some(dir),
        })
    }

    /// Waits until every agent has its configuration.
    async fn ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for agent in self.iter() {
            while !http::get(agent.admin, "/readyz")
                .await
                .is_ok_and(|reply| reply.status == 200)
            {
                anyhow::ensure!(
                    Instant::now() < deadline,
                    "agent {} got no configuration",
                    agent.id
                );
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Every agent.
    pub fn iter(&self) -> impl Iterator<Item = &Agent> {
        self.agents.iter()
    }

    /// Names and addresses.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.iter()
            .map(|agent| (agent.id.to_string(), agent.listen))
            .collect()
    }
}

impl Agents {
    /// From `since` until the last agent stopped sending to a backend for the
    /// first time, by their own account.
    ///
    /// # Errors
    /// An agent does not tell, or never stopped.
    pub async fn all_open_after(
        &self,
        backend: &str,
        since: SystemTime,
    ) -> anyhow::Result<Duration> {
        let since_ms = since.duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as u64;
        let mut last = 0;
        for agent in self.iter() {
            let state = http::get(agent.admin, "/state").await?.json()?;
            let backends = state["backends"].as_array().into_iter().flatten();
            let changes = backends
                .filter(|b| b["name"] == backend)
                .flat_map(|b| b["changes"].as_array())
                .flatten();
            let opened = changes
                .filter(|change| change["to"] == "OPEN")
                .filter_map(|change| change["unix_ms"].as_u64());
            let opened = opened.filter(|at| *at >= since_ms).min();
            last = last
                .max(opened.with_context(|| format!("agent {} never stopped sending", agent.id))?);
        }
        Ok(Duration::from_millis(last - since_ms))
    }
}

fn start(source: impl Fn() -> anyhow::Result<Source>) -> anyhow::Result<Vec<Agent>> {
    let agent = |(name, pop): (String, &str)| {
        let settings = Settings {
            id: Some(AgentId::new(&name)?),
            pop: PopId::new(pop)?,
            cores: CORES,
            source: source()?,
            state_dir: None,
            host: HostFile::default(),
        };
        let sockets = Sockets {
            listen: Listeners::bind(ANY, CORES)?,
            admin: TcpListener::bind(ANY)?,
            handover: None,
        };
        Agent::start(settings, sockets).with_context(|| format!("agent {name} does not start"))
    };
    scene::agents().map(agent).collect()
}
