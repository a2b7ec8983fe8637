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
    let mut table = Table::new(&["TIME (UTC)", "ABOUT", "SCOPE", "WHAT", "SUMMARY"]);
    for event in events {
        table.row([
            words::clock(event.event_time).into(),
            about(event).into(),
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
        (about(event).into(), 26),
        (words::scope(event.scope(), &event.subject).into(), 16),
        (what(event), 24),
    ];
    table::line(&columns, &Word::plain(&event.summary), eye.colour)
}

/// The backend, or the service where it was decided for all of it.
fn about(event: &Event) -> &str {
    match (event.backend.as_str(), event.service.as_str()) {
        ("", "") => "-",
        ("", service) => service,
        (backend, _) => backend,
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
        kind => Word::new(words::kind(kind), tone(kind)),
    }
}

fn tone(kind: EventKind) -> Tone {
    match kind {
        EventKind::RampFinished
        | EventKind::TrialSucceeded
        | EventKind::ThrottleEnded
        | EventKind::ShedEnded
        | EventKind::QuotaRecovered
        | EventKind::EndpointHealthy => Tone::Good,
        EventKind::ConfigRefused
        | EventKind::ShadowTrip
        | EventKind::SuspectVantage
        | EventKind::ThrottleSet
        | EventKind::PlanProposed
        | EventKind::QuotaExhausted
        | EventKind::EndpointUnhealthy
        | EventKind::DrillStarted => Tone::Warn,
        EventKind::ShedStarted => Tone::Bad,
        _ => Tone::Plain,
    }
}
