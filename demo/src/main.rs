//! The demonstration's command line.

use std::process::ExitCode;

use clap::Parser;
use rampmeter_demo::{cli::Cli, run};

#[tokio::main]
async fn main() -> ExitCode {
    match run::run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rampmeter-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
