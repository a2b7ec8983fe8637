//! Backends, a line each.

use rampmeter_api::v1::{Backend, Mode, Override, Traffic};

use crate::{
    style::{Tone, Word},
    table::Table,
    view::Eye,
    words,
};

pub(crate) fn render(backends: &[Backend], eye: Eye) -> String {
    let mut table = Table::new(&[
        "BACKEND",
        "STATE",
        "MODE",
        "ADMISSION",
        "FOR",
        "REQ/S",
        "FAILING",
        "REFUSED/S",
        "P99",
        "NOTE",
    ]);
    for backend in backends {
        let traffic = backend.traffic.unwrap_or_default();
        table.row([
            Word::plain(&backend.name),
            words::state(backend.state()),
            mode(backend),
            words::admission(backend.admission()),
            words::ago(backend.state_time, eye.now).into(),
            words::rate(traffic.requests_per_second).into(),
            failing(&traffic),
            words::rate(traffic.rejected_per_second).into(),
            words::wire_duration(traffic.latency_p99).into(),
            note(backend, eye).into(),
        ]);
    }
    table.render(eye.colour)
}

/// What an operator forces stands out.
pub(crate) fn mode(backend: &Backend) -> Word {
    match backend.mode() {
        Mode::Enforce => Word::plain(words::mode(Mode::Enforce)),
        other => Word::new(words::mode(other), Tone::Warn),
    }
}

fn failing(traffic: &Traffic) -> Word {
    match traffic.failure_rate {
        None => Word::new("-", Tone::Faint),
        Some(rate) if rate >= 0.5 => Word::new(words::percent(rate), Tone::Bad),
        Some(rate) if rate >= 0.05 => Word::new(words::percent(rate), Tone::Warn),
        Some(rate) => Word::plain(words::percent(rate)),
    }
}

/// What the columns do not say.
pub(crate) fn note(backend: &Backend, eye: Eye) -> String {
    let mut notes = Vec::new();
    if let Some(left) = words::until(backend.retry_time, eye.now) {
        notes.push(format!("trial {left}"));
    }
    for lease in &backend.trial_leases {
        notes.push(format!("trial at {}", lease.agent));
    }
    if backend.trial_successes > 0 {
        notes.push(format!("{} trials succeeded", backend.trial_successes));
    }
    for pop in &backend.pops {
        let share = words::percent(pop.admission());
        let state = pop
            .state()
            .as_str_name()
            .trim_start_matches("BREAKER_STATE_");
        notes.push(format!("{} {state} {share}", pop.pop));
    }
    if let Some(share) = backend.throttle {
        notes.push(format!("throttled to {}", words::percent(share)));
    }
    if !backend.shedding.is_empty() {
        notes.push(format!("sheds {}", backend.shedding));
    }
    let status = &backend.endpoint_status;
    let ill = status.iter().filter(|endpoint| !endpoint.healthy).count();
    if ill > 0 {
        notes.push(format!("{ill} of {} endpoints unhealthy", status.len()));
    }
    if let Some(over) = &backend.r#override {
        let left = words::until(over.expire_time, eye.now).unwrap_or_default();
        let mode = words::mode(over.mode());
        let Override { actor, reason, .. } = over;
        notes.push(format!("{mode} by {actor}, ends {left}: {reason}"));
    }
    notes.join("; ")
}
