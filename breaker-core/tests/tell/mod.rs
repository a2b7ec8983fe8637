//! Steps and circuits in sentences, for the traces.

use std::{fmt::Write as _, time::Duration};

use breaker_core::{
    Breaker, BreakerPolicy, Circuit, Evidence, Mode, PopId, Timestamp, TripReason, Verdict,
    breaker::{Happening, StateName, TrialOutcome},
    explain,
};

/// Why `breaker` is as it is, and what comes next.
pub(crate) fn breaker(
    breaker: &Breaker,
    verdict: &Verdict,
    policy: &BreakerPolicy,
    now: Timestamp,
) -> String {
    let mut text = mode(breaker, policy, now);
    let held = match breaker.mode(policy) {
        Mode::Enforce | Mode::Shadow => "The fleet is",
        Mode::ForcedOpen | Mode::ForcedClosed | Mode::Disabled => "Otherwise the fleet would be",
    };
    let fleet = circuit(&breaker.fleet, policy, now);
    let _ = write!(text, "{held} {fleet}.");
    for (pop, own) in &breaker.pops {
        let _ = write!(text, " POP {pop} is {}.", circuit(own, policy, now));
    }
    let _ = write!(text, " {}.", capital(&explain::evidence(&verdict.evidence)));
    if verdict.thin {
        text.push_str(" Too few agents report to act on that for the fleet.");
    }
    text
}

fn mode(breaker: &Breaker, policy: &BreakerPolicy, now: Timestamp) -> String {
    let what = match breaker.mode(policy) {
        Mode::Enforce => return String::new(),
        Mode::Shadow => "Mode SHADOW: decisions are counted, not applied",
        Mode::ForcedOpen => "Mode FORCED_OPEN: every request is refused",
        Mode::ForcedClosed => "Mode FORCED_CLOSED: every request passes",
        Mode::Disabled => "Mode DISABLED: every request passes and nothing is decided",
    };
    match &breaker.over {
        None => format!("{what}, by configuration. "),
        Some(over) => format!(
            "{what}, set by {} {} ago ({}), for another {}. ",
            over.actor,
            span(now.since(over.created)),
            over.reason,
            span(now.until(over.expires)),
        ),
    }
}

/// One circuit: its state, for how long, and what comes next.
pub(crate) fn circuit(circuit: &Circuit, policy: &BreakerPolicy, now: Timestamp) -> String {
    match circuit {
        Circuit::Closed {
            ramp: None,
            trips: 0,
            ..
        } => "CLOSED, every request passes".to_owned(),
        Circuit::Closed {
            since,
            ramp,
            trips,
            last_open,
            served,
            ..
        } => {
            let mut text = format!("CLOSED for {}", span(now.since(*since)));
            if let Some(ramp) = ramp {
                let share = percent(ramp.admission(now));
                let left = span(now.until(ramp.ends()));
                let _ = write!(
                    text,
                    ", lets {share} of requests through, all of them in {left}"
                );
            }
            if *trips > 0 {
                let left = span(last_open.saturating_sub(*served));
                let _ = write!(
                    text,
                    ", forgets {} after {left} more of good traffic",
                    times(*trips, "trip")
                );
            }
            text
        }
        Circuit::Open {
            since,
            until,
            trips,
        } => format!(
            "OPEN for {} after {} in a row, the first trial may run in {}",
            span(now.since(*since)),
            times(*trips, "trip"),
            span(now.until(*until)),
        ),
        Circuit::HalfOpen {
            since,
            successes,
            leases,
            ..
        } => {
            let trials = match &leases[..] {
                [] => "waits for an agent with a request to try".to_owned(),
                [one] => format!(
                    "agent {} holds the trial for another {}",
                    one.agent,
                    span(now.until(one.expires))
                ),
                more => format!("{} trials are out", more.len()),
            };
            format!(
                "HALF_OPEN for {}, {successes} of {} trials succeeded, {trials}",
                span(now.since(*since)),
                policy.half_open_successes,
            )
        }
    }
}

/// One event. `now` is when it happened.
pub(crate) fn happening(happening: &Happening, now: Timestamp) -> String {
    match happening {
        Happening::Transition {
            pop,
            from,
            to,
            reason,
            evidence,
            next,
        } => {
            let mut text = format!(
                "{} went from {} to {}",
                scope(pop.as_ref()),
                name(*from),
                name(*to)
            );
            if let Some(why) = cause(pop.as_ref(), *reason, evidence.as_ref()) {
                let _ = write!(text, ": {why}");
            }
            if let Some(next) = next {
                let what = what_next(*to, *reason);
                let _ = write!(text, "; {what} in {}", span(now.until(*next)));
            }
            text
        }
        Happening::TrialGranted(lease) => format!(
            "agent {} in POP {} may send one trial within {}",
            lease.agent,
            lease.pop,
            span(now.until(lease.expires)),
        ),
        Happening::TrialEnded(lease, outcome) => {
            let how = match outcome {
                TrialOutcome::Succeeded => "succeeded",
                TrialOutcome::Failed => "failed",
                TrialOutcome::Returned => "was given back unused",
            };
            format!(
                "the trial of agent {} in POP {} {how}",
                lease.agent, lease.pop
            )
        }
        Happening::ProbeSucceeded { pop } => format!(
            "{}: a health check stands in for a trial",
            scope(pop.as_ref())
        ),
        Happening::TrialLost(lease) => format!(
            "the trial of agent {} in POP {} ran out without a result",
            lease.agent, lease.pop
        ),
        Happening::RampCut { pop, admission } => format!(
            "failures during the ramp: admission {}cut to {}",
            at(pop.as_ref()),
            percent(*admission)
        ),
        Happening::RampFinished { pop } => {
            format!("every request {}passes again", at(pop.as_ref()))
        }
        Happening::ShadowTrip {
            pop,
            evidence: figures,
            limited,
            ..
        } => {
            let why = if *limited {
                "too many backends opened within a minute, our own telemetry is the likelier suspect"
            } else {
                "mode SHADOW"
            };
            format!(
                "{} would have opened, but for {why}: {}",
                scope(pop.as_ref()),
                explain::evidence(figures)
            )
        }
        Happening::ThrottleSet {
            admission,
            accepted,
            wanted,
        } => explain::throttle("it", *admission, *accepted, *wanted),
        Happening::ThrottleEnded(lasted) => {
            format!("the throttle ended after {}", span(*lasted))
        }
        Happening::OverrideSet(over) => format!(
            "{} set {} for {}: {}",
            over.actor,
            mode_name(over.mode),
            span(now.until(over.expires)),
            over.reason
        ),
        Happening::OverrideEnded(over, ran_out) => {
            let how = if *ran_out { "ran out" } else { "was cleared" };
            format!(
                "the override {} set by {} {how}",
                mode_name(over.mode),
                over.actor
            )
        }
    }
}

fn cause(
    pop: Option<&PopId>,
    reason: Option<TripReason>,
    figures: Option<&Evidence>,
) -> Option<String> {
    match reason? {
        TripReason::TrialFailed => Some("a trial failed".to_owned()),
        TripReason::Override => Some("an operator's override".to_owned()),
        TripReason::FailureRate | TripReason::OverloadRate | TripReason::SlowCallRate => {
            figures.map(|figures| explain::scope(figures, pop))
        }
    }
}

const fn what_next(state: StateName, reason: Option<TripReason>) -> &'static str {
    match (state, reason) {
        (_, Some(TripReason::Override)) => "the override ends",
        (StateName::Closed, _) => "full admission",
        (StateName::Open, _) => "the first trial",
        (StateName::HalfOpen, _) => "the next look",
    }
}

fn scope(pop: Option<&PopId>) -> String {
    pop.map_or_else(|| "the fleet".to_owned(), |pop| format!("POP {pop}"))
}

/// As in the API.
fn at(pop: Option<&PopId>) -> String {
    pop.map_or_else(String::new, |pop| format!("at {pop} "))
}

const fn name(state: StateName) -> &'static str {
    match state {
        StateName::Closed => "CLOSED",
        StateName::Open => "OPEN",
        StateName::HalfOpen => "HALF_OPEN",
    }
}

/// As in the API.
const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "ENFORCE",
        Mode::Shadow => "SHADOW",
        Mode::ForcedOpen => "FORCED_OPEN",
        Mode::ForcedClosed => "FORCED_CLOSED",
        Mode::Disabled => "DISABLED",
    }
}

/// "340 ms", "1.2 s", "12 s", "5 min 3 s".
fn span(span: Duration) -> String {
    let ms = span.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000..60_000 => format!("{} s", ms / 1_000),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn times(n: u32, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}
