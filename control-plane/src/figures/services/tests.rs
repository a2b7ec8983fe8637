//! Demand that does not jump when reports come and go.

use std::time::Duration;

use breaker_core::{
    AgentId, PopId, Timestamp,
    ids::{RegionName, ServiceName},
    plan::RegionOrder,
};
use rampmeter_api::v1;

use super::{Services, Taken};
use crate::store::ServiceView;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn pay() -> ServiceName {
    ServiceName::new("pay").expect("a valid name")
}

fn report(normal: f64, low: f64) -> v1::ServiceReport {
    v1::ServiceReport {
        service: "pay".to_owned(),
        demand: Some(v1::ByPriority {
            normal,
            low,
            ..v1::ByPriority::default()
        }),
        ..v1::ServiceReport::default()
    }
}

fn record(services: &Services, agent: &str, wire: Vec<v1::ServiceReport>, now: Timestamp) -> Taken {
    // The agent's POP is named after the first letter of its name.
    let pop = PopId::new(&agent[..1]).expect("a valid name");
    let agent = AgentId::new(agent).expect("a valid name");
    let report = v1::Report {
        services: wire,
        ..v1::Report::default()
    };
    services.record(&agent, &pop, &report, |name| *name == pay(), now)
}

/// POP `x` prefers the west, the others the east; POP `z` has no region.
fn order(pop: &PopId) -> RegionOrder {
    let names: &[&str] = match pop.as_str() {
        "x" => &["west", "east"],
        "z" => &[],
        _ => &["east", "west"],
    };
    let region = |name: &&str| RegionName::new(name).expect("a valid name");
    names.iter().map(region).collect()
}

fn view(services: &Services, now: Timestamp) -> Option<ServiceView> {
    services.view(&pay(), order, None, now)
}

fn demand(services: &Services, now: Timestamp) -> f64 {
    let view = view(services, now).unwrap_or_default();
    view.origins.values().map(|rates| rates.total()).sum()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn steady_demand_is_steady_whenever_it_is_looked_at() {
    let services = Services::default();
    // Each a little late, as reports are.
    for at in (0..20_000_u64).step_by(10) {
        let now = NOW + ms(at);
        if at % 1030 == 0 {
            record(&services, "a1", vec![report(103.0, 0.0)], now);
        }
        if at >= 4_000 {
            let rate = demand(&services, now);
            assert!((95.0..105.0).contains(&rate), "{rate} at {at} ms");
        }
    }
}

#[test]
fn the_first_report_counts_at_once_and_hot_reports_as_calm_ones() {
    let services = Services::default();
    record(&services, "a1", vec![report(100.0, 0.0)], NOW);
    assert!((demand(&services, NOW) - 100.0).abs() < 1e-6);
    for step in 1..=40 {
        let now = NOW + ms(100 * step);
        record(&services, "a1", vec![report(10.0, 0.0)], now);
        let rate = demand(&services, now);
        assert!((99.0..101.0).contains(&rate), "{rate}");
    }
}

#[test]
fn a_rise_shows_in_full_after_the_span() {
    let services = Services::default();
    for step in 0..80 {
        let now = NOW + ms(100 * step);
        let wanted = if step < 40 { 10.0 } else { 20.0 };
        record(&services, "a1", vec![report(wanted, 0.0)], now);
    }
    let rate = demand(&services, NOW + ms(7900));
    assert!((199.0..201.0).contains(&rate), "{rate}");
}

#[test]
fn an_agent_that_falls_silent_or_wants_nothing_more_fades_away() {
    let services = Services::default();
    for at in [0, 1000, 2000, 3000] {
        record(&services, "a1", vec![report(100.0, 0.0)], NOW + ms(at));
        record(&services, "a2", vec![report(100.0, 0.0)], NOW + ms(at));
    }
    assert!((demand(&services, NOW + ms(3000)) - 200.0).abs() < 1.0);
    // a1 is gone; a2 reports on, but nobody wants the service there.
    for at in [4000, 5000, 6000] {
        record(&services, "a2", Vec::new(), NOW + ms(at));
    }
    let left = demand(&services, NOW + ms(6000));
    assert!((40.0..60.0).contains(&left), "half of a1 alone: {left}");
    assert_eq!(demand(&services, NOW + ms(7500)), 0.0);
    assert_eq!(view(&services, NOW + ms(14_000)), None);
}

#[test]
fn agents_that_prefer_the_same_regions_are_one_origin() {
    let services = Services::default();
    for agent in ["a1", "b1", "x1", "z1"] {
        record(&services, agent, vec![report(60.0, 40.0)], NOW);
    }
    let view = view(&services, NOW).expect("activity");
    let origins: Vec<_> = view
        .origins
        .iter()
        .map(|(order, rates)| (order[0].as_str(), rates.0.map(f64::round)))
        .collect();
    assert_eq!(
        origins,
        [
            ("east", [0.0, 0.0, 120.0, 80.0]),
            ("west", [0.0, 0.0, 60.0, 40.0])
        ],
        "and none for a POP without a region of the service"
    );
}

#[test]
fn what_cannot_be_true_is_cut_and_the_rest_is_kept() {
    let services = Services::default();
    let absurd = |demand| v1::ServiceReport {
        shed: 9,
        refused: 3,
        succeeded: u64::MAX,
        ..report(demand, 0.0)
    };
    let taken = record(&services, "a1", vec![absurd(1e300), absurd(1e300)], NOW);
    assert_eq!(taken.cut.count, 4, "{taken:?}");
    let nothing = record(&services, "a2", vec![report(f64::NAN, 0.0)], NOW);
    assert_eq!(nothing.cut.count, 1);
    let strange = v1::ServiceReport {
        service: "no such".to_owned(),
        ..report(1.0, 0.0)
    };
    let unknown = record(&services, "a3", vec![strange, report(7.0, 0.0)], NOW);
    assert_eq!(
        (unknown.unknown.count, unknown.unknown.first.as_str()),
        (1, "no such")
    );
    let view = view(&services, NOW).expect("activity");
    let total: f64 = view.origins.values().map(|rates| rates.total()).sum();
    assert!((total - 5_000_007.0).abs() < 1.0, "{total}");
    assert_eq!((view.recent.refused, view.recent.shed), (6.0, 6.0));
}

#[test]
fn what_callers_got_is_told_for_ten_seconds_and_for_the_last() {
    let services = Services::default();
    for second in 0..20 {
        let got = v1::ServiceReport {
            succeeded: 100,
            failed: if second >= 15 { 50 } else { 0 },
            ..report(100.0, 0.0)
        };
        record(&services, "a1", vec![got], NOW + ms(1000 * second));
    }
    let view = view(&services, NOW + ms(19_000)).expect("activity");
    assert_eq!((view.rates.succeeded, view.rates.failed), (100.0, 25.0));
    assert_eq!((view.recent.succeeded, view.recent.failed), (100.0, 50.0));
}
