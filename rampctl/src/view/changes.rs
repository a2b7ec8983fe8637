//! Changes of backends, a line each, for `watch`.

use std::collections::BTreeMap;

use rampmeter_api::v1::{
    Backend, EndpointStatus, WatchBackendsResponse, watch_backends_response::Change,
};

use crate::{
    style::{Tone, Word},
    table,
    view::{Eye, backends::note},
    words,
};

/// What was last shown of each backend. Traffic changes all the time; a line is
/// worth printing only when something was decided.
#[derive(Debug, Default)]
pub(crate) struct Shown(BTreeMap<String, Backend>);

impl Shown {
    /// The line for a change, unless nothing about the breaker changed.
    pub(crate) fn line(&mut self, change: WatchBackendsResponse, eye: Eye) -> Option<String> {
        match change.change? {
            Change::Backend(backend) => {
                let decided = decided(&backend);
                let before = self.0.insert(backend.name.clone(), decided.clone());
                (before.as_ref() != Some(&decided)).then(|| line(&backend, eye))
            }
            Change::Removed(name) => {
                self.0.remove(&name);
                Some(row(
                    &name,
                    Word::new("REMOVED", Tone::Faint),
                    Word::default(),
                    "",
                    eye,
                ))
            }
        }
    }
}

/// Without what only was measured.
fn decided(backend: &Backend) -> Backend {
    let health = backend.endpoint_status.iter().map(|status| EndpointStatus {
        endpoint: status.endpoint.clone(),
        healthy: status.healthy,
        unhealthy_pops: status.unhealthy_pops.clone(),
        ..EndpointStatus::default()
    });
    Backend {
        traffic: None,
        mix: None,
        shedding: String::new(),
        capacity_per_second: None,
        endpoint_status: health.collect(),
        ..backend.clone()
    }
}

fn line(backend: &Backend, eye: Eye) -> String {
    let note = match words::version(backend.version) {
        version if version == "-" => note(backend, eye),
        version => format!("decision {version}; {}", note(backend, eye)),
    };
    let note = note.trim_end_matches("; ");
    let admission = words::admission(backend.admission());
    row(
        &backend.name,
        words::state(backend.state()),
        admission,
        note,
        eye,
    )
}

fn row(name: &str, state: Word, admission: Word, note: &str, eye: Eye) -> String {
    let clock = words::clock(Some(eye.now.into()));
    let cells = [clock.into(), Word::plain(name), state, admission];
    aligned(cells, Word::plain(note), eye)
}

/// The first line.
pub(crate) fn headings(eye: Eye) -> String {
    let heading = |text| Word::new(text, Tone::Faint);
    let cells = ["TIME (UTC)", "BACKEND", "STATE", "ADMISSION"].map(heading);
    aligned(cells, heading("NOTE"), eye)
}

fn aligned(cells: [Word; 4], note: Word, eye: Eye) -> String {
    let [clock, name, state, admission] = cells;
    let cells = [(clock, 25), (name, 26), (state, 11), (admission, 11)];
    table::line(&cells, &note, eye.colour)
}
