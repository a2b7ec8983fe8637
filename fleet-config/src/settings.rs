//! A service's settings as validated, with their defaults. Breaker settings are
//! `breaker_core::BreakerPolicy`.

use std::{path::PathBuf, time::Duration};

pub use breaker_core::Priority;
use breaker_core::probing::RiseFall;

/// How long to wait for a backend. Each is at most the total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection. 1 ms to 5 min.
    pub connect: Duration,
    /// For the response's header, from when the request was sent. 1 ms to 1 h.
    pub response_headers: Duration,
    /// For one attempt up to its response's header, connecting included; a retry
    /// begins anew. 1 ms to 1 h; `None`: what is left of the total.
    pub per_try: Option<Duration>,
    /// For the whole exchange, all attempts together. 1 ms to 1 h.
    pub total: Duration,
}

impl Timeouts {
    /// What is left of them once `spent` of the total is gone.
    #[must_use]
    pub fn within(&self, spent: Duration) -> Self {
        let total = self.total.saturating_sub(spent);
        Self {
            connect: self.connect.min(total),
            response_headers: self.response_headers.min(total),
            per_try: self.per_try,
            total,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            response_headers: Duration::from_secs(10),
            per_try: None,
            total: Duration::from_secs(30),
        }
    }
}

/// What one agent may ask of one backend at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight, 1 to 1,000,000.
    pub max_concurrency: u32,
    /// Requests waiting for their turn, 0 to 100,000.
    pub max_queue: u32,
    /// Longest wait in the queue, 1 ms to 60 s.
    pub queue_timeout: Duration,
    /// Connections to each endpoint, 1 to 60,000: more would exhaust the ephemeral
    /// ports towards it.
    pub max_connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_concurrency: 1024,
            max_queue: 0,
            queue_timeout: Duration::from_millis(100),
            max_connections: 1024,
        }
    }
}

/// What identifies a request's caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestKey {
    /// The value of this header field, name in lower case.
    Header(String),
}

/// How a request gets its priority.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PriorityRule {
    /// The header field that names one, in lower case.
    pub header: Option<String>,
    /// Without such a field.
    pub default: Priority,
    /// Who is admitted together.
    pub shed_key: Option<RequestKey>,
}

/// What is spoken to a service's endpoints. gRPC always goes over HTTP/2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by ALPN where there is TLS, else with prior knowledge.
    Http2,
}

/// How TLS to `https://` endpoints is verified. Paths are of the agents' hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name that certificates must have, and that is sent as SNI; `None`: the
    /// endpoint's host.
    pub server_name: Option<String>,
    /// PEM file of the authorities that are trusted; `None`: the host's own.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, for endpoints that ask for one.
    pub client: Option<KeyPair>,
}

/// A certificate chain and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPair {
    /// The chain, leaf first.
    pub cert_file: PathBuf,
    /// The private key: PKCS #8, PKCS #1 or SEC 1.
    pub key_file: PathBuf,
}

/// When an agent stops using one endpoint that fails while others do not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ejection {
    /// Failures in a row, 1 to 1,000; 0: never. Envoy's `consecutive_5xx` is 5.
    pub consecutive_failures: u32,
    /// For how long the first time; the n-th time in a row n times as long. 1 s to
    /// 1 h.
    pub base_ejection_time: Duration,
    /// Share of a backend's endpoints that may be ejected at a time, (0, 1]; one
    /// always may.
    pub max_ejection: f64,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            base_ejection_time: Duration::from_secs(30),
            max_ejection: 0.5,
        }
    }
}

/// Retries of failed requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Retries of one request, 0 to 10.
    pub max_retries: u32,
    /// Retries as a percentage of requests, 0 to 100.
    pub budget_percent: f64,
    /// First wait, doubled each time, full jitter. 1 ms to 10 s.
    pub base_backoff: Duration,
    /// gRPC status codes after which a call is made again, sorted: its server
    /// promises that it did nothing. Empty: only calls that were never sent are.
    pub grpc_codes: Vec<u8>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_retries: 2,
            budget_percent: 20.0,
            base_backoff: Duration::from_millis(25),
            grpc_codes: Vec::new(),
        }
    }
}

/// Rate limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Throttle {
    /// Requests a second over the fleet, above 0.
    pub rate: f64,
    /// Requests at once, 1 and up.
    pub burst: u32,
    /// Who has a bucket of their own; `None`: one for all.
    pub key: Option<RequestKey>,
}

/// Answers kept: for an emergency, and while fresh if wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fallback {
    /// Answers that are fresh under RFC 9111 are served without asking the
    /// backend; otherwise answers are kept for emergencies only.
    pub serve_fresh: bool,
    /// How stale, 1 s to 7 days.
    pub stale_if_error: Duration,
    /// Largest answer kept, in bytes.
    pub max_entry_bytes: u64,
}

impl Default for Fallback {
    fn default() -> Self {
        Self {
            serve_fresh: false,
            stale_if_error: Duration::from_secs(300),
            max_entry_bytes: 1 << 20,
        }
    }
}

/// Who puts a failover plan into force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailoverMode {
    /// The control plane.
    #[default]
    Automatic,
    /// An operator, who approves it.
    Manual,
}

/// How traffic moves between regions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Failover {
    /// Who puts a plan into force.
    pub mode: FailoverMode,
    /// Share of a region's capacity to fill, (0, 1].
    pub target_utilization: f64,
    /// Percentage of the demand that moves back each second, (0, 100].
    pub failback_percent_per_second: f64,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            mode: FailoverMode::Automatic,
            target_utilization: 0.8,
            failback_percent_per_second: 10.0,
        }
    }
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `GET` of this path over HTTP/1.1; healthy: 2xx and 3xx.
    Http {
        /// With a slash in front, without query.
        path: String,
    },
    /// `grpc.health.v1.Health/Check`; healthy: `SERVING`.
    Grpc {
        /// The service asked for; empty: the server as a whole.
        service: String,
    },
}

impl Default for Probe {
    fn default() -> Self {
        Self::Http {
            path: "/healthz".to_owned(),
        }
    }
}

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// How often, 100 ms to 1 h.
    pub interval: Duration,
    /// How long to wait, at most the interval.
    pub timeout: Duration,
    /// Successes in a row that make an endpoint healthy, 1 to 100.
    pub rise: u32,
    /// Failures in a row that make it unhealthy, 1 to 100.
    pub fall: u32,
    /// Agents of each POP that probe, 1 to 100.
    pub probers_per_pop: u32,
}

impl HealthCheck {
    /// How many probes change a prober's mind.
    pub const fn rise_fall(&self) -> RiseFall {
        RiseFall {
            rise: self.rise,
            fall: self.fall,
        }
    }

    /// What was found this long ago says nothing any more: two probes are missing,
    /// and the third is late. Reports of them go up once a second, and may be late.
    pub fn fresh_for(&self) -> Duration {
        self.interval * 3 + self.timeout + Duration::from_secs(2)
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            probe: Probe::default(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            probers_per_pop: 1,
        }
    }
}
