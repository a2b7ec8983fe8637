//! The control side in virtual time: requests are admitted and finished by hand,
//! and turns are taken when the test says so.

mod alone;
mod cut_off;
mod gate;
mod leases;
mod obeying;
mod plans;
mod reporting;
mod serving;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use breaker_core::{
    AgentId, FailureKind, OutcomeClass, PopId, Priority, Timestamp, breaker::StateName,
    shed::ShedKey,
};
use rampmeter_api::v1::{self, connect_request::Message as Up};
use tokio::sync::mpsc;

use crate::{
    admit::{
        backend::BackendIndex,
        gate::CoreGate,
        permit::Permit,
        recorder::Tally,
        refusal::{Denied, Refusal, RefusalReason},
        service::{Service, Wish},
    },
    config::configuration::{ConfigSource, FleetText},
    fleet::{
        control::Control,
        link::{CALM, Connected, HOT, Link, QUEUE},
        local::Identity,
        watched::Watched,
    },
};

const BACKEND: &str = "pay/us-east";

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One backend, with these breaker settings.
pub(crate) fn fleet(settings: &str) -> String {
    format!(
        "pops: {{fra1: {{region_order: [us-east]}}}}
services:
  pay:
    routes: [{{path_prefix: /}}]
    backends: {{us-east: {{endpoints: ['http://127.0.0.1:1']}}}}
    timeouts: {{total: 2s, response_headers: 2s}}
    breaker: {{open_duration: 10s, ramp_duration: 10s{settings}}}
"
    )
}

pub(crate) fn identity() -> Identity {
    Identity {
        agent: AgentId::new("a1").expect("a name"),
        pop: PopId::new("fra1").expect("a name"),
    }
}

/// An agent without sockets.
struct Rig {
    control: Control,
    gate: CoreGate,
    /// Both clocks at the beginning.
    start: (Timestamp, Instant),
    /// Time since then.
    elapsed: Duration,
    up: Option<mpsc::Receiver<v1::ConnectRequest>>,
    revision: u64,
}

impl Rig {
    fn with(settings: &str) -> Self {
        Self::of(fleet(settings))
    }

    fn of(yaml: String) -> Self {
        let mut control = Control::new(identity(), 1);
        let start = Instant::now();
        let at = control.clock.at(start);
        let text = FleetText::read(1, yaml);
        let installed = control.install_text(ConfigSource::ControlPlane, text, at);
        installed.expect("a good configuration");
        Self {
            gate: control.gates().remove(0),
            control,
            start: (at, start),
            elapsed: Duration::ZERO,
            up: None,
            revision: 0,
        }
    }

    fn new() -> Self {
        Self::with("")
    }

    fn connected() -> Self {
        let mut rig = Self::new();
        rig.connect();
        rig
    }

    fn connect(&mut self) {
        let (up, queue) = mpsc::channel(QUEUE);
        let connected = Connected {
            address: "http://test".to_owned(),
            replica: "r1".to_owned(),
            since_unix_ms: 0,
        };
        let link = Link::new(up, CALM, HOT);
        let welcome = v1::Welcome::default();
        self.control.welcome(&welcome, link, connected);
        self.up = Some(queue);
    }

    fn now(&self) -> Timestamp {
        self.start.0 + self.elapsed
    }

    /// Time passes, then the control side turns.
    fn pass(&mut self, time: Duration) {
        self.elapsed += time;
        let now = self.now();
        self.control.turn(now);
    }

    /// The service as configured now.
    fn service(&self) -> Arc<Service> {
        let table = self.control.table.load();
        table.services["pay"].clone()
    }

    fn ask(&self, idempotent: bool) -> Result<Permit, Refusal> {
        let wish = Wish {
            idempotent,
            ..Wish::default()
        };
        match self.wish(&wish) {
            Ok(permit) => Ok(permit),
            Err(Denied::Refused(refusal)) => Err(refusal),
            Err(denied) => panic!("{denied:?}"),
        }
    }

    fn wish(&self, wish: &Wish) -> Result<Permit, Denied> {
        self.wish_of(&self.service(), wish)
    }

    fn wish_of(&self, service: &Service, wish: &Wish) -> Result<Permit, Denied> {
        let at = self.start.1 + self.elapsed;
        self.gate.admit_at(service, wish, at)
    }

    fn reason(&self) -> Option<RefusalReason> {
        self.ask(true).err().map(|refusal| refusal.reason)
    }

    /// So many requests that end so, each with a turn.
    fn serve(&mut self, count: usize, class: OutcomeClass) {
        for _ in 0..count {
            self.ask(true).expect("admitted").finish(class, None);
            self.pass(millis(20));
        }
    }

    fn watched(&self) -> &Watched {
        &self.control.backends[BACKEND]
    }

    fn state(&self) -> StateName {
        self.watched().state
    }

    fn count(&self, tally: Tally) -> u64 {
        self.watched().counters().get(tally)
    }

    /// The fleet decides, in a newer version.
    fn decide(&mut self, fleet: v1::Circuit) {
        self.decide_as(self.revision + 1, fleet);
    }

    fn decide_as(&mut self, revision: u64, fleet: v1::Circuit) {
        self.revision = revision;
        let decision = decision(revision, fleet);
        self.apply(v1::Decisions {
            decisions: vec![decision],
            ..v1::Decisions::default()
        });
    }

    fn apply(&mut self, decisions: v1::Decisions) {
        let now = self.now();
        self.control.apply(&decisions, now);
    }

    fn heard(&mut self) {
        let now = self.now();
        self.control.heard(now);
    }

    fn grant(&mut self, lease: &str) {
        let now = self.now();
        let grant = v1::TrialGrant {
            backend: BACKEND.to_owned(),
            lease_id: lease.to_owned(),
            expires_in: Some(prost(secs(3))),
        };
        self.control.grant(&grant, now);
    }

    /// The fleet decides about the service, in a newer version.
    fn steer(&mut self, decision: v1::ServiceDecision) {
        self.revision += 1;
        let version = Some(v1::Version {
            epoch: 1,
            revision: self.revision,
        });
        self.apply(v1::Decisions {
            services: vec![v1::ServiceDecision {
                version,
                ..decision
            }],
            ..v1::Decisions::default()
        });
    }

    /// The fleet decides about a region.
    fn decide_for(&mut self, region: &str, decision: v1::Decision) {
        self.revision += 1;
        let version = Some(v1::Version {
            epoch: 1,
            revision: self.revision,
        });
        self.apply(v1::Decisions {
            decisions: vec![v1::Decision {
                backend: format!("pay/{region}"),
                version,
                ..decision
            }],
            ..v1::Decisions::default()
        });
    }

    /// What was counted for a region.
    fn count_of(&self, region: &str, tally: Tally) -> u64 {
        let name = format!("pay/{region}");
        let watched = &self.control.backends[name.as_str()];
        watched.counters().get(tally)
    }

    /// Sends so many requests of this kind; how many each region took, and
    /// behind them how many none did.
    fn send(&mut self, count: usize, wish: &Wish) -> Vec<usize> {
        let service = self.service();
        let mut taken = vec![0; service.regions.len() + 1];
        for _ in 0..count {
            let region = match self.wish_of(&service, wish) {
                Ok(permit) => {
                    let backend = permit.backend();
                    permit.finish(OutcomeClass::Success, None);
                    let mut regions = service.regions.iter();
                    regions.position(|region| region.index == backend)
                }
                Err(_) => None,
            };
            taken[region.unwrap_or(service.regions.len())] += 1;
        }
        self.pass(millis(20));
        taken
    }

    /// What went up since the last call.
    fn sent(&mut self) -> Vec<Up> {
        let up = self.up.as_mut().expect("connected");
        let mut sent = Vec::new();
        while let Ok(request) = up.try_recv() {
            sent.extend(request.message);
        }
        sent
    }

    /// Reports of services, added up.
    fn served(&mut self) -> v1::ServiceReport {
        let mut sum = v1::ServiceReport::default();
        let mut demand = v1::ByPriority::default();
        for up in self.sent() {
            let Up::Report(report) = up else { continue };
            for part in report.services {
                let of = part.demand.unwrap_or_default();
                demand.critical += of.critical;
                demand.high += of.high;
                demand.normal += of.normal;
                demand.low += of.low;
                sum.succeeded += part.succeeded;
                sum.failed += part.failed;
                sum.refused += part.refused;
                sum.shed += part.shed;
                sum.shadowed += part.shadowed;
                sum.drilled += part.drilled;
            }
        }
        sum.demand = Some(demand);
        sum
    }

    fn reports(&mut self) -> Vec<v1::BackendReport> {
        let reports = self.sent().into_iter().filter_map(|up| match up {
            Up::Report(report) => Some(report.backends),
            _ => None,
        });
        reports.flatten().collect()
    }

    fn results(&mut self) -> Vec<(String, v1::TrialOutcome)> {
        let results = self.sent().into_iter().filter_map(|up| match up {
            Up::TrialResult(result) => Some((result.lease_id.clone(), result.outcome())),
            _ => None,
        });
        results.collect()
    }
}

pub(crate) fn prost(duration: Duration) -> prost_types::Duration {
    rampmeter_api::convert::duration(duration)
}

pub(crate) fn decision(revision: u64, fleet: v1::Circuit) -> v1::Decision {
    v1::Decision {
        backend: BACKEND.to_owned(),
        version: Some(v1::Version { epoch: 1, revision }),
        mode: v1::Mode::Enforce.into(),
        fleet: Some(fleet),
        pops: Vec::new(),
        override_expires_in: None,
        throttle: None,
        mix: None,
    }
}

/// A service in three regions, with these settings more.
fn three_regions(settings: &str) -> String {
    format!(
        "pops: {{fra1: {{region_order: [a, b, c]}}}}
services:
  pay:
    routes: [{{path_prefix: /}}]
    backends:
      a: {{endpoints: ['http://127.0.0.1:1']}}
      b: {{endpoints: ['http://127.0.0.1:1']}}
      c: {{endpoints: ['http://127.0.0.1:1']}}
    timeouts: {{total: 2s, response_headers: 2s}}
    breaker: {{open_duration: 10s, ramp_duration: 10s}}
    {settings}
"
    )
}

/// A plan for regions a, b and c: of each its share and headroom.
fn plan(parts: [(f64, f64); 3]) -> v1::ServiceDecision {
    let order = ["a", "b", "c"].map(str::to_owned);
    let regions = order.iter().zip(parts).map(|(region, (share, headroom))| {
        let region = region.clone();
        v1::RegionShare {
            region,
            share,
            headroom,
        }
    });
    v1::ServiceDecision {
        service: "pay".to_owned(),
        origins: vec![v1::OriginPlan {
            regions: regions.collect(),
            region_order: order.to_vec(),
            demand_per_second: 100.0,
            mix: None,
        }],
        ..v1::ServiceDecision::default()
    }
}

fn of_priority(priority: Priority) -> Wish {
    Wish {
        priority,
        ..Wish::default()
    }
}

fn of_user(user: usize) -> Wish {
    Wish {
        key: Some(ShedKey::of(format!("user-{user}").as_bytes())),
        ..Wish::default()
    }
}

fn circuit(state: v1::BreakerState) -> v1::Circuit {
    v1::Circuit {
        state: state.into(),
        ramp_duration: Some(prost(secs(10))),
        ..v1::Circuit::default()
    }
}

pub(crate) fn open() -> v1::Circuit {
    v1::Circuit {
        retry_in: Some(prost(secs(20))),
        trips: 1,
        ..circuit(v1::BreakerState::Open)
    }
}

fn half_open() -> v1::Circuit {
    circuit(v1::BreakerState::HalfOpen)
}

pub(crate) fn closed() -> v1::Circuit {
    circuit(v1::BreakerState::Closed)
}

fn ramping(admission: f64) -> v1::Circuit {
    v1::Circuit {
        ramp: Some(v1::Ramp {
            admission,
            hold: Some(prost(Duration::ZERO)),
            duration: Some(prost(secs(10))),
        }),
        ..closed()
    }
}

const FAILED: OutcomeClass = OutcomeClass::Failure(FailureKind::Http5xx);
