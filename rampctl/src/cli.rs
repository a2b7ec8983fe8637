//! The command line. Every flag has an environment variable; those of one
//! command start with `RAMPMETER_CTL_`, so that an agent's or a control plane's
//! environment does not change what rampctl does.

mod config;
mod drill;
mod steer;

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use clap_complete::Shell;
use rampmeter_api::v1::Version;

pub(crate) use config::{Apply, Candidate};
pub(crate) use drill::{Drill, Failover, Fault};
pub(crate) use steer::{Approve, Drain, Mode, Override, Plan, PlanAction, Undrain};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the control plane failed, or something here did
  2  the command line is wrong
  3  the control plane cannot be reached, or does not answer in time
  4  there is no such backend, service or agent
  5  the control plane refused: the file or the request is wrong, or it is not
     the time for it
  6  a drill did not pass";

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
    /// Every service, with the state of its regions
    Services,
    /// Where a service's traffic goes, and why
    #[command(after_help = "Examples:
  rampctl service payments
  rampctl service payments -o json | jq .plan.shedPerSecond")]
    Service {
        /// SERVICE
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
  rampctl events --service payments
  rampctl events --follow -o json")]
    Events {
        /// Only this backend, SERVICE/REGION
        #[arg(long, env = "RAMPMETER_CTL_BACKEND")]
        backend: Option<String>,
        /// Only what was decided about this service as a whole: plans, drains, drills,
        /// quotas
        #[arg(long, env = "RAMPMETER_CTL_SERVICE", conflicts_with = "backend")]
        service: Option<String>,
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
    /// Take a region out of traffic for a while; the others take over what fits
    #[command(after_help = "Examples:
  rampctl drain us-east --for 30m --reason 'CHG-7: kernel update'
  rampctl drain us-east --service payments --for 10m --reason 'INC-42: slow disk'")]
    Drain(Drain),
    /// Put a drained region back into traffic now
    #[command(after_help = "Example:\n  rampctl undrain us-east --reason 'CHG-7 is done'")]
    Undrain(Undrain),
    /// The plan of where a service's traffic goes, and the one that waits for approval
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "Examples:
  rampctl plan payments
  rampctl plan approve payments --version 1795442531500.7 --reason 'INC-42: us-east is gone'"
    )]
    Plan(Plan),
    /// Rehearse a failure, and see what users would see
    #[command(subcommand)]
    Drill(Drill),
    /// A configuration that runs beside the one in force, and acts on nothing
    #[command(subcommand)]
    Candidate(Candidate),
    /// Completion script for a shell
    #[command(after_help = "Example:\n  rampctl completions bash > /etc/bash_completion.d/rampctl")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// Who decides, and why.
#[derive(Debug, Args)]
pub struct Why {
    /// Why, for those who read the events later
    #[arg(
        long,
        env = "RAMPMETER_CTL_REASON",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub reason: String,
    /// Who decides; the user of this shell if not given
    #[arg(long, env = "RAMPMETER_CTL_ACTOR")]
    pub actor: Option<String>,
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

fn duration(text: &str) -> Result<Duration, String> {
    fleet_config::parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "use a number with ms, s, m or h, for example 10m".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    fleet_config::parse_share(text)
        .ok_or_else(|| "use a percentage such as 50%, or a number from 0 to 1".to_owned())
}

fn positive_share(text: &str) -> Result<f64, String> {
    share(text).and_then(|share| match share > 0.0 {
        true => Ok(share),
        false => Err("use more than 0%, at most 100%".to_owned()),
    })
}

/// `EPOCH.REVISION`.
fn version(text: &str) -> Result<Version, String> {
    let parse = |text: &str| {
        let (epoch, revision) = text.split_once('.')?;
        Some(Version {
            epoch: epoch.parse().ok()?,
            revision: revision.parse().ok()?,
        })
    };
    parse(text).ok_or_else(|| "use EPOCH.REVISION, as `rampctl plan` shows it".to_owned())
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
