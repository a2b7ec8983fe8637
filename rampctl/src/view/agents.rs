//! Agents, a line each.

use rampmeter_api::v1::Agent;

use crate::{
    style::{Tone, Word},
    table::Table,
    view::Eye,
    words,
};

pub(crate) fn render(agents: &[Agent], eye: Eye) -> String {
    let mut table = Table::new(&[
        "AGENT",
        "POP",
        "VERSION",
        "ADDRESS",
        "REPLICA",
        "CONNECTED",
        "HEARD",
        "RTT",
        "CONFIG",
        "SYNC",
        "NOTE",
    ]);
    for agent in agents {
        let in_sync = match agent.in_sync {
            true => Word::new("yes", Tone::Good),
            false => Word::new("no", Tone::Warn),
        };
        table.row([
            Word::plain(&agent.name),
            Word::plain(&agent.pop),
            Word::plain(&agent.version),
            Word::plain(&agent.address),
            Word::plain(&agent.replica),
            words::ago(agent.connect_time, eye.now).into(),
            words::wire_duration(agent.last_heard).into(),
            words::wire_duration(agent.round_trip).into(),
            Word::plain(agent.config_revision),
            in_sync,
            note(agent),
        ]);
    }
    table.render(eye.colour)
}

fn note(agent: &Agent) -> Word {
    let mut notes = Vec::new();
    if !agent.config_error.is_empty() {
        notes.push(format!("refused the config: {}", agent.config_error));
    }
    if !agent.suspect_for.is_empty() {
        notes.push(format!(
            "suspect vantage for {}",
            agent.suspect_for.join(", ")
        ));
    }
    Word::new(notes.join("; "), Tone::Warn)
}
