//! Evidence in sentences, for the person who was paged. Lower-case fragments
//! without a full stop, so that they fit behind a colon.

pub mod steering;

use std::fmt::Write as _;

use crate::{
    evidence::{CONVICT_SCORE, Evidence, PopEvidence, Score, TripReason},
    ids::PopId,
    shed::{Mix, Priority},
};

/// What the figures say of the fleet, convicted or not.
pub fn evidence(evidence: &Evidence) -> String {
    let quiet = evidence.pops.iter().all(|pop| !pop.failing) && evidence.suspects.is_empty();
    let mut text = match evidence.overall.bad {
        0 if quiet => return "no sign of trouble in the window".to_owned(),
        0 => "nothing stands out fleet-wide".to_owned(),
        _ => fleet(evidence),
    };
    if evidence.pops_failing < evidence.pops_needed {
        for pop in evidence.pops.iter().filter(|pop| pop.failing) {
            let _ = write!(text, "; POP {} fails by itself: ", pop.pop);
            text.push_str(&alone(evidence.rule, pop));
        }
    }
    for suspect in &evidence.suspects {
        let _ = write!(
            text,
            "; left out as a suspect, since nobody confirms it: agent {} in POP {} ({})",
            suspect.agent,
            suspect.pop,
            seen(evidence.rule, &suspect.score),
        );
    }
    text
}

/// What a throttle does, and why: requests a second that it took, and of how many.
pub fn throttle(name: &str, admission: f64, accepted: f64, wanted: f64) -> String {
    format!(
        "the throttle lets {:.0} % through: {name} took {} of {} requests/s",
        admission * 100.0,
        rate(accepted),
        rate(wanted),
    )
}

/// What is shed of a demand of this mix: "LOW wholly, NORMAL 40 %". Empty where
/// everything passes, or nothing.
pub fn shedding(mix: Mix, admission: f64) -> String {
    if admission <= 0.0 {
        return String::new();
    }
    let shed = |priority: Priority| {
        let share = (1.0 - mix.admitted(priority, admission)) * 100.0;
        let name = priority_name(priority);
        match share.round() {
            _ if mix.shares()[priority] <= 0.0 => None,
            0.0 => None,
            100.0 => Some(format!("{name} wholly")),
            share => Some(format!("{name} {share:.0} %")),
        }
    };
    let words: Vec<String> = Priority::ALL.into_iter().rev().filter_map(shed).collect();
    words.join(", ")
}

/// As in the API.
const fn priority_name(priority: Priority) -> &'static str {
    match priority {
        Priority::Critical => "CRITICAL",
        Priority::High => "HIGH",
        Priority::Normal => "NORMAL",
        Priority::Low => "LOW",
    }
}

/// Requests a second: whole ones, unless they are few.
fn rate(per_second: f64) -> String {
    match per_second {
        few if few < 9.95 => format!("{few:.1}"),
        many => format!("{many:.0}"),
    }
}

fn fleet(evidence: &Evidence) -> String {
    let Evidence { overall, score, .. } = evidence;
    let figures = format!(
        "{} since the onset, score {:.1} of {CONVICT_SCORE} needed with at least {:.0} % bad",
        seen(evidence.rule, overall),
        overall.nats,
        evidence.intolerable * 100.0,
    );
    if evidence.pops_active == 1 {
        return format!("{figures}; the only POP with traffic decides");
    }
    format!(
        "{figures}; {:.1} of {:.1} needed without the worst POP; {} of {} POPs see it, {} needed",
        score.nats,
        evidence.score_needed(),
        evidence.pops_failing,
        evidence.pops_active,
        evidence.pops_needed,
    )
}

/// What the figures say of a scope; `None` is the fleet.
pub fn scope(figures: &Evidence, pop: Option<&PopId>) -> String {
    let own = figures.pops.iter().find(|own| Some(&own.pop) == pop);
    own.map_or_else(|| evidence(figures), |own| alone(figures.rule, own))
}

fn alone(rule: TripReason, pop: &PopEvidence) -> String {
    let figures = seen(rule, &pop.score);
    match &pop.left_out {
        Some(agent) => format!("{figures} there, even without agent {agent}"),
        None => format!("{figures} there"),
    }
}

/// "23 of 24 requests failed".
fn seen(rule: TripReason, score: &Score) -> String {
    let how = match rule {
        TripReason::OverloadRate => "failed or were refused as overload",
        TripReason::SlowCallRate => "were slow",
        TripReason::FailureRate | TripReason::TrialFailed | TripReason::Override => "failed",
    };
    format!("{} of {} requests {how}", score.bad, score.requests)
}
