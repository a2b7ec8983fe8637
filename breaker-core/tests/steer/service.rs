//! A service whose steps are committed.

use breaker_core::{
    Steering, Timestamp,
    explain::steering::steered,
    plan::RegionInput,
    steering::{FailoverMode, Observed, Steered, SteeringInput, SteeringSettings, SteeringStep},
};

use super::{admits, at, map, normal, order, region, share_of, shares, takes};

/// A service under one set of settings, whose steps are committed.
pub(crate) struct Service {
    pub(crate) settings: SteeringSettings,
    pub(crate) steering: Steering,
    pub(crate) seen: Observed,
    pub(crate) said: Vec<String>,
    pub(crate) wake_at: Option<Timestamp>,
}

impl Service {
    pub(crate) fn new(regions: &[(&str, RegionInput)], demand: &[(&str, f64)]) -> Self {
        Self {
            settings: SteeringSettings::default(),
            steering: Steering::default(),
            seen: Observed {
                regions: map(regions),
                demand: demand
                    .iter()
                    .map(|(o, rate)| (order(o), normal(*rate)))
                    .collect(),
                ..Observed::default()
            },
            said: Vec::new(),
            wake_at: None,
        }
    }

    pub(crate) fn manual(mut self) -> Self {
        self.settings.mode = FailoverMode::Manual;
        self
    }

    pub(crate) fn set(&mut self, name: &str, input: RegionInput) {
        self.seen.regions.insert(region(name), input);
    }

    /// Whether something was committed.
    pub(crate) fn tick(&mut self, now: Timestamp) -> bool {
        let seen = self.seen.clone();
        self.act(SteeringInput::Tick(&seen), now)
    }

    pub(crate) fn act(&mut self, input: SteeringInput<'_>, now: Timestamp) -> bool {
        let SteeringStep {
            next,
            happenings,
            wake_at,
        } = self.steering.step(input, &self.settings, now);
        assert!(next.is_some() || happenings.is_empty());
        self.said
            .extend(happenings.iter().map(|h: &Steered| steered("pay", h)));
        self.wake_at = wake_at;
        assert!(wake_at.is_none_or(|wake| wake > now));
        let changed = next.is_some();
        if let Some(next) = next {
            assert_eq!(next.version.revision, self.steering.version.revision + 1);
            self.steering = next;
        }
        changed
    }

    /// Ticks when asked to, and at least once a second, up to `until`.
    pub(crate) fn run(&mut self, from: u64, until: u64) -> Vec<(u64, f64)> {
        let mut homes = Vec::new();
        let mut now = from;
        while now < until {
            if self.tick(at(now)) {
                homes.push((now, self.home()));
            }
            let wake = self
                .wake_at
                .map_or(u64::MAX, |wake| wake.as_millis() - at(0).as_millis());
            now = wake.min(now + 1000);
        }
        homes
    }

    pub(crate) fn home(&self) -> f64 {
        let plan = self.steering.plan.as_ref().expect("a plan");
        share_of(plan, "a b", "a")
    }

    pub(crate) fn in_force(&self) -> Vec<String> {
        self.steering.plan.as_ref().map(shares).unwrap_or_default()
    }

    pub(crate) fn proposed(&self) -> Vec<String> {
        self.steering
            .proposed
            .as_ref()
            .map(shares)
            .unwrap_or_default()
    }

    pub(crate) fn heard(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }
}

pub(crate) fn pair() -> Service {
    Service::new(
        &[("a", takes(4000.0)), ("b", takes(4000.0))],
        &[("a b", 3000.0)],
    )
}

pub(crate) fn dead() -> RegionInput {
    admits(0.0, takes(4000.0))
}
