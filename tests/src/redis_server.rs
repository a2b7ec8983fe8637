//! A real Redis on a free port with a directory of its own.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::Context;
use tempfile::TempDir;

use crate::{Process, eventually, settled};

/// A running `redis-server`. Dropping it ends it.
#[derive(Debug)]
pub struct RedisServer {
    dir: TempDir,
    address: SocketAddr,
    process: Process,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// There is no `redis-server`.
    pub async fn start() -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("rampmeter-redis-")?;
        let free = TcpListener::bind(("127.0.0.1", 0))?;
        let address = free.local_addr()?;
        drop(free);
        let process = launch(&dir, address)?;
        let server = Self {
            dir,
            address,
            process,
        };
        server.ready().await;
        Ok(server)
    }

    /// For `--store`: `redis://127.0.0.1:PORT/0`.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// SIGKILL; nothing is saved.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, empty, on the same port.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process = launch(&self.dir, self.address)?;
        self.ready().await;
        Ok(())
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.process.signal("STOP")
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.process.signal("CONT")
    }

    /// Commands it has processed so far.
    ///
    /// # Errors
    /// It does not answer.
    pub fn commands_processed(&self) -> anyhow::Result<u64> {
        let info = self.ask("INFO stats\r\nQUIT\r\n")?;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_commands_processed:"));
        Ok(line
            .context("INFO has no total_commands_processed")?
            .trim()
            .parse()?)
    }

    async fn ready(&self) {
        eventually("redis-server answers", Duration::from_secs(10), || async {
            settled(
                self.ask("PING\r\nQUIT\r\n")
                    .is_ok_and(|answer| answer.starts_with("+PONG")),
            )
        })
        .await;
    }

    /// Sends inline commands, the last of them QUIT, and returns the answers.
    fn ask(&self, commands: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(commands.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn launch(dir: &TempDir, address: SocketAddr) -> anyhow::Result<Process> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(dir.path());
    Process::start("redis-server", &mut command)
        .context("tests/run.sh installs redis-server where it is missing")
}
