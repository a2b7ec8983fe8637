//! Where configurations come from, and reading those of other hosts.

use fleet_config::FleetConfig;

/// Where the configuration in force came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// There is none yet.
    None,
    /// The control plane.
    ControlPlane,
    /// The state directory, from an earlier run.
    Disk,
    /// The file given with `--config`.
    File,
}

impl ConfigSource {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ControlPlane => "control-plane",
            Self::Disk => "state-dir",
            Self::File => "file",
        }
    }
}

/// A fleet file that did not come from this host, read.
#[derive(Debug)]
pub struct FleetText {
    pub(crate) revision: u64,
    pub(crate) yaml: String,
    pub(crate) parsed: Result<FleetConfig, String>,
}

impl FleetText {
    /// Reads it; unknown keys are logged, because a newer control plane may have
    /// accepted them. Takes a while for a large fleet.
    pub fn read(revision: u64, yaml: String) -> Self {
        let parsed = FleetConfig::parse_lenient(&yaml, &format!("configuration {revision}"));
        if let Ok((_, warnings)) = &parsed {
            for warning in warnings {
                tracing::warn!(revision, "{warning}");
            }
        }
        Self {
            revision,
            yaml,
            parsed: parsed
                .map(|(config, _)| config)
                .map_err(|errors| errors.to_string()),
        }
    }
}
