//! A breaker as agents obey it. All times on the wire are relative to the moment
//! of sending; the receiver puts them on its own clock.

use std::{collections::BTreeMap, time::Duration};

use breaker_core::{
    BackendName, Breaker, BreakerPolicy, Circuit, Mix, Mode, PopId, Ramp, Timestamp, Version,
    breaker::StateName,
};

use super::{WireError, duration, duration_up_to, steering::from_mix, words};
use crate::v1;

/// Longest relative time a decision may carry: a day, the longest override.
pub const MAX_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// What HALF_OPEN tells clients to wait: the next trial is due any moment.
const HALF_OPEN_RETRY: Duration = Duration::from_secs(1);

/// A decision on the receiver's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// About which backend.
    pub backend: BackendName,
    /// Its place in the order.
    pub version: Version,
    /// The mode when it was sent; see [`Decision::mode`].
    pub mode: Mode,
    /// For every POP without a circuit of its own.
    pub fleet: Circuit,
    /// Circuits of scope POP.
    pub pops: BTreeMap<PopId, Circuit>,
    /// Length of the ramp that will follow.
    pub ramp_duration: Duration,
    /// When the override behind `mode` ends by itself; `None`: there is none, or
    /// a control plane of an older version does not say.
    pub override_until: Option<Timestamp>,
    /// Overload is metered: share of requests let through, 0 to 1.
    pub throttle: Option<f64>,
    /// The demand's mix of priorities.
    pub mix: Mix,
}

impl Decision {
    /// The mode in force at `now`: `configured` once an override has ended,
    /// whether or not anyone was there to say so.
    pub fn mode(&self, configured: Mode, now: Timestamp) -> Mode {
        match self.override_until {
            Some(until) if until <= now => configured,
            _ => self.mode,
        }
    }
}

/// To the wire, as seen at `now`.
pub fn decision(
    backend: &BackendName,
    breaker: &Breaker,
    policy: &BreakerPolicy,
    now: Timestamp,
) -> v1::Decision {
    let pops = breaker.pops.iter().map(|(pop, c)| v1::PopCircuit {
        pop: pop.as_str().to_owned(),
        circuit: Some(circuit(c, policy, now)),
    });
    v1::Decision {
        backend: backend.as_str().to_owned(),
        version: Some(breaker.version.into()),
        mode: v1::Mode::from(breaker.mode(policy)).into(),
        fleet: Some(circuit(&breaker.fleet, policy, now)),
        pops: pops.collect(),
        override_expires_in: breaker
            .over
            .as_ref()
            .map(|o| duration(now.until(o.expires))),
        throttle: breaker.throttle.map(|t| t.admission),
        mix: Some(breaker.mix.shares().into()),
    }
}

fn circuit(circuit: &Circuit, policy: &BreakerPolicy, now: Timestamp) -> v1::Circuit {
    let retry_in = match circuit {
        Circuit::Closed { .. } => None,
        Circuit::Open { until, .. } => Some(now.until(*until)),
        Circuit::HalfOpen { .. } => Some(HALF_OPEN_RETRY),
    };
    v1::Circuit {
        state: v1::BreakerState::from(circuit.state()).into(),
        retry_in: retry_in.map(duration),
        ramp: ramp_of(circuit, now),
        ramp_duration: Some(duration(policy.ramp_duration)),
        trips: circuit.trips(),
    }
}

fn ramp_of(circuit: &Circuit, now: Timestamp) -> Option<v1::Ramp> {
    let Circuit::Closed { ramp, .. } = circuit else {
        return None;
    };
    let ramp = ramp.as_ref()?;
    let admission = ramp.admission(now);
    (admission < 1.0).then(|| v1::Ramp {
        admission,
        hold: Some(duration(now.until(ramp.from_at))),
        duration: Some(duration(ramp.duration)),
    })
}

/// From the wire, on the receiver's clock, which shows `now`.
pub fn from_decision(wire: &v1::Decision, now: Timestamp) -> Result<Decision, WireError> {
    let version = wire.version.ok_or(WireError::Missing {
        field: "decision.version",
    })?;
    let fleet = wire.fleet.as_ref().ok_or(WireError::Missing {
        field: "decision.fleet",
    })?;
    let pops = wire.pops.iter().map(|p| {
        let circuit = p.circuit.as_ref().ok_or(WireError::Missing {
            field: "decision.pops.circuit",
        })?;
        Ok((PopId::new(&p.pop)?, from_circuit(circuit, now)?))
    });
    Ok(Decision {
        backend: BackendName::parse(&wire.backend)?,
        version: version.into(),
        mode: words::mode("decision.mode", wire.mode)?,
        fleet: from_circuit(fleet, now)?,
        pops: pops.collect::<Result<_, WireError>>()?,
        ramp_duration: duration_up_to(
            "circuit.ramp_duration",
            fleet.ramp_duration.as_ref(),
            MAX_AHEAD,
        )?,
        override_until: override_until(wire, now)?,
        throttle: throttle(wire)?,
        mix: from_mix("decision.mix", wire.mix.as_ref())?,
    })
}

fn throttle(wire: &v1::Decision) -> Result<Option<f64>, WireError> {
    match wire.throttle {
        Some(share) if !(0.0..=1.0).contains(&share) => {
            Err(WireError::range("decision.throttle", share, "0 to 1"))
        }
        share => Ok(share),
    }
}

fn override_until(wire: &v1::Decision, now: Timestamp) -> Result<Option<Timestamp>, WireError> {
    let Some(left) = wire.override_expires_in.as_ref() else {
        return Ok(None);
    };
    let left = duration_up_to("decision.override_expires_in", Some(left), MAX_AHEAD)?;
    Ok(Some(now + left))
}

/// One circuit from the wire; what the wire does not carry starts at `now`.
pub fn from_circuit(wire: &v1::Circuit, now: Timestamp) -> Result<Circuit, WireError> {
    let trips = wire.trips;
    Ok(match words::state("circuit.state", wire.state)? {
        StateName::Closed => Circuit::Closed {
            since: now,
            ramp: wire.ramp.as_ref().map(|r| from_ramp(r, now)).transpose()?,
            trips,
            last_open: Duration::ZERO,
            served: Duration::ZERO,
            served_at: now,
        },
        StateName::Open => Circuit::Open {
            since: now,
            until: now + duration_up_to("circuit.retry_in", wire.retry_in.as_ref(), MAX_AHEAD)?,
            trips,
        },
        StateName::HalfOpen => Circuit::HalfOpen {
            since: now,
            trips,
            last_open: Duration::ZERO,
            successes: 0,
            leases: Vec::new(),
            tried: Vec::new(),
        },
    })
}

fn from_ramp(wire: &v1::Ramp, now: Timestamp) -> Result<Ramp, WireError> {
    if !(0.0..=1.0).contains(&wire.admission) {
        return Err(WireError::range("ramp.admission", wire.admission, "0 to 1"));
    }
    let hold = duration_up_to("ramp.hold", wire.hold.as_ref(), MAX_AHEAD)?;
    let length = duration_up_to("ramp.duration", wire.duration.as_ref(), MAX_AHEAD)?;
    if length.is_zero() {
        return Err(WireError::range("ramp.duration", "0 s", "more than 0 s"));
    }
    Ok(Ramp {
        from: wire.admission,
        from_at: now + hold,
        duration: length,
    })
}
