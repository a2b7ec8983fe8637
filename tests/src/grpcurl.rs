//! The real grpcurl, as an operator would call it.

use std::{env, net::SocketAddr, path::PathBuf, process::Output};

use anyhow::Context;

/// Runs `grpcurl -plaintext FLAGS… ADDRESS ARGUMENTS…`.
///
/// # Errors
/// There is no grpcurl.
pub async fn grpcurl(
    address: SocketAddr,
    flags: &[&str],
    arguments: &[&str],
) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::new(program());
    command
        .args(["-plaintext", "-max-time", "20"])
        .args(flags)
        .arg(address.to_string())
        .args(arguments);
    command
        .output()
        .await
        .context("grpcurl is missing; tests/run.sh installs it")
}

/// The one of `PATH`, or the one that `tests/run.sh` installed.
fn program() -> PathBuf {
    env::var_os("GRPCURL").map_or_else(|| "grpcurl".into(), Into::into)
}
