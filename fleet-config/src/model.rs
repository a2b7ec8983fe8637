//! The fleet as validated: what every process holds in memory.

use std::{collections::BTreeMap, fmt};

use breaker_core::{
    ids::{BackendName, PopId, RegionName, ServiceName},
    policy::BreakerPolicy,
};

use crate::settings::{
    Ejection, Failover, Fallback, HealthCheck, Limits, Priority, PriorityRule, Retry, Throttle,
    Timeouts, UpstreamProtocol, UpstreamTls,
};

/// The whole fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetConfig {
    /// Edge locations; at least one.
    pub pops: BTreeMap<PopId, Pop>,
    /// Services; at least one.
    pub services: BTreeMap<ServiceName, Service>,
    /// What was accepted but deserves a word, one sentence each.
    pub warnings: Vec<String>,
}

/// One edge location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pop {
    /// Regions in the order this POP prefers them, without repetition.
    pub region_order: Vec<RegionName>,
}

/// What clients call.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Which requests are for it; at least one, most specific wins.
    pub routes: Vec<Route>,
    /// Its copies; at least one.
    pub backends: BTreeMap<RegionName, Backend>,
    /// How long to wait for it.
    pub timeouts: Timeouts,
    /// When to stop asking it.
    pub breaker: BreakerPolicy,
    /// How much one agent may ask of it.
    pub limits: Limits,
    /// What is spoken to its endpoints.
    pub protocol: UpstreamProtocol,
    /// How TLS to its endpoints is verified.
    pub tls: UpstreamTls,
    /// Protocols that `Upgrade` may switch to, in lower case, sorted; empty: none.
    pub upgrades: Vec<String>,
    /// When one endpoint is not used for a while.
    pub ejection: Ejection,
    /// Which requests go first when not all may.
    pub priority: PriorityRule,
    /// Retries of failed requests.
    pub retry: Option<Retry>,
    /// Rate limit.
    pub throttle: Option<Throttle>,
    /// Answers kept.
    pub fallback: Option<Fallback>,
    /// How traffic moves between regions.
    pub failover: Option<Failover>,
    /// Active probes.
    pub health_check: Option<HealthCheck>,
}

/// Which requests are for a service. All conditions must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Any of these hosts; empty: every host.
    pub hosts: Vec<HostPattern>,
    /// The normalised path.
    pub path: PathMatch,
    /// Any of these methods, sorted; empty: every method.
    pub methods: Vec<String>,
    /// All of these header fields, name in lower case, with exactly these
    /// values; sorted.
    pub headers: Vec<(String, String)>,
    /// Priority of its requests.
    pub priority: Option<Priority>,
    /// Largest request body in bytes; `None`: unlimited.
    pub max_request_bytes: Option<u64>,
}

/// A host, or all hosts below one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This host, in lower case, without port.
    Exact(String),
    /// `*.example.com`, kept as `.example.com`: every host that ends so, with
    /// one label or more before it.
    Suffix(String),
}

impl HostPattern {
    /// Whether `host`, in lower case and without port, matches.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => host == exact,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// What a path must look like.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// Starts with these whole segments: `/pay` matches `/pay` and `/pay/1`, not
    /// `/payments`. Without a trailing slash, except for `/` itself.
    Prefix(String),
    /// Is this.
    Exact(String),
}

impl PathMatch {
    /// Whether a normalised path, without query, matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) if prefix == "/" => true,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(path) => write!(f, "path_prefix {path}"),
            Self::Exact(path) => write!(f, "path {path}"),
        }
    }
}

/// One service in one region.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// `service/region`.
    pub name: BackendName,
    /// Its addresses, at least one, without repetition.
    pub endpoints: Vec<Endpoint>,
    /// Requests a second it takes; `None`: learned.
    pub capacity_rps: Option<f64>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// How to speak to it.
    pub scheme: Scheme,
    /// A DNS name in lower case, an IPv4 address, or an IPv6 address without
    /// brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self;
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}"),
            false => write!(f, "{scheme}://{host}:{port}"),
        }
    }
}

/// How to speak to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Over TCP.
    Http,
    /// Over TLS.
    Https,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => f.write_str("http"),
            Self::Https => f.write_str("https"),
        }
    }
}

impl FleetConfig {
    /// Every backend with its service, by service, then by region.
    pub fn backends(&self) -> impl Iterator<Item = (&BackendName, &Service, &Backend)> {
        self.services.values().flat_map(|service| {
            let backends = service.backends.values();
            backends.map(move |backend| (&backend.name, service, backend))
        })
    }

    /// One backend with its service.
    pub fn backend(&self, name: &BackendName) -> Option<(&Service, &Backend)> {
        let service = self.services.get(name.service())?;
        Some((service, service.backends.get(name.region())?))
    }

    /// The policy that judges a backend.
    pub fn policy(&self, name: &BackendName) -> Option<&BreakerPolicy> {
        self.backend(name).map(|(service, _)| &service.breaker)
    }

    /// A service's backends in the order `pop` prefers them: regions of its
    /// order that the service is in. Empty for an unknown POP or service.
    pub fn region_order<'a>(
        &'a self,
        pop: &PopId,
        service: &ServiceName,
    ) -> impl Iterator<Item = &'a Backend> + use<'a> {
        let order = self.pops.get(pop).map(|pop| pop.region_order.as_slice());
        let service = self.services.get(service);
        order
            .unwrap_or_default()
            .iter()
            .filter_map(move |region| service?.backends.get(region))
    }
}
