//! Evidence and policies, for people.

use breaker_core::{
    BreakerPolicy, Evidence,
    breaker::Override,
    evidence::{PopEvidence, Suspect},
    explain,
};

use super::{duration, timestamp};
use crate::v1;

impl From<&Evidence> for v1::Evidence {
    fn from(e: &Evidence) -> Self {
        let pops = e.pops.iter().map(v1::PopEvidence::from);
        let suspects = e.suspects.iter().map(v1::Suspect::from);
        Self {
            rule: v1::TripReason::from(e.rule).into(),
            summary: explain::evidence(e),
            score: round(e.score.nats),
            score_threshold: round(e.score_needed()),
            tolerated_rate: e.tolerated,
            intolerable_rate: e.intolerable,
            onset_time: (e.overall.nats > 0.0).then(|| timestamp(e.overall.onset)),
            requests: e.overall.requests,
            bad: e.overall.bad,
            pops_active: e.pops_active,
            pops_failing: e.pops_failing,
            pops_needed: e.pops_needed,
            pops: pops.collect(),
            suspects: suspects.collect(),
            coverage: round(e.coverage),
        }
    }
}

impl From<&PopEvidence> for v1::PopEvidence {
    fn from(p: &PopEvidence) -> Self {
        let left_out = p.left_out.as_ref().map(|agent| agent.as_str().to_owned());
        Self {
            pop: p.pop.as_str().to_owned(),
            score: round(p.score.nats),
            requests: p.score.requests,
            bad: p.score.bad,
            agents: p.agents,
            votes_failing: p.votes_failing,
            failing: p.failing,
            left_out_agent: left_out.unwrap_or_default(),
        }
    }
}

impl From<&Suspect> for v1::Suspect {
    fn from(s: &Suspect) -> Self {
        Self {
            agent: s.agent.as_str().to_owned(),
            pop: s.pop.as_str().to_owned(),
            score: round(s.score.nats),
            requests: s.score.requests,
            bad: s.score.bad,
        }
    }
}

impl From<&BreakerPolicy> for v1::Policy {
    fn from(p: &BreakerPolicy) -> Self {
        Self {
            mode: v1::Mode::from(p.mode).into(),
            failure_rate_threshold: p.failure_rate_threshold,
            overload_rate_threshold: p.overload_rate_threshold,
            slow_call_rate_threshold: p.slow_call_rate_threshold,
            slow_call_duration: p.slow_call_duration.map(duration),
            min_request_volume: p.min_request_volume,
            window: Some(duration(p.window)),
            open_duration: Some(duration(p.open_duration)),
            max_open_duration: Some(duration(p.max_open_duration)),
            half_open_max_trials: p.half_open_max_trials,
            half_open_successes: p.half_open_successes,
            ramp_duration: Some(duration(p.ramp_duration)),
            quorum: p.quorum,
        }
    }
}

impl From<&Override> for v1::Override {
    fn from(o: &Override) -> Self {
        Self {
            mode: v1::Mode::from(o.mode).into(),
            actor: o.actor.clone(),
            reason: o.reason.clone(),
            create_time: Some(timestamp(o.created)),
            expire_time: Some(timestamp(o.expires)),
        }
    }
}

/// Three decimals are plenty for people.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
