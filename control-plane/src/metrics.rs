//! Counters, and how Prometheus reads them.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Upper bounds of the buckets of every duration, in microseconds: from a
/// memory store's answer to the slowest call that is allowed.
const BOUNDS_US: [u64; 10] = [
    100, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 250_000, 1_000_000,
];

/// Counts up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations, in buckets.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [Counter; BOUNDS_US.len()],
    count: Counter,
    sum_us: Counter,
}

impl Durations {
    /// Adds one.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(at) = BOUNDS_US.iter().position(|bound| micros <= *bound) {
            self.buckets[at].add(1);
        }
        self.count.add(1);
        self.sum_us.add(micros);
    }

    fn write(&self, page: &mut Page, name: &str, labels: &str) {
        let mut below = 0;
        let comma = if labels.is_empty() { "" } else { "," };
        for (bound, bucket) in BOUNDS_US.iter().zip(&self.buckets) {
            below += bucket.get();
            let le = *bound as f64 / 1e6;
            page.line(format_args!(
                "{name}_bucket{{{labels}{comma}le=\"{le}\"}} {below}"
            ));
        }
        let count = self.count.get();
        page.line(format_args!(
            "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}"
        ));
        let sum = self.sum_us.get() as f64 / 1e6;
        let labels = match labels {
            "" => String::new(),
            labels => format!("{{{labels}}}"),
        };
        page.line(format_args!("{name}_sum{labels} {sum}"));
        page.line(format_args!("{name}_count{labels} {count}"));
    }
}

/// Calls of one kind.
#[derive(Debug, Default)]
struct Calls {
    failed: Counter,
    took: Durations,
}

/// Everything this replica counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Reports taken in.
    pub reports: Counter,
    /// Of those, with trouble.
    pub reports_urgent: Counter,
    /// Reports dropped because their sequence was seen.
    pub reports_repeated: Counter,
    /// Figures of backends and services that are not configured.
    pub unknown_backends: Counter,
    /// Figures cut to what can be true.
    pub figures_cut: Counter,
    /// Transitions this replica committed, by the state they lead to.
    pub opened: Counter,
    /// See [`Metrics::opened`].
    pub half_opened: Counter,
    /// See [`Metrics::opened`].
    pub closed: Counter,
    /// Trial leases this replica granted.
    pub trials: Counter,
    /// Commits that another replica was faster with.
    pub commits_lost: Counter,
    /// From a decision to its acknowledgement by an agent.
    pub convergence: Durations,
    /// From a report of trouble to the end of the round that looked at it.
    pub decide: Durations,
    /// Quota leases this replica granted or renewed.
    pub quota_grants: Counter,
    /// Connections turned away at the gRPC port.
    pub turned_away: Counter,
    calls: Mutex<BTreeMap<&'static str, Calls>>,
}

impl Metrics {
    /// A call to the store ended.
    pub fn store_call(&self, call: &'static str, ok: bool, took: Duration) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = calls.entry(call).or_default();
        calls.took.observe(took);
        if !ok {
            calls.failed.add(1);
        }
    }

    /// Writes all counters.
    pub fn write(&self, page: &mut Page) {
        page.counter("reports_total", "Reports taken in.", &self.reports);
        page.counter(
            "reports_urgent_total",
            "Reports with trouble.",
            &self.reports_urgent,
        );
        let text = "Reports dropped because their sequence was seen.";
        page.counter("reports_repeated_total", text, &self.reports_repeated);
        let text = "Figures of backends and services that are not configured.";
        page.counter(
            "reports_unknown_backend_total",
            text,
            &self.unknown_backends,
        );
        page.counter(
            "figures_cut_total",
            "Figures cut to what can be true.",
            &self.figures_cut,
        );
        let name = "rampmeter_control_transitions_total";
        page.head(name, "counter", "Transitions this replica committed.");
        let by_state = [
            ("OPEN", &self.opened),
            ("HALF_OPEN", &self.half_opened),
            ("CLOSED", &self.closed),
        ];
        for (state, counter) in by_state {
            page.line(format_args!("{name}{{to=\"{state}\"}} {}", counter.get()));
        }
        page.counter(
            "trials_granted_total",
            "Trial leases granted here.",
            &self.trials,
        );
        let text = "Commits another replica was faster with.";
        page.counter("commits_lost_total", text, &self.commits_lost);
        let text = "Quota leases granted or renewed here.";
        page.counter("quota_leases_granted_total", text, &self.quota_grants);
        let text = "Connections turned away at the gRPC port.";
        page.counter("connections_refused_total", text, &self.turned_away);
        let name = "rampmeter_control_convergence_seconds";
        page.head(
            name,
            "histogram",
            "From a decision to its acknowledgement by an agent.",
        );
        self.convergence.write(page, name, "");
        let name = "rampmeter_control_decide_seconds";
        page.head(
            name,
            "histogram",
            "From waking up for a report of trouble to its decision.",
        );
        self.decide.write(page, name, "");
        self.write_store(page);
    }

    fn write_store(&self, page: &mut Page) {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let name = "rampmeter_control_store_call_seconds";
        page.head(name, "histogram", "Calls to the store.");
        for (call, of_call) in calls.iter() {
            of_call.took.write(page, name, &format!("call=\"{call}\""));
        }
        let name = "rampmeter_control_store_errors_total";
        page.head(name, "counter", "Calls to the store that failed.");
        for (call, of_call) in calls.iter() {
            page.line(format_args!(
                "{name}{{call=\"{call}\"}} {}",
                of_call.failed.get()
            ));
        }
    }
}

/// A page in Prometheus' text format.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Starts a metric.
    pub fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    /// One line.
    pub fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    /// A whole gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl fmt::Display) {
        let name = format!("rampmeter_control_{name}");
        self.head(&name, "gauge", help);
        self.line(format_args!("{name} {value}"));
    }

    fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        let name = format!("rampmeter_control_{name}");
        self.head(&name, "counter", help);
        self.line(format_args!("{name} {}", counter.get()));
    }

    /// The page.
    pub fn finish(self) -> String {
        self.0
    }
}
