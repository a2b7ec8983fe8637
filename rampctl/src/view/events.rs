//! Events, a line each.

use rampmeter_api::v1::{Event, EventKind};

use crate::{
    style::{Tone, Word},
    table::{self, Table},
    view::Eye,
    words,
};

/// In the order given.
pub(crate) fn table<'a>(events: impl Iterator<Item = &'a Event>) -> Table {
    let mut table = Table::new(&["TIME (UTC)", "BACKEND", "SCOPE", "WHAT", "SUMMARY"]);
    for event in events {
        table.row([
            words::clock(event.event_time).into(),
            backend(event).into(),
            words::scope(event.scope(), &event.subject).into(),
            what(event),
            Word::plain(&event.summary),
        ]);
    }
    table
}

/// One event on a line of its own, while events are followed.
pub(crate) fn line(event: &Event, eye: Eye) -> String {
    let columns = [
        (words::clock(event.event_time).into(), 25),
        (backend(event).into(), 26),
        (words::scope(event.scope(), &event.subject).into(), 16),
        (what(event), 24),
    ];
    table::line(&columns, &Word::plain(&event.summary), eye.colour)
}

fn backend(event: &Event) -> &str {
    match event.backend.as_str() {
        "" => "-",
        name => name,
    }
}

fn what(event: &Event) -> Word {
    match event.kind() {
        EventKind::Transition => {
            let text = |state: rampmeter_api::v1::BreakerState| {
                state.as_str_name().trim_start_matches("BREAKER_STATE_")
            };
            let (from, to) = (text(event.from_state()), text(event.to_state()));
            let tone = match to {
                "OPEN" => Tone::Bad,
                "CLOSED" => Tone::Good,
                _ => Tone::Warn,
            };
            Word::new(format_args!("{from} → {to}"), tone)
        }
        EventKind::RampFinished | EventKind::TrialSucceeded => {
            Word::new(words::kind(event.kind()), Tone::Good)
        }
        EventKind::ConfigRefused | EventKind::ShadowTrip | EventKind::SuspectVantage => {
            Word::new(words::kind(event.kind()), Tone::Warn)
        }
        kind => Word::plain(words::kind(kind)),
    }
}
