//! What happened in a step, as events with a sentence for people.

pub mod steering;

use breaker_core::{
    BackendName, PopId, Timestamp, TripReason, Version,
    breaker::{Happening, Override, StateName, TrialOutcome},
    evidence::Suspect,
    explain,
};

use super::timestamp;
use crate::v1;

/// What all events of one step share.
#[derive(Debug, Clone)]
pub struct Stamp<'a> {
    /// Sortable by time, unique in the fleet.
    pub id: String,
    /// By the store's clock.
    pub at: Timestamp,
    /// About which backend; `None` for the fleet itself.
    pub backend: Option<&'a BackendName>,
    /// The version that the step leads to.
    pub version: Option<Version>,
    /// The replica that decided.
    pub actor: &'a str,
}

impl Stamp<'_> {
    /// An event of this kind.
    pub fn event(self, kind: v1::EventKind, summary: String) -> v1::Event {
        v1::Event {
            id: self.id,
            event_time: Some(timestamp(self.at)),
            backend: self
                .backend
                .map(BackendName::as_str)
                .unwrap_or_default()
                .to_owned(),
            kind: kind.into(),
            scope: v1::Scope::Fleet.into(),
            summary,
            version: self.version.map(v1::Version::from),
            actor: self.actor.to_owned(),
            ..v1::Event::default()
        }
    }

    fn name(&self) -> &str {
        self.backend.map_or("the fleet", BackendName::as_str)
    }
}

/// To the wire.
pub fn event(happening: &Happening, stamp: Stamp<'_>) -> v1::Event {
    let name = stamp.name().to_owned();
    let at = stamp.at;
    match happening {
        Happening::Transition {
            pop,
            from,
            to,
            reason,
            evidence,
            next,
        } => {
            // A closed one changes by itself at the end of its ramp only.
            let ramps = next.is_some() && *reason != Some(TripReason::Override);
            let mut text = format!("{name} {} {}", verb(*from, *to, ramps), whose(pop.as_ref()));
            if let Some(reason) = reason {
                text.push_str(&because(*reason));
            }
            if let Some(evidence) = evidence {
                text = format!("{text}: {}", explain::scope(evidence, pop.as_ref()));
            }
            v1::Event {
                from_state: v1::BreakerState::from(*from).into(),
                to_state: v1::BreakerState::from(*to).into(),
                reason: reason.map_or(0, |r| v1::TripReason::from(r).into()),
                evidence: evidence.as_ref().map(v1::Evidence::from),
                next_time: next.map(timestamp),
                ..scoped(stamp.event(v1::EventKind::Transition, text), pop.as_ref())
            }
        }
        Happening::TrialGranted(lease) => {
            let left = at.until(lease.expires).as_secs_f64();
            let text = format!(
                "{} in {} may send one trial request to {name} within {left:.1} s",
                lease.agent, lease.pop
            );
            about(
                stamp.event(v1::EventKind::TrialGranted, text),
                lease.agent.as_str(),
            )
        }
        Happening::TrialEnded(lease, outcome) => {
            let (kind, what) = trial_words(*outcome);
            let text = format!("the trial request of {} to {name} {what}", lease.agent);
            about(stamp.event(kind, text), lease.agent.as_str())
        }
        Happening::TrialLost(lease) => {
            let text = format!(
                "the trial lease of {} for {name} ran out without an answer; it is granted elsewhere",
                lease.agent
            );
            about(
                stamp.event(v1::EventKind::TrialLost, text),
                lease.agent.as_str(),
            )
        }
        Happening::ProbeSucceeded { pop } => {
            let at = at_pop(pop.as_ref());
            let text = format!(
                "nobody sends requests to {name}{at}: a health check that succeeded stands in for a trial"
            );
            scoped(
                stamp.event(v1::EventKind::TrialSucceeded, text),
                pop.as_ref(),
            )
        }
        Happening::RampCut { pop, admission } => {
            let (at, share) = (at_pop(pop.as_ref()), admission * 100.0);
            let text = format!("new failures of {name} cut its admission{at} to {share:.0} %");
            scoped(stamp.event(v1::EventKind::RampCut, text), pop.as_ref())
        }
        Happening::RampFinished { pop } => {
            let text = format!("{name} is fully admitted again{}", at_pop(pop.as_ref()));
            scoped(stamp.event(v1::EventKind::RampFinished, text), pop.as_ref())
        }
        Happening::ShadowTrip {
            pop,
            reason,
            evidence,
            limited,
        } => {
            let why = match limited {
                true => "too many backends opened within a minute, so our own view is suspect",
                false => "its mode is SHADOW",
            };
            let text = format!(
                "{name} would have opened {}{}, but {why}: {}",
                whose(pop.as_ref()),
                because(*reason),
                explain::scope(evidence, pop.as_ref())
            );
            v1::Event {
                reason: v1::TripReason::from(*reason).into(),
                evidence: Some(evidence.into()),
                ..scoped(stamp.event(v1::EventKind::ShadowTrip, text), pop.as_ref())
            }
        }
        Happening::ThrottleSet {
            admission,
            accepted,
            wanted,
        } => {
            let text = format!(
                "overload: {}",
                explain::throttle(&name, *admission, *accepted, *wanted)
            );
            stamp.event(v1::EventKind::ThrottleSet, text)
        }
        Happening::ThrottleEnded(lasted) => {
            let text = format!(
                "{name} takes everything again; it was throttled for {:.0} s",
                lasted.as_secs_f64()
            );
            stamp.event(v1::EventKind::ThrottleEnded, text)
        }
        Happening::OverrideSet(over) => {
            let text = override_words(&name, over, at);
            by(stamp.event(v1::EventKind::OverrideSet, text), &over.actor)
        }
        Happening::OverrideEnded(over, expired) => {
            let how = if *expired { "ran out" } else { "was cleared" };
            let text = format!(
                "the override of {name} to {} by {} {how}",
                mode_name(over),
                over.actor
            );
            stamp.event(v1::EventKind::OverrideCleared, text)
        }
    }
}

/// A lone failing agent.
pub fn suspect(suspect: &Suspect, stamp: Stamp<'_>) -> v1::Event {
    let name = stamp.name();
    let text = format!(
        "{} in {} sees {} of {} requests to {name} go wrong and nobody else confirms it: \
         its own path is suspect, its local breaker acts for it alone",
        suspect.agent, suspect.pop, suspect.score.bad, suspect.score.requests
    );
    about(
        stamp.event(v1::EventKind::SuspectVantage, text),
        suspect.agent.as_str(),
    )
}

fn scoped(event: v1::Event, pop: Option<&PopId>) -> v1::Event {
    match pop {
        None => event,
        Some(pop) => v1::Event {
            scope: v1::Scope::Pop.into(),
            subject: pop.as_str().to_owned(),
            ..event
        },
    }
}

fn about(event: v1::Event, agent: &str) -> v1::Event {
    v1::Event {
        scope: v1::Scope::Agent.into(),
        subject: agent.to_owned(),
        ..event
    }
}

fn by(event: v1::Event, actor: &str) -> v1::Event {
    v1::Event {
        actor: actor.to_owned(),
        ..event
    }
}

fn verb(from: StateName, to: StateName, ramps: bool) -> &'static str {
    match (from, to) {
        (StateName::HalfOpen, StateName::Open) => "opened again",
        (_, StateName::Open) => "opened",
        (_, StateName::HalfOpen) => "is HALF_OPEN and waits for trial requests",
        (_, StateName::Closed) if ramps => "closed and ramps up",
        (_, StateName::Closed) => "closed",
    }
}

fn whose(pop: Option<&PopId>) -> String {
    match pop {
        None => "for the fleet".to_owned(),
        Some(pop) => format!("for {pop} only"),
    }
}

fn at_pop(pop: Option<&PopId>) -> String {
    pop.map_or_else(String::new, |pop| format!(" at {pop}"))
}

fn because(reason: TripReason) -> String {
    let why = match reason {
        TripReason::FailureRate => "on its failure rate",
        TripReason::OverloadRate => "on its failures and overloads",
        TripReason::SlowCallRate => "on slow calls",
        TripReason::TrialFailed => "because a trial request failed",
        TripReason::Override => "by an operator",
    };
    format!(" {why}")
}

fn trial_words(outcome: TrialOutcome) -> (v1::EventKind, &'static str) {
    match outcome {
        TrialOutcome::Succeeded => (v1::EventKind::TrialSucceeded, "succeeded"),
        TrialOutcome::Failed => (v1::EventKind::TrialFailed, "failed"),
        TrialOutcome::Returned => (
            v1::EventKind::TrialLost,
            "was returned without an outcome; it is granted elsewhere",
        ),
    }
}

fn mode_name(over: &Override) -> &'static str {
    v1::Mode::from(over.mode)
        .as_str_name()
        .trim_start_matches("MODE_")
}

fn override_words(name: &str, over: &Override, now: Timestamp) -> String {
    format!(
        "{} set {name} to {} for {:.0} s: {}",
        over.actor,
        mode_name(over),
        now.until(over.expires).as_secs_f64(),
        over.reason
    )
}
