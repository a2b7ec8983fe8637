//! Child processes: started, listened to, signalled, and gone with the test.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::time::Instant;

/// Lines kept of each process; what a failing test needs is at the end.
const MAX_LINES: usize = 2000;

/// Lines shown when a test fails.
const SHOWN_LINES: usize = 15;

/// Until a process has said that it is ready: a debug build on a busy machine
/// takes a second.
const START: Duration = Duration::from_secs(30);

/// A running child. Dropping it kills it; if the test is failing, its last
/// lines are printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<thread::JoinHandle<()>>,
}

/// The path of one of the workspace's binaries.
///
/// # Errors
/// It has not been built.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let this = env::current_exe().context("where is this executable?")?;
    // A test stands in PROFILE/deps, a binary in PROFILE.
    let found = this.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    found
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| {
            format!("{name} is not built: run tests/run.sh, or cargo build --workspace --bins")
        })
}

impl Process {
    /// Starts `command` and collects what it prints.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdout = collect(child.stdout.take(), lines.clone());
        let stderr = collect(child.stderr.take(), lines.clone());
        Ok(Self {
            name: name.to_owned(),
            child,
            lines,
            readers: [stdout, stderr].into_iter().flatten().collect(),
        })
    }

    /// The first line that contains `part`, once there is one.
    ///
    /// # Errors
    /// The process ended, or said nothing of the kind in 30 s.
    pub async fn line(&mut self, part: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + START;
        loop {
            let ended = self.child.try_wait()?;
            let said = self.lock().iter().find(|line| line.contains(part)).cloned();
            match (said, ended) {
                (Some(line), _) => return Ok(line),
                (None, Some(status)) => {
                    bail!("{} ended with {status}:\n{}", self.name, self.output())
                }
                (None, None) if Instant::now() > deadline => {
                    bail!("{} never said {part:?}:\n{}", self.name, self.output())
                }
                (None, None) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// How it ended.
    ///
    /// # Errors
    /// It did not, `within` this time.
    pub async fn exit(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "{} still runs after {within:?}:\n{}",
                    self.name,
                    self.output()
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What it printed, stdout and stderr.
    pub fn output(&self) -> String {
        self.lock().join("\n")
    }

    /// All that it printed, after it ended.
    pub fn last_words(&mut self) -> String {
        for reader in self.readers.drain(..) {
            // A reader that panicked has read what it could.
            let _ = reader.join();
        }
        self.output()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// It has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL: no goodbye of any kind.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by its name: `STOP`, `CONT`, `TERM`.
    ///
    /// # Errors
    /// There is no `kill` command, or no such process.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .context("cannot run kill")?;
        if !status.success() {
            bail!("kill -s {name} {pid} ({}) ended with {status}", self.name);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let lines = self.lock();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!("--- last of {}:\n{}", self.name, shown.join("\n"));
        }
    }
}

/// Reads lines on a thread that ends with the pipe.
fn collect(
    pipe: Option<impl Read + Send + 'static>,
    lines: Arc<Mutex<Vec<String>>>,
) -> Option<thread::JoinHandle<()>> {
    let pipe = pipe?;
    Some(thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == MAX_LINES {
                lines.drain(..MAX_LINES / 2);
            }
            lines.push(line);
        }
    }))
}
