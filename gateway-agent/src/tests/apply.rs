//! Whatever comes in whatever order, an agent does not go back.

use std::collections::BTreeMap;

use breaker_core::{BackendName, Timestamp};
use proptest::prelude::*;
use rampmeter_api::{
    convert::decision::{Decision, from_decision},
    v1,
};

use crate::{
    fleet::apply::{Decisions, Offer},
    tests::control::{closed, decision, open},
};

/// One message: which backend, which version, and whether it is OPEN.
type Sent = (u8, u64, u64, bool);

fn wire(&(backend, epoch, revision, is_open): &Sent) -> v1::Decision {
    v1::Decision {
        backend: format!("s/r{backend}"),
        version: Some(v1::Version { epoch, revision }),
        ..decision(0, if is_open { open() } else { closed() })
    }
}

proptest! {
    #[test]
    fn the_applied_version_of_a_backend_never_decreases(
        sent in prop::collection::vec((0..3u8, 1..4u64, 1..6u64, any::<bool>()), 0..60),
    ) {
        let mut decisions = Decisions::<BackendName, Decision>::default();
        let mut newest: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
        for (at, message) in sent.iter().enumerate() {
            let now = Timestamp::from_millis(at as u64);
            if at % 7 == 0 {
                decisions.begin_stream();
            }
            let offered = from_decision(&wire(message), now).expect("it makes sense");
            let name = offered.backend.clone();
            let version = (message.1, message.2);
            let before = newest.get(&message.0).copied();
            let expected = match before {
                Some(before) if version < before => Offer::Older,
                Some(before) if version == before => Offer::Confirmed,
                _ => Offer::Applied,
            };
            prop_assert_eq!(decisions.offer(offered.backend.clone(), offered, now, 0), expected);
            let best = before.map_or(version, |before| before.max(version));
            newest.insert(message.0, best);
            let held = decisions.get(name.as_str()).expect("one was offered");
            let held = held.decision.version;
            prop_assert_eq!((held.epoch, held.revision), best);
        }
    }
}

#[test]
fn what_a_new_stream_does_not_name_is_not_made_fresh_by_it() {
    let mut decisions = Decisions::default();
    let offer = |decisions: &mut Decisions<BackendName, Decision>, message: Sent, at| {
        let now = Timestamp::from_millis(at);
        let offered = from_decision(&wire(&message), now).expect("it makes sense");
        decisions.offer(offered.backend.clone(), offered, now, 0);
    };
    offer(&mut decisions, (0, 1, 1, true), 0);
    offer(&mut decisions, (1, 1, 1, true), 0);
    decisions.begin_stream();
    offer(&mut decisions, (1, 1, 1, true), 50);
    decisions.heard(Timestamp::from_millis(100));
    let heard = |name| decisions.get(name).map(|held| held.heard.as_millis());
    assert_eq!((heard("s/r0"), heard("s/r1")), (Some(0), Some(100)));
}

#[test]
fn what_is_held_survives_the_wire_on_another_clock() {
    let mut decisions = Decisions::default();
    let now = Timestamp::from_millis(1_000);
    let original = from_decision(&wire(&(0, 2, 3, true)), now).expect("it makes sense");
    decisions.offer(original.backend.clone(), original.clone(), now, 0);
    let later = Timestamp::from_millis(6_000);
    let again = from_decision(&decisions.to_wire(later)[0], later).expect("it makes sense");
    assert_eq!(
        (again.version, again.mode),
        (original.version, original.mode)
    );
    // 20 s at the beginning, 15 s left, so it ends when it would have.
    assert_eq!(again.fleet.changes_at(), original.fleet.changes_at());
}
