//! A control-plane replica as a process of its own.

use std::{net::SocketAddr, path::Path, process::Command};

use anyhow::Context;

use crate::{Api, Process, binary};

/// A running `control-plane`.
#[derive(Debug)]
pub struct ControlPlane {
    /// What it calls itself in events and lists.
    pub name: String,
    /// The process.
    pub process: Process,
    /// Its gRPC port.
    pub address: SocketAddr,
    /// Its HTTP port.
    pub http: SocketAddr,
    start: Command,
}

impl ControlPlane {
    /// Starts one on free ports and waits until it listens.
    ///
    /// # Errors
    /// It is not built, or does not start; with its output.
    pub async fn start(config: &Path, store: &str) -> anyhow::Result<Self> {
        let mut start = Command::new(binary("control-plane")?);
        start.arg("--config").arg(config).args(["--store", store]);
        let running = launch(&start, "127.0.0.1:0", "127.0.0.1:0").await?;
        Ok(Self {
            name: running.name,
            process: running.process,
            address: running.address,
            http: running.http,
            start,
        })
    }

    /// Starts it again on the ports it had, after it was killed.
    ///
    /// # Errors
    /// It does not start; with its output.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.kill();
        let (listen, http) = (self.address.to_string(), self.http.to_string());
        let running = launch(&self.start, &listen, &http).await?;
        self.name = running.name;
        self.process = running.process;
        Ok(())
    }

    /// What its agents connect to: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client of its gRPC services.
    ///
    /// # Errors
    /// It does not accept connections.
    pub async fn api(&self) -> anyhow::Result<Api> {
        Api::connect(self.address).await
    }
}

struct Launched {
    name: String,
    process: Process,
    address: SocketAddr,
    http: SocketAddr,
}

async fn launch(start: &Command, listen: &str, http: &str) -> anyhow::Result<Launched> {
    let mut command = Command::new(start.get_program());
    command
        .args(start.get_args())
        .args(["--listen", listen, "--http", http]);
    let mut process = Process::start("control-plane", &mut command)?;
    let line = process.line(" listening on ").await?;
    let (who, addresses) = line.split_once(" listening on ").unwrap_or_default();
    let (address, http) = addresses
        .split_once(", http on ")
        .with_context(|| format!("no addresses in {line:?}"))?;
    Ok(Launched {
        name: who.rsplit(' ').next().unwrap_or_default().to_owned(),
        address: address.trim().parse()?,
        http: http.trim().parse()?,
        process,
    })
}
