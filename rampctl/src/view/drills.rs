//! Rehearsals and what they showed.

use std::time::Duration;

use rampmeter_api::v1::{Drill, DrillFault, DrillReport, DrillState, GetDrillResponse, RegionRate};

use crate::{
    style::{Tone, Word},
    table::Table,
    view::Eye,
    words,
};

/// The line before anything has happened.
pub(crate) fn started(drill: &Drill) -> String {
    let until = words::clock(drill.end_time);
    let Drill { id, .. } = drill;
    let what = what(drill);
    format!("drill {id}: {what}, until {until} UTC at the latest; Ctrl-C ends it\n")
}

/// A line each.
pub(crate) fn table<'a>(drills: impl IntoIterator<Item = &'a Drill>) -> Table {
    let mut table = Table::new(&["DRILL", "WHAT", "STATE", "STARTED (UTC)", "BY", "REASON"]);
    for drill in drills {
        table.row([
            Word::plain(&drill.id),
            what(drill).into(),
            state(drill.state()),
            words::clock(drill.start_time).into(),
            Word::plain(&drill.actor),
            Word::plain(&drill.reason),
        ]);
    }
    table
}

/// One, with its report.
pub(crate) fn render(answer: &GetDrillResponse, eye: Eye) -> String {
    let drill = answer.drill.clone().unwrap_or_default();
    let report = drill.report.clone().unwrap_or_default();
    let mut out = String::new();
    if !report.summary.is_empty() {
        Word::plain(&report.summary).write(&mut out, 0, eye.colour);
        out += "\n\n";
    }
    facts(&drill, &report).write(&mut out, "", eye.colour);
    if !report.before.is_empty() {
        out += "\nTraffic\n";
        traffic(&report).write(&mut out, "  ", eye.colour);
    }
    out
}

fn facts(drill: &Drill, report: &DrillReport) -> Table {
    let mut table = Table::plain();
    let mut fact = |name: &str, value: Word| table.row([Word::new(name, Tone::Faint), value]);
    fact("drill", Word::plain(&drill.id));
    fact("what", what(drill).into());
    let ending = Word::new(ending(drill), tone(drill.state()));
    fact("result", ending);
    fact(
        "reason",
        format!("{}, by {}", drill.reason, drill.actor).into(),
    );
    let detected = match (report.detected, report.detected_after) {
        (true, after) => Word::plain(format!("after {}", words::wire_duration(after))),
        (false, _) => Word::new("no", Tone::Bad),
    };
    fact("detected", detected);
    let moved = match report.moved_after {
        Some(after) => Word::plain(format!("after {}", words::wire_duration(Some(after)))),
        None => Word::new("no", Tone::Warn),
    };
    fact("moved", moved);
    fact("callers got", callers(report));
    if report.worst_latency_p99.is_some() {
        let worst = words::wire_duration(report.worst_latency_p99);
        fact("worst p99", worst.into());
    }
    if drill.guard.is_some() {
        fact("guard", guard(drill).into());
    }
    table
}

fn callers(report: &DrillReport) -> Word {
    let DrillReport {
        requests,
        succeeded,
        failed,
        shed,
        ..
    } = *report;
    let share = match requests {
        0 => String::new(),
        all => format!(" ({})", words::percent(succeeded as f64 / all as f64)),
    };
    Word::plain(format!(
        "{succeeded} of {requests} requests served{share}, {failed} failed, {shed} shed"
    ))
}

fn guard(drill: &Drill) -> String {
    let guard = drill.guard.unwrap_or_default();
    let latency = match guard.max_latency_p99 {
        Some(max) => format!(", p99 at most {}", words::wire_duration(Some(max))),
        None => String::new(),
    };
    format!(
        "at least {} of requests succeed{latency}, after {} of grace",
        words::percent(guard.min_success_rate),
        words::wire_duration(guard.grace)
    )
}

fn traffic(report: &DrillReport) -> Table {
    let mut table = Table::new(&["REGION", "BEFORE/S", "AT END/S"]);
    let rate = |rates: &[RegionRate], region: &str| {
        let found = rates.iter().find(|rate| rate.region == region);
        words::rate(found.map_or(0.0, |rate| rate.per_second))
    };
    let known = |region: &str| report.before.iter().any(|rate| rate.region == region);
    let newcomers = report.at_end.iter().filter(|rate| !known(&rate.region));
    for RegionRate { region, .. } in report.before.iter().chain(newcomers) {
        table.row([
            Word::plain(region),
            rate(&report.before, region).into(),
            rate(&report.at_end, region).into(),
        ]);
    }
    table
}

/// `payments/us-east is dead`, `20% of payments/us-east's requests are 2s late at fra1`.
fn what(drill: &Drill) -> String {
    let Drill { backend, .. } = drill;
    let whole = drill.share >= 1.0;
    let subject = match whole {
        true => backend.clone(),
        false => format!("{} of {backend}", words::percent(drill.share)),
    };
    let fault = match drill.fault() {
        DrillFault::Dead => "is dead".to_owned(),
        DrillFault::Error => "answers 503".to_owned(),
        DrillFault::Delay => format!("is {} late", words::wire_duration(drill.delay)),
        DrillFault::Unspecified => "fails".to_owned(),
    };
    let pops = match drill.pops.as_slice() {
        [] => String::new(),
        pops => format!(" at {}", pops.join(", ")),
    };
    format!("{subject} {fault}{pops}")
}

fn state(state: DrillState) -> Word {
    let name = state.as_str_name().trim_start_matches("DRILL_STATE_");
    Word::new(name, tone(state))
}

fn tone(state: DrillState) -> Tone {
    match state {
        DrillState::Passed => Tone::Good,
        DrillState::Running | DrillState::Stopped => Tone::Warn,
        DrillState::Failed | DrillState::GuardTripped => Tone::Bad,
        DrillState::Unspecified => Tone::Faint,
    }
}

/// How it ended, in words.
pub(crate) fn ending(drill: &Drill) -> String {
    let after = match (drill.start_time, drill.end_time) {
        (Some(start), Some(end)) => {
            let between = |s: prost_types::Timestamp, e: prost_types::Timestamp| {
                let ms = (e.seconds - s.seconds) * 1000 + i64::from(e.nanos - s.nanos) / 1_000_000;
                Duration::from_millis(u64::try_from(ms).unwrap_or_default())
            };
            words::duration(between(start, end))
        }
        _ => "-".to_owned(),
    };
    match drill.state() {
        DrillState::Running => "running".to_owned(),
        DrillState::Passed => format!("passed, after {after}"),
        DrillState::Failed => format!("failed: not well by its end, after {after}"),
        DrillState::GuardTripped => format!("its guard ended it after {after}"),
        DrillState::Stopped => format!("stopped after {after}"),
        DrillState::Unspecified => "unknown".to_owned(),
    }
}
