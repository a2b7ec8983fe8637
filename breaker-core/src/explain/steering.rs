//! Plans, drains and drills in sentences.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    ids::RegionName,
    plan::{Plan, RegionFigures},
    steering::{Drain, Drill, DrillState, Fault, Steered},
};

/// A share of a region's admission below which it is worth a word.
const FULL: f64 = 0.995;

/// What happened to a service.
pub fn steered(service: &str, happening: &Steered) -> String {
    match happening {
        Steered::PlanChanged { plan: new, .. } => plan(service, new),
        Steered::PlanProposed(new) => format!("waits for approval: {}", plan(service, new)),
        Steered::PlanApproved(new) => format!("approved: {}", plan(service, new)),
        Steered::ShedStarted { shed, demand } => format!(
            "{service} sheds {} of {} requests/s, lowest priority first: no region has room for them",
            whole(*shed),
            whole(*demand)
        ),
        Steered::ShedEnded => format!("{service} sheds nothing any more: everything fits"),
        Steered::DrainSet(region, drain) => format!(
            "{} drains {region} of {service} for {}: {}{}",
            by(&drain.actor),
            seconds(drain.expires.since(drain.created)),
            drain.reason,
            broken_glass(drain)
        ),
        Steered::DrainEnded(region, drain, expired) => {
            let how = if *expired { "ran out" } else { "was ended" };
            let actor = by(&drain.actor);
            format!("the drain of {region} of {service} by {actor} {how}")
        }
        Steered::DrillStarted(drill) => format!(
            "{} starts a drill: {} for {}: {}",
            by(&drill.actor),
            rehearsed(drill),
            seconds(drill.ends.since(drill.started)),
            drill.reason
        ),
        Steered::DrillEnded(drill) => drill.report.summary.clone(),
    }
}

/// Where a plan sends a service's traffic, and why: "payments: us-east admits
/// nothing; of the 4,000 requests/s for us-east 3,200 go to us-west, 800 are shed,
/// lowest priority first".
pub fn plan(service: &str, plan: &Plan) -> String {
    let mut parts: Vec<String> = plan
        .regions
        .iter()
        .filter_map(|(name, figures)| reduced(name, figures))
        .collect();
    let away = moves(plan);
    match away.is_empty() {
        true => parts.push(format!(
            "all {} requests/s go to their first region",
            whole(plan.demand())
        )),
        false => parts.extend(away),
    }
    format!("{service}: {}", parts.join("; "))
}

fn reduced(name: &RegionName, figures: &RegionFigures) -> Option<String> {
    if figures.drained {
        return Some(format!("{name} is drained"));
    }
    match figures.admission {
        admission if admission <= 0.0 => Some(format!("{name} admits nothing")),
        admission if admission < FULL => Some(format!("{name} admits {:.0} %", admission * 100.0)),
        _ => None,
    }
}

/// What a plan of this revision does to one region, as far as it moves traffic:
/// "by plan r.12 us-east gets 0 % of its 4,000 requests/s, us-west takes 3,200/s,
/// 800/s shed".
pub fn region(plan: &Plan, revision: u64, region: &RegionName) -> Option<String> {
    let homes = homes(plan);
    let mut parts = Vec::new();
    if let Some(home) = homes.get(region).filter(|home| home.left() >= 0.5) {
        // Parts that add up to a hair more than the whole must not read "-0 %".
        let stays = (1.0 - home.left() / home.demand).max(0.0) * 100.0;
        let demand = whole(home.demand);
        parts.push(format!("gets {stays:.0} % of its {demand} requests/s"));
        let sent = home.to.iter().filter(|(_, rate)| **rate >= 0.5);
        parts.extend(sent.map(|(to, rate)| format!("{to} takes {}/s", whole(*rate))));
        if home.shed >= 0.5 {
            parts.push(format!("{}/s shed", whole(home.shed)));
        }
    }
    for (name, home) in &homes {
        let from = home.to.get(region).copied().unwrap_or_default();
        if from >= 0.5 {
            parts.push(format!("takes {}/s of {name}", whole(from)));
        }
    }
    let text = parts.join(", ");
    (!parts.is_empty()).then(|| format!("by plan r.{revision} {region} {text}"))
}

/// What becomes of each region's own traffic that does not stay there.
fn moves(plan: &Plan) -> Vec<String> {
    let sentence = |(name, home): (&RegionName, Home<'_>)| {
        let sent = home.to.into_iter().filter(|(_, rate)| *rate >= 0.5);
        let mut parts: Vec<String> = sent
            .map(|(to, rate)| format!("{} go to {to}", whole(rate)))
            .collect();
        if home.shed >= 0.5 {
            parts.push(format!(
                "{} are shed, lowest priority first",
                whole(home.shed)
            ));
        }
        let demand = whole(home.demand);
        let what = parts.join(", ");
        (!parts.is_empty()).then(|| format!("of the {demand} requests/s for {name} {what}"))
    };
    homes(plan).into_iter().filter_map(sentence).collect()
}

/// The traffic that has a region as its first one, in requests a second.
#[derive(Default)]
struct Home<'a> {
    demand: f64,
    shed: f64,
    to: BTreeMap<&'a RegionName, f64>,
}

impl Home<'_> {
    /// What does not stay.
    fn left(&self) -> f64 {
        self.shed + self.to.values().sum::<f64>()
    }
}

fn homes(plan: &Plan) -> BTreeMap<&RegionName, Home<'_>> {
    let mut homes: BTreeMap<&RegionName, Home<'_>> = BTreeMap::new();
    for (order, origin) in &plan.origins {
        let Some(first) = order.first() else { continue };
        let home = homes.entry(first).or_default();
        home.demand += origin.demand;
        home.shed += origin.demand * (1.0 - origin.shares.iter().sum::<f64>()).max(0.0);
        for (name, share) in order.iter().zip(&origin.shares).skip(1) {
            *home.to.entry(name).or_default() += origin.demand * share;
        }
    }
    homes
}

/// What a drill showed; `why` it ended as it did, or empty.
pub fn drill(drill: &Drill, why: &str) -> String {
    let report = &drill.report;
    let how = match drill.state {
        DrillState::Running => "runs",
        DrillState::Passed => "passed",
        DrillState::Failed => "failed",
        DrillState::GuardTripped => "was ended by its guard",
        DrillState::Stopped => "was stopped",
    };
    let mut text = format!("the drill ({}) {how}", rehearsed(drill));
    if !why.is_empty() {
        text = format!("{text}: {why}");
    }
    let after = |what: &str, time: Option<Duration>| match time {
        Some(time) => format!("{what} after {}", seconds(time)),
        None => format!("not {what}"),
    };
    text = format!(
        "{text}; {}, {}; of {} requests {} were served, {} failed, {} were refused",
        after("noticed", report.detected_after),
        after("moved", report.moved_after),
        whole(report.requests as f64),
        whole(report.succeeded as f64),
        whole(report.failed as f64),
        whole(report.shed as f64),
    );
    match report.worst_latency_p99 {
        Some(p99) => format!("{text}; worst p99 {} ms", p99.as_millis()),
        None => text,
    }
}

/// "payments/us-east answers 30 % of requests with errors at fra1".
fn rehearsed(drill: &Drill) -> String {
    let share = match drill.share {
        share if share >= 1.0 => "all".to_owned(),
        share => format!("{:.0} % of", share * 100.0),
    };
    let fault = match drill.fault {
        Fault::Error => "answered 503".to_owned(),
        Fault::Delay(by) => format!("{} ms late", by.as_millis()),
        Fault::Dead => "without a connection".to_owned(),
    };
    let pops: Vec<&str> = drill.pops.iter().map(|pop| pop.as_str()).collect();
    let place = match pops.is_empty() {
        true => String::new(),
        false => format!(" at {}", pops.join(", ")),
    };
    format!("{share} requests to {}{place} {fault}", drill.backend)
}

fn by(actor: &str) -> &str {
    match actor {
        "" => "somebody",
        actor => actor,
    }
}

const fn broken_glass(drain: &Drain) -> &'static str {
    match drain.break_glass {
        true => " (break-glass: it is the last region admitted)",
        false => "",
    }
}

fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        short if short < 10.0 => format!("{short:.1} s"),
        long => format!("{long:.0} s"),
    }
}

/// A rate or count without decimals, thousands apart: "12,000".
fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        let left = digits.len() - at;
        if at > 0 && left.is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
