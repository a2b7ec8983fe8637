//! Which addresses a backend has, and which of them may be asked now: what health
//! checks found, what names resolve to, and what failed many times in a row.
//!
//! All cores share it. What one of them finds out is true for all, an operator sees
//! one state, and an endpoint that dies costs so many requests once and not once a
//! core. For a request it is two reads of what hardly ever changes; only failures
//! write.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use fleet_config::{Ejection, Endpoint};

use crate::{
    backend::ejection::{Record, may_eject},
    probe::Unhealthy,
};

/// Addresses of one name that are used: more than any name of a service should
/// have, and a bound on what a resolver can make us hold.
const MAX_ADDRESSES: usize = 64;

/// One backend's endpoints.
#[derive(Debug)]
pub(crate) struct Reach {
    /// Rises with every change, so that cores notice for the price of one read.
    changes: AtomicU64,
    unhealthy: ArcSwap<Unhealthy>,
    targets: ArcSwap<Vec<Arc<Target>>>,
    ejection: ArcSwap<Ejection>,
    /// Of this backend's, one is ejected at a time, so that no more are than may be.
    /// Nobody waits for it: whoever finds it taken leaves it to the next failure.
    ejecting: Mutex<()>,
    start: Instant,
}

/// One address of one endpoint.
#[derive(Debug)]
pub(crate) struct Target {
    /// As it is configured.
    pub(crate) endpoint: Endpoint,
    /// `None`: a name that is not resolved yet.
    pub(crate) address: Option<SocketAddr>,
    /// Failures in a row.
    failures: AtomicU32,
    /// See [`Record`], in milliseconds since [`Reach::start`].
    until_ms: AtomicU64,
    times: AtomicU32,
}

impl Target {
    fn new(endpoint: Endpoint, address: Option<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            address,
            failures: AtomicU32::new(0),
            until_ms: AtomicU64::new(0),
            times: AtomicU32::new(0),
        })
    }

    fn record(&self) -> Record {
        Record {
            until: Duration::from_millis(self.until_ms.load(Relaxed)),
            times: self.times.load(Relaxed),
        }
    }
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            changes: AtomicU64::new(0),
            unhealthy: ArcSwap::default(),
            targets: ArcSwap::default(),
            ejection: ArcSwap::from_pointee(Ejection::default()),
            ejecting: Mutex::new(()),
            start: Instant::now(),
        }
    }
}

impl Reach {
    /// A number that is another one after every change.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Release);
    }

    /// Every address.
    pub(crate) fn targets(&self) -> Arc<Vec<Arc<Target>>> {
        self.targets.load_full()
    }

    /// What health checks took out.
    pub(crate) fn unhealthy(&self) -> Arc<Unhealthy> {
        self.unhealthy.load_full()
    }

    /// Health checks found something else.
    pub(crate) fn set_unhealthy(&self, unhealthy: Unhealthy) {
        if **self.unhealthy.load() != unhealthy {
            self.unhealthy.store(Arc::new(unhealthy));
            self.changed();
        }
    }

    /// Another configuration. `anew`: what is known of the endpoints, and open to
    /// them, is of no use any more.
    pub(crate) fn configure(&self, endpoints: &[Endpoint], ejection: Ejection, anew: bool) {
        self.ejection.store(Arc::new(ejection));
        self.targets.rcu(|before| {
            let targets = endpoints.iter().flat_map(|endpoint| {
                let known = before.iter().filter(|t| !anew && t.endpoint == *endpoint);
                let mut known: Vec<_> = known.cloned().collect();
                if known.is_empty() {
                    let address = endpoint.host.parse().ok();
                    let address = address.map(|ip| SocketAddr::new(ip, endpoint.port));
                    known.push(Target::new(endpoint.clone(), address));
                }
                known
            });
            targets.collect::<Vec<_>>()
        });
        self.changed();
    }

    /// A name has these addresses now. What is gone is not used any more; of what
    /// stays, everything is remembered. None at all are not believed.
    pub(crate) fn resolved(&self, endpoint: &Endpoint, mut addresses: Vec<SocketAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        let targets = self.targets();
        let known = targets.iter().filter(|t| t.endpoint == *endpoint);
        let same = known
            .map(|t| t.address)
            .eq(addresses.iter().copied().map(Some));
        if same || addresses.is_empty() {
            return;
        }
        self.targets
            .rcu(|before| with_addresses(before, endpoint, &addresses));
        self.changed();
    }

    /// Other addresses of the same name, for a connection that the first refused.
    pub(crate) fn siblings(&self, target: &Arc<Target>) -> Vec<Arc<Target>> {
        let targets = self.targets.load();
        let sibling =
            |other: &&Arc<Target>| other.endpoint == target.endpoint && !Arc::ptr_eq(other, target);
        let mut siblings: Vec<_> = targets.iter().filter(sibling).cloned().collect();
        siblings.sort_by_key(|sibling| self.ejected_for(sibling, Instant::now()));
        siblings
    }

    /// It answered, and well.
    pub(crate) fn succeeded(&self, target: &Target) {
        // Looked at before it is written, as others look at it, too.
        if target.failures.load(Relaxed) > 0 {
            target.failures.store(0, Relaxed);
        }
    }

    /// It failed: after so many times in a row, it is ejected.
    pub(crate) fn failed(&self, target: &Target, now: Instant) {
        let settings = self.ejection.load();
        let limit = settings.consecutive_failures;
        if limit == 0 || self.ejected_for(target, now).is_some() {
            return;
        }
        let failures = target.failures.fetch_add(1, Relaxed).saturating_add(1);
        if failures >= limit {
            self.eject(target, &settings, now);
        }
    }

    fn eject(&self, target: &Target, settings: &Ejection, now: Instant) {
        let Ok(_alone) = self.ejecting.try_lock() else {
            return;
        };
        if self.ejected_for(target, now).is_some() {
            return;
        }
        let targets = self.targets.load();
        let ejected = |t: &&Arc<Target>| self.ejected_for(t, now).is_some();
        let count = targets.iter().filter(ejected).count();
        if !may_eject(count, targets.len(), settings.max_ejection) {
            return;
        }
        let record = target.record().ejected(self.since_start(now), settings);
        target.times.store(record.times, Relaxed);
        let until = record.until.as_millis() as u64;
        target.until_ms.store(until, Relaxed);
        // Back, it is on probation: one more failure, and it goes again.
        let probation = settings.consecutive_failures - 1;
        target.failures.store(probation, Relaxed);
        self.changed();
        let (endpoint, address) = (&target.endpoint, target.address);
        let seconds = record.until.saturating_sub(self.since_start(now)).as_secs();
        tracing::warn!(%endpoint, ?address, seconds, "an endpoint failed too often in a row and is left out");
    }

    /// For how long it is still ejected; `None`: it is not.
    pub(crate) fn ejected_for(&self, target: &Target, now: Instant) -> Option<Duration> {
        let until = Duration::from_millis(target.until_ms.load(Relaxed));
        let left = until.checked_sub(self.since_start(now))?;
        (!left.is_zero()).then_some(left)
    }

    fn since_start(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }
}

/// The endpoint's addresses, in its place. Nothing, if it left the configuration.
fn with_addresses(
    before: &[Arc<Target>],
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
) -> Vec<Arc<Target>> {
    let mut targets = before.to_vec();
    let Some(place) = targets.iter().position(|t| t.endpoint == *endpoint) else {
        return targets;
    };
    targets.retain(|t| t.endpoint != *endpoint);
    let target = |address: &SocketAddr| {
        let same = |t: &&Arc<Target>| t.endpoint == *endpoint && t.address == Some(*address);
        let known = before.iter().find(same).cloned();
        known.unwrap_or_else(|| Target::new(endpoint.clone(), Some(*address)))
    };
    targets.splice(place..place, addresses.iter().map(target));
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_config::Scheme;

    const SECOND: Duration = Duration::from_secs(1);

    fn endpoint(host: &str) -> Endpoint {
        Endpoint {
            scheme: Scheme::Http,
            host: host.to_owned(),
            port: 80,
        }
    }

    fn reach(hosts: &[&str]) -> Reach {
        let reach = Reach::default();
        let endpoints: Vec<_> = hosts.iter().copied().map(endpoint).collect();
        reach.configure(&endpoints, Ejection::default(), false);
        reach
    }

    fn ejected(reach: &Reach, now: Instant) -> Vec<usize> {
        let targets = reach.targets();
        let all = targets.iter().enumerate();
        let out = all.filter(|(_, target)| reach.ejected_for(target, now).is_some());
        out.map(|(at, _)| at).collect()
    }

    fn fail(reach: &Reach, at: usize, times: usize, now: Instant) {
        for _ in 0..times {
            reach.failed(&reach.targets()[at], now);
        }
    }

    #[test]
    fn five_failures_in_a_row_eject_and_time_brings_back() {
        let reach = reach(&["10.0.0.1", "10.0.0.2"]);
        let now = Instant::now();
        fail(&reach, 0, 4, now);
        reach.succeeded(&reach.targets()[0]);
        fail(&reach, 0, 4, now);
        assert_eq!(ejected(&reach, now), [0; 0]);
        let before = reach.changes();
        fail(&reach, 0, 1, now);
        assert_eq!(ejected(&reach, now), [0]);
        assert_ne!(reach.changes(), before);
        assert_eq!(ejected(&reach, now + 31 * SECOND), [0; 0]);
    }

    #[test]
    fn one_that_is_back_goes_again_at_its_first_failure_and_for_longer() {
        let reach = reach(&["10.0.0.1", "10.0.0.2"]);
        let now = Instant::now();
        fail(&reach, 0, 9, now);
        let back = now + 31 * SECOND;
        fail(&reach, 0, 1, back);
        assert_eq!(ejected(&reach, back + 59 * SECOND), [0]);
        assert_eq!(ejected(&reach, back + 61 * SECOND), [0; 0]);
        // One that answers is as good as any.
        reach.succeeded(&reach.targets()[0]);
        fail(&reach, 0, 4, back + 61 * SECOND);
        assert_eq!(ejected(&reach, back + 61 * SECOND), [0; 0]);
    }

    #[test]
    fn at_most_half_are_ejected() {
        let reach = reach(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
        let now = Instant::now();
        for at in 0..4 {
            fail(&reach, at, 9, now);
        }
        assert_eq!(ejected(&reach, now), [0, 1]);
    }

    #[test]
    fn a_name_s_addresses_are_endpoints_and_those_that_stay_are_remembered() {
        let reach = reach(&["10.0.0.9", "name"]);
        let name = endpoint("name");
        let address = |n: u8| SocketAddr::from(([10, 0, 0, n], 80));
        let addresses = || -> Vec<_> { reach.targets().iter().map(|t| t.address).collect() };
        assert_eq!(addresses(), [Some(address(9)), None]);
        reach.resolved(&name, vec![address(2), address(1), address(2)]);
        assert_eq!(addresses(), [9, 1, 2].map(|n| Some(address(n))));
        let now = Instant::now();
        fail(&reach, 1, 5, now);
        let changes = reach.changes();
        reach.resolved(&name, vec![address(1), address(2)]);
        reach.resolved(&name, Vec::new());
        reach.resolved(&endpoint("other"), vec![address(7)]);
        assert_eq!(addresses(), [9, 1, 2].map(|n| Some(address(n))));
        assert!(reach.changes() <= changes + 1);
        reach.resolved(&name, vec![address(3), address(1)]);
        assert_eq!(addresses(), [9, 1, 3].map(|n| Some(address(n))));
        assert_eq!(ejected(&reach, now), [1]);
        reach.configure(std::slice::from_ref(&name), Ejection::default(), false);
        assert_eq!(addresses(), [1, 3].map(|n| Some(address(n))));
        reach.configure(&[name], Ejection::default(), true);
        assert_eq!(addresses(), [None], "nothing is known any more");
    }
}
