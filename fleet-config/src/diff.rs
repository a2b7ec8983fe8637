//! What changes from one fleet to another, one line each.

use std::{collections::BTreeMap, path::PathBuf};

use breaker_core::policy::{BreakerPolicy, Mode};

use crate::{
    model::{Backend, FleetConfig, Route, Service},
    sections::{PRIORITIES, PROTOCOLS},
    settings::{
        Ejection, Failover, FailoverMode, Fallback, HealthCheck, Limits, Priority, PriorityRule,
        Probe, RequestKey, Retry, Throttle, Timeouts, UpstreamProtocol, UpstreamTls,
    },
    units::{show_bytes, show_duration, show_share},
    values::GRPC_CODES,
};

/// What `new` adds to (`+`), removes from (`-`) and changes in (`~`) `old`, by key:
/// `~ services.pay.breaker.open_duration: 30s → 2s`. Empty if they mean the same,
/// however they are written.
pub fn diff(old: &FleetConfig, new: &FleetConfig) -> Vec<String> {
    let mut lines = Vec::new();
    compare("", &fleet(old), &fleet(new), &mut lines);
    lines
}

/// A setting as shown.
#[derive(PartialEq)]
enum Shown {
    Leaf(String),
    Branch(BTreeMap<String, Shown>),
}

fn compare(
    path: &str,
    old: &BTreeMap<String, Shown>,
    new: &BTreeMap<String, Shown>,
    lines: &mut Vec<String>,
) {
    let mut keys: Vec<_> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let path = match path {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        match (old.get(key), new.get(key)) {
            (Some(Shown::Branch(old)), Some(Shown::Branch(new))) => compare(&path, old, new, lines),
            (Some(old), Some(new)) if old == new => {}
            (Some(Shown::Leaf(old)), Some(Shown::Leaf(new))) => {
                lines.push(format!("~ {path}: {old} → {new}"));
            }
            (old, new) => {
                lines.extend(old.map(|old| line('-', &path, old)));
                lines.extend(new.map(|new| line('+', &path, new)));
            }
        }
    }
}

fn line(sign: char, path: &str, shown: &Shown) -> String {
    match shown {
        Shown::Leaf(value) => format!("{sign} {path}: {value}"),
        Shown::Branch(_) => format!("{sign} {path}"),
    }
}

fn branch<K: ToString>(entries: impl IntoIterator<Item = (K, Shown)>) -> Shown {
    let entries = entries.into_iter();
    Shown::Branch(
        entries
            .map(|(key, shown)| (key.to_string(), shown))
            .collect(),
    )
}

fn leaf(value: impl ToString) -> Shown {
    Shown::Leaf(value.to_string())
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    format!("[{}]", items.join(", "))
}

fn fleet(config: &FleetConfig) -> BTreeMap<String, Shown> {
    let pops = config.pops.iter().map(|(name, pop)| {
        (
            name,
            branch([("region_order", leaf(list(&pop.region_order)))]),
        )
    });
    let services = config.services.iter().map(|(name, s)| (name, service(s)));
    let parts = [("pops", branch(pops)), ("services", branch(services))];
    parts.map(|(key, shown)| (key.to_owned(), shown)).into()
}

fn service(service: &Service) -> Shown {
    let tls = (service.tls != UpstreamTls::default()).then(|| tls(&service.tls));
    let upgrades = (!service.upgrades.is_empty()).then(|| leaf(list(&service.upgrades)));
    let optional = [
        ("tls", tls),
        ("upgrades", upgrades),
        ("retry", service.retry.as_ref().map(retry)),
        ("throttle", service.throttle.as_ref().map(throttle)),
        ("fallback", service.fallback.as_ref().map(fallback)),
        ("failover", service.failover.as_ref().map(failover)),
        (
            "health_check",
            service.health_check.as_ref().map(health_check),
        ),
    ];
    let optional = optional
        .into_iter()
        .filter_map(|(key, shown)| Some((key, shown?)));
    let backends = service
        .backends
        .iter()
        .map(|(region, b)| (region, backend(b)));
    let always = [
        ("routes", branch(service.routes.iter().map(route))),
        ("backends", branch(backends)),
        ("timeouts", timeouts(&service.timeouts)),
        ("breaker", breaker(&service.breaker)),
        ("limits", limits(&service.limits)),
        ("protocol", leaf(protocol(service.protocol))),
        ("ejection", ejection(&service.ejection)),
        ("priority", priority(&service.priority)),
    ];
    branch(always.into_iter().chain(optional))
}

/// Routes have no names: what they match tells them apart.
fn route(route: &Route) -> (String, Shown) {
    let mut key = route.path.to_string();
    if !route.hosts.is_empty() {
        key += &format!(" hosts {}", list(&route.hosts));
    }
    if !route.methods.is_empty() {
        key += &format!(" methods {}", list(&route.methods));
    }
    for (name, value) in &route.headers {
        key += &format!(" {name}={value:?}");
    }
    let settings = [
        ("priority", route.priority.map(|p| leaf(word(p)))),
        (
            "max_request_bytes",
            route.max_request_bytes.map(|b| leaf(show_bytes(b))),
        ),
    ];
    let settings = settings
        .into_iter()
        .filter_map(|(key, shown)| Some((key, shown?)));
    (format!("[{key}]"), branch(settings))
}

fn backend(backend: &Backend) -> Shown {
    let capacity = backend.capacity_rps.map(|rps| ("capacity_rps", leaf(rps)));
    let endpoints = ("endpoints", leaf(list(&backend.endpoints)));
    branch([endpoints].into_iter().chain(capacity))
}

fn timeouts(timeouts: &Timeouts) -> Shown {
    let per_try = timeouts
        .per_try
        .map(|per_try| ("per_try", leaf(show_duration(per_try))));
    let always = [
        ("connect", leaf(show_duration(timeouts.connect))),
        (
            "response_headers",
            leaf(show_duration(timeouts.response_headers)),
        ),
        ("total", leaf(show_duration(timeouts.total))),
    ];
    branch(always.into_iter().chain(per_try))
}

fn breaker(policy: &BreakerPolicy) -> Shown {
    // Every field by name, so that a new one cannot be forgotten here.
    let BreakerPolicy {
        mode,
        failure_rate_threshold,
        overload_rate_threshold,
        overload_throttle,
        slow_call_rate_threshold,
        slow_call_duration,
        min_request_volume,
        window,
        open_duration,
        max_open_duration,
        half_open_max_trials,
        half_open_successes,
        ramp_duration,
        quorum,
        min_coverage,
        // Follows from timeouts.total.
        trial_timeout: _,
    } = policy;
    let mode = match mode {
        Mode::Enforce => "ENFORCE",
        Mode::Shadow => "SHADOW",
        Mode::ForcedOpen => "FORCED_OPEN",
        Mode::ForcedClosed => "FORCED_CLOSED",
        Mode::Disabled => "DISABLED",
    };
    let slow = slow_call_duration.map(|slow| ("slow_call_duration", leaf(show_duration(slow))));
    let always = [
        ("mode", leaf(mode)),
        (
            "failure_rate_threshold",
            leaf(show_share(*failure_rate_threshold)),
        ),
        (
            "overload_rate_threshold",
            leaf(show_share(*overload_rate_threshold)),
        ),
        (
            "slow_call_rate_threshold",
            leaf(show_share(*slow_call_rate_threshold)),
        ),
        ("overload_throttle", leaf(overload_throttle)),
        ("min_request_volume", leaf(min_request_volume)),
        ("window", leaf(show_duration(*window))),
        ("open_duration", leaf(show_duration(*open_duration))),
        ("max_open_duration", leaf(show_duration(*max_open_duration))),
        ("half_open_max_trials", leaf(half_open_max_trials)),
        ("half_open_successes", leaf(half_open_successes)),
        ("ramp_duration", leaf(show_duration(*ramp_duration))),
        ("quorum", leaf(show_share(*quorum))),
        ("min_coverage", leaf(show_share(*min_coverage))),
    ];
    branch(always.into_iter().chain(slow))
}

fn limits(limits: &Limits) -> Shown {
    branch([
        ("max_concurrency", leaf(limits.max_concurrency)),
        ("max_queue", leaf(limits.max_queue)),
        ("queue_timeout", leaf(show_duration(limits.queue_timeout))),
        ("max_connections", leaf(limits.max_connections)),
    ])
}

fn protocol(protocol: UpstreamProtocol) -> &'static str {
    let found = PROTOCOLS.iter().find(|(_, value)| *value == protocol);
    found.map_or("", |(word, _)| word)
}

fn tls(tls: &UpstreamTls) -> Shown {
    let file = |path: &PathBuf| leaf(path.display());
    let pair = tls.client.as_ref();
    let parts = [
        ("server_name", tls.server_name.as_ref().map(leaf)),
        ("ca_file", tls.ca_file.as_ref().map(file)),
        ("cert_file", pair.map(|pair| file(&pair.cert_file))),
        ("key_file", pair.map(|pair| file(&pair.key_file))),
    ];
    let given = parts.into_iter();
    branch(given.filter_map(|(key, shown)| Some((key, shown?))))
}

fn ejection(ejection: &Ejection) -> Shown {
    branch([
        ("consecutive_failures", leaf(ejection.consecutive_failures)),
        (
            "base_ejection_time",
            leaf(show_duration(ejection.base_ejection_time)),
        ),
        ("max_ejection", leaf(show_share(ejection.max_ejection))),
    ])
}

fn priority(rule: &PriorityRule) -> Shown {
    let header = rule.header.as_ref().map(|header| ("header", leaf(header)));
    let shed_key = rule
        .shed_key
        .as_ref()
        .map(|key| ("shed_key", request_key(key)));
    let default = ("default", leaf(word(rule.default)));
    branch([default].into_iter().chain(header).chain(shed_key))
}

fn word(priority: Priority) -> &'static str {
    let found = PRIORITIES.iter().find(|(_, value)| *value == priority);
    found.map_or("UNSPECIFIED", |(word, _)| word)
}

fn request_key(key: &RequestKey) -> Shown {
    match key {
        RequestKey::Header(name) => leaf(format_args!("header:{name}")),
    }
}

fn retry(retry: &Retry) -> Shown {
    let name = |code: &u8| GRPC_CODES.get(usize::from(*code).wrapping_sub(1));
    let codes: Vec<_> = retry.grpc_codes.iter().filter_map(name).collect();
    branch([
        ("max_retries", leaf(retry.max_retries)),
        ("budget_percent", leaf(retry.budget_percent)),
        ("base_backoff", leaf(show_duration(retry.base_backoff))),
        ("grpc_codes", leaf(list(&codes))),
    ])
}

fn throttle(throttle: &Throttle) -> Shown {
    let key = throttle.key.as_ref().map(|key| ("key", request_key(key)));
    let always = [
        ("rate", leaf(throttle.rate)),
        ("burst", leaf(throttle.burst)),
    ];
    branch(always.into_iter().chain(key))
}

fn fallback(fallback: &Fallback) -> Shown {
    branch([
        ("serve_fresh", leaf(fallback.serve_fresh)),
        (
            "stale_if_error",
            leaf(show_duration(fallback.stale_if_error)),
        ),
        (
            "max_entry_bytes",
            leaf(show_bytes(fallback.max_entry_bytes)),
        ),
    ])
}

fn failover(failover: &Failover) -> Shown {
    let mode = match failover.mode {
        FailoverMode::Automatic => "automatic",
        FailoverMode::Manual => "manual",
    };
    branch([
        ("mode", leaf(mode)),
        (
            "target_utilization",
            leaf(show_share(failover.target_utilization)),
        ),
        (
            "failback_percent_per_second",
            leaf(failover.failback_percent_per_second),
        ),
    ])
}

fn health_check(check: &HealthCheck) -> Shown {
    let (protocol, asked) = match &check.probe {
        Probe::Http { path } => ("http", ("path", leaf(path))),
        Probe::Grpc { service } => ("grpc", ("grpc_service", leaf(service))),
    };
    branch([
        ("protocol", leaf(protocol)),
        asked,
        ("interval", leaf(show_duration(check.interval))),
        ("timeout", leaf(show_duration(check.timeout))),
        ("rise", leaf(check.rise)),
        ("fall", leaf(check.fall)),
        ("probers_per_pop", leaf(check.probers_per_pop)),
    ])
}
