//! Parse, open, bind, serve.

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    process::ExitCode,
};

use clap::Parser;
use control_plane::{
    Listeners, Options,
    cli::Args,
    config::ConfigFile,
    serve,
    store::{self, ReplicaId},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

/// Usage or configuration, as clap has it.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            eprintln!("control-plane: {message}");
            ExitCode::from(code)
        }
    }
}

fn start_log(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        format!("--log {filter:?}: {error}; for example: info, or warn,control_plane=debug")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

async fn run(args: Args) -> Result<(), (u8, String)> {
    args.check().map_err(|message| (USAGE, message))?;
    start_log(&args.log).map_err(|message| (USAGE, message))?;
    let config = args.config.as_deref().map(ConfigFile::read).transpose();
    let config = config.map_err(|message| (USAGE, message))?;
    let listeners = Listeners {
        grpc: bind("--listen", args.listen).await?,
        http: bind("--http", args.http).await?,
    };
    let name = ReplicaId::new(&args.replica());
    let store = store::open(&args.store, name.clone())
        .await
        .map_err(|e| (1, format!("--store: {e}")))?;
    let address = |listener: &TcpListener| listener.local_addr().map_err(|e| (1, e.to_string()));
    let (grpc, http) = (address(&listeners.grpc)?, address(&listeners.http)?);
    // A closed stdout is no reason not to serve.
    let _ = writeln!(
        std::io::stdout(),
        "control-plane {name} listening on {grpc}, http on {http}"
    );
    let options = Options {
        name,
        config,
        store,
        store_name: args.store_name(),
    };
    serve(options, listeners, ended())
        .await
        .map_err(|e| (1, format!("{e:#}")))
}

async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, (u8, String)> {
    TcpListener::bind(address).await.map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
            _ => error.to_string(),
        };
        (1, format!("{flag} {address}: {reason}"))
    })
}

/// SIGTERM or ctrl-C.
async fn ended() {
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::error!(%error, "SIGTERM cannot be caught");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
