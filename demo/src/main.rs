//! The demonstration's command line.

use std::process::ExitCode;

use clap::Parser;
use rampmeter_demo::{cli::Cli, run};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run::run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rampmeter-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
