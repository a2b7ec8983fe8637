//! What a candidate configuration would have done.

use rampmeter_api::v1::{BreakerState, CandidateBackend, GetCandidateResponse};

use crate::{
    style::{Tone, Word},
    table::Table,
    view::Eye,
    words,
};

pub(crate) fn render(answer: &GetCandidateResponse, eye: Eye) -> String {
    let mut out = String::new();
    Word::plain(&answer.summary).write(&mut out, 0, eye.colour);
    out += "\n";
    if answer.source.is_empty() {
        return out;
    }
    let set = words::clock(answer.apply_time);
    let age = words::ago(answer.apply_time, eye.now);
    let source = format!("set {set} UTC, {age} ago, from {}", answer.source);
    Word::new(source, Tone::Faint).write(&mut out, 0, eye.colour);
    out += "\n";
    if !answer.changes.is_empty() {
        out += "\nWhat differs\n";
    }
    for change in &answer.changes {
        out += "  ";
        Word::plain(change).write(&mut out, 0, eye.colour);
        out += "\n";
    }
    if !answer.backends.is_empty() {
        out += "\nOn the same samples\n";
        backends(&answer.backends).write(&mut out, "  ", eye.colour);
    }
    let episodes = answer.backends.iter().any(|b| !b.episodes.is_empty());
    if episodes {
        out += "\nWhen it would have been open\n";
        self::episodes(&answer.backends).write(&mut out, "  ", eye.colour);
    }
    out
}

fn backends(backends: &[CandidateBackend]) -> Table {
    let mut table = Table::new(&["BACKEND", "LIVE", "CANDIDATE", "SUMMARY"]);
    for backend in backends {
        table.row([
            Word::plain(&backend.name),
            words::state(backend.live_state()),
            match backend.candidate_state() {
                BreakerState::Unspecified => Word::new("-", Tone::Faint),
                state => words::state(state),
            },
            Word::plain(&backend.summary),
        ]);
    }
    table
}

fn episodes(backends: &[CandidateBackend]) -> Table {
    let mut table = Table::new(&[
        "BACKEND",
        "OPENED (UTC)",
        "CLOSED (UTC)",
        "REASON",
        "REJECTED",
        "MOVED/S",
    ]);
    for backend in backends {
        for episode in &backend.episodes {
            let closed = match episode.close_time {
                None => Word::new("still open", Tone::Bad),
                at => words::clock(at).into(),
            };
            table.row([
                Word::plain(&backend.name),
                words::clock(episode.open_time).into(),
                closed,
                words::reason(episode.reason()).into(),
                episode.would_have_rejected.into(),
                words::rate(episode.would_have_moved_per_second).into(),
            ]);
        }
    }
    table
}
