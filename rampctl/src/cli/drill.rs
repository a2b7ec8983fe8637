//! Arguments of rehearsals.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{Why, duration, positive_share, share};

/// `drill`.
#[derive(Debug, Subcommand)]
pub enum Drill {
    /// Make a region of a service fail for a while, and see that its traffic flows elsewhere
    #[command(
        after_help = "Follows the drill to its end, and succeeds only if it passed; Ctrl-C ends it.

Examples:
  rampctl drill failover payments --region us-east --for 60s --reason 'game day'
  rampctl drill failover payments --region us-east --for 2m --fault delay --delay 3s --share 20% \\
      --max-p99 1s --reason 'game day: a slow disk'"
    )]
    Failover(Failover),
    /// The drill that runs, or the last one, of each service
    List {
        /// Only this service
        #[arg(long, env = "RAMPMETER_CTL_SERVICE")]
        service: Option<String>,
    },
    /// One drill and its report
    Show {
        /// As `rampctl drill list` shows it
        id: String,
    },
    /// End a drill now
    Stop {
        /// As `rampctl drill list` shows it
        id: String,
        /// Who decides, and why.
        #[command(flatten)]
        why: Why,
    },
}

/// `drill failover`.
#[derive(Debug, Args)]
pub struct Failover {
    /// SERVICE
    pub service: String,
    /// The region that fails
    #[arg(long, env = "RAMPMETER_CTL_REGION")]
    pub region: String,
    /// For how long, 5s to 1h
    #[arg(
        long = "for",
        env = "RAMPMETER_CTL_FOR",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub duration: Duration,
    /// How it fails; dead if not given, delay if --delay is
    #[arg(long, env = "RAMPMETER_CTL_FAULT")]
    pub fault: Option<Fault>,
    /// By how much requests are late, 1ms to 60s
    #[arg(
        long,
        env = "RAMPMETER_CTL_DELAY",
        value_name = "DURATION",
        value_parser = duration,
        required_if_eq("fault", "delay")
    )]
    pub delay: Option<Duration>,
    /// Share of its requests that fail or are late
    #[arg(
        long,
        env = "RAMPMETER_CTL_SHARE",
        default_value = "100%",
        value_parser = positive_share
    )]
    pub share: f64,
    /// Only at this POP; may be given several times
    #[arg(long = "pop", env = "RAMPMETER_CTL_POP", value_delimiter = ',')]
    pub pops: Vec<String>,
    /// The guard ends it when callers see less than this share of requests succeed
    #[arg(
        long,
        env = "RAMPMETER_CTL_MIN_SUCCESS",
        default_value = "50%",
        value_name = "SHARE",
        value_parser = share
    )]
    pub min_success: f64,
    /// The guard ends it when the service's p99 exceeds this; no limit if not given
    #[arg(
        long,
        env = "RAMPMETER_CTL_MAX_P99",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub max_p99: Option<Duration>,
    /// For how long the guard looks away at the start
    #[arg(
        long,
        env = "RAMPMETER_CTL_GRACE",
        default_value = "3s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub grace: Duration,
    /// It passes when this share of requests succeeds at its end
    #[arg(
        long,
        env = "RAMPMETER_CTL_SUCCESS",
        default_value = "99%",
        value_name = "SHARE",
        value_parser = positive_share
    )]
    pub success: f64,
    /// Who decides, and why.
    #[command(flatten)]
    pub why: Why,
}

/// How a region fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// No connection comes about
    Dead,
    /// Requests are answered 503
    Error,
    /// Requests are answered late
    Delay,
}
