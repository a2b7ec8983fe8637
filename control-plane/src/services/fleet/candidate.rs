//! What the candidate configuration would have done, in words and figures.

use breaker_core::{BackendName, Mode, Timestamp, breaker::StateName};
use rampmeter_api::{convert::timestamp, v1};

use crate::{
    candidate::{Beside, Episode, policies},
    config::{Candidate, Fleet},
    plane::Plane,
};

pub(super) fn render(plane: &Plane, fleet: &Fleet, service: &str) -> v1::GetCandidateResponse {
    let Some(candidate) = &fleet.candidate else {
        return v1::GetCandidateResponse {
            summary: "there is no candidate: ApplyConfig with candidate sets one".to_owned(),
            ..v1::GetCandidateResponse::default()
        };
    };
    let now = plane.clock.now();
    let wanted = |name: &&BackendName| service.is_empty() || name.service() == service;
    let names = fleet.config.backends().map(|(name, ..)| name);
    let differing: Vec<_> = names
        .filter(wanted)
        .filter(|name| differs(fleet, candidate, name))
        .collect();
    let backends: Vec<_> = differing
        .into_iter()
        .map(|name| backend(plane, fleet, candidate, name, now))
        .collect();
    v1::GetCandidateResponse {
        source: candidate.source.clone(),
        apply_time: Some(timestamp(candidate.applied)),
        changes: fleet_config::diff(&fleet.config, &candidate.config),
        summary: summary(fleet, &backends, candidate, now),
        backends,
    }
}

fn differs(fleet: &Fleet, candidate: &Candidate, name: &BackendName) -> bool {
    let policy = candidate.config.policy(name);
    policy.is_some() && policy != fleet.config.policy(name)
}

fn backend(
    plane: &Plane,
    fleet: &Fleet,
    candidate: &Candidate,
    name: &BackendName,
    now: Timestamp,
) -> v1::CandidateBackend {
    let live = plane.board.get(name);
    let live = live.map_or(StateName::Closed, |seen| seen.breaker.fleet.state());
    let beside = match policies(fleet, name) {
        Some((set, _)) => plane.candidates.get(set, name),
        None => None,
    };
    let state = beside.as_ref().map(|beside| beside.state().into());
    let state = state.unwrap_or(v1::BreakerState::Unspecified);
    let episodes = beside.iter().flat_map(Beside::episodes).map(episode);
    let rejected = beside.as_ref().map_or(0.0, |beside| beside.total().1);
    v1::CandidateBackend {
        name: name.as_str().to_owned(),
        live_state: v1::BreakerState::from(live).into(),
        candidate_state: state.into(),
        episodes: episodes.collect(),
        would_have_rejected: rejected.round() as u64,
        summary: in_words(fleet, candidate, name, beside.as_ref(), now),
    }
}

fn episode(episode: &Episode) -> v1::CandidateEpisode {
    v1::CandidateEpisode {
        open_time: Some(timestamp(episode.opened)),
        close_time: episode.closed.map(timestamp),
        reason: v1::TripReason::from(episode.reason).into(),
        would_have_rejected: episode.rejected.round() as u64,
        would_have_moved_per_second: episode.moved,
    }
}

fn in_words(
    fleet: &Fleet,
    candidate: &Candidate,
    name: &BackendName,
    beside: Option<&Beside>,
    now: Timestamp,
) -> String {
    let policy = candidate.config.policy(name);
    if policy.is_some_and(|policy| policy.mode == Mode::Disabled) {
        return "would neither decide nor act: its mode is DISABLED".to_owned();
    }
    let mut text = match beside {
        None => "not looked at yet".to_owned(),
        Some(beside) => told(beside, now),
    };
    let alone: Vec<_> = beside.iter().flat_map(|b| b.pops()).collect();
    if !alone.is_empty() {
        let pops: Vec<_> = alone.iter().map(|pop| pop.as_str()).collect();
        text += &format!("; would be open for {} alone", pops.join(", "));
    }
    let live = fleet.config.policy(name);
    let slow = policy.and_then(|policy| policy.slow_call_duration);
    match live.and_then(|live| live.slow_call_duration) {
        _ if slow.is_none() => {}
        None => text += "; slow calls are not judged: the live configuration does not count them",
        counted if counted != slow => {
            text += "; slow calls are those that are slow by the live configuration";
        }
        _ => {}
    }
    text
}

/// "would have opened 14:02–14:06, rejected 31,000, moved 8,000 requests/s".
fn told(beside: &Beside, now: Timestamp) -> String {
    let (count, rejected) = beside.total();
    let Some(last) = beside.episodes().last() else {
        return "would not have opened".to_owned();
    };
    let moved = beside.episodes().map(|e| e.moved).fold(0.0, f64::max);
    let figures = format!(
        "rejected {}, moved {} requests/s",
        thousands(rejected),
        thousands(moved)
    );
    match (count, last.closed) {
        (1, None) => format!("would be open since {}, {figures}", clock(last.opened, now)),
        (1, Some(_)) => format!("would have opened {}, {figures}", times(last, now)),
        (_, None) => format!(
            "would have opened {count} times and be open since {}, {figures}",
            clock(last.opened, now)
        ),
        (_, Some(_)) => format!(
            "would have opened {count} times, last {}, {figures}",
            times(last, now)
        ),
    }
}

fn times(episode: &Episode, now: Timestamp) -> String {
    let from = clock(episode.opened, now);
    match episode.closed {
        None => format!("{from}–"),
        Some(closed) => format!("{from}–{}", clock(closed, now)),
    }
}

/// UTC, to the minute; to the second while that is what matters, and with its day
/// once that is another.
fn clock(at: Timestamp, now: Timestamp) -> String {
    const HOUR_MS: u64 = 3_600_000;
    let text = timestamp(at).to_string();
    let age = at.until(now).as_millis() as u64;
    let (day, rest) = text.split_once('T').unwrap_or(("", &text));
    match age {
        0..HOUR_MS => rest.get(..8).unwrap_or(rest).to_owned(),
        _ if timestamp(now).to_string().starts_with(day) => {
            rest.get(..5).unwrap_or(rest).to_owned()
        }
        _ => format!("{day} {}", rest.get(..5).unwrap_or(rest)),
    }
}

/// `31,000`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn summary(
    fleet: &Fleet,
    backends: &[v1::CandidateBackend],
    candidate: &Candidate,
    now: Timestamp,
) -> String {
    let since = format!(
        "beside revision {} since {}",
        fleet.revision,
        clock(candidate.applied, now)
    );
    if backends.is_empty() {
        return format!("{since}: no breaker's settings differ, so it would have decided the same");
    }
    let opened = backends.iter().filter(|b| !b.episodes.is_empty()).count();
    let rejected: u64 = backends.iter().map(|b| b.would_have_rejected).sum();
    let of = match backends.len() {
        1 => "the one backend that it judges differently".to_owned(),
        all => format!("the {all} backends that it judges differently"),
    };
    match opened {
        0 => format!("{since}: would have opened none of {of}"),
        some => format!(
            "{since}: would have opened {some} of {of}, and rejected {}",
            thousands(rejected as f64)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (value, expected) in [
            (0.0, "0"),
            (999.4, "999"),
            (31_000.0, "31,000"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(thousands(value), expected);
        }
    }

    #[test]
    fn a_time_is_as_exact_as_it_matters() {
        let now = Timestamp::from_millis(1_795_442_531_500);
        let ago = |ms: u64| Timestamp::from_millis(now.as_millis() - ms);
        assert_eq!(clock(ago(4_000), now), "14:02:07");
        assert_eq!(clock(ago(2 * 3_600_000), now), "12:02");
        assert_eq!(clock(ago(20 * 3_600_000), now), "2026-11-22 18:02");
    }
}
