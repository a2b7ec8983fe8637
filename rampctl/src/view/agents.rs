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

/// Of a long error, what fits on a line; `-o json` has it whole.
fn first(error: &str) -> String {
    const SHOWN: usize = 120;
    let line = error.lines().next().unwrap_or_default();
    let short: String = line.chars().take(SHOWN).collect();
    match short.len() < error.len() {
        true => format!("{short}…"),
        false => short,
    }
}

fn note(agent: &Agent) -> Word {
    let mut notes = Vec::new();
    if !agent.config_error.is_empty() {
        notes.push(format!(
            "refused the config: {}",
            first(&agent.config_error)
        ));
    }
    if !agent.suspect_for.is_empty() {
        notes.push(format!(
            "suspect vantage for {}",
            agent.suspect_for.join(", ")
        ));
    }
    Word::new(notes.join("; "), Tone::Warn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_error_a_table_shows_what_fits_on_a_line() {
        let long = "é".repeat(121);
        for (error, shown) in [
            ("unknown key", "unknown key".to_owned()),
            ("first\nsecond", "first…".to_owned()),
            (&*long, format!("{}…", "é".repeat(120))),
        ] {
            assert_eq!(first(error), shown);
        }
    }
}
