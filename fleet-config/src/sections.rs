//! Reading a service's settings. Each section starts from what `defaults:` says,
//! and that from the built-in defaults, so keys merge one by one.

use std::time::Duration;

use crate::{
    read::{At, Fields},
    settings::{
        Ejection, Failover, FailoverMode, Fallback, HealthCheck, KeyPair, Limits, Priority,
        PriorityRule, Probe, RequestKey, Retry, Throttle, Timeouts, UpstreamProtocol, UpstreamTls,
    },
    thresholds::{self, Thresholds},
    units::show_duration,
    values::{
        boolean, bytes, count, duration, file, grpc_code, grpc_service, header_name, list, one_of,
        path, positive_number, positive_share, request_key, server_name, token,
    },
};

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) const PRIORITIES: [(&str, Priority); 4] = [
    ("CRITICAL", Priority::Critical),
    ("HIGH", Priority::High),
    ("NORMAL", Priority::Normal),
    ("LOW", Priority::Low),
];

pub(crate) const PROTOCOLS: [(&str, UpstreamProtocol); 2] = [
    ("http1", UpstreamProtocol::Http1),
    ("http2", UpstreamProtocol::Http2),
];

/// Everything about a service but its routes and backends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) timeouts: Timeouts,
    pub(crate) thresholds: Thresholds,
    pub(crate) limits: Limits,
    pub(crate) protocol: UpstreamProtocol,
    pub(crate) tls: UpstreamTls,
    pub(crate) upgrades: Vec<String>,
    pub(crate) ejection: Ejection,
    pub(crate) priority: PriorityRule,
    pub(crate) retry: Option<Retry>,
    pub(crate) throttle: Option<Throttle>,
    pub(crate) fallback: Option<Fallback>,
    pub(crate) failover: Option<Failover>,
    pub(crate) health_check: Option<HealthCheck>,
}

impl Settings {
    /// Reads the settings among `fields` on top of `self`.
    pub(crate) fn read(mut self, fields: &mut Fields<'_>) -> Self {
        section(fields, "timeouts", |f| timeouts(f, &mut self.timeouts));
        section(fields, "breaker", |f| {
            thresholds::read(f, &mut self.thresholds);
        });
        thresholds::check_slow_call(fields, &self);
        section(fields, "limits", |f| limits(f, &mut self.limits));
        fields.read("protocol", &mut self.protocol, one_of(&PROTOCOLS));
        section(fields, "tls", |f| tls(f, &mut self.tls));
        fields.read("upgrades", &mut self.upgrades, |at| list(at, token));
        section(fields, "ejection", |f| ejection(f, &mut self.ejection));
        section(fields, "retry", |f| {
            retry(f, self.retry.get_or_insert_default());
        });
        section(fields, "throttle", |f| throttle(f, &mut self.throttle));
        section(fields, "priority", |f| priority(f, &mut self.priority));
        section(fields, "fallback", |f| {
            fallback(f, self.fallback.get_or_insert_default());
        });
        section(fields, "failover", |f| {
            failover(f, self.failover.get_or_insert_default());
        });
        section(fields, "health_check", |f| {
            health_check(f, self.health_check.get_or_insert_default());
        });
        self
    }
}

pub(crate) fn section<'a>(
    fields: &mut Fields<'a>,
    key: &'static str,
    read: impl FnOnce(&mut Fields<'a>),
) {
    let Some(mut section) = fields.get(key).and_then(|at| at.fields()) else {
        return;
    };
    read(&mut section);
    section.finish();
}

fn timeouts(fields: &mut Fields<'_>, out: &mut Timeouts) {
    fields.read("total", &mut out.total, duration(ms(1)..=secs(3600)));
    part_of_total(fields, "connect", &mut out.connect, out.total, secs(300));
    let headers = &mut out.response_headers;
    part_of_total(fields, "response_headers", headers, out.total, secs(3600));
    let total = out.total;
    fields.read("per_try", &mut out.per_try, |at| {
        let part = duration(ms(1)..=secs(3600))(at)?;
        within_total(at, part, total).map(Some)
    });
    out.per_try = out.per_try.filter(|part| *part <= total);
}

/// A time-out that was written must not exceed the total; one that was not is
/// cut to it, so that `timeouts: {total: 500ms}` is enough.
fn part_of_total(
    fields: &mut Fields<'_>,
    key: &'static str,
    out: &mut Duration,
    total: Duration,
    max: Duration,
) {
    let written = fields.read(key, out, |at| {
        within_total(at, duration(ms(1)..=max)(at)?, total)
    });
    if !written {
        *out = total.min(*out);
    }
}

fn within_total(at: &At<'_>, part: Duration, total: Duration) -> Option<Duration> {
    if part <= total {
        return Some(part);
    }
    at.error(format_args!(
        "{} is longer than timeouts.total ({}), so it would never run out",
        show_duration(part),
        show_duration(total)
    ));
    None
}

fn limits(fields: &mut Fields<'_>, out: &mut Limits) {
    fields.read(
        "max_concurrency",
        &mut out.max_concurrency,
        count(1..=1_000_000),
    );
    fields.read("max_queue", &mut out.max_queue, count(0..=100_000));
    fields.read(
        "queue_timeout",
        &mut out.queue_timeout,
        duration(ms(1)..=secs(60)),
    );
    fields.read(
        "max_connections",
        &mut out.max_connections,
        count(1..=60_000),
    );
}

fn tls(fields: &mut Fields<'_>, out: &mut UpstreamTls) {
    fields.read("server_name", &mut out.server_name, |at| {
        server_name(at).map(Some)
    });
    fields.read("ca_file", &mut out.ca_file, |at| file(at).map(Some));
    let (mut cert_file, mut key_file) = out.client.take().map_or((None, None), |pair| {
        (Some(pair.cert_file), Some(pair.key_file))
    });
    fields.read("cert_file", &mut cert_file, |at| file(at).map(Some));
    fields.read("key_file", &mut key_file, |at| file(at).map(Some));
    match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => {
            out.client = Some(KeyPair {
                cert_file,
                key_file,
            });
        }
        (None, None) => {}
        _ => fields
            .at
            .error("cert_file and key_file belong together: give both, or neither"),
    }
}

fn ejection(fields: &mut Fields<'_>, out: &mut Ejection) {
    let failures = &mut out.consecutive_failures;
    fields.read("consecutive_failures", failures, count(0..=1000));
    let time = &mut out.base_ejection_time;
    fields.read("base_ejection_time", time, duration(secs(1)..=secs(3600)));
    fields.read("max_ejection", &mut out.max_ejection, positive_share);
}

fn retry(fields: &mut Fields<'_>, out: &mut Retry) {
    fields.read("max_retries", &mut out.max_retries, count(0..=10));
    fields.read(
        "budget_percent",
        &mut out.budget_percent,
        positive_number(100.0),
    );
    fields.read(
        "base_backoff",
        &mut out.base_backoff,
        duration(ms(1)..=secs(10)),
    );
    fields.read("grpc_codes", &mut out.grpc_codes, |at| list(at, grpc_code));
}

fn throttle(fields: &mut Fields<'_>, out: &mut Option<Throttle>) {
    let mut rate = out.as_ref().map(|throttle| throttle.rate);
    let mut burst = out.as_ref().map(|throttle| throttle.burst);
    let mut key = out.take().and_then(|throttle| throttle.key);
    let written = fields.read("rate", &mut rate, |at| positive_number(1e9)(at).map(Some));
    fields.read("burst", &mut burst, |at| {
        count(1..=1_000_000_000)(at).map(Some)
    });
    fields.read("key", &mut key, |at| request_key(at).map(Some));
    match rate {
        Some(rate) => {
            // Without a burst: what one second brings.
            let burst = burst.unwrap_or(rate.ceil() as u32);
            *out = Some(Throttle { rate, burst, key });
        }
        None if written => {}
        None => fields
            .at
            .error("rate is missing: give the requests a second, for example rate: 500"),
    }
}

fn priority(fields: &mut Fields<'_>, out: &mut PriorityRule) {
    let header = fields.read("header", &mut out.header, |at| header_name(at).map(Some));
    fields.read("default", &mut out.default, one_of(&PRIORITIES));
    let key = fields.read("shed_key", &mut out.shed_key, |at| {
        request_key(at).map(Some)
    });
    match (&out.header, &out.shed_key) {
        // Callers who name the same priority would all be one caller.
        (Some(name), Some(RequestKey::Header(key_name))) if name == key_name && (header || key) => {
            fields.at.error(format_args!(
                "shed_key is the field that names the priority ({name}), so all requests of one \
                 priority would be let in or shed together: use one that tells callers apart, for \
                 example header:x-user-id"
            ));
        }
        _ => {}
    }
}

fn fallback(fields: &mut Fields<'_>, out: &mut Fallback) {
    fields.read("serve_fresh", &mut out.serve_fresh, boolean);
    let week = secs(7 * 24 * 3600);
    fields.read(
        "stale_if_error",
        &mut out.stale_if_error,
        duration(secs(1)..=week),
    );
    fields.read(
        "max_entry_bytes",
        &mut out.max_entry_bytes,
        bytes(1..=64 << 20),
    );
}

fn failover(fields: &mut Fields<'_>, out: &mut Failover) {
    let modes = [
        ("automatic", FailoverMode::Automatic),
        ("manual", FailoverMode::Manual),
    ];
    fields.read("mode", &mut out.mode, one_of(&modes));
    fields.read(
        "target_utilization",
        &mut out.target_utilization,
        positive_share,
    );
    let back = &mut out.failback_percent_per_second;
    fields.read("failback_percent_per_second", back, positive_number(100.0));
}

fn health_check(fields: &mut Fields<'_>, out: &mut HealthCheck) {
    probe(fields, &mut out.probe);
    fields.read(
        "interval",
        &mut out.interval,
        duration(ms(100)..=secs(3600)),
    );
    let interval = out.interval;
    let written = fields.read("timeout", &mut out.timeout, |at| {
        let timeout = duration(ms(1)..=secs(3600))(at)?;
        no_longer_than_interval(at, timeout, interval)
    });
    if !written {
        out.timeout = interval.min(out.timeout);
    }
    fields.read("rise", &mut out.rise, count(1..=100));
    fields.read("fall", &mut out.fall, count(1..=100));
    fields.read("probers_per_pop", &mut out.probers_per_pop, count(1..=100));
}

/// What is asked. A key of the other protocol is a contradiction, so it is an
/// error and not ignored; one that `defaults:` gave goes with its protocol.
fn probe(fields: &mut Fields<'_>, out: &mut Probe) {
    let grpc = matches!(out, Probe::Grpc { .. });
    let protocols = [("http", false), ("grpc", true)];
    let (mut now_grpc, mut http_path, mut service) = (grpc, None, None);
    fields.read("protocol", &mut now_grpc, one_of(&protocols));
    let refuse = |at: &At<'_>, its, ours| {
        at.error(format_args!(
            "belongs to protocol {its}, but the protocol is {ours}: change it or leave this out"
        ));
        None
    };
    fields.read("path", &mut http_path, |at| match now_grpc {
        true => refuse(at, "http", "grpc"),
        false => path(at).map(Some),
    });
    fields.read("grpc_service", &mut service, |at| match now_grpc {
        true => grpc_service(at).map(Some),
        false => refuse(at, "grpc", "http"),
    });
    if now_grpc != grpc {
        *out = match now_grpc {
            true => Probe::Grpc {
                service: String::new(),
            },
            false => Probe::default(),
        };
    }
    match (out, http_path, service) {
        (Probe::Http { path }, Some(written), _) => *path = written,
        (Probe::Grpc { service }, _, Some(written)) => *service = written,
        _ => {}
    }
}

fn no_longer_than_interval(at: &At<'_>, timeout: Duration, interval: Duration) -> Option<Duration> {
    if timeout <= interval {
        return Some(timeout);
    }
    at.error(format_args!(
        "{} is longer than health_check.interval ({}): probes would overlap",
        show_duration(timeout),
        show_duration(interval)
    ));
    None
}
