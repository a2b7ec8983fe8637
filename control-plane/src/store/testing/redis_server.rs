//! A Redis server of a test's own, which the test may torment.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Client, FromRedisValue};
use tempfile::TempDir;

/// To start: a server without data takes some 20 ms.
const START: Duration = Duration::from_secs(10);

/// Ends with the test.
pub(in crate::store) struct RedisServer {
    child: Child,
    port: u16,
    args: Vec<String>,
    dir: TempDir,
}

impl RedisServer {
    /// Starts an empty server that keeps nothing on disk, with more `args`.
    pub(in crate::store) fn start(args: &[&str]) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        for _ in 0..5 {
            let port = free_port();
            let mut child = spawn(port, &args, &dir);
            if listens(&mut child, port) {
                return Self {
                    child,
                    port,
                    args,
                    dir,
                };
            }
        }
        panic!("redis-server does not start: its log is above");
    }

    pub(in crate::store) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub(in crate::store) fn port(&self) -> u16 {
        self.port
    }

    /// Kills it as `kill -9` does.
    pub(in crate::store) fn kill(&mut self) {
        self.child.kill().expect("kill redis-server");
        self.child.wait().expect("reap redis-server");
    }

    /// Starts it again, empty, on the same port.
    pub(in crate::store) fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.port, &self.args, &self.dir);
        assert!(listens(&mut self.child, self.port), "redis-server is back");
    }

    /// Freezes it: it accepts connections and answers nothing.
    pub(in crate::store) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// And lets it go on.
    pub(in crate::store) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill").args([signal, &pid]).status();
        assert!(done.expect("run kill").success(), "kill {signal} {pid}");
    }

    /// Runs a command on a connection of its own.
    pub(in crate::store) fn run<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let client = Client::open(self.url()).expect("a client");
        let mut connection = client.get_connection().expect("a connection");
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]);
        cmd.query(&mut connection)
            .unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn spawn(port: u16, args: &[String], dir: &TempDir) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
        .args(args)
        .current_dir(dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "cannot run redis-server ({error}): these tests need Redis 6.2 or later; \
                 install it, for example with `apt-get install redis-server`"
            )
        })
}

/// Waits until it takes connections; false if it ended instead.
fn listens(child: &mut Child, port: u16) -> bool {
    let start = Instant::now();
    while start.elapsed() < START {
        if child.try_wait().expect("look at redis-server").is_some() {
            return false;
        }
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}
