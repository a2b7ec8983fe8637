//! The operator's command line.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;
use rampctl::{Cli, Io};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("rampctl: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let colour =
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut io = Io {
        out: &mut io::stdout(),
        notes: &mut io::stderr(),
        colour,
        interrupt: Box::pin(async {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        }),
    };
    match runtime.block_on(rampctl::run(cli, &mut io)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_closed_pipe() {
                eprintln!("rampctl: {failure}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
