//! Without a control plane: a fleet file of this host, read strictly and again
//! whenever it changes, and local breakers only.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleet_config::FleetConfig;
use tokio::{
    sync::{Notify, watch},
    time::interval,
};

use crate::{
    config::configuration::{ConfigSource, cut},
    fleet::drive::{Shared, stopped},
};

/// How often the file is looked at: a person who saved it waits about so long.
const LOOK: Duration = Duration::from_secs(1);

/// Reads a fleet file: its text, and what it says.
///
/// # Errors
/// In sentences for the person who wrote it.
pub fn read(path: &Path) -> Result<(String, FleetConfig), String> {
    let named = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("--config {named} cannot be read: {error}"))?;
    let config = FleetConfig::parse(&text, &named).map_err(|errors| errors.to_string())?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    Ok((text, config))
}

/// Puts every good change of the file into force, until stopped. `text` is what
/// is in force now.
pub async fn watch(
    control: Shared,
    path: PathBuf,
    text: String,
    reload: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    let mut seen = Ok(text);
    let mut tick = interval(LOOK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = reload.notified() => {}
            () = stopped(&mut stop) => return,
        }
        let now_there = tokio::fs::read_to_string(&path).await;
        let now_there = now_there.map_err(|error| format!("{}: {error}", path.display()));
        if now_there != seen {
            seen = now_there;
            take(&control, &path);
        }
    }
}

fn take(control: &Shared, path: &Path) {
    let read = read(path);
    let mut control = control.lock();
    let now = control.clock.now();
    let taken = read.and_then(|(_, config)| control.install(ConfigSource::File, 0, config, now));
    if let Err(error) = &taken {
        tracing::error!(
            "the changed fleet file is refused, the one before stays in force: {error}"
        );
    }
    control.config_error = taken.err().map(cut);
}
