//! The command line.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::backend::Behaviour;

/// Starts a fleet on this machine, breaks a backend, and shows what happens.
///
/// A control plane, six gateway agents in three POPs and three backends, all
/// real servers on free ports. Takes less than a minute; the exit code is 0 only
/// if the fleet kept every promise.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Another thing to do than the demonstration.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The demonstration.
    #[command(flatten)]
    pub demo: Demo,
}

/// Options of the demonstration.
#[derive(Debug, Args)]
pub struct Demo {
    /// Leave everything running afterwards, with its addresses to try.
    #[arg(long)]
    pub keep: bool,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How the result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A timeline as it happens, and tables.
    Text,
    /// One JSON object at the end.
    Json,
}

/// Other things to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs one backend whose behaviour can be changed:
    /// `curl -X POST http://ADDR/_script/503`.
    Backend(Backend),
}

/// Options of a backend.
#[derive(Debug, Args)]
pub struct Backend {
    /// Where to listen.
    #[arg(long, env = "RAMPMETER_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// What it calls itself in its answers.
    #[arg(long, env = "RAMPMETER_BACKEND_NAME", default_value = "backend")]
    pub name: String,
    /// What it does at first: ok, 503, 503:2s (with Retry-After), refuse, hang,
    /// reset, slow:500ms, fail:5% or capacity:100.
    #[arg(long, default_value = "ok")]
    pub behave: Behaviour,
}
