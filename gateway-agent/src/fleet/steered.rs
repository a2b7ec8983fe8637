//! One service on the control side: where its requests go, and what its callers
//! get that is not yet reported.

use std::{sync::Arc, time::Duration};

use breaker_core::{PopId, Steering, Timestamp};
use rampmeter_api::v1;

use crate::{
    admit::{
        quota::Grant,
        recorder::{Counters, Tally},
        service::Service,
        way::{Course, Directions, Way},
    },
    clock::nanos,
    fleet::{
        apply::Held,
        report::{MAX_AGE, Rhythm, Slots},
    },
};

/// One service of the configuration in force.
#[derive(Debug)]
pub struct Steered {
    /// Its request side.
    pub service: Arc<Service>,
    slots: Slots,
    rhythm: Rhythm,
    read: Counters,
    /// When its quota was last tidied.
    tidied: Timestamp,
    /// The decision was fresh when the way was last worked out.
    fresh: bool,
    /// When the first of its drains and drills ends.
    until: Option<Timestamp>,
}

impl Steered {
    /// A service that was just configured.
    pub fn new(service: Arc<Service>, now: Timestamp) -> Self {
        Self {
            slots: Slots::default(),
            rhythm: Rhythm::default(),
            read: service.counters(),
            tidied: now,
            fresh: false,
            until: None,
            service,
        }
    }

    /// The same service in a newer configuration.
    pub fn renew(&mut self, service: Arc<Service>) {
        self.service = service;
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.read
    }

    /// The way in force.
    pub fn way(&self) -> Arc<Way> {
        self.service.way.load_full()
    }

    /// Reads what the cores counted since the last time.
    pub fn drain(&mut self, now: Timestamp) {
        self.tidy(now);
        let read = self.service.counters();
        let delta = read.since(&self.read);
        if delta.is_zero() {
            return;
        }
        self.read = read;
        self.slots.add(now, &delta);
        let failed = delta.get(Tally::Failed) > 0;
        let refused = delta.get(Tally::Refused) + delta.get(Tally::OverQuota) > 0;
        // The first refusal is news; that they go on is not.
        if failed || (refused && !self.rhythm.is_hot(now)) {
            self.rhythm.hurry();
        }
        if failed || refused {
            self.rhythm.heat(now);
        }
    }

    /// Forgets callers that are gone, and what their quotas counted if nobody
    /// takes it, as with all counts.
    fn tidy(&mut self, now: Timestamp) {
        let Some(quota) = &self.service.quota else {
            return;
        };
        if now.since(self.tidied) < MAX_AGE {
            return;
        }
        self.tidied = now;
        quota.tidy(nanos(now));
        if now.since(self.rhythm.told_at()) > MAX_AGE {
            quota.report();
        }
    }

    /// Takes a part of the fleet's quota.
    pub fn lend(&self, grant: &Grant) {
        if let Some(quota) = &self.service.quota {
            quota.lend(grant);
        }
    }

    /// Whether time alone changed what its decision means.
    pub fn is_outdated(
        &self,
        held: Option<&Held<Steering>>,
        valid_for: Duration,
        now: Timestamp,
    ) -> bool {
        let fresh = held.is_some_and(|held| held.is_fresh(now, valid_for));
        fresh != self.fresh || self.until.is_some_and(|until| until <= now)
    }

    /// Works out the way.
    pub fn refresh(
        &mut self,
        held: Option<&Held<Steering>>,
        valid_for: Duration,
        pop: &PopId,
        now: Timestamp,
    ) {
        self.fresh = held.is_some_and(|held| held.is_fresh(now, valid_for));
        let steering = held.map(|held| &held.decision);
        self.until = steering.and_then(|steering| ends(steering, now));
        let way = Way::of(&Directions {
            steering,
            fresh: self.fresh,
            pop,
            regions: &self.service.regions,
            now,
        });
        let before = self.service.way.load();
        if **before == way {
            return;
        }
        self.tell(&before, &way);
        self.service.way.store(Arc::new(way));
    }

    fn tell(&self, before: &Way, way: &Way) {
        let service = &self.service.name;
        if matches!(way.course, Course::Stale { .. }) && before.course != way.course {
            tracing::warn!(%service, "the fleet's plan is stale: regions in their order, within its shares");
        } else if before.course != way.course {
            tracing::debug!(%service, course = ?way.course, "way");
        }
        let drill = |way: &Way| way.drill.as_ref().map(|drill| drill.id.clone());
        let (was, is) = (drill(before), drill(way));
        if was != is {
            tracing::warn!(%service, from = ?was, to = ?is, "drill");
        }
    }

    /// Something waits to be told at once.
    pub fn is_urgent(&self) -> bool {
        self.rhythm.is_urgent()
    }

    /// Whether a report is due, urgency aside.
    pub fn is_due(&self, now: Timestamp, calm: Duration, hot: Duration) -> bool {
        !self.slots.is_empty() && self.rhythm.is_due(now, !self.rehearses(), (calm, hot))
    }

    /// A drill fails or delays its requests here: it is judged by what callers get
    /// from moment to moment.
    pub fn rehearses(&self) -> bool {
        self.service.way.load().drill.is_some()
    }

    /// Takes what is not yet reported.
    pub fn report(&mut self, now: Timestamp) -> v1::ServiceReport {
        let mut sum = Counters::default();
        for (_, counters) in self.slots.take(now) {
            sum.add(&counters);
        }
        self.rhythm.told(now);
        let quota = self.service.quota.as_ref();
        let quotas = quota.map(|quota| quota.report()).unwrap_or_default();
        v1::ServiceReport {
            service: self.service.name.as_str().to_owned(),
            demand: Some(sum.wanted().into()),
            succeeded: sum.get(Tally::Success),
            failed: sum.get(Tally::Failed),
            refused: sum.get(Tally::Refused),
            shed: sum.get(Tally::Shed),
            shadowed: sum.get(Tally::Shadowed),
            drilled: sum.get(Tally::Drilled),
            quotas,
        }
    }
}

/// When the first of its drains and drills ends that has not.
fn ends(steering: &Steering, now: Timestamp) -> Option<Timestamp> {
    let drains = steering.drains.values().map(|drain| drain.expires);
    let drills = steering.drill.iter().map(|drill| drill.ends);
    drains.chain(drills).filter(|end| now < *end).min()
}
