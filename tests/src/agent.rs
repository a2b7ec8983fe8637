//! A gateway agent as a process of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use rampmeter_demo::load::Target;

use crate::{Process, Reply, binary, get};

/// How to start an agent.
#[derive(Debug, Clone)]
pub struct AgentStart {
    /// Its name in the fleet.
    pub id: String,
    /// Where it stands.
    pub pop: String,
    /// URLs of the control plane, comma-separated; `None`: alone.
    pub control_plane: Option<String>,
    /// The fleet file, alone.
    pub config: Option<PathBuf>,
    /// Where it keeps what it must not forget.
    pub state_dir: PathBuf,
    /// Where it takes over from the one before, if one runs there.
    pub handover: Option<PathBuf>,
}

/// A running `gateway-agent`.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Process,
    /// How it was started.
    pub start: AgentStart,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
}

impl AgentStart {
    /// An agent of a control plane.
    pub fn new(id: &str, pop: &str, control_plane: &str, state: &Path) -> Self {
        Self {
            id: id.to_owned(),
            pop: pop.to_owned(),
            control_plane: Some(control_plane.to_owned()),
            config: None,
            state_dir: state.join(id),
            handover: None,
        }
    }

    /// An agent without a control plane.
    pub fn alone(id: &str, pop: &str, config: &Path, state: &Path) -> Self {
        let config = Some(config.to_owned());
        Self {
            control_plane: None,
            config,
            ..Self::new(id, pop, "", state)
        }
    }

    /// Starts it on free ports and waits until it listens.
    ///
    /// # Errors
    /// It is not built, or does not start; with its output.
    pub async fn launch(self) -> anyhow::Result<Agent> {
        self.launch_on("127.0.0.1:0").await
    }

    async fn launch_on(self, listen: &str) -> anyhow::Result<Agent> {
        std::fs::create_dir_all(&self.state_dir)?;
        let mut command = Command::new(binary("gateway-agent")?);
        command.args([
            "--id",
            &self.id,
            "--pop",
            &self.pop,
            "--listen",
            listen,
            "--admin",
            "127.0.0.1:0",
        ]);
        command.arg("--state-dir").arg(&self.state_dir);
        if let Some(url) = &self.control_plane {
            command.args(["--control-plane", url]);
        }
        if let Some(path) = &self.handover {
            command.arg("--handover").arg(path);
        }
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        let mut process = Process::start(&self.id, &mut command)?;
        let line = process.line(" listening on ").await?;
        let (_, addresses) = line.split_once(" listening on ").unwrap_or_default();
        let (address, admin) = addresses
            .split_once(", admin on ")
            .with_context(|| format!("no addresses in {line:?}"))?;
        Ok(Agent {
            address: address.trim().parse()?,
            admin: admin.trim().parse()?,
            process,
            start: self,
        })
    }
}

impl Agent {
    /// Starts it again where it listened, after it was killed.
    ///
    /// # Errors
    /// It does not start; with its output.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.kill();
        *self = self
            .start
            .clone()
            .launch_on(&self.address.to_string())
            .await?;
        Ok(())
    }

    /// As a target of traffic.
    pub fn target(&self) -> Target {
        Target::new(&self.start.id, self.address)
    }

    /// GETs a path through it.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        get(self.address, path).await
    }

    /// It has a configuration and serves.
    pub async fn is_ready(&self) -> bool {
        get(self.admin, "/readyz")
            .await
            .is_ok_and(|reply| reply.status == 200)
    }

    /// The (epoch, revision) of a backend's decision as it is applied here.
    ///
    /// # Errors
    /// It does not answer, or knows no such backend.
    pub async fn version(&self, backend: &str) -> anyhow::Result<(u64, u64)> {
        applied_version(self.admin, backend).await
    }

    /// Its stream to the control plane is up.
    pub async fn is_connected(&self) -> bool {
        let state = self.state().await;
        state.is_ok_and(|state| state["control_plane"]["connected"] == true)
    }

    /// What its admin port says of it.
    ///
    /// # Errors
    /// It does not answer, or not in JSON.
    pub async fn state(&self) -> anyhow::Result<serde_json::Value> {
        get(self.admin, "/state").await?.json()
    }
}

/// As [`Agent::version`], by the address of its admin port.
///
/// # Errors
/// It does not answer, or knows no such backend.
pub async fn applied_version(admin: SocketAddr, backend: &str) -> anyhow::Result<(u64, u64)> {
    let state = get(admin, "/state").await?.json()?;
    let backends = state["backends"].as_array().context("no backends")?;
    let found = backends
        .iter()
        .find(|candidate| candidate["name"] == backend);
    let decision = &found.with_context(|| format!("no {backend} in {state}"))?["decision"];
    let number = |key: &str| {
        let value = decision[key].as_u64();
        value.with_context(|| format!("no {key} in {backend}'s decision {decision}"))
    };
    Ok((number("epoch")?, number("revision")?))
}
