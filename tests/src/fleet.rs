//! A whole fleet of processes.

use std::{path::PathBuf, time::Duration};

use rampmeter_demo::load::{Load, Target};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{Agent, AgentStart, ControlPlane, FleetFile, eventually, settled};

/// Until every agent has its configuration and its decisions: twenty debug
/// builds start within a few seconds on two cores.
const START: Duration = Duration::from_secs(30);

/// Control-plane replicas and agents. Dropping it ends them all.
#[derive(Debug)]
pub struct Fleet {
    /// The replicas; with more than one, agents are split over them.
    pub control_planes: Vec<ControlPlane>,
    /// The agents, POP by POP.
    pub agents: Vec<Agent>,
    /// The fleet file's path.
    pub file: PathBuf,
    dir: TempDir,
}

impl Fleet {
    /// One replica with its in-process store, and so many agents in each POP.
    ///
    /// # Errors
    /// A process does not start.
    pub async fn start(file: &FleetFile, agents_per_pop: usize) -> anyhow::Result<Self> {
        Self::start_with(file, agents_per_pop, 1, "memory").await
    }

    /// Replicas that share a store. Agent k prefers replica k modulo their
    /// number and knows the others.
    ///
    /// # Errors
    /// A process does not start.
    pub async fn start_with(
        file: &FleetFile,
        agents_per_pop: usize,
        replicas: usize,
        store: &str,
    ) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("rampmeter-fleet-")?;
        let path = dir.path().join("fleet.yaml");
        file.write(&path)?;
        let mut control_planes = Vec::new();
        for _ in 0..replicas {
            control_planes.push(ControlPlane::start(&path, store).await?);
        }
        let mut fleet = Self {
            control_planes,
            agents: Vec::new(),
            file: path,
            dir,
        };
        fleet.start_agents(file, agents_per_pop).await?;
        Ok(fleet)
    }

    async fn start_agents(&mut self, file: &FleetFile, per_pop: usize) -> anyhow::Result<()> {
        let mut starting = JoinSet::new();
        for pop in file.pops() {
            for index in 0..per_pop {
                let urls = self.urls(index);
                let start = AgentStart::new(&format!("{pop}-{index}"), pop, &urls, self.dir.path());
                starting.spawn(start.launch());
            }
        }
        while let Some(agent) = starting.join_next().await {
            self.agents.push(agent??);
        }
        self.agents.sort_by(|a, b| a.start.id.cmp(&b.start.id));
        self.in_sync(START).await;
        Ok(())
    }

    /// The replicas' URLs, rotated so that number `first` comes first.
    pub fn urls(&self, first: usize) -> String {
        let count = self.control_planes.len();
        let rotated = (0..count).map(|offset| self.control_planes[(first + offset) % count].url());
        rotated.collect::<Vec<_>>().join(",")
    }

    /// Waits until every agent is ready and known as in sync to every replica.
    pub async fn in_sync(&self, within: Duration) {
        for control_plane in &self.control_planes {
            eventually("every agent is in sync", within, || async {
                let agents = control_plane.api().await.ok()?.agents().await.ok()?;
                let in_sync = agents.iter().filter(|agent| agent.in_sync).count();
                settled(in_sync == self.agents.len())
            })
            .await;
        }
        for agent in &self.agents {
            eventually("every agent is ready", within, || async {
                settled(agent.is_ready().await)
            })
            .await;
        }
    }

    /// Every agent as a target.
    pub fn targets(&self) -> Vec<Target> {
        self.agents.iter().map(Agent::target).collect()
    }

    /// Traffic over all agents to one service.
    pub fn load(&self, service: &str, rate: f64) -> Load {
        Load {
            rate,
            path: format!("/{service}/"),
            ..Load::new(self.targets())
        }
    }

    /// The agent of this id.
    ///
    /// # Panics
    /// There is none.
    pub fn agent(&mut self, id: &str) -> &mut Agent {
        self.agents
            .iter_mut()
            .find(|agent| agent.start.id == id)
            .expect("an agent of that id")
    }
}
