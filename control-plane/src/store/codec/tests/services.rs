//! A service's record and registers.

use std::collections::BTreeMap;

use breaker_core::{
    BackendName, ByPriority, Mix, Plan, Steering,
    ids::RegionName,
    plan::{OriginPlan, RegionFigures},
    steering::{Drain, Drill, DrillReport, DrillState, Fault, Guard},
};
use proptest::collection::{btree_map, btree_set};

use super::*;
use crate::store::{CallerView, QuotaView, ServiceView};

fn region() -> impl Strategy<Value = RegionName> {
    name().prop_map(|name| RegionName::new(&name).unwrap())
}

fn order() -> impl Strategy<Value = RegionOrder> {
    vec(region(), 0..4)
}

fn rate() -> impl Strategy<Value = f64> {
    0.0..1e9
}

fn demand() -> impl Strategy<Value = ByPriority> {
    [rate(), rate(), rate(), rate()].prop_map(ByPriority)
}

fn mix() -> impl Strategy<Value = Mix> {
    prop_oneof![Just(Mix::default()), demand().prop_map(Mix::of)]
}

fn origin() -> impl Strategy<Value = (RegionOrder, OriginPlan)> {
    let shares = |n| (vec(0.0..=1.0, n), vec(0.0..=1.0, n));
    let parts = (order(), rate(), mix()).prop_flat_map(move |(order, demand, mix)| {
        let n = order.len();
        (Just(order), Just((demand, mix)), shares(n))
    });
    parts.prop_map(|(order, (demand, mix), (shares, headrooms))| {
        let to = OriginPlan {
            demand,
            mix,
            shares,
            headrooms,
        };
        (order, to)
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    let figures = (
        option::of(rate()),
        any::<bool>(),
        0.0..=1.0,
        any::<bool>(),
        rate(),
    );
    let figures =
        figures.prop_map(
            |(capacity, configured, admission, drained, planned)| RegionFigures {
                capacity,
                configured,
                admission,
                drained,
                planned,
            },
        );
    let parts = (
        vec(origin(), 0..4),
        btree_map(region(), figures, 0..4),
        rate(),
        timestamp(),
    );
    parts.prop_map(|(origins, regions, shed, created)| Plan {
        origins: origins.into_iter().collect(),
        regions,
        shed,
        created,
    })
}

fn drain() -> impl Strategy<Value = Drain> {
    (".*", ".*", timestamp(), timestamp(), any::<bool>()).prop_map(
        |(actor, reason, created, expires, break_glass)| Drain {
            actor,
            reason,
            created,
            expires,
            break_glass,
        },
    )
}

/// To the nanosecond, unlike what is stored by milliseconds.
fn time() -> impl Strategy<Value = Duration> {
    (0..1_u64 << 40).prop_map(Duration::from_nanos)
}

fn report() -> impl Strategy<Value = DrillReport> {
    let times = [option::of(time()), option::of(time()), option::of(time())];
    let rates = || btree_map(region(), rate(), 0..4);
    let parts = (times, any::<[u64; 4]>(), rates(), rates(), ".*");
    parts.prop_map(
        |([detected_after, moved_after, worst], counts, before, at_end, summary)| DrillReport {
            detected_after,
            moved_after,
            requests: counts[0],
            succeeded: counts[1],
            failed: counts[2],
            shed: counts[3],
            worst_latency_p99: worst,
            before,
            at_end,
            summary,
        },
    )
}

fn fault() -> impl Strategy<Value = Fault> {
    let delay = (0..=60_000_000_u64).prop_map(Duration::from_micros);
    prop_oneof![
        Just(Fault::Error),
        Just(Fault::Dead),
        delay.prop_map(Fault::Delay),
    ]
}

fn drill_state() -> impl Strategy<Value = DrillState> {
    prop_oneof![
        Just(DrillState::Running),
        Just(DrillState::Passed),
        Just(DrillState::Failed),
        Just(DrillState::GuardTripped),
        Just(DrillState::Stopped),
    ]
}

fn drill() -> impl Strategy<Value = Drill> {
    let guard = (0.0..=1.0, option::of(time()), time());
    let guard = guard.prop_map(|(min_success_rate, max_latency_p99, grace)| Guard {
        min_success_rate,
        max_latency_p99,
        grace,
    });
    let words = (".*", ".*", ".*");
    let what = (name(), name(), fault(), 0.0..=1.0, btree_set(pop(), 0..4));
    let how = (guard, 0.0..=1.0, drill_state(), report());
    let parts = (words, what, how, timestamp(), timestamp());
    parts.prop_map(|(words, what, how, started, ends)| Drill {
        id: words.0,
        backend: BackendName::parse(&format!("{}/{}", what.0, what.1)).unwrap(),
        fault: what.2,
        share: what.3,
        pops: what.4,
        guard: how.0,
        success_rate: how.1,
        state: how.2,
        actor: words.1,
        reason: words.2,
        started,
        ends,
        report: how.3,
    })
}

fn steering() -> impl Strategy<Value = Steering> {
    let version = (any::<u64>(), any::<u64>());
    let version = version.prop_map(|(epoch, revision)| Version { epoch, revision });
    let drains = btree_map(region(), drain(), 0..4);
    let plans = (option::of(plan()), option::of(plan()));
    let learned = btree_map(region(), rate(), 0..4);
    let parts = (version, plans, drains, option::of(drill()), mix(), learned);
    parts.prop_map(|(version, plans, drains, drill, mix, learned)| Steering {
        version,
        plan: plans.0,
        proposed: plans.1,
        drains,
        drill,
        mix,
        learned,
    })
}

/// Stored in units of `1 / per`.
fn callers(per: f64) -> impl Strategy<Value = CallerView> {
    any::<[u32; 5]>().prop_map(move |counts| {
        let [succeeded, failed, refused, shed, shadowed] = counts.map(|n| f64::from(n) / per);
        CallerView {
            succeeded,
            failed,
            refused,
            shed,
            shadowed,
        }
    })
}

fn service_view() -> impl Strategy<Value = ServiceView> {
    let quota = (rate(), rate(), any::<u32>());
    let quota = quota.prop_map(|(wanted, admitted, agents)| QuotaView {
        wanted,
        admitted,
        agents,
    });
    let parts = (
        btree_map(order(), demand(), 0..4),
        callers(1_000.0),
        callers(1.0),
        option::of((".+", callers(1.0))),
        btree_map(any::<u32>(), any::<u32>(), 0..4),
        btree_map(any::<u64>(), quota, 0..4),
    );
    parts.prop_map(
        |(origins, rates, recent, drill, latency, quotas)| ServiceView {
            origins,
            rates,
            recent,
            drill,
            latency: latency.into_iter().collect(),
            quotas,
        },
    )
}

proptest! {
    #[test]
    fn a_services_record_survives(steering in steering()) {
        let bytes = encode_steering(&steering);
        let decoded = decode_steering(&bytes, steering.version).unwrap();
        prop_assert_eq!(&decoded, &steering);
        prop_assert_eq!(encode_steering(&decoded), bytes, "equal values have equal bytes");
    }

    #[test]
    fn a_services_view_survives(view in service_view()) {
        prop_assert_eq!(decode_service_view(&encode_service_view(&view)).unwrap(), view);
    }

    #[test]
    fn garbage_about_services_is_an_error_or_a_value(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode_steering(&bytes, Version::default());
        let _ = decode_service_view(&bytes);
    }

    #[test]
    fn damaged_bytes_about_services_do_not_panic(
        steering in steering(),
        view in service_view(),
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
    ) {
        let _ = decode_steering(&damaged(encode_steering(&steering), at, with), Version::default());
        let _ = decode_service_view(&damaged(encode_service_view(&view), at, with));
    }

    #[test]
    fn fields_of_a_later_version_about_services_are_ignored(
        steering in steering(),
        view in service_view(),
    ) {
        let bytes = [encode_steering(&steering), LATER.to_vec()].concat();
        prop_assert_eq!(decode_steering(&bytes, steering.version).unwrap(), steering);
        let bytes = [encode_service_view(&view), LATER.to_vec()].concat();
        prop_assert_eq!(decode_service_view(&bytes).unwrap(), view);
    }
}

/// What is said of a record that was damaged by `damage`.
fn complaint(damage: impl FnOnce(&mut stored::ServiceRecord)) -> String {
    let mut record = stored::ServiceRecord::default();
    damage(&mut record);
    let refused = decode_steering(&record.encode_to_vec(), Version::default());
    refused.expect_err("it is damaged").to_string()
}

#[test]
fn values_of_services_out_of_range_are_named() {
    let plan = |origin: stored::OriginPlan| stored::Plan {
        origins: vec![origin],
        ..Default::default()
    };
    let shares = |shares: Vec<f64>| stored::OriginPlan {
        order: vec!["eu".to_owned()],
        shares,
        ..Default::default()
    };
    let drain = stored::Drain {
        region: "e u".to_owned(),
        ..Default::default()
    };
    let said = [
        complaint(|r| r.plan = Some(plan(shares(vec![])))),
        complaint(|r| r.proposed = Some(plan(shares(vec![-0.5])))),
        complaint(|r| r.drains = vec![drain]),
        complaint(|r| r.mix = vec![1.0]),
        complaint(|r| r.mix = vec![f64::NAN; 4]),
        complaint(|r| r.drill = Some(stored::Drill::default())),
    ];
    let expected = [
        "the number of an origin's shares is 0, which is out of range",
        "an origin's share is -0.5, which is out of range",
        "region \"e u\" has the character ' ': allowed are letters, digits, '.', '_' and '-'",
        "the number of priorities is 1, which is out of range",
        "a mix's share is NaN, which is out of range",
        "drill.guard must be set",
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_share_above_1_by_rounding_costs_nothing() {
    let eu = RegionName::new("eu").unwrap();
    let origin = |share| OriginPlan {
        shares: vec![share],
        headrooms: vec![0.0],
        ..OriginPlan::default()
    };
    let plan = |share| Plan {
        origins: BTreeMap::from([(vec![eu.clone()], origin(share))]),
        ..Plan::default()
    };
    let steering = |share| Steering {
        plan: Some(plan(share)),
        ..Steering::default()
    };
    let bytes = encode_steering(&steering(1.000_000_000_1));
    let decoded = decode_steering(&bytes, Version::default());
    assert_eq!(decoded, Ok(steering(1.0)));
}
