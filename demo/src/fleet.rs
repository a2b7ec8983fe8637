//! Control plane and agents, in this process, over real sockets.

use std::net::SocketAddr;

/// An agent that listens.
#[derive(Debug)]
pub struct AgentAddress {
    /// Its name in the fleet.
    pub name: String,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
}

/// A control plane and its agents.
#[derive(Debug)]
pub struct Fleet {
    /// The gRPC port.
    pub control_plane: SocketAddr,
    /// The HTTP port.
    pub http: SocketAddr,
    /// The agents.
    pub agents: Vec<AgentAddress>,
}

impl Fleet {
    /// Starts them and waits until every agent is in sync.
    ///
    /// # Errors
    /// One does not start.
    pub async fn start(_fleet_file: &str) -> anyhow::Result<Self> {
        anyhow::bail!("not yet")
    }

    /// Names and addresses of the agents.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.agents
            .iter()
            .map(|agent| (agent.name.clone(), agent.address))
            .collect()
    }
}

/// The same agents without a control plane.
#[derive(Debug)]
pub struct Alone {
    agents: Vec<AgentAddress>,
}

impl Alone {
    /// Starts them.
    ///
    /// # Errors
    /// One does not start.
    pub async fn start(_fleet_file: &str) -> anyhow::Result<Self> {
        anyhow::bail!("not yet")
    }

    /// Names and addresses of the agents.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.agents
            .iter()
            .map(|agent| (agent.name.clone(), agent.address))
            .collect()
    }
}
