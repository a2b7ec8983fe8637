//! What is known of each quota over all replicas: written by the granting loop and
//! by whoever syncs with the store, read by both and by people.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use breaker_core::{ids::ServiceName, quota::Claim};
use rampmeter_api::v1;

use crate::{
    config::Fleet,
    metrics::Page,
    plane::Plane,
    store::{QuotaView, ReplicaId},
};

/// Keys of one service that other replicas are told of, most wanted first: each
/// costs them some ten bytes a sync.
const KEYS_TOLD: usize = 1_000;

/// Keys that want less than this share of their rate are not told: a replica can
/// serve such a one alone.
const TOLD_FROM: f64 = 0.05;

/// Keys of one service shown to people, most wanted first.
const KEYS_SHOWN: usize = 100;

/// One replica's view of a service's quotas, by hashed key.
pub type Views = BTreeMap<u64, QuotaView>;

/// The quotas of all services.
#[derive(Debug, Default)]
pub struct Quotas(Mutex<BTreeMap<ServiceName, OfService>>);

#[derive(Debug, Default)]
struct OfService {
    own: Views,
    /// `None` until the store was asked.
    others: Option<BTreeMap<ReplicaId, Views>>,
    granted: f64,
    reserved: f64,
}

impl Quotas {
    /// This replica's register of a service: what to tell the others.
    pub fn register(&self, service: &ServiceName, rate: f64) -> Views {
        let quotas = self.lock();
        let own = quotas.get(service).map(|q| &q.own).into_iter().flatten();
        let told = own.filter(|(key, view)| **key == 0 || view.wanted >= TOLD_FROM * rate);
        most_wanted(told.map(|(key, view)| (*key, *view)), KEYS_TOLD)
            .into_iter()
            .collect()
    }

    /// What the other replicas told, as of now.
    pub fn learn<'a>(
        &self,
        service: &ServiceName,
        others: impl Iterator<Item = (&'a ReplicaId, &'a Views)>,
    ) {
        let others = others.map(|(replica, views)| (replica.clone(), views.clone()));
        self.lock().entry(service.clone()).or_default().others = Some(others.collect());
    }

    /// What the other replicas claim of each key; `None` until they were asked.
    pub(super) fn others(
        &self,
        service: &ServiceName,
    ) -> Option<BTreeMap<u64, Vec<(ReplicaId, QuotaView)>>> {
        let quotas = self.lock();
        let others = quotas.get(service)?.others.as_ref()?;
        let mut keys = BTreeMap::<u64, Vec<_>>::new();
        for (replica, views) in others {
            for (key, view) in views {
                keys.entry(*key).or_default().push((replica.clone(), *view));
            }
        }
        Some(keys)
    }

    /// Shows what this replica saw and granted.
    pub(super) fn show(&self, service: &ServiceName, own: Views, granted: f64, reserved: f64) {
        let mut quotas = self.lock();
        let of_service = quotas.entry(service.clone()).or_default();
        (of_service.own, of_service.granted, of_service.reserved) = (own, granted, reserved);
    }

    /// Drops services that have no quota any more.
    pub(super) fn retain(&self, keep: impl Fn(&ServiceName) -> bool) {
        self.lock().retain(|name, _| keep(name));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceName, OfService>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As a claim on the fleet's rate.
pub(super) fn claim(view: &QuotaView) -> Claim {
    Claim {
        agents: view.agents,
        wanted: view.wanted,
    }
}

/// Adds up the views of replicas.
pub(super) fn sum<'a>(views: impl Iterator<Item = &'a QuotaView>) -> QuotaView {
    views.fold(QuotaView::default(), |sum, view| QuotaView {
        wanted: sum.wanted + view.wanted,
        admitted: sum.admitted + view.admitted,
        agents: sum.agents + view.agents,
    })
}

fn most_wanted(
    views: impl Iterator<Item = (u64, QuotaView)>,
    most: usize,
) -> Vec<(u64, QuotaView)> {
    let mut views: Vec<_> = views.collect();
    views.sort_by(|(_, a), (_, b)| b.wanted.total_cmp(&a.wanted));
    views.truncate(most);
    views
}

/// A service's quotas over all replicas, for readers, most wanted first.
pub fn status(plane: &Plane, fleet: &Fleet, service: &ServiceName) -> Vec<v1::QuotaStatus> {
    let of_service = fleet.config.services.get(service);
    let Some(throttle) = of_service.and_then(|s| s.throttle.as_ref()) else {
        return Vec::new();
    };
    let mut keys = BTreeMap::<u64, QuotaView>::new();
    let quotas = plane.quotas.lock();
    if let Some(of_service) = quotas.get(service) {
        let others = of_service.others.iter().flat_map(BTreeMap::values);
        for (key, view) in [&of_service.own].into_iter().chain(others).flatten() {
            let total = keys.entry(*key).or_default();
            *total = sum([&*total, view].into_iter());
        }
    }
    // Where the quota has keys, key 0 stands for requests without one.
    let shown = keys
        .into_iter()
        .filter(|(key, view)| throttle.key.is_none() || *key != 0 || view.wanted > 0.0);
    most_wanted(shown, KEYS_SHOWN)
        .into_iter()
        .map(|(key, view)| v1::QuotaStatus {
            key: hex(key),
            rate: throttle.rate,
            wanted_per_second: view.wanted,
            admitted_per_second: view.admitted,
            agents: view.agents,
        })
        .collect()
}

/// A key's hash for people; empty where there is no key.
pub(super) fn hex(key: u64) -> String {
    match key {
        0 => String::new(),
        key => format!("{key:016x}"),
    }
}

/// Writes this replica's figures for Prometheus.
pub fn write(plane: &Plane, page: &mut Page) {
    let quotas = plane.quotas.lock();
    type Value = fn(&OfService) -> f64;
    let gauges: [(&str, &str, Value); 4] = [
        (
            "wanted",
            "Requests that this replica's agents had for a quota, per second.",
            |q| sum(q.own.values()).wanted,
        ),
        (
            "admitted",
            "Of those, requests that the quota let through, per second.",
            |q| sum(q.own.values()).admitted,
        ),
        (
            "granted",
            "Requests per second granted to this replica's agents.",
            |q| q.granted,
        ),
        (
            "reserved",
            "Requests per second kept back for silent agents.",
            |q| q.reserved,
        ),
    ];
    for (what, help, value) in gauges {
        let name = format!("rampmeter_control_quota_{what}_per_second");
        page.head(&name, "gauge", help);
        for (service, of_service) in quotas.iter() {
            let value = value(of_service);
            page.line(format_args!("{name}{{service=\"{service}\"}} {value}"));
        }
    }
}
