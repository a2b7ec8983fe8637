//! What the configuration says about steering a service's traffic.

use std::collections::BTreeSet;

use breaker_core::{
    PopId,
    ids::{RegionName, ServiceName},
    plan::RegionOrder,
    steering::{FailoverMode, SteeringSettings},
};
use fleet_config::Service;

use super::Fleet;

/// How a service is steered.
pub fn settings(service: &Service) -> SteeringSettings {
    let failover = service.failover.unwrap_or_default();
    SteeringSettings {
        mode: match failover.mode {
            fleet_config::FailoverMode::Automatic => FailoverMode::Automatic,
            fleet_config::FailoverMode::Manual => FailoverMode::Manual,
        },
        target_utilization: failover.target_utilization,
        failback_per_second: failover.failback_percent_per_second / 100.0,
    }
}

impl Fleet {
    /// Regions of a service in the order a POP prefers them.
    pub fn order(&self, pop: &PopId, service: &ServiceName) -> RegionOrder {
        let (Some(pop), Some(service)) =
            (self.config.pops.get(pop), self.config.services.get(service))
        else {
            return RegionOrder::new();
        };
        let has = |region: &&RegionName| service.backends.contains_key(*region);
        pop.region_order.iter().filter(has).cloned().collect()
    }

    /// The orders of all POPs, those without a region of the service left out.
    pub fn orders(&self, service: &ServiceName) -> BTreeSet<RegionOrder> {
        let pops = self.config.pops.keys();
        let orders = pops.map(|pop| self.order(pop, service));
        orders.filter(|order| !order.is_empty()).collect()
    }
}
