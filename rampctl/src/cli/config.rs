//! Arguments of what puts fleet files into force, or beside the one in force.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Why;

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

/// `candidate`.
#[derive(Debug, Subcommand)]
pub enum Candidate {
    /// Run a fleet file beside the one in force, on the same samples
    #[command(after_help = "Example:
  rampctl config | sed 's/min_request_volume: 5/min_request_volume: 50/' | rampctl candidate set -f -")]
    Set {
        /// The fleet file, with the backends of the one in force; - for standard input
        #[arg(short, long, env = "RAMPMETER_CTL_FILE", value_name = "FILE")]
        file: PathBuf,
        /// Check it and show what differs, but run nothing
        #[arg(long, env = "RAMPMETER_CTL_DRY_RUN")]
        dry_run: bool,
    },
    /// What it would have done: when it would have opened, rejected and moved
    Show {
        /// Only this service
        #[arg(long, env = "RAMPMETER_CTL_SERVICE")]
        service: Option<String>,
    },
    /// Run it no longer
    #[command(after_help = "Example:\n  rampctl candidate drop --reason 'it would open too often'")]
    Drop(Why),
}
