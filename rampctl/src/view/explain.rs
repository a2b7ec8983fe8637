//! Why a backend is in the state it is in.

use rampmeter_api::v1::{
    Backend, ByPriority, EndpointStatus, Event, Evidence, ExplainBackendResponse, Plan, Policy,
};

use crate::{
    style::{Tone, Word},
    table::Table,
    view::{
        Eye,
        backends::{mode, note},
        events, plans,
    },
    words,
};

pub(crate) fn render(answer: &ExplainBackendResponse, eye: Eye) -> String {
    with_plan(answer, None, eye)
}

/// Also what its service's plan has for it.
pub(crate) fn with_plan(answer: &ExplainBackendResponse, plan: Option<&Plan>, eye: Eye) -> String {
    let mut out = String::new();
    Word::plain(&answer.summary).write(&mut out, 0, eye.colour);
    out += "\n\n";
    facts(answer, plan, eye).write(&mut out, "", eye.colour);
    let status = answer.backend.iter().flat_map(|b| &b.endpoint_status);
    let status: Vec<_> = status.collect();
    if !status.is_empty() {
        out += "\nEndpoints\n";
        endpoints(&status).write(&mut out, "  ", eye.colour);
    }
    if let Some(evidence) = &answer.evidence {
        witnesses(&mut out, evidence, eye);
    }
    if !answer.history.is_empty() {
        out += "\nHistory\n";
        let oldest_first = answer.history.iter().rev();
        events::table(oldest_first).write(&mut out, "  ", eye.colour);
    }
    out
}

fn facts(answer: &ExplainBackendResponse, plan: Option<&Plan>, eye: Eye) -> Table {
    let mut table = Table::plain();
    let mut fact = |name: &str, value: Word| table.row([Word::new(name, Tone::Faint), value]);
    if let Some(backend) = &answer.backend {
        fact("state", words::state(backend.state()));
        fact("since", since(backend, eye).into());
        fact("mode", mode(backend));
        fact("admission", words::admission(backend.admission()));
        if let Some(share) = backend.throttle {
            fact("throttle", Word::new(throttle(share), Tone::Warn));
        }
        if let Some(mix) = backend.mix.filter(|mix| words::total(mix) > 0.0) {
            fact("mix", mixed(&mix, &backend.shedding).into());
        }
        if let Some(planned) = plan.and_then(|plan| planned(backend, plan)) {
            fact("plan", planned.into());
        } else if let Some(capacity) = backend.capacity_per_second {
            fact("capacity", format!("{}/s", words::rate(capacity)).into());
        }
        fact("decision", words::version(backend.version).into());
        if backend.trips > 0 {
            fact("trips", format!("{} in a row", backend.trips).into());
        }
        let note = note(backend, eye);
        if !note.is_empty() {
            fact("note", note.into());
        }
        if backend.endpoint_status.is_empty() {
            fact("endpoints", backend.endpoints.join(", ").into());
        }
    }
    if !answer.next.is_empty() {
        let when = words::until(answer.next_time, eye.now);
        let when = when.map(|when| format!(" ({when})")).unwrap_or_default();
        fact("next", format!("{}{when}", answer.next).into());
    }
    if let Some(last) = &answer.last_transition {
        fact("last change", last_change(last).into());
    }
    if let Some(evidence) = &answer.evidence {
        fact("evidence", strength(evidence).into());
        fact("vantage", vantage(evidence).into());
    }
    if let Some(policy) = &answer.policy {
        fact("policy", rules(policy).into());
        fact("", pace(policy, answer.config_revision).into());
    }
    table
}

fn throttle(share: f64) -> String {
    let share = words::percent(share);
    format!("it takes less than is wanted: {share} of the requests are let through")
}

fn mixed(mix: &ByPriority, shedding: &str) -> String {
    let mix = words::by_priority(mix);
    match shedding {
        "" => format!("{mix} a second; none is shed"),
        shedding => format!("{mix} a second; shed: {shedding}"),
    }
}

/// What the service's plan sends here, and by which figures.
fn planned(backend: &Backend, plan: &Plan) -> Option<String> {
    let (_, region) = backend.name.split_once('/')?;
    let figures = plan.regions.iter().find(|f| f.region == region)?;
    let version = words::version(plan.version);
    let drained = if figures.drained { "; drained" } else { "" };
    Some(format!(
        "{version} sends {}/s here; capacity {}{drained}",
        words::rate(figures.planned_per_second),
        plans::capacity(figures)
    ))
}

fn endpoints(all: &[&EndpointStatus]) -> Table {
    let mut table = Table::new(&["ENDPOINT", "HEALTH", "PROBED BY", "PROBES/S", "ERROR"]);
    for status in all {
        let health = match (status.healthy, status.unhealthy_pops.as_slice()) {
            (true, []) => Word::new("healthy", Tone::Good),
            (true, pops) => Word::new(format!("unhealthy at {}", pops.join(", ")), Tone::Warn),
            (false, _) => Word::new("unhealthy", Tone::Bad),
        };
        table.row([
            Word::plain(&status.endpoint),
            health,
            status.probers.join(", ").into(),
            words::rate(status.probes_per_second).into(),
            Word::plain(&status.error),
        ]);
    }
    table
}

fn since(backend: &Backend, eye: Eye) -> String {
    let clock = words::clock(backend.state_time);
    format!(
        "{clock} UTC, {} ago",
        words::ago(backend.state_time, eye.now)
    )
}

fn last_change(event: &Event) -> String {
    let clock = words::clock(event.event_time);
    format!("{clock} UTC by {}: {}", event.actor, event.summary)
}

fn strength(e: &Evidence) -> String {
    let rule = words::reason(e.rule());
    let Evidence {
        score,
        score_threshold,
        bad,
        requests,
        ..
    } = e;
    let onset = match e.onset_time {
        Some(_) => format!(" since {} UTC", words::clock(e.onset_time)),
        None => String::new(),
    };
    format!(
        "{rule}: score {score:.1} of {score_threshold:.1} needed; {bad} of {requests} requests \
         bad{onset} (tolerated {}, intolerable {})",
        words::percent(e.tolerated_rate),
        words::percent(e.intolerable_rate),
    )
}

fn vantage(e: &Evidence) -> String {
    format!(
        "{} of {} active POPs vote failing, {} needed; {} of the agents report",
        e.pops_failing,
        e.pops_active,
        e.pops_needed,
        words::percent(e.coverage)
    )
}

fn rules(p: &Policy) -> String {
    let slow = match p.slow_call_duration {
        Some(slow) => format!(
            ", {} slower than {}",
            words::percent(p.slow_call_rate_threshold),
            words::wire_duration(Some(slow))
        ),
        None => String::new(),
    };
    format!(
        "opens at {} failures, {} failures and overloads{slow}, over {}, {} requests at least",
        words::percent(p.failure_rate_threshold),
        words::percent(p.overload_rate_threshold),
        words::wire_duration(p.window),
        p.min_request_volume
    )
}

fn pace(p: &Policy, revision: u64) -> String {
    format!(
        "for {} up to {}; {} trials close it, {} at a time; ramp {} (config revision {revision})",
        words::wire_duration(p.open_duration),
        words::wire_duration(p.max_open_duration),
        p.half_open_successes,
        p.half_open_max_trials,
        words::wire_duration(p.ramp_duration)
    )
}

fn witnesses(out: &mut String, evidence: &Evidence, eye: Eye) {
    if !evidence.pops.is_empty() {
        *out += "\nPOPs\n";
        let mut table = Table::new(&[
            "POP", "SCORE", "BAD", "REQUESTS", "AGENTS", "VOTE", "LEFT OUT",
        ]);
        for pop in &evidence.pops {
            let vote = match (pop.failing, pop.votes_failing) {
                (true, _) => Word::new("failing alone", Tone::Bad),
                (false, true) => Word::new("failing", Tone::Warn),
                (false, false) => Word::new("well", Tone::Good),
            };
            table.row([
                Word::plain(&pop.pop),
                format!("{:.1}", pop.score).into(),
                pop.bad.into(),
                pop.requests.into(),
                pop.agents.into(),
                vote,
                Word::plain(&pop.left_out_agent),
            ]);
        }
        table.write(out, "  ", eye.colour);
    }
    if !evidence.suspects.is_empty() {
        *out += "\nSuspect vantages: agents whose evidence no other confirms\n";
        let mut table = Table::new(&["AGENT", "POP", "SCORE", "BAD", "REQUESTS"]);
        for suspect in &evidence.suspects {
            table.row([
                Word::new(&suspect.agent, Tone::Warn),
                Word::plain(&suspect.pop),
                format!("{:.1}", suspect.score).into(),
                suspect.bad.into(),
                suspect.requests.into(),
            ]);
        }
        table.write(out, "  ", eye.colour);
    }
}
