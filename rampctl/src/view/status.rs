//! The fleet in a few lines.

use rampmeter_api::v1::{GetFleetResponse, PopSummary, Replica};

use crate::{
    style::{Tone, Word},
    table::Table,
    view::Eye,
    words,
};

pub(crate) fn render(fleet: &GetFleetResponse, eye: Eye) -> String {
    let mut facts = Table::plain();
    let mut fact = |name: &str, value: Word| facts.row([Word::new(name, Tone::Faint), value]);
    fact("version", Word::plain(&fleet.version));
    fact(
        "config",
        Word::plain(format_args!("revision {}", fleet.config_revision)),
    );
    fact("store", store(fleet));
    fact("backends", backends(fleet));
    fact("agents", agents(fleet));
    for replica in &fleet.replicas {
        fact("replica", Word::plain(describe(replica)));
    }
    let mut out = facts.render(eye.colour);
    if !fleet.pops.is_empty() {
        out += "\n";
        out += &pops(&fleet.pops).render(eye.colour);
    }
    out
}

fn store(fleet: &GetFleetResponse) -> Word {
    match fleet.store_available {
        true => Word::plain(format_args!("{}, available", fleet.store)),
        false => Word::new(
            format_args!("{}, NOT available: decisions stay as they are", fleet.store),
            Tone::Bad,
        ),
    }
}

fn backends(fleet: &GetFleetResponse) -> Word {
    let (open, half_open, ramping) = (
        fleet.backends_open,
        fleet.backends_half_open,
        fleet.backends_ramping,
    );
    let tone = match (open, half_open + ramping) {
        (0, 0) => Tone::Good,
        (0, _) => Tone::Warn,
        _ => Tone::Bad,
    };
    let text = format!(
        "{}: {open} open, {half_open} half-open, {ramping} ramping",
        fleet.backends
    );
    Word::new(text, tone)
}

fn agents(fleet: &GetFleetResponse) -> Word {
    let behind = fleet.agents.saturating_sub(fleet.agents_in_sync);
    let tone = match (fleet.agents, behind) {
        (0, _) => Tone::Bad,
        (_, 0) => Tone::Good,
        _ => Tone::Warn,
    };
    Word::new(
        format_args!("{}: {} in sync", fleet.agents, fleet.agents_in_sync),
        tone,
    )
}

fn describe(replica: &Replica) -> String {
    let heard = words::wire_duration(replica.last_heard);
    let Replica { name, agents, .. } = replica;
    let plural = if *agents == 1 { "" } else { "s" };
    format!("{name}, {agents} agent{plural}, heard {heard} ago")
}

fn pops(pops: &[PopSummary]) -> Table {
    let mut table = Table::new(&["POP", "AGENTS", "REGION ORDER"]);
    for pop in pops {
        let order = pop.region_order.join(", ");
        table.row([Word::plain(&pop.pop), Word::plain(pop.agents), order.into()]);
    }
    table
}
