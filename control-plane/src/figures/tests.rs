//! What a report may claim, and what becomes of it.

use std::time::Duration;

use breaker_core::{AgentId, BackendName, BreakerPolicy, PopId, Timestamp, evidence::Baseline};
use rampmeter_api::{convert::duration, v1};

use super::{
    Figures,
    intake::{BUDGET, Intake},
};
use crate::store::ReplicaView;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn backend() -> BackendName {
    BackendName::parse("pay/east").expect("a valid name")
}

fn report(slots: Vec<v1::Slot>) -> v1::BackendReport {
    v1::BackendReport {
        backend: "pay/east".to_owned(),
        slots,
        ..v1::BackendReport::default()
    }
}

fn slot(age_ms: u32, requests: u32, failures: u32) -> v1::Slot {
    v1::Slot {
        age_ms,
        requests,
        failures,
        ..v1::Slot::default()
    }
}

fn record(figures: &Figures, agent: &str, wire: v1::BackendReport, now: Timestamp) -> Intake {
    let agent = AgentId::new(agent).expect("a valid name");
    let pop = PopId::new("fra1").expect("a valid name");
    let report = v1::Report {
        sequence: 1,
        backends: vec![wire],
        ..v1::Report::default()
    };
    figures.record(&agent, &pop, &report, |name| *name == backend(), now)
}

fn view(figures: &Figures, now: Timestamp) -> Option<ReplicaView> {
    figures.view(
        &backend(),
        &BreakerPolicy::default(),
        Baseline::default(),
        Timestamp::default(),
        now,
    )
}

fn requests(figures: &Figures, now: Timestamp) -> (u64, u64) {
    let view = view(figures, now).expect("activity");
    let total = view.fleet.pops[0].total.total_since(Timestamp::default());
    (total.requests, total.failures)
}

#[test]
fn ages_become_slots_of_the_stores_clock() {
    let figures = Figures::default();
    let slots = vec![slot(500, 3, 1), slot(0, 2, 0)];
    let intake = record(&figures, "a", report(slots), NOW);
    assert_eq!(intake.urgent, [backend()]);
    let view = view(&figures, NOW).expect("activity");
    let placed: Vec<_> = view.fleet.pops[0]
        .total
        .slots()
        .map(|(i, c)| (i * 20, c.requests))
        .collect();
    assert_eq!(placed, [(999_500, 3), (1_000_000, 2)]);
}

#[test]
fn success_is_not_urgent() {
    let intake = record(&Figures::default(), "a", report(vec![slot(0, 9, 0)]), NOW);
    assert_eq!(intake, Intake::default());
}

#[test]
fn an_unknown_backend_is_counted_and_the_rest_is_kept() {
    let figures = Figures::default();
    let strange = v1::BackendReport {
        backend: "no/where".to_owned(),
        ..report(vec![slot(0, 1, 1)])
    };
    let intake = record(&figures, "a", strange, NOW);
    assert_eq!(
        (intake.unknown.count, intake.unknown.first.as_str()),
        (1, "no/where")
    );
    assert!(intake.urgent.is_empty());
    record(&figures, "a", report(vec![slot(0, 4, 0)]), NOW);
    assert_eq!(requests(&figures, NOW), (4, 0));
}

#[test]
fn failures_are_never_more_than_requests() {
    let figures = Figures::default();
    let intake = record(&figures, "a", report(vec![slot(0, 2, 7)]), NOW);
    assert_eq!(intake.cut.count, 1);
    assert_eq!(requests(&figures, NOW), (2, 2));
}

#[test]
fn an_absurd_count_is_cut_however_often_it_is_claimed() {
    let figures = Figures::default();
    for _ in 0..10 {
        let slots = (0..=500)
            .map(|age| slot(age * 20, u32::MAX, u32::MAX))
            .collect();
        let intake = record(&figures, "a", report(slots), NOW);
        assert!(intake.cut.count > 0);
    }
    let (requests, failures) = requests(&figures, NOW);
    assert!(
        requests <= BUDGET && failures <= requests,
        "{requests} {failures}"
    );
}

#[test]
fn a_slot_older_than_the_window_is_cut() {
    let figures = Figures::default();
    let intake = record(
        &figures,
        "a",
        report(vec![slot(10_001, 5, 5), slot(10_000, 1, 0)]),
        NOW,
    );
    assert_eq!(intake.cut.count, 1);
    assert!(
        intake.cut.first.contains("age_ms 10001"),
        "{}",
        intake.cut.first
    );
    assert_eq!(requests(&figures, NOW).0, 1);
}

#[test]
fn an_agent_that_left_is_forgotten_after_the_window() {
    let figures = Figures::default();
    record(&figures, "a", report(vec![slot(0, 1, 1)]), NOW);
    assert!(view(&figures, NOW + Duration::from_secs(10)).is_some());
    assert_eq!(view(&figures, NOW + Duration::from_secs(11)), None);
}

#[test]
fn demand_makes_candidates_the_busiest_first_and_fades() {
    let figures = Figures::default();
    for (agent, demand) in [("a", 2), ("b", 9), ("idle", 0)] {
        let wire = v1::BackendReport {
            demand,
            idempotent_demand: demand,
            ..report(Vec::new())
        };
        record(&figures, agent, wire, NOW);
    }
    let names = |now| {
        let candidates = figures.candidates(&backend(), now);
        candidates
            .iter()
            .map(|c| c.agent.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(NOW), ["b", "a"]);
    assert!(names(NOW + Duration::from_secs(3)).is_empty());
}

#[test]
fn the_longest_retry_after_of_late_counts_up_to_its_cap() {
    let figures = Figures::default();
    for seconds in [7, 100_000, 3] {
        let wire = v1::BackendReport {
            max_retry_after: Some(duration(Duration::from_secs(seconds))),
            ..report(vec![slot(0, 1, 0)])
        };
        record(&figures, "a", wire, NOW);
    }
    let held = view(&figures, NOW).expect("activity").max_retry_after;
    assert_eq!(held, Some(Duration::from_secs(300)));
}

fn rejections(throttle: u64, ramp: u64, limit: u64) -> Option<v1::Rejections> {
    Some(v1::Rejections {
        throttle,
        ramp,
        limit,
        open: 7,
        ..v1::Rejections::default()
    })
}

#[test]
fn demand_by_priority_is_told_per_second_and_an_old_agents_is_normal() {
    let figures = Figures::default();
    let directed = v1::ByPriority {
        critical: 90.0,
        low: 10.0,
        ..v1::ByPriority::default()
    };
    let wire = v1::BackendReport {
        demand: 100,
        directed: Some(directed),
        ..report(Vec::new())
    };
    record(&figures, "new", wire, NOW);
    let old = v1::BackendReport {
        demand: 50,
        ..report(Vec::new())
    };
    let intake = record(&figures, "old", old, NOW);
    assert_eq!(intake.cut.count, 0);
    // At a full second the ring holds nine seconds and nothing of the tenth.
    let told = view(&figures, NOW).expect("activity").directed;
    assert_eq!(told.0.map(|rate| rate * 9.0), [90.0, 0.0, 50.0, 10.0]);
}

#[test]
fn what_was_taken_is_what_completed_without_overload() {
    let figures = Figures::default();
    let overloaded = v1::Slot {
        overloads: 40,
        ..slot(0, 100, 10)
    };
    record(&figures, "a", report(vec![overloaded]), NOW);
    assert_eq!(view(&figures, NOW).expect("activity").accepted, 6.0);
}

#[test]
fn only_what_the_throttle_the_ramp_and_limits_refused_is_metered() {
    let figures = Figures::default();
    for (agent, limit) in [("a", 4), ("b", 9)] {
        let wire = v1::BackendReport {
            demand: 100,
            rejections: rejections(20, 10, limit),
            ..report(Vec::new())
        };
        let intake = record(&figures, agent, wire, NOW);
        assert_eq!(intake.cut.count, 0);
    }
    let metered = view(&figures, NOW).expect("activity").metered;
    let total = metered.total_since(Timestamp::default());
    assert_eq!(
        (total.requests, total.overloads),
        (64, 4),
        "and no limit of the busiest agent"
    );
}

#[test]
fn absurd_claims_of_demand_and_refusals_are_cut() {
    let figures = Figures::default();
    let many = v1::ByPriority {
        critical: 3e18,
        high: 1e18,
        ..v1::ByPriority::default()
    };
    let negative = v1::ByPriority {
        low: -1.0,
        ..v1::ByPriority::default()
    };
    for directed in [many, negative] {
        let wire = v1::BackendReport {
            demand: 100,
            directed: Some(directed),
            rejections: rejections(u64::MAX, u64::MAX, u64::MAX),
            ..report(Vec::new())
        };
        let intake = record(&figures, "a", wire, NOW);
        assert!(intake.cut.count >= 2, "{intake:?}");
    }
    let view = view(&figures, NOW).expect("activity");
    assert_eq!(
        view.directed.0.map(|r| (r * 9.0).round()),
        [75.0, 25.0, 0.0, 0.0]
    );
    let metered = view.metered.total_since(Timestamp::default());
    assert_eq!(metered.requests, 200, "no more than was wanted");
    for _ in 0..10 {
        let wire = v1::BackendReport {
            demand: u64::MAX,
            rejections: rejections(u64::MAX, 0, 0),
            ..report(Vec::new())
        };
        record(&figures, "a", wire, NOW);
    }
    let view = self::view(&figures, NOW).expect("activity");
    let metered = view.metered.total_since(Timestamp::default());
    assert!(metered.requests <= BUDGET, "{}", metered.requests);
}
