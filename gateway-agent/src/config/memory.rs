//! Keeps the last good configuration and decisions in the state directory.

use std::{io, time::Duration};

use rampmeter_api::v1;
use tokio::{sync::watch, time::interval};

use crate::{
    config::state_dir::StateDir,
    fleet::{
        control::Control,
        drive::{Shared, stopped},
    },
};

/// The file with the last good configuration.
pub const CONFIG: &str = "config";

/// The file with the last decisions.
pub const DECISIONS: &str = "decisions";

/// Changes within this are written once: a ramp changes often, a disk is slow,
/// and a second-old decision is as good as a newer one after a restart.
const EVERY: Duration = Duration::from_secs(1);

/// Writes what changed, until stopped, and then once more.
pub async fn keep(control: Shared, dir: StateDir, mut stop: watch::Receiver<bool>) {
    let mut tick = interval(EVERY);
    let mut complained = false;
    loop {
        let stopped = tokio::select! {
            _ = tick.tick() => false,
            () = stopped(&mut stop) => true,
        };
        let unsaved = take(&mut control.lock());
        let dir = dir.clone();
        let written = tokio::task::spawn_blocking(move || write(&dir, &unsaved)).await;
        match written
            .map_err(io::Error::other)
            .and_then(|written| written)
        {
            Ok(()) => complained = false,
            Err(error) if !complained => {
                complained = true;
                tracing::warn!("the state directory cannot be written: {error}");
            }
            Err(_) => {}
        }
        if stopped {
            return;
        }
    }
}

/// What has to be written.
type Changed = (Option<v1::Config>, Option<v1::Decisions>);

fn take(control: &mut Control) -> Changed {
    let unsaved = std::mem::take(&mut control.unsaved);
    let config = control.yaml.clone().filter(|_| unsaved.config);
    let config = config.map(|(revision, yaml)| v1::Config { revision, yaml });
    let now = control.clock.now();
    let decisions = unsaved.decisions.then(|| v1::Decisions {
        decisions: control.decisions.to_wire(now),
        services: control.steerings.to_wire(now),
        ..v1::Decisions::default()
    });
    (config, decisions)
}

fn write(dir: &StateDir, (config, decisions): &Changed) -> io::Result<()> {
    if let Some(config) = config {
        dir.save(CONFIG, config)?;
    }
    if let Some(decisions) = decisions {
        dir.save(DECISIONS, decisions)?;
    }
    Ok(())
}
