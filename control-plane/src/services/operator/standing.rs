//! How a service stands before an operator changes it, freshly read from the
//! store: rules that keep people from turning a service off must not go by what
//! another replica has changed since.

use std::collections::BTreeMap;

use breaker_core::{
    BackendName, BreakerPolicy, Mode, Timestamp,
    breaker::StateName,
    ids::{RegionName, ServiceName},
};
use rampmeter_api::v1;
use tonic::Status;

use crate::{
    commit::{Known, KnownService},
    config::Fleet,
    plane::Plane,
    services::status,
    store::SyncRequest,
};

/// Services read in one call, so that it ends in time.
const CHUNK: usize = 100;

/// One service.
pub(super) struct Standing<'a> {
    pub(super) policy: &'a BreakerPolicy,
    pub(super) known: KnownService,
    backends: BTreeMap<RegionName, Known>,
}

impl<'a> Standing<'a> {
    /// The service of a configured backend.
    pub(super) async fn of_backend(
        plane: &Plane,
        fleet: &'a Fleet,
        name: &BackendName,
    ) -> Result<Self, Status> {
        let service = fleet.config.services.get_key_value(name.service());
        let (service, _) = service.ok_or_else(status::no_config)?;
        Self::of_service(plane, fleet, service).await
    }

    /// A configured service.
    pub(super) async fn of_service(
        plane: &Plane,
        fleet: &'a Fleet,
        service: &ServiceName,
    ) -> Result<Self, Status> {
        let standings = Self::of_services(plane, fleet, &[service]).await?;
        standings.into_iter().next().ok_or_else(|| {
            tracing::error!(%service, "the store did not answer for a service it was asked for");
            Status::internal("the store gave no answer for this service")
        })
    }

    /// Configured services.
    pub(super) async fn of_services(
        plane: &Plane,
        fleet: &'a Fleet,
        services: &[&ServiceName],
    ) -> Result<Vec<Self>, Status> {
        let mut standings = Vec::new();
        for chunk in services.chunks(CHUNK) {
            let configured = chunk.iter().filter_map(|s| fleet.config.services.get(*s));
            let backends = configured.flat_map(|service| service.backends.values());
            let request = SyncRequest {
                read: backends.map(|backend| backend.name.clone()).collect(),
                services: chunk.iter().map(|s| ((*s).clone(), None)).collect(),
                ..SyncRequest::default()
            };
            let reply = plane.sync(request).await;
            let reply = reply.map_err(|e| status::of_store(&e))?;
            let mut known = BTreeMap::new();
            for state in reply.backends {
                known.insert(state.name.clone(), Known::of(state));
            }
            for state in reply.services {
                let Some(service) = fleet.config.services.get(&state.name) else {
                    continue;
                };
                let regions = service.backends.iter();
                let known = regions
                    .filter_map(|(region, b)| Some((region.clone(), known.remove(&b.name)?)));
                standings.push(Self {
                    policy: &service.breaker,
                    backends: known.collect(),
                    known: KnownService::of(state),
                });
            }
        }
        Ok(standings)
    }

    /// One region's record.
    pub(super) fn backend(&self, region: &str) -> Result<Known, Status> {
        self.backends.get(region).cloned().ok_or_else(|| {
            tracing::error!(service = %self.known.name, region, "the store did not answer for a backend it was asked for");
            Status::internal("the store gave no answer for this backend")
        })
    }

    /// Whether any other region takes requests: neither drained nor held open.
    fn others_admitted(&self, region: &str, now: Timestamp) -> bool {
        let others = self.backends.iter().filter(|(r, _)| r.as_str() != region);
        others.into_iter().any(|(other, known)| {
            let drained = self.known.steering.drains.get(other);
            let drained = drained.is_some_and(|drain| drain.expires > now);
            !drained && known.breaker.admission(self.policy, None, now) > 0.0
        })
    }

    /// Refuses what would turn the service off, unless in so many words: `true` if
    /// the glass had to be broken for it. `doing` is what the operator does.
    pub(super) fn may_lose(
        &self,
        region: &str,
        doing: &str,
        break_glass: bool,
        now: Timestamp,
    ) -> Result<bool, Status> {
        if self.others_admitted(region, now) {
            return Ok(false);
        }
        if break_glass {
            return Ok(true);
        }
        let service = &self.known.name;
        let message = format!(
            "{region} is the last admitted region of {service}{}: {doing} turns the service off. \
             Set break_glass to do it anyway",
            self.why_others_are_not(region, now)
        );
        Err(status::precondition("LAST_ADMITTED_REGION", message))
    }

    /// Refuses to rehearse a failure that would turn the service off, or that could
    /// not be told from what is there already: at its end, its breaker is closed.
    pub(super) fn may_drill(&self, region: &str, now: Timestamp) -> Result<(), Status> {
        let service = &self.known.name;
        if let Some(drill) = self.known.steering.running_drill() {
            let message = format!(
                "{service} has a drill already, {} on {} by {}, for another {:.0} s ({}): stop it \
                 first, or wait",
                drill.id,
                drill.backend,
                drill.actor,
                now.until(drill.ends).as_secs_f64(),
                drill.reason
            );
            return Err(status::precondition("DRILL_RUNS", message));
        }
        if !self.others_admitted(region, now) {
            let message = format!(
                "{region} is the last admitted region of {service}{}: a drill there would turn the \
                 service off",
                self.why_others_are_not(region, now)
            );
            return Err(status::precondition("LAST_ADMITTED_REGION", message));
        }
        let drain = self.known.steering.drains.get(region);
        if let Some(drain) = drain.filter(|drain| drain.expires > now) {
            let message = format!(
                "{region} is drained for {service} by {} ({}): nothing goes there that could fail",
                drain.actor, drain.reason
            );
            return Err(status::precondition("DRAINED", message));
        }
        let breaker = self.backend(region)?.breaker;
        if let Some(over) = breaker.over.as_ref().filter(|over| over.expires > now) {
            let message = format!(
                "{service}/{region} has an override by {} for another {:.0} s ({}): clear it first",
                over.actor,
                now.until(over.expires).as_secs_f64(),
                over.reason
            );
            return Err(status::precondition("OVERRIDDEN", message));
        }
        let mut circuits = breaker.circuits();
        let open = circuits.find(|(_, circuit)| circuit.state() != StateName::Closed);
        let Some((pop, circuit)) = open else {
            return Ok(());
        };
        let place = pop.map(|pop| format!(" at {pop}")).unwrap_or_default();
        let message = format!(
            "{service}/{region} is {}{place}: a drill starts from a CLOSED breaker",
            state_word(circuit.state())
        );
        Err(status::precondition("NOT_CLOSED", message))
    }

    /// " (us-west is drained by ada, eu-west is OPEN)"; empty without others.
    fn why_others_are_not(&self, region: &str, now: Timestamp) -> String {
        let others = self.backends.iter().filter(|(r, _)| r.as_str() != region);
        let whys = others.map(|(other, known)| {
            let drain = self.known.steering.drains.get(other);
            match (drain.filter(|d| d.expires > now), &known.breaker.over) {
                (Some(drain), _) => format!("{other} is drained by {}", drain.actor),
                (None, Some(over)) if over.mode == Mode::ForcedOpen => {
                    format!("{other} is held open by {}", over.actor)
                }
                (None, _) => {
                    let state = state_word(known.breaker.fleet.state());
                    format!("{other} is {state}")
                }
            }
        });
        match whys.collect::<Vec<_>>().join(", ") {
            whys if whys.is_empty() => whys,
            whys => format!(" ({whys})"),
        }
    }

    /// Refuses to hold a drained region closed: nobody could tell which of the two
    /// holds.
    pub(super) fn may_force_closed(&self, region: &str, now: Timestamp) -> Result<(), Status> {
        let drain = self.known.steering.drains.get(region);
        let Some(drain) = drain.filter(|drain| drain.expires > now) else {
            return Ok(());
        };
        let message = format!(
            "{region} is drained for {} by {} for another {:.0} s ({}): clear the drain first",
            self.known.name,
            drain.actor,
            now.until(drain.expires).as_secs_f64(),
            drain.reason
        );
        Err(status::precondition("CONTRADICTS_DRAIN", message))
    }

    /// Refuses to drain a region that an operator holds closed.
    pub(super) fn may_drain(&self, region: &str, now: Timestamp) -> Result<(), Status> {
        let over = self.backend(region)?.breaker.over;
        let contradicts = |over: &breaker_core::breaker::Override| {
            over.mode == Mode::ForcedClosed && over.expires > now
        };
        let Some(over) = over.filter(contradicts) else {
            return Ok(());
        };
        let message = format!(
            "{}/{region} is held closed by {} for another {:.0} s ({}): clear the override first",
            self.known.name,
            over.actor,
            now.until(over.expires).as_secs_f64(),
            over.reason
        );
        Err(status::precondition("CONTRADICTS_OVERRIDE", message))
    }
}

fn state_word(state: StateName) -> &'static str {
    let state = v1::BreakerState::from(state);
    state.as_str_name().trim_start_matches("BREAKER_STATE_")
}
