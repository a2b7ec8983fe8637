//! `--config FILE`: read at the start, then watched.
//!
//! At the start the store may hold another configuration. A file that the fleet
//! has run before is an old one, left on a host that missed a change: the store's
//! stays. A file never seen before is news and is applied. A change made while
//! this replica runs is somebody's wish and is always applied.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use rampmeter_api::v1;

use super::{ApplyError, apply, digest, refresh};
use crate::{
    events,
    plane::{Plane, pause},
    store::About,
};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often the store is asked for a configuration, in looks: hints tell at
/// once, this is for lost ones.
const REFRESH_EVERY: u32 = 5;

/// A fleet file on disk.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    path: PathBuf,
    yaml: String,
}

impl ConfigFile {
    /// Reads a file and checks it.
    ///
    /// # Errors
    /// Why it cannot be read, or everything that is wrong in it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let yaml = read(path)?;
        let name = path.display().to_string();
        fleet_config::FleetConfig::parse(&yaml, &name).map_err(|errors| errors.to_string())?;
        Ok(Self {
            path: path.to_owned(),
            yaml,
        })
    }

    fn source(&self) -> String {
        format!("file:{}", self.path.display())
    }

    /// Applies the file as the rule above has it.
    async fn start(&self, plane: &Plane) -> Result<(), ApplyError> {
        refresh(plane).await?;
        let own = digest(&self.yaml);
        if let Some(fleet) = plane.fleet() {
            let latest = fleet.digests.first() == Some(&own);
            if !latest && fleet.digests.contains(&own) {
                tracing::warn!(
                    file = %self.path.display(), revision = fleet.revision, source = %fleet.source,
                    "the file is an old configuration that the fleet has replaced since: the \
                     store's stays in force. Change the file, or apply it by hand, to go back"
                );
            }
            if fleet.digests.contains(&own) {
                return Ok(());
            }
        }
        self.apply(plane).await
    }

    async fn apply(&self, plane: &Plane) -> Result<(), ApplyError> {
        match apply(plane, &self.yaml, &self.source(), "", 0, false).await {
            // Another replica was faster, perhaps with the same file.
            Err(ApplyError::Conflict { .. }) => {
                refresh(plane).await?;
                let own = digest(&self.yaml);
                if plane
                    .fleet()
                    .is_some_and(|f| f.digests.first() == Some(&own))
                {
                    return Ok(());
                }
                apply(plane, &self.yaml, &self.source(), "", 0, false)
                    .await
                    .map(drop)
            }
            done => done.map(drop),
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let name = path.display();
    let size = std::fs::metadata(path)
        .map_err(|e| format!("{name}: {e}"))?
        .len();
    if size > fleet_config::MAX_FILE_BYTES as u64 {
        let allowed = fleet_config::MAX_FILE_BYTES;
        return Err(format!(
            "{name}: {size} bytes: at most {allowed} are allowed"
        ));
    }
    std::fs::read_to_string(path).map_err(|e| format!("{name}: {e}"))
}

/// Keeps the configuration in force up to date until the process ends: from the
/// file, if there is one, and from the store.
pub async fn watch(plane: &Plane, file: Option<ConfigFile>) {
    let mut file = file.map(Watched::new);
    let mut looks = 0_u32;
    loop {
        if let Some(file) = &mut file {
            file.look(plane).await;
        }
        if looks.is_multiple_of(REFRESH_EVERY) {
            // `ask` tells when the store is away.
            let _ = refresh(plane).await;
        }
        looks = looks.wrapping_add(1);
        if !pause(plane, LOOK).await {
            return;
        }
    }
}

struct Watched {
    file: ConfigFile,
    /// The file's content was put in force, or refused for good.
    settled: bool,
    /// The start is over: what comes now is a change.
    started: bool,
    looked: bool,
    /// The last refusal: told once.
    refused: String,
}

impl Watched {
    fn new(file: ConfigFile) -> Self {
        Self {
            file,
            settled: false,
            started: false,
            looked: false,
            refused: String::new(),
        }
    }

    async fn look(&mut self, plane: &Plane) {
        // The first look is for what was checked at the start.
        if std::mem::replace(&mut self.looked, true) {
            match read(&self.file.path) {
                Ok(yaml) if yaml != self.file.yaml => {
                    self.file.yaml = yaml;
                    self.settled = false;
                    self.started = true;
                }
                Ok(_) => {}
                Err(error) => self.refuse(plane, error).await,
            }
        }
        if self.settled {
            return;
        }
        let result = match self.started {
            true => self.file.apply(plane).await,
            false => self.file.start(plane).await,
        };
        match result {
            Ok(()) => {
                self.settled = true;
                self.started = true;
                self.refused.clear();
            }
            Err(ApplyError::Invalid(errors)) => {
                self.settled = true;
                self.refuse(plane, errors.to_string()).await;
            }
            // Tried again at the next look.
            Err(error) => tracing::warn!(%error, "the configuration is not applied yet"),
        }
    }

    async fn refuse(&mut self, plane: &Plane, errors: String) {
        if errors == self.refused {
            return;
        }
        let stays = plane.fleet().map_or(0, |f| f.revision);
        tracing::error!(file = %self.file.path.display(), stays, "the configuration is refused:\n{errors}");
        let source = self.file.source();
        let summary = format!("{source} was refused, revision {stays} stays: {errors}");
        let event = events::of_config(plane, v1::EventKind::ConfigRefused, summary, &source);
        let news = vec![Bytes::from(event.encode_to_vec())];
        let appended = plane
            .ask("append", plane.store.append(About::Fleet, news))
            .await;
        if appended.is_ok() {
            self.refused = errors;
        }
    }
}
