//! The settings of one backend's breaker, already validated: `fleet-config`
//! makes them, nothing downstream checks again.

use std::time::Duration;

/// How decisions are applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Decide and act.
    #[default]
    Enforce,
    /// Decide, record and count, but let everything through.
    Shadow,
    /// An operator holds it open.
    ForcedOpen,
    /// An operator holds it closed.
    ForcedClosed,
    /// Neither decide nor act.
    Disabled,
}

/// Settings of one backend's breaker. Ranges are those `fleet-config` enforces.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakerPolicy {
    /// From configuration: `Enforce`, `Shadow` or `Disabled`.
    pub mode: Mode,
    /// Intolerable share of failures, (0, 1].
    pub failure_rate_threshold: f64,
    /// Intolerable share of failures and overloads together, (0, 1].
    pub overload_rate_threshold: f64,
    /// Overload short of that threshold is metered: the throttle lets through what
    /// the backend takes.
    pub overload_throttle: bool,
    /// Intolerable share of slow calls, (0, 1].
    pub slow_call_rate_threshold: f64,
    /// From when on a call is slow; `None`: slow calls do not count.
    pub slow_call_duration: Option<Duration>,
    /// Requests since onset needed to convict, 1 and up.
    pub min_request_volume: u32,
    /// How far back evidence counts, 1 s to 60 s.
    pub window: Duration,
    /// Length of the first open period, 100 ms and up.
    pub open_duration: Duration,
    /// Cap of its doubling.
    pub max_open_duration: Duration,
    /// Outstanding trial leases in the whole fleet, 1 and up.
    pub half_open_max_trials: u32,
    /// Successful trials that close, 1 and up.
    pub half_open_successes: u32,
    /// Time from closing to full admission; zero for at once.
    pub ramp_duration: Duration,
    /// Share of the POPs with traffic that must vote failing, (0, 1].
    pub quorum: f64,
    /// Share of the known agents that must be reporting, [0, 1].
    pub min_coverage: f64,
    /// Lifetime of a trial lease: the route's total timeout + 1 s.
    pub trial_timeout: Duration,
}

impl Default for BreakerPolicy {
    /// The documented defaults; where they come from is in docs/decisions.md.
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            failure_rate_threshold: 0.5,
            overload_rate_threshold: 0.9,
            overload_throttle: true,
            slow_call_rate_threshold: 0.8,
            slow_call_duration: None,
            min_request_volume: 5,
            window: Duration::from_secs(10),
            open_duration: Duration::from_secs(30),
            max_open_duration: Duration::from_secs(300),
            half_open_max_trials: 1,
            half_open_successes: 3,
            ramp_duration: Duration::from_secs(30),
            quorum: 0.5,
            min_coverage: 0.5,
            trial_timeout: Duration::from_secs(31),
        }
    }
}
