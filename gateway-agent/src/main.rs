//! `gateway-agent`: parse, bind, serve until told to stop.

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use gateway_agent::{
    agent::{Agent, End, Sockets},
    cli::{self, Cli},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Exit code for what the person who started it can mend, as clap has it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("gateway-agent: {error:#}");
            ExitCode::from(USAGE)
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_new(&cli.log).map_err(|error| {
        anyhow::anyhow!(
            "--log {:?}: {error}; for example: info, or warn,gateway_agent=debug",
            cli.log
        )
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let (listen, admin, handover) = (cli.listen, cli.admin, cli.handover.clone());
    let settings = cli.settings().map_err(anyhow::Error::msg)?;
    let addresses = cli::addresses(listen, &settings.host.host().load());
    let addresses = addresses.map_err(anyhow::Error::msg)?;
    let sockets = Sockets::open(&addresses, admin, settings.cores, handover).await;
    let sockets = sockets.map_err(anyhow::Error::msg)?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut agent = Agent::start(settings, sockets)?;
    let listeners: Vec<_> = agent.listeners.iter().map(ToString::to_string).collect();
    println!(
        "gateway-agent {} listening on {}, admin on {}",
        agent.id,
        listeners.join(", "),
        agent.admin
    );
    loop {
        tokio::select! {
            _ = hang_up.recv() => agent.reload(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            end = agent.ended() => {
                if end == End::Succeeded {
                    return Ok(ExitCode::SUCCESS);
                }
                eprintln!("gateway-agent: stopped by itself; the log says why");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    tokio::select! {
        () = agent.stop() => return Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    eprintln!("gateway-agent: told twice to stop; requests in flight are cut");
    Ok(ExitCode::FAILURE)
}
