//! The loop that grants.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use breaker_core::{
    AgentId, Timestamp,
    ids::ServiceName,
    quota::{Claim, alone, split},
};
use bytes::Bytes;
use prost::Message;

use super::{
    shown::{claim, sum},
    slot::{Lease, QuotaName},
    telling::{News, Telling},
};
use crate::{
    agents::Session,
    events,
    figures::quotas::OfKey,
    plane::{Plane, until_set},
    store::{About, QuotaView, ReplicaId},
};

/// Parts are worked out this often.
const EVERY: Duration = Duration::from_millis(500);

/// And at once when an agent comes or goes, but not more often than this.
const SPACING: Duration = Duration::from_millis(100);

/// A lease holds until its agent was not heard of for this long: two heartbeats.
/// Then the agent is silent: it may be cut off, and still send.
pub(super) const VALID: Duration = Duration::from_secs(2);

/// A lease that did not change is renewed when it has no more than this left: two
/// passes.
const RENEW: Duration = Duration::from_secs(1);

/// A change of a lease below this share of it can wait for its renewal.
const CHANGED: f64 = 0.01;

/// A replica takes a larger part only when it was due to it for this long: the
/// others sync once a second, and then look within [`EVERY`].
const SEEN_AFTER: Duration = Duration::from_millis(1_500);

/// Events about the quotas of one service within [`telling::APART`]: a quota with
/// keys may have thousands.
///
/// [`telling::APART`]: super::telling::APART
const TOLD: usize = 20;

/// Grants until the process ends.
pub async fn run(plane: Arc<Plane>) {
    let mut granting = Granting {
        plane: plane.clone(),
        services: BTreeMap::new(),
    };
    loop {
        granting.pass().await;
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = plane.agents.moved.notified() => tokio::time::sleep(SPACING).await,
            () = until_set(&plane.ending) => return,
        }
    }
}

struct Granting {
    plane: Arc<Plane>,
    services: BTreeMap<ServiceName, OfService>,
}

#[derive(Default)]
struct OfService {
    keys: BTreeMap<u64, OfQuota>,
    /// When events were told, oldest first.
    told: VecDeque<Timestamp>,
}

/// One quota between two passes.
#[derive(Default)]
struct OfQuota {
    /// This replica's parts of late, oldest first.
    parts: VecDeque<(Timestamp, f64)>,
    given: BTreeMap<AgentId, Given>,
    telling: Telling,
}

/// A lease that is out, and to which stream it went when.
#[derive(Clone, Copy)]
struct Given {
    stream: u64,
    at: Timestamp,
    lease: Lease,
}

/// The agents, as of one pass.
struct Crew {
    now: Timestamp,
    /// Those of this replica.
    own: BTreeMap<AgentId, Arc<Session>>,
    /// Those of all replicas.
    known: u32,
    /// Other replicas live.
    accompanied: bool,
}

/// What waits to be put into slots, by agent.
type Outbox = BTreeMap<AgentId, Vec<(QuotaName, Lease)>>;

/// What one pass found of one quota.
#[derive(Default)]
struct Found {
    view: QuotaView,
    granted: f64,
    reserved: f64,
}

impl Granting {
    async fn pass(&mut self) {
        let plane = self.plane.clone();
        let Some(fleet) = plane.fleet() else { return };
        let crew = Crew::of(&plane);
        let mut outbox = Outbox::new();
        let mut news = Vec::new();
        for (name, service) in &fleet.config.services {
            if let Some(throttle) = &service.throttle {
                self.serve(name, throttle.rate, &crew, &mut outbox, &mut news);
            }
        }
        let has_quota = |name: &ServiceName| {
            let service = fleet.config.services.get(name);
            service.is_some_and(|s| s.throttle.is_some())
        };
        self.services.retain(|name, _| has_quota(name));
        plane.quotas.retain(has_quota);
        plane.figures.quotas.retain(has_quota);
        for (agent, leases) in outbox {
            plane.metrics.quota_grants.add(leases.len() as u64);
            if let Some(session) = crew.own.get(&agent) {
                session.quotas.put(leases);
            }
        }
        for (service, event) in news {
            let append = plane.store.append(About::Service(service), vec![event]);
            // Lost with the store; the log has it.
            let _ = plane.ask("append", append).await;
        }
    }

    fn serve(
        &mut self,
        name: &ServiceName,
        rate: f64,
        crew: &Crew,
        outbox: &mut Outbox,
        news: &mut Vec<(ServiceName, Bytes)>,
    ) {
        let plane = &self.plane;
        let of_service = self.services.entry(name.clone()).or_default();
        let heard = |agent: &AgentId| crew.own.get(agent).map(|s| s.heard().min(crew.now));
        let mut demand = plane.figures.quotas.demand(name, heard);
        // Everyone has a part of key 0, so that everyone knows what to send alone.
        let everyone = demand.entry(0).or_default();
        for agent in crew.own.keys() {
            everyone.entry(agent.clone()).or_default();
        }
        let others = plane.quotas.others(name);
        let asked = others.is_some() || !crew.accompanied;
        let others = others.unwrap_or_default();
        let mut views = BTreeMap::new();
        let (mut granted, mut reserved) = (0.0, 0.0);
        for key in of_service.keys.keys() {
            demand.entry(*key).or_default();
        }
        for (key, of_key) in &demand {
            let of_quota = of_service.keys.entry(*key).or_default();
            let others = others.get(key).map_or(&[][..], Vec::as_slice);
            let pass = Pass {
                quota: (name, *key),
                rate,
                crew,
                others,
                asked,
            };
            let found = of_quota.grant(&pass, of_key, outbox);
            granted += found.granted;
            reserved += found.reserved;
            // All replicas look, so that each knows what was told.
            let total = sum(others.iter().map(|(_, v)| v).chain([&found.view]));
            let looked = of_quota
                .telling
                .look(total.wanted, total.admitted, crew.now);
            let told = looked.filter(|_| is_first(&plane.name, others));
            if let Some(told) = told.filter(|_| of_service.may_tell(crew.now)) {
                news.push((name.clone(), tell(plane, &pass, total, told)));
            }
            if found.view.agents > 0 {
                views.insert(*key, found.view);
            }
        }
        of_service
            .keys
            .retain(|key, of_quota| views.contains_key(key) || !of_quota.telling.is_over(crew.now));
        plane.quotas.show(name, views, granted, reserved);
    }
}

impl OfService {
    fn may_tell(&mut self, now: Timestamp) -> bool {
        self.told
            .retain(|told| now.since(*told) < super::telling::APART);
        let room = self.told.len() < TOLD;
        if room {
            self.told.push_back(now);
        }
        room
    }
}

/// One quota in one pass.
struct Pass<'a> {
    quota: (&'a ServiceName, u64),
    rate: f64,
    crew: &'a Crew,
    /// What other replicas claim of it.
    others: &'a [(ReplicaId, QuotaView)],
    /// It is known what they claim.
    asked: bool,
}

impl Pass<'_> {
    fn alone(&self) -> f64 {
        alone(self.rate, self.crew.known)
    }
}

impl OfQuota {
    /// Works out the leases of this replica's agents, and leaves those that are
    /// new or must be renewed in the outbox.
    fn grant(&mut self, pass: &Pass<'_>, demand: &OfKey, outbox: &mut Outbox) -> Found {
        let now = pass.crew.now;
        self.given.retain(|_, given| given.lease.expires > now);
        let mut found = Found::default();
        let mut live = Vec::new();
        for (agent, rates) in demand {
            found.view.wanted += rates.wanted;
            found.view.admitted += rates.admitted;
            found.view.agents += 1;
            match pass.crew.own.get(agent) {
                Some(session) if !session.is_silent(now, VALID) => live.push(Live {
                    session,
                    wanted: rates.wanted,
                    unheard: self.unheard(session),
                }),
                // Its lease has run out with its silence.
                Some(_) | None => found.reserved += pass.alone(),
            }
        }
        let part = self.part(pass, claim(&found.view));
        for (live, rate) in live.iter().zip(split_live(part, found.reserved, &live)) {
            found.granted += rate;
            self.offer(pass, live.session, rate, outbox);
        }
        found
    }

    /// What an agent holds that was not heard of since it was given: it may be cut
    /// off, and then would not hear of more.
    fn unheard(&self, session: &Session) -> Option<f64> {
        let given = self.given.get(&session.who.agent)?;
        let heard = given.stream != session.number || session.heard() > given.at;
        (!heard).then_some(given.lease.rate)
    }

    fn offer(&mut self, pass: &Pass<'_>, session: &Session, rate: f64, outbox: &mut Outbox) {
        let (agent, now) = (&session.who.agent, pass.crew.now);
        let lease = Lease {
            rate,
            alone: pass.alone(),
            expires: session.heard() + VALID,
        };
        let given = self.given.get(agent);
        if given.is_some_and(|given| given.will_do(session.number, &lease, now)) {
            return;
        }
        let given = Given {
            stream: session.number,
            at: now,
            lease,
        };
        self.given.insert(agent.clone(), given);
        let (service, key) = pass.quota;
        let waiting = outbox.entry(agent.clone()).or_default();
        waiting.push(((service.clone(), key), lease));
    }

    /// This replica's part of the rate. Smaller at once, larger when it was due to
    /// it for [`SEEN_AFTER`]; at first what its agents may send alone.
    fn part(&mut self, pass: &Pass<'_>, own: Claim) -> f64 {
        let now = pass.crew.now;
        if pass.others.is_empty() && pass.asked {
            self.parts = VecDeque::from([(now, pass.rate)]);
            return pass.rate;
        }
        let cautious = pass.alone() * f64::from(own.agents);
        if self.parts.is_empty() {
            self.parts.push_back((now, cautious));
        }
        if pass.asked {
            let others = pass.others.iter().map(|(_, view)| claim(view));
            let claims: Vec<_> = [own].into_iter().chain(others).collect();
            let due = split(pass.rate, 0.0, &claims).first().copied();
            self.parts.push_back((now, due.unwrap_or(cautious)));
        }
        let old = |(at, _): &(Timestamp, f64)| now.since(*at) > SEEN_AFTER;
        while self.parts.len() > 1 && self.parts.front().is_some_and(old) {
            self.parts.pop_front();
        }
        let parts = self.parts.iter().map(|(_, part)| *part);
        parts.fold(f64::INFINITY, f64::min)
    }
}

/// An agent that talks.
struct Live<'a> {
    session: &'a Session,
    wanted: f64,
    /// The lease that it has given no sign of life since.
    unheard: Option<f64>,
}

/// Splits by demand, but who was not heard of since its last lease gets no more
/// than that: the others have what it cannot be told of.
fn split_live(part: f64, reserved: f64, live: &[Live<'_>]) -> Vec<f64> {
    let claims: Vec<_> = live.iter().map(|l| Claim::of_agent(l.wanted)).collect();
    let mut parts = split(part, reserved, &claims);
    let held = |part: f64, live: &Live<'_>| live.unheard.filter(|held| *held < part);
    let stay: Vec<_> = parts.iter().zip(live).map(|(p, l)| held(*p, l)).collect();
    let others = claims.iter().zip(&stay).filter(|(_, stay)| stay.is_none());
    let others: Vec<_> = others.map(|(claim, _)| *claim).collect();
    if others.is_empty() {
        return parts;
    }
    let stayed: f64 = stay.iter().flatten().sum();
    let mut rest = split(part, reserved + stayed, &others).into_iter();
    for (part, stay) in parts.iter_mut().zip(stay) {
        *part = stay.or_else(|| rest.next()).unwrap_or_default();
    }
    parts
}

impl Given {
    /// There is no need for a new one.
    fn will_do(&self, stream: u64, next: &Lease, now: Timestamp) -> bool {
        let close = |now: f64, next: f64| (now - next).abs() <= CHANGED * now;
        let renewed = now.until(self.lease.expires) > RENEW || self.lease.expires >= next.expires;
        self.stream == stream
            && renewed
            && close(self.lease.rate, next.rate)
            && close(self.lease.alone, next.alone)
    }
}

impl Crew {
    fn of(plane: &Plane) -> Self {
        let now = plane.clock.now();
        let peers = plane.peers.agents().into_iter();
        let elsewhere = peers.filter(|(replica, _)| *replica != plane.name);
        let elsewhere: BTreeSet<_> = elsewhere.map(|(_, agent)| agent.agent).collect();
        let own = plane.agents.may_send(now).into_iter();
        // Who was lost here and came back elsewhere is granted there.
        let own = own.filter(|s| !s.is_gone() || !elsewhere.contains(&s.who.agent));
        let own: BTreeMap<_, _> = own.map(|s| (s.who.agent.clone(), s)).collect();
        let others = elsewhere.iter().filter(|agent| !own.contains_key(*agent));
        let known = own.len() + others.count();
        let replicas = plane.peers.replicas();
        Self {
            now,
            known: u32::try_from(known).unwrap_or(u32::MAX),
            accompanied: replicas.iter().any(|(replica, _)| *replica != plane.name),
            own,
        }
    }
}

/// Of the replicas that know of a quota the first one tells.
fn is_first(me: &ReplicaId, others: &[(ReplicaId, QuotaView)]) -> bool {
    others.iter().all(|(replica, _)| me < replica)
}

fn tell(plane: &Plane, pass: &Pass<'_>, total: QuotaView, news: News) -> Bytes {
    let (service, key) = pass.quota;
    let event = events::of_quota(plane, service, key, pass.rate, total, news);
    tracing::info!(
        %service, key, wanted = total.wanted, admitted = total.admitted, rate = pass.rate,
        kind = event.kind().as_str_name(), "{}", event.summary
    );
    Bytes::from(event.encode_to_vec())
}

#[cfg(test)]
mod tests;
