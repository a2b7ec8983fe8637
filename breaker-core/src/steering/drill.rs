//! Judging a drill by what callers see.

use std::time::Duration;

use super::{Drill, DrillObservation, DrillReport, DrillState};
use crate::{explain, ids::RegionName, plan::Plan, time::Timestamp};

/// Fewer requests in a second say nothing about a share of them.
const JUDGED_FROM: f64 = 5.0;

/// Share of the traffic that is there, or gone, when it has moved: the rest is
/// requests on their way and what breakers let through to learn.
const MOVED: f64 = 0.9;

/// A new highest p99 is worth a commit if it is higher by this factor.
const WORSE: f64 = 1.1;

impl Drill {
    /// What it showed up to `now`, with what is seen now. The committed report
    /// lags behind: it is committed when something happens.
    pub fn report_with(
        &self,
        seen: &DrillObservation,
        plan: Option<&Plan>,
        now: Timestamp,
    ) -> DrillReport {
        let mut report = self.report.clone();
        let elapsed = now.since(self.started);
        let region = self.backend.region();
        let planned = plan.and_then(|plan| plan.regions.get(region));
        if report.before.is_empty() {
            // The last second, which was before but for the moment it took.
            report.before.clone_from(&seen.rates);
        }
        if seen.open || planned.is_some_and(|figures| figures.admission <= 0.0) {
            report.detected_after.get_or_insert(elapsed);
        }
        if report.detected_after.is_some() && self.moved(&report, seen, plan) {
            // The whole second shows it.
            let by = seen.rates_since.unwrap_or(now).since(self.started);
            let moved = by.max(report.detected_after.unwrap_or_default());
            report.moved_after.get_or_insert(moved);
        }
        report.requests = seen.total.requests() as u64;
        report.succeeded = seen.total.succeeded as u64;
        report.failed = seen.total.failed as u64;
        report.shed = seen.total.refused as u64;
        report.worst_latency_p99 = report.worst_latency_p99.max(seen.latency_p99);
        report.at_end.clone_from(&seen.rates);
        report
    }

    /// The other regions have the traffic that they should have.
    fn moved(&self, report: &DrillReport, seen: &DrillObservation, plan: Option<&Plan>) -> bool {
        if !self.pops.is_empty() {
            // The other POPs' traffic stays: what counts is that callers are served.
            return served(seen).is_some_and(|rate| rate >= self.success_rate);
        }
        let here = |name: &&RegionName| name.as_str() == self.backend.region();
        let rate = |rates: &std::collections::BTreeMap<RegionName, f64>, own: bool| {
            let chosen = rates.iter().filter(|(name, _)| here(name) == own);
            chosen.map(|(_, rate)| rate).sum::<f64>()
        };
        let before = rate(&report.before, true);
        let expected = match plan {
            Some(plan) => {
                let others = plan.regions.iter().filter(|(name, _)| !here(name));
                others.map(|(_, figures)| figures.planned).sum()
            }
            None => before + rate(&report.before, false),
        };
        let left = rate(&seen.rates, true) <= (1.0 - MOVED) * before;
        left && rate(&seen.rates, false) >= MOVED * expected
    }
}

/// The drill to commit: it ended, or showed something new. `None`: it goes on.
pub(super) fn judge(
    drill: &Drill,
    seen: &DrillObservation,
    plan: Option<&Plan>,
    now: Timestamp,
) -> Option<Drill> {
    let report = drill.report_with(seen, plan, now);
    let old = &drill.report;
    let worse = match (old.worst_latency_p99, report.worst_latency_p99) {
        (Some(old), Some(new)) => new > old.mul_f64(WORSE),
        (old, new) => old != new,
    };
    let new = worse
        || old.before.is_empty() != report.before.is_empty()
        || old.detected_after != report.detected_after
        || old.moved_after != report.moved_after;
    let verdict = guard(drill, seen, now).or_else(|| time_is_up(drill, &report, seen, now));
    let next = Drill {
        report,
        ..drill.clone()
    };
    match verdict {
        Some((state, why)) => Some(end(next, state, &why, now)),
        None => new.then_some(next),
    }
}

/// The drill, ended by somebody.
pub(super) fn ended(drill: Drill, state: DrillState, now: Timestamp) -> Drill {
    end(drill, state, "", now)
}

fn end(mut drill: Drill, state: DrillState, why: &str, now: Timestamp) -> Drill {
    drill.state = state;
    drill.ends = now;
    drill.report.summary = explain::steering::drill(&drill, why);
    drill
}

fn guard(drill: &Drill, seen: &DrillObservation, now: Timestamp) -> Option<(DrillState, String)> {
    let guard = &drill.guard;
    let judges = now.since(drill.started) >= guard.grace && seen.recent.requests() >= JUDGED_FROM;
    if !judges {
        return None;
    }
    let rate = seen.recent.success_rate()?;
    if rate < guard.min_success_rate {
        let why = format!(
            "{:.1} % of requests succeeded in the last second, the guard needs {:.1} %",
            rate * 100.0,
            guard.min_success_rate * 100.0
        );
        return Some((DrillState::GuardTripped, why));
    }
    let too_slow = |p99: &Duration| guard.max_latency_p99.is_some_and(|max| *p99 > max);
    seen.latency_p99.filter(too_slow).map(|p99| {
        let max = guard.max_latency_p99.unwrap_or_default();
        let why = format!(
            "p99 was {} ms in the last second, the guard allows {} ms",
            p99.as_millis(),
            max.as_millis()
        );
        (DrillState::GuardTripped, why)
    })
}

fn time_is_up(
    drill: &Drill,
    report: &DrillReport,
    seen: &DrillObservation,
    now: Timestamp,
) -> Option<(DrillState, String)> {
    if now < drill.ends {
        return None;
    }
    let Some(rate) = served(seen) else {
        let why = "nobody sent a request, so it showed nothing".to_owned();
        return Some((DrillState::Failed, why));
    };
    let figures = format!(
        "{:.1} % of requests succeeded at the end, {:.1} % were needed",
        rate * 100.0,
        drill.success_rate * 100.0
    );
    Some(match report.detected_after {
        None => (
            DrillState::Failed,
            format!("the failure was not noticed; {figures}"),
        ),
        Some(_) if rate >= drill.success_rate => (DrillState::Passed, figures),
        Some(_) => (DrillState::Failed, figures),
    })
}

/// Share of the last second's requests that was served; without any, of all.
fn served(seen: &DrillObservation) -> Option<f64> {
    let recent = seen.recent.success_rate();
    recent.or_else(|| seen.total.success_rate())
}
