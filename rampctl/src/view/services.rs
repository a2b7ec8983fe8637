//! Services: all in a table, or one with the reasons.

use rampmeter_api::v1::{Backend, Drain, GetServiceResponse, QuotaStatus, Service, ServiceTraffic};

use crate::{
    style::{Tone, Word},
    table::Table,
    view::{Eye, backends, drills, plans},
    words,
};

/// All of them, a line each.
pub(crate) fn list(services: &[Service], backends: &[Backend], eye: Eye) -> String {
    let mut table = Table::new(&["SERVICE", "REQ/S", "REFUSED/S", "REGIONS", "ROUTES"]);
    for service in services {
        let own = |backend: &&Backend| service.backends.contains(&backend.name);
        let own: Vec<_> = backends.iter().filter(own).collect();
        let sum = |rate: fn(&Backend) -> f64| own.iter().map(|b| rate(b)).sum::<f64>();
        let served = sum(|b| b.traffic.map_or(0.0, |t| t.requests_per_second));
        let refused = sum(|b| b.traffic.map_or(0.0, |t| t.rejected_per_second));
        table.row([
            Word::plain(&service.name),
            words::rate(served).into(),
            words::rate(refused).into(),
            regions(&own),
            Word::plain(service.routes.join(" | ")),
        ]);
    }
    table.render(eye.colour)
}

/// `us-east CLOSED, us-west OPEN`.
fn regions(backends: &[&Backend]) -> Word {
    let all_pass = backends.iter().all(|backend| backend.admission() >= 1.0);
    let regions: Vec<_> = backends
        .iter()
        .map(|backend| {
            let state = backend.state().as_str_name();
            let state = state.trim_start_matches("BREAKER_STATE_");
            format!("{} {state}", region(backend))
        })
        .collect();
    let tone = if all_pass { Tone::Good } else { Tone::Warn };
    Word::new(regions.join(", "), tone)
}

fn region(backend: &Backend) -> &str {
    backend
        .name
        .split_once('/')
        .map_or("", |(_, region)| region)
}

/// One, and why its traffic goes where it goes.
pub(crate) fn render(answer: &GetServiceResponse, eye: Eye) -> String {
    let mut out = String::new();
    if !answer.summary.is_empty() {
        Word::plain(&answer.summary).write(&mut out, 0, eye.colour);
        out += "\n\n";
    }
    facts(answer).write(&mut out, "", eye.colour);
    out += "\nRegions\n";
    states(answer, eye).write(&mut out, "  ", eye.colour);
    if let Some(plan) = &answer.plan {
        out += "\nWhere it goes\n";
        plans::origins(&plan.origins).write(&mut out, "  ", eye.colour);
    }
    if !answer.drains.is_empty() {
        out += "\nDrains\n";
        drains(&answer.drains, eye).write(&mut out, "  ", eye.colour);
    }
    if !answer.quotas.is_empty() {
        out += "\nQuotas\n";
        quotas(&answer.quotas).write(&mut out, "  ", eye.colour);
    }
    if let Some(drill) = &answer.drill {
        out += "\nDrill\n";
        drills::table([drill]).write(&mut out, "  ", eye.colour);
    }
    out
}

fn facts(answer: &GetServiceResponse) -> Table {
    let mut table = Table::plain();
    let mut fact = |name: &str, value: Word| table.row([Word::new(name, Tone::Faint), value]);
    if let Some(service) = &answer.service {
        fact("service", Word::plain(&service.name));
        fact("routes", Word::plain(service.routes.join(" | ")));
    }
    if let Some(traffic) = &answer.traffic {
        let demand = traffic.demand.unwrap_or_default();
        let mix = match words::by_priority(&demand) {
            none if none.is_empty() => none,
            some => format!(" ({some})"),
        };
        let total = words::rate(words::total(&demand));
        fact("demand", format!("{total}/s{mix}").into());
        fact("callers got", callers(traffic));
    }
    if let Some(plan) = &answer.plan {
        let version = words::version(plan.version);
        fact("plan", format!("{version}: {}", plan.summary).into());
    }
    if let Some(plan) = &answer.proposed_plan {
        let version = words::version(plan.version);
        let text = format!("{version} waits for approval: {}", plan.summary);
        fact("", Word::new(text, Tone::Warn));
    }
    table
}

fn callers(traffic: &ServiceTraffic) -> Word {
    let ServiceTraffic {
        succeeded_per_second,
        failed_per_second,
        refused_per_second,
        shed_per_second,
        shadowed_per_second,
        ..
    } = *traffic;
    let mut text = format!(
        "{}/s served, {}/s failed, {}/s refused",
        words::rate(succeeded_per_second),
        words::rate(failed_per_second),
        words::rate(refused_per_second)
    );
    if shed_per_second > 0.0 {
        text += &format!(", {}/s of them shed", words::rate(shed_per_second));
    }
    if shadowed_per_second > 0.0 {
        let rate = words::rate(shadowed_per_second);
        text += &format!("; SHADOW: would have refused {rate}/s");
    }
    let tone = match (shed_per_second > 0.0, refused_per_second > 0.0) {
        (true, _) => Tone::Bad,
        (false, true) => Tone::Warn,
        (false, false) => Tone::Plain,
    };
    Word::new(text, tone)
}

fn states(answer: &GetServiceResponse, eye: Eye) -> Table {
    let mut table = Table::new(&[
        "REGION",
        "STATE",
        "ADMISSION",
        "REQ/S",
        "PLANNED/S",
        "CAPACITY/S",
        "NOTE",
    ]);
    let planned = answer.plan.iter().flat_map(|plan| &plan.regions);
    let planned: Vec<_> = planned.collect();
    for backend in &answer.backends {
        let region = region(backend);
        let figures = planned.iter().find(|figures| figures.region == region);
        let traffic = backend.traffic.unwrap_or_default();
        let rate = figures.map(|figures| words::rate(figures.planned_per_second));
        table.row([
            Word::plain(region),
            words::state(backend.state()),
            words::admission(backend.admission()),
            words::rate(traffic.requests_per_second).into(),
            rate.unwrap_or("-".to_owned()).into(),
            figures
                .map_or("-".to_owned(), |figures| plans::capacity(figures))
                .into(),
            backends::note(backend, eye).into(),
        ]);
    }
    table
}

fn drains(drains: &[Drain], eye: Eye) -> Table {
    let mut table = Table::new(&["REGION", "BY", "ENDS", "REASON"]);
    for drain in drains {
        let reason = match drain.break_glass {
            true => format!("{} (break glass)", drain.reason),
            false => drain.reason.clone(),
        };
        let ends = words::until(drain.expire_time, eye.now);
        table.row([
            Word::new(&drain.region, Tone::Warn),
            Word::plain(&drain.actor),
            ends.unwrap_or("-".to_owned()).into(),
            reason.into(),
        ]);
    }
    table
}

fn quotas(quotas: &[QuotaStatus]) -> Table {
    let mut table = Table::new(&["KEY", "RATE/S", "WANTED/S", "ADMITTED/S", "AGENTS"]);
    for quota in quotas {
        let over = quota.wanted_per_second > quota.admitted_per_second;
        let tone = if over { Tone::Warn } else { Tone::Plain };
        let key = match quota.key.as_str() {
            "" => "(all)",
            key => key,
        };
        table.row([
            Word::plain(key),
            words::rate(quota.rate).into(),
            Word::new(words::rate(quota.wanted_per_second), tone),
            words::rate(quota.admitted_per_second).into(),
            quota.agents.into(),
        ]);
    }
    table
}
