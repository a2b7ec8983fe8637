//! The command line. Every flag has an environment variable; those of one
//! command start with `RAMPMETER_CTL_`, so that an agent's or a control plane's
//! environment does not change what rampctl does.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the control plane failed, or something here did
  2  the command line is wrong
  3  the control plane cannot be reached, or does not answer in time
  4  there is no such backend, service or agent
  5  the control plane refused: the file or the request is wrong, or it is not
     the time for it";

/// Ask a Rampmeter fleet how it is, and decide for it.
#[derive(Debug, Parser)]
#[command(name = "rampctl", version, after_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    /// The control plane, any replica: http://HOST:PORT
    #[arg(
        long,
        global = true,
        env = "RAMPMETER_CONTROL_PLANE",
        default_value = "http://127.0.0.1:7700",
        value_name = "URL",
        value_parser = url
    )]
    pub control_plane: String,
    /// Tables for people, or the API's JSON for scripts
    #[arg(
        short,
        long,
        global = true,
        env = "RAMPMETER_OUTPUT",
        default_value = "table"
    )]
    pub output: Output,
    /// How long to wait for an answer, for example 500ms or 10s
    #[arg(
        long,
        global = true,
        env = "RAMPMETER_TIMEOUT",
        default_value = "10s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub timeout: Duration,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For scripts: canonical JSON of the API's messages, every field present;
    /// streams print one message a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The fleet in a few lines
    Status,
    /// Every backend with its breaker
    #[command(after_help = "Examples:
  rampctl backends --state open --state half-open
  rampctl backends -o json | jq -r '.backends[] | select(.admission < 1).name'")]
    Backends {
        /// Only this service
        #[arg(long, env = "RAMPMETER_CTL_SERVICE")]
        service: Option<String>,
        /// Only this state; may be given several times
        #[arg(long = "state", env = "RAMPMETER_CTL_STATE", value_delimiter = ',')]
        states: Vec<State>,
    },
    /// Why a backend is in the state it is in, and what happens next
    #[command(after_help = "Example:\n  rampctl explain payments/us-east")]
    Explain {
        /// SERVICE/REGION
        name: String,
    },
    /// Every backend once, then every change as it happens
    Watch {
        /// Only this service
        #[arg(long, env = "RAMPMETER_CTL_SERVICE")]
        service: Option<String>,
    },
    /// Every agent the fleet knows
    Agents {
        /// Only this POP
        #[arg(long, env = "RAMPMETER_CTL_POP")]
        pop: Option<String>,
    },
    /// What happened, oldest first
    #[command(after_help = "Examples:
  rampctl events --backend payments/us-east --limit 5
  rampctl events --follow -o json")]
    Events {
        /// Only this backend, SERVICE/REGION
        #[arg(long, env = "RAMPMETER_CTL_BACKEND")]
        backend: Option<String>,
        /// Then go on with new events as they happen
        #[arg(long, env = "RAMPMETER_CTL_FOLLOW")]
        follow: bool,
        /// How many of the latest
        #[arg(
            long,
            env = "RAMPMETER_CTL_LIMIT",
            default_value_t = 50,
            value_parser = clap::value_parser!(u32).range(1..=1000)
        )]
        limit: u32,
    },
    /// Put a fleet file into force, whole or not at all
    #[command(after_help = "Examples:
  rampctl apply -f fleet.yaml --dry-run
  rampctl apply -f fleet.yaml --expected-revision 7
  rampctl config | sed 's/open_duration: 30s/open_duration: 2s/' | rampctl apply -f -")]
    Apply(Apply),
    /// The fleet file in force
    #[command(after_help = "Example:\n  rampctl config > fleet.yaml")]
    Config,
    /// Force a backend's breaker for a while, or let it go again
    #[command(after_help = "Examples:
  rampctl override payments/us-east --mode open --for 10m --reason 'INC-42: disk full'
  rampctl override payments/us-east --clear --reason 'INC-42 is over'")]
    Override(Override),
    /// Completion script for a shell
    #[command(after_help = "Example:\n  rampctl completions bash > /etc/bash_completion.d/rampctl")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// `apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// The fleet file, YAML or JSON; - for standard input
    #[arg(short, long, env = "RAMPMETER_CTL_FILE", value_name = "FILE")]
    pub file: PathBuf,
    /// Check it and show what would change, but change nothing
    #[arg(long, env = "RAMPMETER_CTL_DRY_RUN")]
    pub dry_run: bool,
    /// Refuse unless the fleet runs this revision, so that nobody's change is
    /// lost; 0 for any
    #[arg(
        long,
        env = "RAMPMETER_CTL_EXPECTED_REVISION",
        default_value_t = 0,
        value_name = "REVISION"
    )]
    pub expected_revision: u64,
}

/// `override`.
#[derive(Debug, Args)]
pub struct Override {
    /// SERVICE/REGION
    pub name: String,
    /// What to force
    #[arg(long, env = "RAMPMETER_CTL_MODE", required_unless_present = "clear")]
    pub mode: Option<Mode>,
    /// For how long, 1s to 24h; then it ends by itself
    #[arg(
        long = "for",
        env = "RAMPMETER_CTL_FOR",
        value_name = "DURATION",
        value_parser = duration,
        required_unless_present = "clear"
    )]
    pub expires_in: Option<Duration>,
    /// Why, for those who read the events later
    #[arg(long, env = "RAMPMETER_CTL_REASON")]
    pub reason: String,
    /// Who decides; the user of this shell if not given
    #[arg(long, env = "RAMPMETER_CTL_ACTOR")]
    pub actor: Option<String>,
    /// Force it open even if the service has no other admitted region
    #[arg(long, env = "RAMPMETER_CTL_BREAK_GLASS", conflicts_with = "clear")]
    pub break_glass: bool,
    /// End the override now
    #[arg(long, env = "RAMPMETER_CTL_CLEAR", conflicts_with_all = ["mode", "expires_in"])]
    pub clear: bool,
}

/// A breaker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Requests pass
    Closed,
    /// No request passes
    Open,
    /// Leased trials pass
    #[value(alias = "half_open")]
    HalfOpen,
}

/// What an override forces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Refuse every request
    #[value(aliases = ["forced_open", "FORCED_OPEN"])]
    Open,
    /// Let every request through, whatever happens
    #[value(aliases = ["forced_closed", "FORCED_CLOSED"])]
    Closed,
    /// Decide and count, but let every request through
    #[value(alias = "SHADOW")]
    Shadow,
    /// Neither decide nor act
    #[value(alias = "DISABLED")]
    Disabled,
}

fn duration(text: &str) -> Result<Duration, String> {
    fleet_config::parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "use a number with ms, s, m or h, for example 10m".to_owned())
}

/// `http://HOST:PORT`; the scheme may be left out.
fn url(text: &str) -> Result<String, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let valid = authority.parse::<tonic::transport::Uri>().is_ok_and(|uri| {
        uri.path_and_query().is_none() && uri.port_u16().is_some() && uri.host().is_some()
    });
    match (scheme, valid) {
        ("http", true) => Ok(format!("http://{authority}")),
        ("https", _) => Err("this version does not speak TLS: use http://HOST:PORT".to_owned()),
        _ => Err("use http://HOST:PORT, for example http://127.0.0.1:7700".to_owned()),
    }
}
