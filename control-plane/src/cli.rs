//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;

/// Takes in what gateways see of each backend, decides once for the fleet, and
/// tells every gateway.
#[derive(Debug, Parser)]
#[command(
    name = "control-plane",
    version,
    after_help = "Examples:\n  control-plane --config fleet.yaml\n  \
                  control-plane --config fleet.yaml --store redis://10.0.0.5:6379/0 --listen 0.0.0.0:7700 --insecure"
)]
pub struct Args {
    /// Fleet file, YAML or JSON; watched and applied when it changes. Without it
    /// the store's configuration is used, or one from ApplyConfig
    #[arg(long, value_name = "FILE", env = "RAMPMETER_CONFIG")]
    pub config: Option<PathBuf>,

    /// Where replicas meet: memory, or redis://HOST:PORT/DB
    #[arg(
        long,
        value_name = "STORE",
        env = "RAMPMETER_STORE",
        default_value = "memory"
    )]
    pub store: String,

    /// Address for agents, grpcurl and rampctl
    #[arg(
        long,
        value_name = "ADDR",
        env = "RAMPMETER_LISTEN",
        default_value = "127.0.0.1:7700"
    )]
    pub listen: SocketAddr,

    /// Address for /metrics, /healthz and /readyz
    #[arg(
        long,
        value_name = "ADDR",
        env = "RAMPMETER_HTTP",
        default_value = "127.0.0.1:7780"
    )]
    pub http: SocketAddr,

    /// Name of this replica, unique for each start; generated without it
    #[arg(long, value_name = "NAME", env = "RAMPMETER_NAME")]
    pub name: Option<String>,

    /// Listen beyond loopback without TLS: anyone who reaches the port can read,
    /// change and mislead the fleet
    #[arg(long, env = "RAMPMETER_INSECURE")]
    pub insecure: bool,

    /// What to log, to standard error: error, warn, info, debug, trace, or by
    /// module, such as `warn,control_plane=debug`
    #[arg(
        long,
        value_name = "FILTER",
        env = "RAMPMETER_LOG",
        default_value = "info"
    )]
    pub log: String,
}

impl Args {
    /// What cannot be said by a flag's type alone.
    ///
    /// # Errors
    /// One sentence with the flag, the value and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        if !self.listen.ip().is_loopback() && !self.insecure {
            return Err(format!(
                "--listen {}: without TLS only loopback addresses are allowed (127.0.0.1:7700); \
                 add --insecure if nobody else can reach that network",
                self.listen
            ));
        }
        if let Some(name) = &self.name {
            breaker_core::AgentId::new(name).map_err(|error| {
                let error = error.to_string();
                format!("--name: {}", error.replacen("agent", "replica", 1))
            })?;
        }
        Ok(())
    }

    /// The store's address, without credentials.
    pub fn store_name(&self) -> String {
        match (self.store.split_once("://"), self.store.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
            _ => self.store.clone(),
        }
    }

    /// The replica's name.
    pub fn replica(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let random = uuid::Uuid::new_v4().simple().to_string();
            format!("cp-{}", &random[..8])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Args {
        Args::parse_from([&["control-plane"], flags].concat())
    }

    #[test]
    fn a_port_for_everybody_needs_insecure_in_so_many_words() {
        assert_eq!(parse(&[]).check(), Ok(()));
        assert_eq!(parse(&["--listen", "[::1]:7700"]).check(), Ok(()));
        let open = parse(&["--listen", "0.0.0.0:7700"])
            .check()
            .expect_err("open");
        assert!(
            open.contains("--listen 0.0.0.0:7700") && open.contains("--insecure"),
            "{open}"
        );
        assert_eq!(
            parse(&["--listen", "0.0.0.0:7700", "--insecure"]).check(),
            Ok(())
        );
    }

    #[test]
    fn a_store_is_shown_without_its_password() {
        let shown = |store| parse(&["--store", store]).store_name();
        assert_eq!(
            shown("redis://u:s3cret@10.0.0.5:6379/0"),
            "redis://10.0.0.5:6379/0"
        );
        assert_eq!(shown("redis://10.0.0.5/0"), "redis://10.0.0.5/0");
        assert_eq!(shown("memory"), "memory");
    }

    #[test]
    fn a_strange_replica_name_is_refused() {
        let refused = parse(&["--name", "a b"]).check().expect_err("a space");
        assert!(refused.starts_with("--name: replica \"a b\""), "{refused}");
    }
}
