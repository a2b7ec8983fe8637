//! Where a service's traffic goes.

use rampmeter_api::v1::{GetServiceResponse, OriginPlan, Plan, RegionFigures};

use crate::{
    style::{Tone, Word},
    table::Table,
    view::Eye,
    words,
};

/// The plan in force and the one that waits.
pub(crate) fn render(answer: &GetServiceResponse, eye: Eye) -> String {
    let service = answer.service.as_ref().map_or("", |s| s.name.as_str());
    let mut out = match &answer.plan {
        Some(plan) => one("in force", plan, eye),
        None => format!(
            "no plan of {service} is in force: its regions are tried in the order of each POP\n"
        ),
    };
    if let Some(plan) = &answer.proposed_plan {
        out += "\n";
        out += &one("waits for approval", plan, eye);
        let version = words::version(plan.version);
        out += &format!(
            "\nrampctl plan approve {service} --version {version} --reason … puts it in force\n"
        );
    }
    out
}

/// One plan under a title.
pub(crate) fn one(title: &str, plan: &Plan, eye: Eye) -> String {
    let version = words::version(plan.version);
    let made = words::clock(plan.create_time);
    let mut out = String::new();
    let heading = format!("{title}: plan {version}, made {made} UTC");
    Word::plain(heading).write(&mut out, 0, eye.colour);
    out += "\n";
    if !plan.summary.is_empty() {
        out += "  ";
        Word::plain(&plan.summary).write(&mut out, 0, eye.colour);
        out += "\n";
    }
    origins(&plan.origins).write(&mut out, "  ", eye.colour);
    regions(&plan.regions).write(&mut out, "  ", eye.colour);
    out
}

/// By the order of regions that agents have.
pub(crate) fn origins(origins: &[OriginPlan]) -> Table {
    let mut table = Table::new(&["FROM POPS THAT PREFER", "DEMAND/S", "GOES TO", "SHED"]);
    for origin in origins {
        let sent: f64 = origin.regions.iter().map(|region| region.share).sum();
        // Shares are rounded; less than a thousandth is not worth a colour.
        let shed = match 1.0 - sent {
            none if none < 0.001 => Word::new("-", Tone::Faint),
            some => Word::new(words::percent(some), Tone::Bad),
        };
        table.row([
            origin.region_order.join(", ").into(),
            words::rate(origin.demand_per_second).into(),
            goes_to(origin).into(),
            shed,
        ]);
    }
    table
}

fn goes_to(origin: &OriginPlan) -> String {
    let parts = origin.regions.iter().map(|region| {
        let room = match region.headroom {
            room if room > 0.0 => format!(" (room for {} more)", words::percent(room)),
            _ => String::new(),
        };
        format!("{} {}{room}", region.region, words::percent(region.share))
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn regions(regions: &[RegionFigures]) -> Table {
    let mut table = Table::new(&["REGION", "PLANNED/S", "CAPACITY/S", "ADMISSION", "NOTE"]);
    for region in regions {
        let note = match region.drained {
            true => Word::new("drained", Tone::Warn),
            false => Word::default(),
        };
        table.row([
            Word::plain(&region.region),
            words::rate(region.planned_per_second).into(),
            capacity(region).into(),
            words::admission(region.admission),
            note,
        ]);
    }
    table
}

/// `400 (learned)`; configured ones need no word.
pub(crate) fn capacity(region: &RegionFigures) -> String {
    match region.capacity_per_second {
        None => "not known".to_owned(),
        Some(rate) if region.capacity_configured => words::rate(rate),
        Some(rate) => format!("{} (learned)", words::rate(rate)),
    }
}
