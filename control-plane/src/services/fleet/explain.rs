//! "Why is it in the state it is in?", in one answer.

use breaker_core::{BackendName, Breaker, BreakerPolicy, Circuit, Mode, Timestamp, explain};
use prost::Message;
use rampmeter_api::{
    convert::{self, timestamp},
    v1,
};
use tonic::Status;

use super::{decode, render, services, state_word};
use crate::{
    board::{self, Seen},
    config::Fleet,
    plane::Plane,
    probes,
    services::status,
    store::{EventQuery, ReplicaView},
};

/// Events in the history.
const HISTORY: usize = 20;

pub(super) async fn explain(
    plane: &Plane,
    fleet: &Fleet,
    name: &BackendName,
) -> Result<v1::ExplainBackendResponse, Status> {
    let policy = fleet.config.policy(name).ok_or_else(status::no_config)?;
    let now = plane.clock.now();
    let seen = plane.board.get(name);
    let fresh = Breaker::new(0, fleet.applied);
    let breaker = seen.as_ref().map_or(&fresh, |s| &s.breaker);
    let evidence = seen
        .as_ref()
        .and_then(|s| s.evidence.as_ref())
        .map(v1::Evidence::from);
    let last = seen
        .as_ref()
        .map(|s| s.last_transition.clone())
        .unwrap_or_default();
    let last_transition = (!last.is_empty())
        .then(|| v1::Event::decode(last).ok())
        .flatten();
    let query = EventQuery {
        backend: Some(name.clone()),
        limit: HISTORY,
        ..EventQuery::default()
    };
    // Without the store the answer has no history, but is an answer.
    let history = plane.events(query).await.unwrap_or_default();
    let health = health(fleet, name, seen.as_ref().map(|s| &s.figures));
    let (next, next_time) = next(breaker, policy, health.hopeless, now);
    let mut summary = summary(
        name,
        breaker,
        policy,
        last_transition.as_ref(),
        evidence.as_ref(),
        now,
    );
    if let Some(seen) = &seen {
        summary.push_str(&throttle(name, seen, now));
    }
    let figures = seen.as_ref().map(|s| &s.figures);
    let wanted = figures.map_or(0.0, |f| f.demand_milli as f64 / 1000.0);
    summary.push_str(&would_have_refused(breaker, policy, wanted, now));
    summary.push_str(&services::about_backend(plane, name, now));
    summary.push_str(&health.text);
    Ok(v1::ExplainBackendResponse {
        summary,
        backend: render::backend(plane, fleet, name),
        last_transition,
        evidence,
        next,
        next_time: next_time.map(timestamp),
        policy: Some(policy.into()),
        config_revision: fleet.revision,
        history: decode(&history.events),
    })
}

fn summary(
    name: &BackendName,
    breaker: &Breaker,
    policy: &BreakerPolicy,
    last: Option<&v1::Event>,
    evidence: Option<&v1::Evidence>,
    now: Timestamp,
) -> String {
    let circuit = &breaker.fleet;
    let mut text = format!("{name} is {}", state_word(circuit.state()));
    if matches!(circuit, Circuit::Closed { .. }) {
        let throttle = breaker.throttle.map_or(1.0, |t| t.admission);
        let share = circuit.admission(now).min(throttle) * 100.0;
        text.push_str(&format!(", admits {share:.0} % of requests"));
    }
    let since = now.since(convert::backend::since(circuit)).as_secs_f64();
    match last {
        Some(last) => text.push_str(&format!(", for {since:.1} s: {}.", last.summary)),
        None => text.push_str(" and never left that state."),
    }
    for (pop, circuit) in &breaker.pops {
        text.push_str(&format!(
            " For {pop} alone it is {}.",
            state_word(circuit.state())
        ));
    }
    if let Some(over) = &breaker.over {
        let left = now.until(over.expires).as_secs_f64();
        let mode = v1::Mode::from(over.mode)
            .as_str_name()
            .trim_start_matches("MODE_");
        text.push_str(&format!(
            " {} holds it {mode} for another {left:.0} s: {}.",
            over.actor, over.reason
        ));
    } else if policy.mode != Mode::Enforce {
        let mode = v1::Mode::from(policy.mode)
            .as_str_name()
            .trim_start_matches("MODE_");
        text.push_str(&format!(" Its mode is {mode}: decisions are not acted on."));
    }
    // While nothing passes the figures are leftovers of what was just told.
    let live = breaker.admission(policy, None, now) > 0.0;
    if let (true, Some(evidence)) = (live, evidence) {
        text.push_str(&format!(" Now: {}.", evidence.summary));
    }
    text
}

/// What SHADOW holds back, of `wanted` requests a second: a sentence with a space
/// in front, or nothing.
fn would_have_refused(
    breaker: &Breaker,
    policy: &BreakerPolicy,
    wanted: f64,
    now: Timestamp,
) -> String {
    let throttle = breaker.throttle.map_or(1.0, |throttle| throttle.admission);
    let refused = wanted * (1.0 - breaker.fleet.admission(now).min(throttle));
    match breaker.mode(policy) {
        Mode::Shadow if refused > 0.0 => {
            format!(" But for SHADOW it would refuse {refused:.1} of {wanted:.1} requests/s.")
        }
        _ => String::new(),
    }
}

/// What the throttle does, in the figures it is decided by.
fn throttle(name: &BackendName, seen: &Seen, now: Timestamp) -> String {
    let Some(throttle) = &seen.breaker.throttle else {
        return String::new();
    };
    let suspects = seen.evidence.as_ref().map_or(&[][..], |e| &e.suspects);
    let load = board::load(&seen.figures, suspects, seen.breaker.evidence_since(), now);
    let (took, wanted) = (load.per_second(load.accepted), load.per_second(load.wanted));
    let what = explain::throttle(name.as_str(), throttle.admission, took, wanted);
    let shed = match explain::shedding(seen.breaker.mix, throttle.admission) {
        shed if shed.is_empty() => shed,
        shed => format!("; it sheds {shed}"),
    };
    format!(
        " For {:.0} s {what} over the last {:.0} s{shed}.",
        now.since(throttle.since).as_secs_f64(),
        load.span.as_secs_f64()
    )
}

/// What health checks say.
#[derive(Default)]
struct Health {
    /// Sentences, each with a space in front; empty without health checks.
    text: String,
    /// Every endpoint is unhealthy everywhere; `None` without health checks.
    hopeless: Option<bool>,
}

fn health(fleet: &Fleet, name: &BackendName, figures: Option<&ReplicaView>) -> Health {
    let empty = ReplicaView::default();
    let figures = figures.unwrap_or(&empty);
    let status = probes::status(&fleet.config, name, figures);
    if status.is_empty() {
        return Health::default();
    }
    let unhealthy = probes::unhealthy(&fleet.config, name, figures);
    let hopeless = probes::is_hopeless(&fleet.config, name, &unhealthy, None);
    let mut text = match (figures.endpoints.is_empty(), unhealthy.len()) {
        (true, _) => {
            " No health check was heard of lately, so every endpoint counts as healthy.".to_owned()
        }
        (false, 0) => format!(
            " Health checks find every endpoint healthy ({}).",
            status.len()
        ),
        (false, out) => {
            format!(
                " Health checks find {out} of {} endpoints unhealthy:",
                status.len()
            )
        }
    };
    for (endpoint, unhealthy) in &unhealthy {
        let place = probes::place(unhealthy);
        let of_endpoint = status.iter().find(|s| s.endpoint == *endpoint);
        let error = of_endpoint.map_or("", |s| s.error.as_str());
        text.push_str(&format!(" {endpoint} takes no requests {place} ({error})."));
    }
    if hopeless {
        text.push_str(
            " All of them being so, requests go to any, as far as the breaker lets them.",
        );
    }
    Health {
        text,
        hopeless: Some(hopeless),
    }
}

fn next(
    breaker: &Breaker,
    policy: &BreakerPolicy,
    hopeless: Option<bool>,
    now: Timestamp,
) -> (String, Option<Timestamp>) {
    match &breaker.fleet {
        Circuit::Open { until, .. } => {
            let left = now.until(*until).as_secs_f64();
            let text = format!("HALF_OPEN in {left:.1} s, then one trial request at a time");
            (text, Some(*until))
        }
        Circuit::HalfOpen {
            since,
            successes,
            leases,
            ..
        } => {
            let missing = policy.half_open_successes.saturating_sub(*successes);
            let last_resort = *since + policy.max_open_duration;
            let text = match (leases.first(), hopeless) {
                (Some(lease), _) => format!(
                    "{} sends a trial request; {missing} more successes close it, one failure opens it again",
                    lease.agent
                ),
                (None, Some(true)) if now < last_resort => format!(
                    "waits for a health check to succeed, since every endpoint fails them; in {:.0} s a request is tried anyway",
                    now.until(last_resort).as_secs_f64()
                ),
                (None, Some(_)) => format!(
                    "waits for an agent that wants to send a request, or without any for health checks to stand in; {missing} more successes close it"
                ),
                (None, None) => format!(
                    "waits for an agent that wants to send a request; {missing} more successes close it"
                ),
            };
            (text, leases.iter().map(|l| l.expires).min())
        }
        Circuit::Closed {
            ramp: Some(ramp), ..
        } => (
            "full admission at the end of the ramp".to_owned(),
            Some(ramp.ends()),
        ),
        Circuit::Closed { ramp: None, .. } => match (&breaker.over, &breaker.throttle) {
            (Some(over), _) => ("the override ends".to_owned(), Some(over.expires)),
            (None, Some(_)) => (
                "the throttle lets a tenth more through than is taken, until everything is"
                    .to_owned(),
                None,
            ),
            (None, None) => (
                "nothing, as long as the evidence stays as it is".to_owned(),
                None,
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn figures_are_told_while_requests_pass_and_not_as_leftovers() {
        let now = Timestamp::from_millis(9_000);
        let name = BackendName::parse("pay/us-east").expect("a valid name");
        let told = |fleet: &Circuit, mode: Mode| {
            let breaker = Breaker {
                fleet: fleet.clone(),
                ..Breaker::new(1, now)
            };
            let policy = BreakerPolicy {
                mode,
                ..BreakerPolicy::default()
            };
            let evidence = v1::Evidence {
                summary: "6 of 6 requests failed".into(),
                ..v1::Evidence::default()
            };
            let text = summary(&name, &breaker, &policy, None, Some(&evidence), now);
            text.contains("Now: 6 of 6 requests failed.")
        };
        let closed = Breaker::new(1, now).fleet;
        let open = Circuit::Open {
            since: now,
            until: now + Duration::from_secs(30),
            trips: 1,
        };
        assert!(told(&closed, Mode::Enforce));
        assert!(!told(&open, Mode::Enforce));
        assert!(told(&open, Mode::Shadow), "its traffic flows");
    }

    #[test]
    fn in_shadow_it_says_what_it_would_refuse() {
        let now = Timestamp::from_millis(9_000);
        let told = |fleet: Circuit, mode: Mode| {
            let breaker = Breaker {
                fleet,
                ..Breaker::new(1, now)
            };
            let policy = BreakerPolicy {
                mode,
                ..BreakerPolicy::default()
            };
            would_have_refused(&breaker, &policy, 200.0, now)
        };
        let closed = Breaker::new(1, now).fleet;
        let open = Circuit::Open {
            since: now,
            until: now + Duration::from_secs(30),
            trips: 1,
        };
        assert_eq!(told(closed, Mode::Shadow), "");
        assert_eq!(told(open.clone(), Mode::Enforce), "", "it does refuse them");
        assert_eq!(
            told(open, Mode::Shadow),
            " But for SHADOW it would refuse 200.0 of 200.0 requests/s."
        );
    }
}
