mod services;

use std::{collections::BTreeMap, time::Duration};

use breaker_core::{
    AgentId, Breaker, ByPriority, Circuit, Counts, FleetView, Mix, Mode, PopId, PopView, Ramp,
    Throttle, Timestamp, TrialLease, Version, Window, Witness,
    breaker::{Override, TrialCandidate},
    evidence::Baseline,
    window::SLOT,
};
use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use super::*;
use crate::store::{EndpointView, Record, ReplicaView};

fn timestamp() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_millis)
}

/// Stored to the millisecond.
fn duration() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_millis)
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9._-]{1,63}"
}

fn agent() -> impl Strategy<Value = AgentId> {
    name().prop_map(|name| AgentId::new(&name).unwrap())
}

fn pop() -> impl Strategy<Value = PopId> {
    name().prop_map(|name| PopId::new(&name).unwrap())
}

fn lease() -> impl Strategy<Value = TrialLease> {
    (".*", agent(), pop(), timestamp()).prop_map(|(id, agent, pop, expires)| TrialLease {
        id,
        agent,
        pop,
        expires,
    })
}

fn ramp() -> impl Strategy<Value = Ramp> {
    (0.0..=1.0, timestamp(), duration()).prop_map(|(from, from_at, duration)| Ramp {
        from,
        from_at,
        duration,
    })
}

fn circuit() -> impl Strategy<Value = Circuit> {
    let closed = (
        timestamp(),
        option::of(ramp()),
        any::<u32>(),
        duration(),
        duration(),
        timestamp(),
    );
    let closed =
        closed.prop_map(
            |(since, ramp, trips, last_open, served, served_at)| Circuit::Closed {
                since,
                ramp,
                trips,
                last_open,
                served,
                served_at,
            },
        );
    let open = (timestamp(), timestamp(), any::<u32>());
    let open = open.prop_map(|(since, until, trips)| Circuit::Open {
        since,
        until,
        trips,
    });
    let half = (
        timestamp(),
        any::<u32>(),
        duration(),
        any::<u32>(),
        vec(lease(), 0..4),
        vec(agent(), 0..4),
    );
    let half =
        half.prop_map(
            |(since, trips, last_open, successes, leases, tried)| Circuit::HalfOpen {
                since,
                trips,
                last_open,
                successes,
                leases,
                tried,
            },
        );
    prop_oneof![closed, open, half]
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        Just(Mode::Enforce),
        Just(Mode::Shadow),
        Just(Mode::ForcedOpen),
        Just(Mode::ForcedClosed),
        Just(Mode::Disabled),
    ]
}

fn over() -> impl Strategy<Value = Override> {
    (mode(), ".*", ".*", timestamp(), timestamp()).prop_map(
        |(mode, actor, reason, created, expires)| Override {
            mode,
            actor,
            reason,
            created,
            expires,
        },
    )
}

fn throttle() -> impl Strategy<Value = Throttle> {
    let shares = (0.0..=1.0, 0.0..=1.0);
    (shares, timestamp(), timestamp()).prop_map(|((admission, told), since, changed)| Throttle {
        admission,
        since,
        changed,
        told,
    })
}

fn by_priority() -> impl Strategy<Value = ByPriority> {
    prop_oneof![
        Just(ByPriority::default()),
        [0.0..1e9, 0.0..1e9, 0.0..1e9, 0.0..1e9].prop_map(ByPriority),
    ]
}

fn endpoint() -> impl Strategy<Value = EndpointView> {
    let found = (any::<u32>(), any::<u32>(), 0..1_u64 << 40);
    let parts = (".*", pop(), found, vec(agent(), 0..4), ".*");
    parts.prop_map(|(endpoint, pop, found, probers, error)| EndpointView {
        endpoint,
        pop,
        healthy: found.0,
        unhealthy: found.1,
        probers,
        error,
        // Stored in thousandths.
        probes: found.2 as f64 / 1000.0,
    })
}

fn record() -> impl Strategy<Value = Record> {
    let pops = proptest::collection::btree_map(pop(), circuit(), 0..4);
    let version = (any::<u64>(), any::<u64>());
    let version = version.prop_map(|(epoch, revision)| Version { epoch, revision });
    let breaker = (
        version,
        circuit(),
        pops,
        option::of(over()),
        option::of(throttle()),
        by_priority(),
    );
    let last_transition = vec(any::<u8>(), 0..64);
    (breaker, last_transition).prop_map(|((version, fleet, pops, over, throttle, demand), last)| {
        Record {
            breaker: Breaker {
                version,
                fleet,
                pops,
                over,
                throttle,
                mix: Mix::of(demand),
            },
            last_transition: last.into(),
        }
    })
}

fn window() -> impl Strategy<Value = Window> {
    let counts = (
        1..1_u64 << 40,
        0..1_u64 << 40,
        0..1_u64 << 40,
        0..1_u64 << 40,
    );
    let latest = u64::MAX / SLOT.as_millis() as u64;
    vec((0..latest, counts), 0..20).prop_map(|slots| {
        let mut window = Window::default();
        for (slot, (requests, failures, overloads, slow)) in slots {
            let counts = Counts {
                requests,
                failures,
                overloads,
                slow,
            };
            window.record(
                Timestamp::from_millis(slot * SLOT.as_millis() as u64),
                counts,
            );
        }
        window
    })
}

fn pop_view() -> impl Strategy<Value = PopView> {
    let witness = (agent(), window()).prop_map(|(agent, window)| Witness { agent, window });
    let parts = (
        pop(),
        any::<u32>(),
        window(),
        vec(witness, 0..3),
        timestamp(),
    );
    parts.prop_map(|(pop, agents, total, worst, heard)| PopView {
        pop,
        agents,
        total,
        worst,
        heard,
    })
}

fn latency() -> impl Strategy<Value = Vec<(u32, u32)>> {
    let buckets = proptest::collection::btree_map(any::<u32>(), any::<u32>(), 0..20);
    buckets.prop_map(|buckets: BTreeMap<u32, u32>| buckets.into_iter().collect())
}

fn view() -> impl Strategy<Value = ReplicaView> {
    let candidate = (agent(), pop(), 0.0..1e9, 0.0..1e9);
    let candidate = candidate.prop_map(|(agent, pop, demand, idempotent)| TrialCandidate {
        agent,
        pop,
        demand,
        idempotent,
    });
    let fleet = (
        vec(pop_view(), 0..4),
        any::<[u64; 3]>(),
        any::<u32>(),
        any::<u32>(),
    );
    let fleet = fleet.prop_map(
        |(pops, baseline, agents_known, agents_reporting)| FleetView {
            pops,
            baseline: Baseline {
                requests: baseline[0],
                failures: baseline[1],
                overloads: baseline[2],
            },
            agents_known,
            agents_reporting,
        },
    );
    let rates = any::<[u64; 3]>();
    let parts = (
        fleet,
        option::of(duration()),
        rates,
        latency(),
        vec(candidate, 0..4),
        (by_priority(), 0.0..1e9, window()),
        vec(endpoint(), 0..3),
    );
    parts.prop_map(
        |(fleet, max_retry_after, rates, latency, candidates, load, endpoints)| ReplicaView {
            fleet,
            max_retry_after,
            demand_milli: rates[0],
            rejected_milli: rates[1],
            in_flight: rates[2],
            latency,
            candidates,
            directed: load.0,
            accepted: load.1,
            metered: load.2,
            endpoints,
        },
    )
}

fn presence() -> impl Strategy<Value = Presence> {
    let words = (".*", ".*", ".*", ".*");
    let numbers = (timestamp(), timestamp(), any::<u64>(), any::<u64>());
    let agent = (agent(), pop(), words, numbers, any::<bool>());
    let agent = agent.prop_map(|(agent, pop, words, numbers, in_sync)| AgentPresence {
        agent,
        instance: words.0,
        pop,
        version: words.1,
        address: words.2,
        connected: numbers.0,
        heard: numbers.1,
        round_trip: Duration::from_micros(numbers.2),
        in_sync,
        config_revision: numbers.3,
        config_error: words.3,
    });
    (".*", vec(agent, 0..4)).prop_map(|(version, agents)| Presence { version, agents })
}

fn config() -> impl Strategy<Value = ConfigRecord> {
    let candidate = (".*", timestamp(), ".*");
    let candidate = candidate.prop_map(|(yaml, applied, source)| Candidate {
        yaml,
        applied,
        source,
    });
    let parts = (any::<u64>(), ".*", timestamp(), ".*", vec(".*", 0..4));
    (parts, option::of(candidate)).prop_map(
        |((revision, yaml, applied, source, digests), candidate)| ConfigRecord {
            revision,
            yaml,
            applied,
            source,
            digests,
            candidate,
        },
    )
}

/// Field 1000 of bytes.
const LATER: [u8; 6] = [0xC2, 0x3E, 3, 1, 2, 3];

fn damaged(mut bytes: Vec<u8>, at: prop::sample::Index, with: u8) -> Vec<u8> {
    if !bytes.is_empty() {
        let at = at.index(bytes.len());
        bytes[at] = with;
    }
    bytes
}

proptest! {
    #[test]
    fn a_record_survives(record in record()) {
        let bytes = encode_record(&record);
        prop_assert_eq!(decode_record(&bytes, record.breaker.version).unwrap(), record);
    }

    #[test]
    fn a_view_survives(view in view()) {
        prop_assert_eq!(decode_view(&encode_view(&view)).unwrap(), view);
    }

    #[test]
    fn a_presence_survives(presence in presence()) {
        prop_assert_eq!(decode_presence(&encode_presence(&presence)).unwrap(), presence);
    }

    #[test]
    fn a_fleet_file_survives(config in config()) {
        prop_assert_eq!(decode_config(&encode_config(&config)).unwrap(), config);
    }

    #[test]
    fn garbage_is_an_error_or_a_value_but_no_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode_record(&bytes, Version::default());
        let _ = decode_view(&bytes);
        let _ = decode_presence(&bytes);
        let _ = decode_config(&bytes);
    }

    #[test]
    fn damaged_bytes_do_not_panic(
        record in record(),
        view in view(),
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
    ) {
        let _ = decode_record(&damaged(encode_record(&record), at, with), Version::default());
        let _ = decode_view(&damaged(encode_view(&view), at, with));
    }

    #[test]
    fn fields_of_a_later_version_are_ignored(record in record(), view in view()) {
        let record_bytes = [encode_record(&record), LATER.to_vec()].concat();
        prop_assert_eq!(decode_record(&record_bytes, record.breaker.version).unwrap(), record);
        let view_bytes = [encode_view(&view), LATER.to_vec()].concat();
        prop_assert_eq!(decode_view(&view_bytes).unwrap(), view);
    }
}

/// What is said of a register that was damaged by `damage`.
fn complaint(damage: impl FnOnce(&mut stored::Register)) -> String {
    let mut register = stored::Register::default();
    damage(&mut register);
    let refused = decode_view(&register.encode_to_vec());
    refused.expect_err("it is damaged").to_string()
}

#[test]
fn values_out_of_range_are_named() {
    let slot = |index_delta, requests| stored::PopRegister {
        pop: "fra1".to_owned(),
        total: vec![stored::Slot {
            index_delta,
            requests,
            ..Default::default()
        }],
        ..Default::default()
    };
    let candidate = |demand| stored::Candidate {
        agent: "a".to_owned(),
        pop: "fra1".to_owned(),
        demand,
        idempotent: 0.0,
    };
    let said = [
        complaint(|r| r.pops = vec![Default::default()]),
        complaint(|r| r.pops = vec![slot(u64::MAX, 1)]),
        complaint(|r| r.pops = vec![slot(1, u64::MAX)]),
        complaint(|r| r.latency_counts = vec![1]),
        complaint(|r| {
            r.latency_index_deltas = vec![u32::MAX, 1];
            r.latency_counts = vec![1, 1];
        }),
        complaint(|r| r.candidates = vec![candidate(f64::NAN)]),
        complaint(|r| r.candidates = vec![candidate(-1.0)]),
        complaint(|r| r.directed_rps = vec![1.0]),
        complaint(|r| r.directed_rps = vec![1.0, 1.0, 1.0, f64::INFINITY]),
        complaint(|r| r.accepted_rps = -1.0),
    ];
    let expected = [
        "POP \"\" must have 1 to 63 characters",
        "a slot's delta is 18446744073709551615, which is out of range",
        "a slot's count is 18446744073709551615, which is out of range",
        "the number of latency counts is 1, which is out of range",
        "a latency bucket's delta is 1, which is out of range",
        "a candidate's demand is NaN, which is out of range",
        "a candidate's demand is -1, which is out of range",
        "the number of priorities is 1, which is out of range",
        "directed demand is inf, which is out of range",
        "accepted requests is -1, which is out of range",
    ];
    assert_eq!(said, expected);
    let empty = decode_record(&[], Version::default()).expect_err("no circuit");
    assert_eq!(empty.to_string(), "a circuit's state is missing");
}

#[test]
fn a_busy_register_is_small() {
    let mut window = Window::default();
    let start = Timestamp::from_millis(1_795_000_000_000);
    for slot in 0..140 {
        let counts = Counts {
            requests: 100,
            failures: 3,
            ..Counts::default()
        };
        window.record(start + SLOT * slot, counts);
    }
    let pop = |n: u32| PopView {
        pop: PopId::new(&format!("pop{n}")).unwrap(),
        agents: 20,
        total: window.clone(),
        worst: vec![],
        heard: start,
    };
    let view = ReplicaView {
        fleet: FleetView {
            pops: (0..4).map(pop).collect(),
            ..FleetView::default()
        },
        ..ReplicaView::default()
    };
    let bytes = encode_view(&view).len();
    assert!(bytes < 4 * 140 * 10, "{bytes} bytes: ten a slot at most");
}
