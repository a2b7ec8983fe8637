//! Enums and the order of decisions.

use breaker_core::{
    Mode, TripReason, Version,
    breaker::{StateName, TrialOutcome},
};

use super::WireError;
use crate::v1;

impl From<Version> for v1::Version {
    fn from(v: Version) -> Self {
        Self {
            epoch: v.epoch,
            revision: v.revision,
        }
    }
}

impl From<v1::Version> for Version {
    fn from(v: v1::Version) -> Self {
        Self {
            epoch: v.epoch,
            revision: v.revision,
        }
    }
}

impl From<Mode> for v1::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Enforce,
            Mode::Shadow => Self::Shadow,
            Mode::ForcedOpen => Self::ForcedOpen,
            Mode::ForcedClosed => Self::ForcedClosed,
            Mode::Disabled => Self::Disabled,
        }
    }
}

/// A mode from its number on the wire.
pub fn mode(field: &'static str, value: i32) -> Result<Mode, WireError> {
    match v1::Mode::try_from(value) {
        Ok(v1::Mode::Enforce) => Ok(Mode::Enforce),
        Ok(v1::Mode::Shadow) => Ok(Mode::Shadow),
        Ok(v1::Mode::ForcedOpen) => Ok(Mode::ForcedOpen),
        Ok(v1::Mode::ForcedClosed) => Ok(Mode::ForcedClosed),
        Ok(v1::Mode::Disabled) => Ok(Mode::Disabled),
        Ok(v1::Mode::Unspecified) => Err(WireError::Missing { field }),
        Err(_) => Err(WireError::range(field, value, "1 to 5")),
    }
}

impl From<StateName> for v1::BreakerState {
    fn from(state: StateName) -> Self {
        match state {
            StateName::Closed => Self::Closed,
            StateName::Open => Self::Open,
            StateName::HalfOpen => Self::HalfOpen,
        }
    }
}

/// A state from its number on the wire.
pub fn state(field: &'static str, value: i32) -> Result<StateName, WireError> {
    match v1::BreakerState::try_from(value) {
        Ok(v1::BreakerState::Closed) => Ok(StateName::Closed),
        Ok(v1::BreakerState::Open) => Ok(StateName::Open),
        Ok(v1::BreakerState::HalfOpen) => Ok(StateName::HalfOpen),
        Ok(v1::BreakerState::Unspecified) => Err(WireError::Missing { field }),
        Err(_) => Err(WireError::range(field, value, "1 to 3")),
    }
}

impl From<TripReason> for v1::TripReason {
    fn from(reason: TripReason) -> Self {
        match reason {
            TripReason::FailureRate => Self::FailureRate,
            TripReason::OverloadRate => Self::OverloadRate,
            TripReason::SlowCallRate => Self::SlowCallRate,
            TripReason::TrialFailed => Self::TrialFailed,
            TripReason::Override => Self::Override,
        }
    }
}

impl From<TrialOutcome> for v1::TrialOutcome {
    fn from(outcome: TrialOutcome) -> Self {
        match outcome {
            TrialOutcome::Succeeded => Self::Succeeded,
            TrialOutcome::Failed => Self::Failed,
            TrialOutcome::Returned => Self::Returned,
        }
    }
}

/// A trial's outcome from its number on the wire.
pub fn trial_outcome(value: i32) -> Result<TrialOutcome, WireError> {
    let field = "trial_result.outcome";
    match v1::TrialOutcome::try_from(value) {
        Ok(v1::TrialOutcome::Succeeded) => Ok(TrialOutcome::Succeeded),
        Ok(v1::TrialOutcome::Failed) => Ok(TrialOutcome::Failed),
        Ok(v1::TrialOutcome::Returned) => Ok(TrialOutcome::Returned),
        Ok(v1::TrialOutcome::Unspecified) => Err(WireError::Missing { field }),
        Err(_) => Err(WireError::range(field, value, "1 to 3")),
    }
}
