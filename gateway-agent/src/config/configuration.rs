//! Where configurations come from, and reading those of other hosts.

use fleet_config::FleetConfig;

/// Of a refused configuration's errors, as much as a person reads on a page. It
/// is also logged, kept, shown and sent to the control plane, which has them all.
pub const MAX_ERROR_BYTES: usize = 4096;

/// A refused configuration's errors, cut to [`MAX_ERROR_BYTES`] if need be.
pub(crate) fn cut(mut errors: String) -> String {
    let left = errors.len().saturating_sub(MAX_ERROR_BYTES);
    if left > 0 {
        errors.truncate(errors.floor_char_boundary(MAX_ERROR_BYTES));
        errors.push_str(&format!("… (and about {left} bytes more)"));
    }
    errors
}

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
                .map_err(|errors| cut(errors.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_configuration_is_told_in_a_bounded_text() {
        let keys: String = (0..10_000)
            .map(|n| format!("  s{n}: nonsense é\n"))
            .collect();
        let read = FleetText::read(1, format!("services:\n{keys}"));
        let told = read.parsed.expect_err("it is nonsense");
        assert!(told.len() < MAX_ERROR_BYTES + 64, "{}", told.len());
        assert!(told.ends_with("bytes more)"), "{told}");
        assert_eq!(cut("short".to_owned()), "short");
    }
}
