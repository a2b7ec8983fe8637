//! The control side in virtual time: requests are admitted and finished by hand,
//! and turns are taken when the test says so.

use std::time::{Duration, Instant};

use breaker_core::{AgentId, FailureKind, OutcomeClass, PopId, Timestamp, breaker::StateName};
use rampmeter_api::v1::{self, connect_request::Message as Up};
use tokio::sync::mpsc;

use crate::{
    control::{ConfigSource, Control, FleetText},
    gate::{BackendIndex, CoreGate, Permit, Refusal, RefusalReason},
    link::{CALM, Connected, HOT, Link, QUEUE},
    local::Identity,
    recorder::Tally,
    watched::Watched,
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
        let mut control = Control::new(identity(), 1);
        let start = Instant::now();
        let at = control.clock.at(start);
        let text = FleetText::read(1, fleet(settings));
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

    fn ask(&self, idempotent: bool) -> Result<Permit, Refusal> {
        let at = self.start.1 + self.elapsed;
        self.gate.admit_at(BackendIndex(0), idempotent, at)
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
        self.revision += 1;
        let decision = decision(self.revision, fleet);
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

    /// What went up since the last call.
    fn sent(&mut self) -> Vec<Up> {
        let up = self.up.as_mut().expect("connected");
        let mut sent = Vec::new();
        while let Ok(request) = up.try_recv() {
            sent.extend(request.message);
        }
        sent
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

mod alone {
    use super::*;

    #[test]
    fn a_backend_that_fails_is_opened_half_opened_tried_and_ramped_closed() {
        let mut rig = Rig::new();
        rig.serve(20, OutcomeClass::Success);
        let mut failed = 0;
        while rig.state() == StateName::Closed {
            rig.serve(1, FAILED);
            failed += 1;
        }
        assert!((5..=8).contains(&failed), "opened after {failed} failures");
        assert_eq!(rig.reason(), Some(RefusalReason::Local));

        rig.pass(secs(13));
        assert_eq!(rig.state(), StateName::HalfOpen);
        for trial in 0..3 {
            let permit = rig.ask(true).expect("a trial");
            assert!(permit.is_trial());
            let second = rig.ask(true).expect_err("only one at a time");
            assert_eq!(second.reason, RefusalReason::Local, "beside trial {trial}");
            permit.finish(OutcomeClass::Success, None);
            rig.pass(millis(20));
        }
        assert_eq!(rig.state(), StateName::Closed);
        let admission = |rig: &Rig| rig.watched().stance().admission(rig.now());
        assert!(admission(&rig) < 0.2, "it ramps");
        rig.pass(secs(5));
        assert!((0.4..0.7).contains(&admission(&rig)));
        rig.pass(secs(6));
        assert!(admission(&rig) >= 1.0);
    }

    #[test]
    fn a_failed_trial_opens_for_longer() {
        let mut rig = Rig::new();
        while rig.state() == StateName::Closed {
            rig.serve(1, FAILED);
        }
        rig.pass(secs(13));
        rig.serve(1, FAILED);
        assert_eq!(rig.state(), StateName::Open);
        rig.pass(secs(13));
        assert_eq!(rig.state(), StateName::Open, "twice as long");
        rig.pass(secs(13));
        assert_eq!(rig.state(), StateName::HalfOpen);
    }

    #[test]
    fn a_trial_whose_client_goes_away_frees_its_lease() {
        let mut rig = Rig::new();
        while rig.state() == StateName::Closed {
            rig.serve(1, FAILED);
        }
        rig.pass(secs(13));
        drop(rig.ask(true).expect("a trial"));
        rig.pass(millis(20));
        assert_eq!(rig.state(), StateName::HalfOpen);
        assert!(rig.ask(true).expect("another trial").is_trial());
    }

    #[test]
    fn shadow_lets_everything_through_and_counts_what_it_would_not_have() {
        let mut rig = Rig::with(", mode: SHADOW");
        rig.serve(12, FAILED);
        assert!(rig.count(Tally::Shadowed) >= 3);
        assert_eq!(rig.count(Tally::RefusedLocal), 0);
        assert_eq!(rig.count(Tally::Http5xx), 12);
    }

    #[test]
    fn disabled_never_opens() {
        let mut rig = Rig::with(", mode: DISABLED");
        rig.serve(50, FAILED);
        assert_eq!(rig.state(), StateName::Closed);
    }

    #[test]
    fn a_configuration_without_this_agents_pop_is_refused_by_name() {
        let mut rig = Rig::new();
        let text = FleetText::read(2, fleet("").replace("fra1", "iad1"));
        let now = rig.now();
        let refused = rig
            .control
            .install_text(ConfigSource::ControlPlane, text, now);
        let error = refused.expect_err("fra1 is not in it");
        assert!(error.contains("fra1") && error.contains("iad1"), "{error}");
        assert_eq!(rig.control.config_revision(), 1, "the one before stays");
    }

    #[test]
    fn a_new_configuration_keeps_counts_and_state_of_what_stays() {
        let mut rig = Rig::new();
        while rig.state() == StateName::Closed {
            rig.serve(1, FAILED);
        }
        let failed = rig.count(Tally::Http5xx);
        let text = FleetText::read(2, fleet("").replace("10s", "11s"));
        let now = rig.now();
        let installed = rig
            .control
            .install_text(ConfigSource::ControlPlane, text, now);
        installed.expect("a good configuration");
        assert_eq!(rig.state(), StateName::Open);
        assert_eq!(rig.count(Tally::Http5xx), failed);
        assert_eq!(rig.reason(), Some(RefusalReason::Local));
    }
}

mod obeying {
    use super::*;

    #[test]
    fn an_open_of_the_fleet_refuses_at_once_and_says_when_to_come_back() {
        let mut rig = Rig::connected();
        rig.decide(open());
        let refusal = rig.ask(true).expect_err("OPEN");
        assert_eq!(refusal.reason, RefusalReason::Open);
        assert_eq!((refusal.version.epoch, refusal.version.revision), (1, 1));
        // 20 s until the trial, up to 10 s of ramp and 1 s of spread behind it.
        for _ in 0..100 {
            let wait = rig.ask(true).expect_err("OPEN").retry_after;
            assert!((secs(20)..=secs(31)).contains(&wait), "{wait:?}");
        }
    }

    #[test]
    fn a_pops_own_circuit_replaces_the_fleets_but_open_for_the_fleet_beats_it() {
        let mut rig = Rig::connected();
        let with_pop = |revision, fleet, own| {
            let mut decision = decision(revision, fleet);
            decision.pops.push(v1::PopCircuit {
                pop: "fra1".to_owned(),
                circuit: Some(own),
            });
            v1::Decisions {
                decisions: vec![decision],
                ..v1::Decisions::default()
            }
        };
        rig.apply(with_pop(1, closed(), open()));
        assert_eq!(rig.reason(), Some(RefusalReason::Open));
        rig.apply(with_pop(2, half_open(), closed()));
        assert_eq!(rig.reason(), None);
        rig.apply(with_pop(3, open(), closed()));
        assert_eq!(rig.reason(), Some(RefusalReason::Open));
    }

    #[test]
    fn an_override_is_obeyed_either_way() {
        let mut rig = Rig::connected();
        let forced = |revision, mode: v1::Mode, fleet| v1::Decisions {
            decisions: vec![v1::Decision {
                mode: mode.into(),
                ..decision(revision, fleet)
            }],
            ..v1::Decisions::default()
        };
        rig.apply(forced(1, v1::Mode::ForcedOpen, closed()));
        assert_eq!(rig.reason(), Some(RefusalReason::Override));
        rig.apply(forced(2, v1::Mode::ForcedClosed, open()));
        assert_eq!(rig.reason(), None);
        rig.serve(50, FAILED);
        assert_eq!(rig.reason(), None, "the local breaker is silenced, too");
    }

    #[test]
    fn a_ramp_admits_its_share_of_any_second() {
        let mut rig = Rig::connected();
        rig.decide(ramping(0.3));
        let mut admitted = 0;
        for _ in 0..200 {
            if let Ok(permit) = rig.ask(true) {
                admitted += 1;
                permit.finish(OutcomeClass::Success, None);
            }
            rig.elapsed += millis(5);
        }
        // It rises from 30 % to 40 % within the second.
        assert!((68..=72).contains(&admitted), "{admitted} of 200");
        let reasons: Vec<_> = (0..10).filter_map(|_| rig.reason()).collect();
        assert!(!reasons.is_empty() && reasons.iter().all(|r| *r == RefusalReason::Ramp));
    }

    #[test]
    fn the_local_breaker_acts_beside_a_closed_fleet() {
        let mut rig = Rig::connected();
        rig.decide(closed());
        while rig.state() == StateName::Closed {
            rig.serve(1, FAILED);
        }
        assert_eq!(rig.reason(), Some(RefusalReason::Local));
    }

    #[test]
    fn while_the_fleet_holds_a_backend_open_nobody_tries_without_a_lease() {
        let mut rig = Rig::connected();
        rig.decide(open());
        for _ in 0..60 {
            rig.pass(secs(1));
            rig.heard();
            assert_eq!(rig.reason(), Some(RefusalReason::Open));
        }
        rig.decide(half_open());
        for _ in 0..60 {
            rig.pass(secs(1));
            rig.heard();
            assert_eq!(rig.reason(), Some(RefusalReason::HalfOpen));
        }
        assert_eq!(rig.count(Tally::Success) + rig.count(Tally::ClientGone), 0);
    }

    #[test]
    fn what_the_local_breaker_learned_is_forgotten_when_the_fleet_closes() {
        let mut rig = Rig::connected();
        rig.serve(6, FAILED);
        rig.decide(open());
        rig.pass(millis(20));
        rig.decide(closed());
        rig.serve(2, FAILED);
        assert_eq!(rig.state(), StateName::Closed, "six before do not count");
    }
}

mod leases {
    use super::*;

    fn waiting() -> Rig {
        let mut rig = Rig::connected();
        rig.decide(half_open());
        // Someone wants it, so that idempotent requests go first.
        assert_eq!(rig.reason(), Some(RefusalReason::HalfOpen));
        rig.pass(millis(20));
        rig.sent();
        rig
    }

    #[test]
    fn a_lease_lets_one_request_through_and_its_outcome_is_told() {
        for (class, outcome) in [
            (OutcomeClass::Success, v1::TrialOutcome::Succeeded),
            (FAILED, v1::TrialOutcome::Failed),
            (OutcomeClass::Overload, v1::TrialOutcome::Failed),
            (OutcomeClass::ClientGone, v1::TrialOutcome::Returned),
        ] {
            let mut rig = waiting();
            rig.grant("l1");
            let permit = rig.ask(true).expect("a trial");
            assert!(permit.is_trial());
            assert_eq!(rig.reason(), Some(RefusalReason::HalfOpen));
            rig.pass(millis(20));
            assert_eq!(rig.results(), [], "it is still out");
            permit.finish(class, None);
            rig.pass(millis(20));
            assert_eq!(rig.results(), [("l1".to_owned(), outcome)]);
            assert_eq!(rig.reason(), Some(RefusalReason::HalfOpen));
        }
    }

    #[test]
    fn idempotent_requests_have_a_lease_to_themselves_for_half_of_its_time() {
        let mut rig = waiting();
        rig.grant("l1");
        assert!(rig.ask(false).is_err());
        rig.pass(millis(600));
        assert!(rig.ask(false).expect("any may now").is_trial());
    }

    #[test]
    fn without_idempotent_demand_any_request_may_have_it_at_once() {
        let mut rig = waiting();
        rig.pass(secs(3));
        rig.grant("l1");
        assert!(rig.ask(false).expect("any may").is_trial());
    }

    #[test]
    fn a_lease_that_nobody_wants_goes_back_while_its_request_could_still_end_in_time() {
        let mut rig = waiting();
        rig.grant("l1");
        rig.pass(millis(990));
        assert_eq!(rig.results(), []);
        rig.pass(millis(20));
        let returned = ("l1".to_owned(), v1::TrialOutcome::Returned);
        assert_eq!(rig.results(), [returned]);
        assert_eq!(rig.reason(), Some(RefusalReason::HalfOpen));
    }

    #[test]
    fn a_lease_is_void_once_the_fleet_has_decided_otherwise() {
        for next in [open(), closed()] {
            let mut rig = waiting();
            rig.grant("l1");
            rig.decide(next);
            rig.pass(millis(20));
            let returned = ("l1".to_owned(), v1::TrialOutcome::Returned);
            assert_eq!(rig.results(), [returned], "{next:?}");
        }
    }

    #[test]
    fn a_lease_that_came_before_the_news_of_its_round_is_kept() {
        let mut rig = Rig::connected();
        rig.decide(open());
        rig.grant("l1");
        rig.decide(half_open());
        assert!(rig.ask(true).expect("a trial").is_trial());
    }

    #[test]
    fn a_lease_without_use_goes_straight_back() {
        let mut rig = Rig::connected();
        rig.decide(closed());
        rig.grant("l1");
        rig.pass(millis(20));
        let returned = ("l1".to_owned(), v1::TrialOutcome::Returned);
        assert_eq!(rig.results(), [returned]);
    }

    #[test]
    fn a_result_waits_for_a_stream() {
        let mut rig = waiting();
        rig.grant("l1");
        let permit = rig.ask(true).expect("a trial");
        rig.control.disconnected(None);
        permit.finish(OutcomeClass::Success, None);
        rig.pass(millis(20));
        rig.connect();
        rig.pass(millis(20));
        let succeeded = ("l1".to_owned(), v1::TrialOutcome::Succeeded);
        assert_eq!(rig.results(), [succeeded]);
    }
}

mod cut_off {
    use super::*;

    #[test]
    fn a_stale_open_runs_out_as_if_it_had_been_local() {
        let mut rig = Rig::connected();
        let open_for = |wait| v1::Circuit {
            retry_in: Some(prost(wait)),
            ..open()
        };
        rig.decide(open_for(secs(40)));
        rig.control.disconnected(None);
        rig.pass(secs(29));
        assert_eq!(rig.reason(), Some(RefusalReason::Open));
        rig.pass(secs(2));
        assert_eq!(
            rig.reason(),
            Some(RefusalReason::Local),
            "stale, but not over"
        );
        rig.pass(secs(10));
        for _ in 0..3 {
            assert!(rig.ask(true).expect("a trial of our own").is_trial());
            assert_eq!(rig.state(), StateName::HalfOpen);
            rig.pass(millis(20));
            rig.serve(1, OutcomeClass::Success);
        }
        assert_eq!(rig.state(), StateName::Closed);
    }

    #[test]
    fn a_stale_ramp_goes_on() {
        let mut rig = Rig::connected();
        rig.decide(ramping(0.1));
        rig.control.disconnected(None);
        rig.pass(secs(4));
        let admission = rig.watched().stance().admission(rig.now());
        assert!((0.45..=0.55).contains(&admission), "{admission}");
        rig.pass(secs(40));
        assert_eq!(rig.reason(), None);
    }

    #[test]
    fn a_control_plane_without_its_store_stands_by_nothing() {
        let mut rig = Rig::connected();
        rig.decide(open());
        rig.apply(v1::Decisions {
            store_unavailable: true,
            ..v1::Decisions::default()
        });
        for _ in 0..31 {
            rig.pass(secs(1));
            rig.heard();
        }
        rig.pass(millis(20));
        assert_eq!(rig.watched().local.state(), StateName::HalfOpen);
    }

    #[test]
    fn a_decision_that_is_heard_of_again_binds_again() {
        let mut rig = Rig::connected();
        rig.decide(open());
        rig.control.disconnected(None);
        rig.pass(secs(31));
        assert_eq!(rig.state(), StateName::HalfOpen);
        rig.connect();
        let same = decision(1, open());
        rig.apply(v1::Decisions {
            decisions: vec![same],
            complete: true,
            ..v1::Decisions::default()
        });
        assert_eq!(rig.reason(), Some(RefusalReason::Open));
    }
}

mod reporting {
    use super::*;

    #[test]
    fn a_failure_is_reported_at_once_and_successes_once_a_second() {
        let mut rig = Rig::connected();
        rig.serve(5, OutcomeClass::Success);
        let first = rig.reports();
        assert_eq!(first.len(), 1, "the first is due at once");
        rig.serve(40, OutcomeClass::Success);
        assert_eq!(rig.reports().len(), 0);
        rig.serve(1, FAILED);
        let reports = rig.reports();
        assert_eq!(reports.len(), 1);
        let requests: u32 = reports[0].slots.iter().map(|slot| slot.requests).sum();
        assert_eq!(requests, 45, "with what was not yet told");
        let newest = reports[0].slots.last().expect("a slot");
        assert_eq!((newest.requests, newest.failures), (1, 1));
        assert!(newest.age_ms <= 40, "{}", newest.age_ms);
    }

    #[test]
    fn nothing_is_reported_twice_and_nothing_is_lost() {
        let mut rig = Rig::connected();
        let mut reports = Vec::new();
        for round in 0..200 {
            let class = if round % 37 == 0 {
                FAILED
            } else {
                OutcomeClass::Success
            };
            rig.serve(1, class);
            reports.extend(rig.reports());
        }
        rig.pass(secs(2));
        reports.extend(rig.reports());
        let slots = reports.iter().flat_map(|report| &report.slots);
        let (requests, failures) = slots.fold((0, 0), |(requests, failures), slot| {
            (requests + slot.requests, failures + slot.failures)
        });
        assert_eq!((requests, failures), (200, 6));
        let demand: u64 = reports.iter().map(|report| report.demand).sum();
        assert_eq!(demand, 200);
        let latencies = reports.iter().filter_map(|report| report.latency.as_ref());
        let counted: u32 = latencies.flat_map(|latency| &latency.counts).sum();
        assert_eq!(counted, 200);
    }

    #[test]
    fn deltas_older_than_ten_seconds_are_dropped() {
        let mut rig = Rig::new();
        rig.serve(10, OutcomeClass::Success);
        rig.pass(secs(11));
        rig.serve(3, OutcomeClass::Success);
        rig.connect();
        rig.pass(millis(20));
        let reports = rig.reports();
        let requests: u32 = reports[0].slots.iter().map(|slot| slot.requests).sum();
        assert_eq!((reports.len(), requests, reports[0].demand), (1, 3, 3));
    }

    #[test]
    fn a_control_plane_that_does_not_read_costs_a_bounded_queue() {
        let mut rig = Rig::connected();
        for _ in 0..1000 {
            rig.ask(true)
                .expect("admitted")
                .finish(OutcomeClass::Success, None);
            rig.pass(secs(1));
        }
        assert_eq!(rig.reports().len(), QUEUE);
    }

    #[test]
    fn a_large_fleet_is_reported_in_messages_of_bounded_size() {
        let regions: Vec<String> = (0..90).map(|i| format!("region-{i:0>50}")).collect();
        let backends: Vec<String> = regions
            .iter()
            .map(|region| format!("{region}: {{endpoints: ['http://127.0.0.1:1']}}"))
            .collect();
        let backends = backends.join(", ");
        let services: Vec<String> = (0..10)
            .map(|i| format!("s{i}: {{routes: [{{path_prefix: /{i}}}], backends: {{{backends}}}}}"))
            .collect();
        let yaml = format!(
            "pops: {{fra1: {{region_order: [{}]}}}}\nservices: {{{}}}",
            regions.join(", "),
            services.join(", ")
        );
        let mut rig = Rig::connected();
        let text = FleetText::read(2, yaml);
        let now = rig.now();
        let installed = rig
            .control
            .install_text(ConfigSource::ControlPlane, text, now);
        installed.expect("a good configuration");
        let at = rig.start.1;
        // The backend of the first configuration kept its number, 0.
        for index in 1..=900 {
            for _ in 0..100 {
                let permit = rig.gate.admit_at(BackendIndex(index), true, at);
                permit
                    .expect("admitted")
                    .finish(OutcomeClass::Success, None);
            }
        }
        rig.pass(secs(1));
        let mut backends = 0;
        let sent = rig.sent();
        for message in &sent {
            let Up::Report(report) = message else {
                continue;
            };
            assert!(prost::Message::encoded_len(report) <= 256 * 1024);
            backends += report.backends.len();
        }
        assert_eq!(backends, 900);
    }
}
