//! The command line, checked whole before anything starts.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    thread,
};

use breaker_core::{AgentId, PopId};
use clap::{ArgGroup, Parser};

use crate::{
    agent::{Settings, Source},
    config::host::{Host, HostFile},
    fleet::stream::ControlPlane,
};

/// What `--help` says last.
const AFTER_HELP: &str = "\
Signals:
  SIGTERM, SIGINT  Take no more connections, finish requests in flight (30 s at most,
                   or what limits.drain_timeout of --host-config says), say goodbye to the
                   control plane and exit. A second one exits at once.
  SIGHUP           Read --host-config, its certificates and --config again, and open
                   the access log anew.

Exit codes:
  0  Stopped when told.
  1  Stopped otherwise: by itself, or at once by a second signal. The log says why.
  2  Cannot start as told. Standard error says why; starting again will not help.

When in doubt:
  curl http://127.0.0.1:9901/state   What this agent does with each backend, and why.
  curl http://127.0.0.1:9901/readyz  Whether it has a configuration, and if not, why.";

/// Where requests are taken if nobody says.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);

/// More threads than this are a typing error.
const MAX_CORES: usize = 1024;

/// A gateway that obeys the fleet's decisions.
///
/// With a control plane:
///   gateway-agent --control-plane http://127.0.0.1:7700 --pop fra1 --state-dir /var/lib/rampmeter
/// Alone, with local breakers only:
///   gateway-agent --config fleet.yaml --pop fra1
#[derive(Debug, Parser)]
#[command(name = "gateway-agent", version, verbatim_doc_comment, after_help = AFTER_HELP)]
#[command(group(ArgGroup::new("source").required(true).args(["control_plane", "config"])))]
pub struct Cli {
    /// Control planes, `http://HOST:PORT`, separated by commas: the first that
    /// answers is used.
    #[arg(long, env = "RAMPMETER_CONTROL_PLANE", value_name = "URL[,URL…]", value_delimiter = ',',
          value_parser = ControlPlane::new)]
    pub control_plane: Vec<ControlPlane>,

    /// Fleet file to run by alone, without a control plane. Read again when it
    /// changes and on SIGHUP.
    #[arg(long, env = "RAMPMETER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The POP this agent is in, as the fleet file names it.
    #[arg(long, env = "RAMPMETER_POP", value_name = "NAME", value_parser = pop)]
    pub pop: PopId,

    /// This agent's name, unique in the fleet. Without it, the one kept in the
    /// state directory, or a new one.
    #[arg(long, env = "RAMPMETER_ID", value_name = "NAME", value_parser = agent)]
    pub id: Option<AgentId>,

    /// Where to serve requests, IP:PORT; port 0 takes a free one. Without it, the
    /// listeners of --host-config, and without those 0.0.0.0:8080.
    #[arg(long, value_parser = address, env = "RAMPMETER_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,

    /// File about this host: listeners with TLS and PROXY protocol, limits, trusted
    /// proxies. Read again, with its certificates, when it changes and on SIGHUP.
    #[arg(long, env = "RAMPMETER_HOST_CONFIG", value_name = "FILE")]
    pub host_config: Option<PathBuf>,

    /// Where to serve /metrics, /healthz, /readyz and /state, IP:PORT; port 0
    /// takes a free one. It shows everything to everybody, so keep it on loopback or a
    /// network of your own.
    #[arg(
        long,
        value_parser = address,
        env = "RAMPMETER_ADMIN",
        value_name = "ADDR",
        default_value = "127.0.0.1:9901"
    )]
    pub admin: SocketAddr,

    /// Where to keep the agent's name, the last good configuration and the last
    /// decisions, so that it can start while the control plane is away. Without
    /// it nothing is kept.
    #[arg(long, env = "RAMPMETER_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Unix socket through which a new agent takes over from the one that runs: it
    /// gets the listening sockets, and once it serves, the old one drains and exits.
    /// No connection is refused meanwhile. With --control-plane it needs --state-dir.
    #[arg(long, env = "RAMPMETER_HANDOVER", value_name = "PATH")]
    pub handover: Option<PathBuf>,

    /// Threads that serve requests, 1 to 1024; without it, one for each core.
    #[arg(long, visible_alias = "workers", env = "RAMPMETER_CORES", value_name = "N", value_parser = cores)]
    pub cores: Option<usize>,

    /// What to log, to standard error: error, warn, info, debug, trace, or by
    /// module, such as `warn,gateway_agent=debug`.
    #[arg(
        long,
        env = "RAMPMETER_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log: String,
}

impl Cli {
    /// What the agent is told.
    ///
    /// # Errors
    /// When the host file is of no use, in sentences.
    pub fn settings(self) -> Result<Settings, String> {
        let all = || thread::available_parallelism().map_or(1, usize::from);
        if self.handover.is_some() && self.config.is_none() && self.state_dir.is_none() {
            let why = "--handover needs --state-dir: a successor must have a configuration \
                       before it takes connections";
            return Err(why.to_owned());
        }
        let host = HostFile::open(self.host_config)?;
        Ok(Settings {
            id: self.id,
            pop: self.pop,
            cores: self.cores.unwrap_or_else(all),
            source: match self.config {
                Some(path) => Source::File(path),
                None => Source::ControlPlane(self.control_plane),
            },
            state_dir: self.state_dir,
            host,
        })
    }
}

/// Where to serve requests: what `--listen` says, or the host file, or neither.
///
/// # Errors
/// When both do: one of them would have to be ignored.
pub fn addresses(listen: Option<SocketAddr>, host: &Host) -> Result<Vec<SocketAddr>, String> {
    let listeners: Vec<_> = host.addresses().collect();
    match (listen, listeners.is_empty()) {
        (None, false) => Ok(listeners),
        (listen, true) => Ok(vec![listen.unwrap_or(LISTEN)]),
        (Some(listen), false) => Err(format!(
            "--listen {listen} and the listeners of --host-config exclude each other: leave one out"
        )),
    }
}

fn pop(name: &str) -> Result<PopId, String> {
    PopId::new(name).map_err(|error| error.to_string())
}

fn agent(name: &str) -> Result<AgentId, String> {
    AgentId::new(name).map_err(|error| error.to_string())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let parsed = text.parse();
    parsed.map_err(|_| "allowed is IP:PORT, for example 0.0.0.0:8080 or [::1]:8080".to_owned())
}

fn cores(text: &str) -> Result<usize, String> {
    let number = text.parse().ok();
    let fits = number.filter(|number| (1..=MAX_CORES).contains(number));
    fits.ok_or_else(|| format!("allowed is 1 to {MAX_CORES}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses_of(listen: Option<&str>, host: &str) -> Result<Vec<String>, String> {
        let listen = listen.map(|listen| listen.parse().expect("an address"));
        let config = fleet_config::HostConfig::parse(host, "host").expect("a good file");
        let host = Host {
            config,
            ..Host::default()
        };
        let found = addresses(listen, &host)?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn listeners_are_said_in_one_place() {
        const TWO: &str = "listeners: [{address: \"127.0.0.1:1\"}, {address: \"127.0.0.1:2\"}]";
        let found = |listen, host| addresses_of(listen, host).expect("it is clear");
        assert_eq!(found(None, ""), ["0.0.0.0:8080"]);
        assert_eq!(found(Some("127.0.0.1:9"), ""), ["127.0.0.1:9"]);
        assert_eq!(found(None, TWO), ["127.0.0.1:1", "127.0.0.1:2"]);
        let told = addresses_of(Some("127.0.0.1:9"), TWO).expect_err("it is not clear");
        assert!(
            told.starts_with("--listen 127.0.0.1:9 and the listeners"),
            "{told}"
        );
    }
}
