//! `/metrics`: Prometheus text. Label values are names of the configuration and
//! words of the code, so they need no escaping and there are only so many.

use std::{fmt::Write, time::Instant};

use breaker_core::{Timestamp, breaker::StateName, histogram};

use crate::{
    admin::{service_metrics, sight_metrics, state::state_name},
    admit::recorder::{OUTCOMES, REFUSALS, RETRIES, Tally},
    fleet::{control::Control, watched::Watched},
};

/// Upper bounds of the latency histogram on the page, in microseconds.
const BOUNDS_US: [u64; 14] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

const STATES: [StateName; 3] = [StateName::Closed, StateName::Open, StateName::HalfOpen];

/// The whole page.
pub fn page(control: &Control) -> String {
    let mut page = Page::default();
    agent(control, &mut page);
    requests(control, &mut page);
    service_metrics::add(control, &mut page);
    states(control, &mut page);
    decisions(control, &mut page);
    probes(control, &mut page);
    latencies(control, &mut page);
    sight_metrics::add(control, &mut page);
    page.text
}

#[derive(Default)]
pub(super) struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    pub(super) fn one(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        value: impl std::fmt::Display,
    ) {
        self.family(name, kind, help);
        self.line(format_args!("{name} {value}"));
    }

    /// A family with one sample for each of these labels.
    pub(super) fn samples<V: std::fmt::Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        self.family(name, kind, help);
        for (labels, value) in samples {
            self.line(format_args!("{name}{{{labels}}} {value}"));
        }
    }

    /// One value for each backend.
    fn each<V: std::fmt::Display>(
        &mut self,
        control: &Control,
        family: (&str, &str, &str),
        value: impl Fn(&Watched) -> V,
    ) {
        let backends = control.backends.values();
        self.samples(family, backends.map(|w| (labels(w), value(w))));
    }
}

fn labels(watched: &Watched) -> String {
    let name = &watched.backend.name;
    format!("service=\"{}\",backend=\"{name}\"", name.service())
}

fn agent(control: &Control, page: &mut Page) {
    let (agent, pop) = (&control.identity.agent, &control.identity.pop);
    let version = env!("CARGO_PKG_VERSION");
    page.family("rampmeter_agent_info", "gauge", "Who this is.");
    page.line(format_args!(
        "rampmeter_agent_info{{agent=\"{agent}\",pop=\"{pop}\",version=\"{version}\"}} 1"
    ));
    let up = u8::from(control.status.connected.is_some());
    let status = &control.status;
    page.one(
        "rampmeter_agent_ready",
        "gauge",
        "A configuration is in force.",
        u8::from(control.is_ready()),
    );
    page.one(
        "rampmeter_agent_config_revision",
        "gauge",
        "Revision of the configuration in force.",
        control.config_revision(),
    );
    page.one(
        "rampmeter_agent_config_refused",
        "gauge",
        "The newest configuration was refused.",
        u8::from(control.config_error.is_some()),
    );
    page.one(
        "rampmeter_agent_host_config_refused",
        "gauge",
        "The newest host file, or a certificate it names, was refused.",
        u8::from(control.host_error.is_some()),
    );
    page.one(
        "rampmeter_agent_stream_up",
        "gauge",
        "The stream to the control plane is up.",
        up,
    );
    page.one(
        "rampmeter_agent_streams_total",
        "counter",
        "Streams that the control plane welcomed.",
        status.streams,
    );
    page.one(
        "rampmeter_agent_store_unavailable",
        "gauge",
        "The control plane cannot reach its store.",
        u8::from(status.store_unavailable),
    );
    page.one(
        "rampmeter_agent_reports_total",
        "counter",
        "Reports sent.",
        status.reports,
    );
    page.one(
        "rampmeter_agent_report_bytes_total",
        "counter",
        "Bytes of reports sent.",
        status.report_bytes,
    );
}

fn requests(control: &Control, page: &mut Page) {
    let name = "rampmeter_agent_requests_total";
    page.family(
        name,
        "counter",
        "Forwarded requests by what became of them.",
    );
    for watched in control.backends.values() {
        let (labels, counters) = (labels(watched), watched.counters());
        for (outcome, tally) in OUTCOMES {
            let count = counters.get(tally);
            page.line(format_args!(
                "{name}{{{labels},outcome=\"{outcome}\"}} {count}"
            ));
        }
    }
    let name = "rampmeter_agent_rejected_total";
    page.family(
        name,
        "counter",
        "Requests refused by this agent, by reason.",
    );
    for watched in control.backends.values() {
        let (labels, counters) = (labels(watched), watched.counters());
        for (reason, tally) in REFUSALS {
            let count = counters.get(tally);
            page.line(format_args!(
                "{name}{{{labels},reason=\"{reason}\"}} {count}"
            ));
        }
    }
    let name = "rampmeter_agent_retries_total";
    page.family(
        name,
        "counter",
        "Retries: sent to this backend, or not made after one failed there.",
    );
    for watched in control.backends.values() {
        let (labels, counters) = (labels(watched), watched.counters());
        for (outcome, tally) in RETRIES {
            let count = counters.get(tally);
            page.line(format_args!(
                "{name}{{{labels},outcome=\"{outcome}\"}} {count}"
            ));
        }
    }
    let counter = |tally| move |watched: &Watched| watched.counters().get(tally);
    page.each(
        control,
        (
            "rampmeter_agent_demand_total",
            "counter",
            "Requests that wanted this backend, also those refused.",
        ),
        counter(Tally::Demand),
    );
    page.each(
        control,
        (
            "rampmeter_agent_slow_calls_total",
            "counter",
            "Calls at or over slow_call_duration.",
        ),
        counter(Tally::Slow),
    );
    page.each(
        control,
        (
            "rampmeter_agent_shadow_rejections_total",
            "counter",
            "Requests that SHADOW let through.",
        ),
        counter(Tally::Shadowed),
    );
    page.each(
        control,
        ("rampmeter_agent_in_flight", "gauge", "Requests in flight."),
        |w| w.backend.in_flight(),
    );
    page.each(
        control,
        (
            "rampmeter_agent_queued",
            "gauge",
            "Requests that wait for a place in flight.",
        ),
        |w| w.backend.live.queue.len(),
    );
}

fn states(control: &Control, page: &mut Page) {
    let now = control.clock.now();
    one_hot(
        control,
        page,
        (
            "rampmeter_agent_state",
            "What requests meet: 1 for the state in force.",
        ),
        |w| w.state,
    );
    one_hot(
        control,
        page,
        (
            "rampmeter_agent_local_state",
            "This agent's own breaker: 1 for its state.",
        ),
        |w| w.local.state(),
    );
    page.each(
        control,
        (
            "rampmeter_agent_admission",
            "gauge",
            "Share of requests let through, 0 to 1.",
        ),
        |w| w.stance().admission(now),
    );
    page.each(
        control,
        (
            "rampmeter_agent_throttle",
            "gauge",
            "Share of requests that the fleet's throttle lets through, 0 to 1.",
        ),
        |w| w.stance().throttle().unwrap_or(1.0),
    );
}

fn one_hot(
    control: &Control,
    page: &mut Page,
    (name, help): (&str, &str),
    state_of: impl Fn(&Watched) -> StateName,
) {
    page.family(name, "gauge", help);
    for watched in control.backends.values() {
        let labels = labels(watched);
        for state in STATES {
            let on = u8::from(state_of(watched) == state);
            let state = state_name(state);
            page.line(format_args!("{name}{{{labels},state=\"{state}\"}} {on}"));
        }
    }
}

fn decisions(control: &Control, page: &mut Page) {
    let now = control.clock.now();
    let held = |w: &Watched| control.decisions.get(w.backend.name.as_str());
    let age = |w: &Watched| held(w).map_or(f64::NAN, |held| age(now, held.heard));
    page.each(
        control,
        (
            "rampmeter_agent_decision_epoch",
            "gauge",
            "Epoch of the decision in force; 0 for none.",
        ),
        |w| held(w).map_or(0, |held| held.decision.version.epoch),
    );
    page.each(
        control,
        (
            "rampmeter_agent_decision_revision",
            "gauge",
            "Revision of the decision in force; 0 for none.",
        ),
        |w| held(w).map_or(0, |held| held.decision.version.revision),
    );
    page.each(
        control,
        (
            "rampmeter_agent_decision_age_seconds",
            "gauge",
            "Time since the control plane stood by it.",
        ),
        age,
    );
}

fn age(now: Timestamp, heard: Timestamp) -> f64 {
    now.since(heard).as_secs_f64()
}

fn probes(control: &Control, page: &mut Page) {
    let name = "rampmeter_agent_probes_total";
    page.family(name, "counter", "Health checks that this agent sent.");
    for (backend, probes) in &control.probing.counts {
        let service = backend.service();
        for (result, count) in [("succeeded", probes.succeeded), ("failed", probes.failed)] {
            page.line(format_args!(
                "{name}{{service=\"{service}\",backend=\"{backend}\",result=\"{result}\"}} {count}"
            ));
        }
    }
    page.each(
        control,
        (
            "rampmeter_agent_unhealthy_endpoints",
            "gauge",
            "Endpoints that health checks took out at this agent.",
        ),
        |watched| watched.backend.live.reach.unhealthy().0.len(),
    );
    page.each(
        control,
        (
            "rampmeter_agent_ejected_endpoints",
            "gauge",
            "Addresses of endpoints that are left out for their failures in a row.",
        ),
        |watched| {
            let (reach, now) = (&watched.backend.live.reach, Instant::now());
            let targets = reach.targets();
            let ejected = targets
                .iter()
                .filter(|t| reach.ejected_for(t, now).is_some());
            ejected.count()
        },
    );
}

fn latencies(control: &Control, page: &mut Page) {
    let name = "rampmeter_agent_request_duration_seconds";
    page.family(name, "histogram", "Time from admission to outcome.");
    for watched in control.backends.values() {
        let labels = labels(watched);
        let (buckets, micros) = watched.latencies();
        let count: u64 = buckets.iter().sum();
        for bound in BOUNDS_US {
            let below: u64 = buckets[..=histogram::bucket(bound)].iter().sum();
            let seconds = bound as f64 / 1e6;
            page.line(format_args!(
                "{name}_bucket{{{labels},le=\"{seconds}\"}} {below}"
            ));
        }
        page.line(format_args!(
            "{name}_bucket{{{labels},le=\"+Inf\"}} {count}"
        ));
        page.line(format_args!(
            "{name}_sum{{{labels}}} {}",
            micros as f64 / 1e6
        ));
        page.line(format_args!("{name}_count{{{labels}}} {count}"));
    }
}
