//! Requests that ask the gate again: those that failed, for another attempt, and
//! those that waited for a place.

use std::{sync::Arc, time::Instant};

use crate::admit::{
    backend::{Backend, BackendIndex},
    gate::{Asking, CoreGate, refusal},
    permit::Permit,
    refusal::Refusal,
    service::{Service, Wish},
    steer::Placed,
    way::Course,
};

impl CoreGate {
    /// Asks to send a request of `service` once more that failed at one of its
    /// backends: there, or preferably `elsewhere`. It was counted as the service's
    /// demand already, and used its quota; for backends it is demand like any other,
    /// so that one that is to be spared is spared retries, too.
    pub(crate) fn readmit(
        &self,
        service: &Service,
        wish: &Wish,
        failed: BackendIndex,
        elsewhere: bool,
    ) -> Option<Permit> {
        let at = service.regions.iter().position(|b| b.index == failed)?;
        let way = service.way.load();
        let request = self.asking(service, &way, wish, Instant::now());
        let planned = matches!(way.course, Course::Planned(_));
        let there = || request.ask(&service.regions[at], planned).ok();
        match elsewhere {
            true => request.elsewhere(at, service).or_else(there),
            false => there().or_else(|| request.elsewhere(at, service)),
        }
    }

    /// Asks for a request that waited for a place at one backend. It was counted as
    /// demand when it came.
    pub(crate) fn admit_waiting(
        &self,
        service: &Service,
        wish: &Wish,
        backend: &Arc<Backend>,
    ) -> Result<Permit, Refusal> {
        let way = service.way.load();
        let request = Asking {
            waited: true,
            ..self.asking(service, &way, wish, Instant::now())
        };
        let planned = matches!(way.course, Course::Planned(_));
        let asked = request.ask(backend, planned);
        asked.map_err(|turned| refusal(backend, turned))
    }
}

impl Asking<'_> {
    /// Another region than the one that failed it, with room by the plan.
    fn elsewhere(&self, failed: usize, service: &Service) -> Option<Permit> {
        let (bands, planned) = match &self.way.course {
            Course::InOrder(order) => {
                let mut others = order.iter().filter(|region| **region != failed);
                return others.find_map(|region| self.ask(&self.regions[*region], false).ok());
            }
            Course::Planned(bands) => (bands, true),
            Course::Stale { bands, .. } => (bands, false),
        };
        let placed = Placed {
            region: failed,
            within: self.position(service),
        };
        let refused_by = |at: usize| match at == failed {
            true => 1.0,
            false => 1.0 - self.regions[at].live.stance.load().share(self.now, planned),
        };
        let other = bands.alternate(placed, refused_by)?;
        self.ask(&self.regions[other], planned).ok()
    }
}
