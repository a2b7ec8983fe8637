//! What every store must do. Each store runs all of it, through [`contract!`].

mod told;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use breaker_core::{Timestamp, Version};
use bytes::Bytes;
use futures_util::future::join_all;

use super::{agent, backend, eventually, held, open_until, read, sync, until, view};
use crate::store::{
    AgentPresence, Commit, EventQuery, Hint, MAX_VERSION, Presence, ReplicaId, Store, SyncRequest,
};
use breaker_core::PopId;

/// A store that any number of replicas can join.
pub(in crate::store) trait Place {
    async fn join(&self, replica: &str) -> Arc<dyn Store>;
}

/// Runs the contract on a kind of place.
macro_rules! contract {
    ($start:expr) => {
        $crate::store::testing::contract::contract! { $start,
            a_backend_without_a_record_has_an_epoch,
            a_commit_is_read_by_every_replica,
            revisions_rise_by_one,
            a_commit_on_an_old_version_gets_the_newer_record,
            a_first_commit_fails_where_there_is_a_record,
            of_many_commits_at_once_one_wins,
            a_repeated_commit_is_recognised,
            a_register_is_replaced_and_read_by_the_others,
            registers_of_a_silent_replica_age_out,
            replicas_see_each_other_until_they_fall_silent,
            what_agents_hold_is_adopted_in_a_higher_epoch,
            what_agents_hold_is_not_adopted_after_a_decision,
            what_agents_hold_from_this_history_starts_a_new_epoch_if_it_was_lost,
            nonsense_versions_are_not_adopted,
            events_are_listed_newest_first_in_pages,
            the_fleet_file_is_changed_by_compare_and_set,
            hints_name_what_changed,
            the_clock_never_goes_back,
            a_sync_of_nothing_is_fine
        }
    };
    ($start:expr, $($test:ident),*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            $crate::store::testing::contract::$test(&$start).await;
        })*
    };
}
pub(in crate::store) use contract;
pub(in crate::store) use told::{
    events_are_listed_newest_first_in_pages, hints_name_what_changed,
    the_fleet_file_is_changed_by_compare_and_set, wait_for,
};

pub(in crate::store) async fn a_backend_without_a_record_has_an_epoch(place: &impl Place) {
    let store = place.join("a").await;
    let state = read(&*store, &backend("pay/us")).await;
    assert_eq!(state.name, backend("pay/us"));
    assert!(state.epoch > 1_700_000_000_000, "seeded with the time");
    assert_eq!(state.version, None);
    assert_eq!(state.record, None);
    assert!(state.others.is_empty());
}

pub(in crate::store) async fn a_commit_is_read_by_every_replica(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = backend("pay/us");
    let epoch = read(&*a, &name).await.epoch;

    let done = a.commit(name.clone(), None, open_until(7), vec![]).await;

    let version = Version { epoch, revision: 1 };
    assert_eq!(done, Ok(Commit::Done(version)));
    for store in [&a, &b] {
        let state = read(&**store, &name).await;
        assert_eq!(state.version, Some(version));
        assert_eq!(state.record, Some(held(version, 7)));
    }
    assert_eq!(read(&*b, &backend("pay/eu")).await.record, None);
}

pub(in crate::store) async fn revisions_rise_by_one(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = backend("pay/us");
    let mut expected = None;
    for revision in 1..=10 {
        let store = if revision % 2 == 0 { &a } else { &b };
        let next = open_until(revision);
        let done = store.commit(name.clone(), expected, next, vec![]).await;
        let Ok(Commit::Done(version)) = done else {
            panic!("{done:?}");
        };
        assert_eq!(version.revision, revision);
        expected = Some(version);
    }
}

pub(in crate::store) async fn a_commit_on_an_old_version_gets_the_newer_record(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = backend("pay/us");
    let Ok(Commit::Done(first)) = a.commit(name.clone(), None, open_until(1), vec![]).await else {
        panic!("the first commit wins");
    };
    let second = a.commit(name.clone(), Some(first), open_until(2), vec![]);
    let Ok(Commit::Done(second)) = second.await else {
        panic!("the second one, too");
    };

    let late = b.commit(name.clone(), Some(first), open_until(3), vec![]);

    let current = Box::new(held(second, 2));
    assert_eq!(late.await, Ok(Commit::Lost(Some(current))));
    assert_eq!(read(&*b, &name).await.version, Some(second));
}

pub(in crate::store) async fn a_first_commit_fails_where_there_is_a_record(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = backend("pay/us");
    let first = a.commit(name.clone(), None, open_until(1), vec![]).await;
    assert!(matches!(first, Ok(Commit::Done(_))), "{first:?}");
    let again = b.commit(name.clone(), None, open_until(2), vec![]).await;
    assert!(matches!(again, Ok(Commit::Lost(Some(_)))), "{again:?}");
}

pub(in crate::store) async fn of_many_commits_at_once_one_wins(place: &impl Place) {
    let names: Vec<_> = (0..5).map(|n| format!("replica-{n}")).collect();
    let stores = join_all(names.iter().map(|name| place.join(name))).await;
    let name = backend("pay/us");
    let mut expected = None;
    for round in 0..4 {
        let tries = (0..40).map(|n| {
            let (store, name) = (stores[n % 5].clone(), name.clone());
            let next = open_until(round * 100 + n as u64);
            let event = Bytes::from(format!("{round}/{n}"));
            tokio::spawn(async move { store.commit(name, expected, next, vec![event]).await })
        });
        let mut winners = Vec::new();
        let mut lost = BTreeSet::new();
        for (n, tried) in join_all(tries).await.into_iter().enumerate() {
            match tried.expect("no panic").expect("the store is up") {
                Commit::Done(version) => winners.push((n, version)),
                Commit::Lost(Some(current)) => {
                    lost.insert((until(&current), current.breaker.version));
                }
                Commit::Lost(None) => panic!("somebody was first"),
            }
        }
        let [(winner, version)] = winners[..] else {
            panic!("one wins, not {winners:?}");
        };
        let theirs = (round * 100 + winner as u64, version);
        assert_eq!(lost, BTreeSet::from([theirs]), "all others get its record");
        expected = Some(version);
    }
    let query = EventQuery {
        limit: 100,
        ..EventQuery::default()
    };
    let events = stores[0].events(query).await.expect("events").events;
    assert_eq!(events.len(), 4, "only winners' events are kept");
}

pub(in crate::store) async fn a_repeated_commit_is_recognised(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = backend("pay/us");
    let events = || vec![Bytes::from("opened")];
    let first = a.commit(name.clone(), None, open_until(1), events()).await;
    let again = a.commit(name.clone(), None, open_until(1), events()).await;
    assert!(matches!(first, Ok(Commit::Done(_))), "{first:?}");
    assert_eq!(again, first);

    let other = b.commit(name.clone(), None, open_until(1), events()).await;
    assert!(
        matches!(other, Ok(Commit::Lost(_))),
        "not another's: {other:?}"
    );
    let query = EventQuery {
        backend: Some(name),
        limit: 10,
        ..EventQuery::default()
    };
    assert_eq!(b.events(query).await.expect("events").events, events());
}

pub(in crate::store) async fn a_register_is_replaced_and_read_by_the_others(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = backend("pay/us");
    let write = |requests| SyncRequest {
        registers: vec![(name.clone(), view(requests))],
        ..SyncRequest::default()
    };
    let reply = sync(&*a, write(1)).await;
    assert_eq!(reply.backends.len(), 1, "what is written is also read");
    assert!(reply.backends[0].others.is_empty(), "a has its own");

    for _ in 0..3 {
        let reply = sync(&*a, write(5)).await;
        assert!(reply.backends[0].others.is_empty());
    }
    sync(&*b, write(9)).await;

    let (of_a, of_b) = (ReplicaId::new("a"), ReplicaId::new("b"));
    assert_eq!(read(&*b, &name).await.others, [(of_a, view(5))]);
    assert_eq!(read(&*a, &name).await.others, [(of_b, view(9))]);
    let other = read(&*b, &backend("pay/eu")).await;
    assert!(other.others.is_empty(), "another backend has none");
}

pub(in crate::store) async fn registers_of_a_silent_replica_age_out(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = backend("pay/us");
    let request = SyncRequest {
        registers: vec![(name.clone(), view(1))],
        ..SyncRequest::default()
    };
    let written = sync(&*a, request).await.now;
    assert_eq!(read(&*b, &name).await.others.len(), 1);

    let gone = eventually("the register ages out", async || {
        let request = SyncRequest {
            read: vec![name.clone()],
            ..SyncRequest::default()
        };
        let reply = sync(&*b, request).await;
        reply.backends[0].others.is_empty().then_some(reply.now)
    });
    let age = gone.await.since(written);
    assert!(age >= Duration::from_secs(3), "kept for {age:?} only");
    assert!(age < Duration::from_secs(5), "kept for {age:?}");
}

pub(in crate::store) async fn replicas_see_each_other_until_they_fall_silent(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let presence = |version: &str| Presence {
        version: version.to_owned(),
        agents: vec![AgentPresence {
            agent: agent("edge-1"),
            instance: "i1".to_owned(),
            pop: PopId::new("fra1").expect("a POP's name"),
            version: "0.1".to_owned(),
            address: "10.0.0.5:8080".to_owned(),
            connected: Timestamp::from_millis(5),
            heard: Timestamp::from_millis(9),
            round_trip: Duration::from_micros(1_500),
            in_sync: true,
            config_revision: 3,
            config_error: "unknown key".to_owned(),
        }],
    };
    let (of_a, of_b) = (ReplicaId::new("a"), ReplicaId::new("b"));
    b.heartbeat(presence("2")).await.expect("a heartbeat");
    a.heartbeat(presence("0")).await.expect("a heartbeat");
    let live = a.heartbeat(presence("1")).await.expect("a heartbeat");
    let both = [(of_a, presence("1")), (of_b.clone(), presence("2"))];
    assert_eq!(live, both);

    eventually("a falls silent", async || {
        let live = b.heartbeat(presence("2")).await.expect("a heartbeat");
        (live == [(of_b.clone(), presence("2"))]).then_some(())
    })
    .await;
}

/// A version of some earlier history.
fn old(revision: u64) -> Version {
    Version { epoch: 5, revision }
}

fn holds(records: Vec<crate::store::Record>) -> SyncRequest {
    let name = backend("pay/us");
    let held = records.into_iter().map(|record| (name.clone(), record));
    SyncRequest {
        held: held.collect(),
        ..SyncRequest::default()
    }
}

pub(in crate::store) async fn what_agents_hold_is_adopted_in_a_higher_epoch(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = backend("pay/us");

    let reply = sync(&*a, holds(vec![held(old(7), 70)])).await;
    let first = &reply.backends[0];
    assert_eq!(first.record.as_ref().map(until), Some(70));
    assert!(first.version > Some(old(7)), "higher than what agents hold");

    let older = sync(&*b, holds(vec![held(old(6), 60)])).await;
    assert_eq!(older.backends[0].record, first.record);
    assert_eq!(older.backends[0].version, first.version);

    let newer = sync(&*b, holds(vec![held(old(9), 90), held(old(8), 80)])).await;
    assert_eq!(newer.backends[0].record.as_ref().map(until), Some(90));
    assert!(newer.backends[0].version > first.version);
    assert_eq!(read(&*a, &name).await.record, newer.backends[0].record);

    let later = Version {
        epoch: 6,
        revision: 1,
    };
    let newest = sync(&*a, holds(vec![held(later, 1)])).await;
    assert_eq!(newest.backends[0].record.as_ref().map(until), Some(1));
    assert!(newest.backends[0].version > newer.backends[0].version);
}

pub(in crate::store) async fn what_agents_hold_is_not_adopted_after_a_decision(place: &impl Place) {
    let store = place.join("a").await;
    let name = backend("pay/us");
    let adopted = sync(&*store, holds(vec![held(old(7), 70)])).await;
    let version = adopted.backends[0].version;
    let done = store
        .commit(name.clone(), version, open_until(1), vec![])
        .await;
    assert!(matches!(done, Ok(Commit::Done(_))), "{done:?}");

    let reply = sync(&*store, holds(vec![held(old(100), 100)])).await;

    assert_eq!(reply.backends[0].record.as_ref().map(until), Some(1));
}

pub(in crate::store) async fn what_agents_hold_from_this_history_starts_a_new_epoch_if_it_was_lost(
    place: &impl Place,
) {
    let store = place.join("a").await;
    let (name, other) = (backend("pay/us"), backend("pay/eu"));
    let done = store
        .commit(name.clone(), None, open_until(1), vec![])
        .await;
    let Ok(Commit::Done(version)) = done else {
        panic!("{done:?}");
    };
    let same = sync(&*store, holds(vec![held(version, 1)])).await;
    assert_eq!(same.backends[0].version, Some(version), "nothing is lost");

    let lost = Version {
        revision: version.revision + 3,
        ..version
    };
    let mut hints = store.hints();
    let reply = sync(&*store, holds(vec![held(lost, 4)])).await;

    wait_for(&mut hints, &Hint::Everything).await;
    let state = &reply.backends[0];
    assert!(state.epoch > version.epoch);
    assert!(state.version > Some(lost));
    assert_eq!(state.record.as_ref().map(until), Some(4));
    assert_eq!(read(&*store, &other).await.record, None);
}

pub(in crate::store) async fn nonsense_versions_are_not_adopted(place: &impl Place) {
    let store = place.join("a").await;
    let epoch = read(&*store, &backend("pay/us")).await.epoch;
    for (epoch, revision) in [
        (u64::MAX, 1),
        (5, u64::MAX),
        (MAX_VERSION.epoch + 1, 1),
        (0, 9),
    ] {
        let version = Version { epoch, revision };
        let reply = sync(&*store, holds(vec![held(version, 1)])).await;
        assert_eq!(reply.backends[0].record, None, "{version:?}");
    }
    assert_eq!(read(&*store, &backend("pay/us")).await.epoch, epoch);
}

pub(in crate::store) async fn the_clock_never_goes_back(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let mut last = Timestamp::default();
    for n in 0..200 {
        let store = if n % 2 == 0 { &a } else { &b };
        let request = SyncRequest {
            read: vec![backend(&format!("pay/r{}", n % 9))],
            ..SyncRequest::default()
        };
        let now = sync(&**store, request).await.now;
        // Groups' clocks meet at what one replica has seen.
        if n >= 2 && n % 2 == 0 {
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
    }
}

pub(in crate::store) async fn a_sync_of_nothing_is_fine(place: &impl Place) {
    let store = place.join("a").await;
    let reply = sync(&*store, SyncRequest::default()).await;
    assert!(reply.backends.is_empty());
}
