//! Records and views, of backends and of services.

use std::{collections::BTreeSet, time::Duration};

use breaker_core::Version;
use bytes::Bytes;
use futures_util::future::join_all;

use super::{Place, wait_for};
use crate::store::{
    Commit, EventQuery, Hint, MAX_VERSION, ReplicaId, Store,
    testing::{Sample, State, eventually, marked, read, sync},
};

pub(in crate::store) async fn a_name_without_a_record_has_an_epoch<S: Sample>(place: &impl Place) {
    let store = place.join("a").await;
    let state = read(&*store, &S::called("us")).await;
    assert_eq!(state.name, S::called("us"));
    assert!(state.epoch > 1_700_000_000_000, "seeded with the time");
    assert_eq!(state.version, None);
    assert_eq!(state.record, None);
    assert!(state.others.is_empty());
}

pub(in crate::store) async fn a_commit_is_read_by_every_replica<S: Sample>(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = S::called("us");
    let epoch = read(&*a, &name).await.epoch;

    let done = name.commit(&*a, None, marked::<S>(7), vec![]).await;

    let version = Version { epoch, revision: 1 };
    assert_eq!(done, Ok(Commit::Done(version)));
    for store in [&a, &b] {
        let state = read(&**store, &name).await;
        assert_eq!(state.version, Some(version));
        assert_eq!(state.record, Some(S::held(version, 7)));
    }
    assert_eq!(read(&*b, &S::called("eu")).await.record, None);
}

pub(in crate::store) async fn revisions_rise_by_one<S: Sample>(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = S::called("us");
    let mut expected = None;
    for revision in 1..=10 {
        let store = if revision % 2 == 0 { &a } else { &b };
        let next = marked::<S>(revision);
        let done = name.commit(&**store, expected, next, vec![]).await;
        let Ok(Commit::Done(version)) = done else {
            panic!("{done:?}");
        };
        assert_eq!(version.revision, revision);
        expected = Some(version);
    }
}

pub(in crate::store) async fn a_commit_on_an_old_version_gets_the_newer_record<S: Sample>(
    place: &impl Place,
) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = S::called("us");
    let Ok(Commit::Done(first)) = name.commit(&*a, None, marked::<S>(1), vec![]).await else {
        panic!("the first commit wins");
    };
    let second = name.commit(&*a, Some(first), marked::<S>(2), vec![]);
    let Ok(Commit::Done(second)) = second.await else {
        panic!("the second one, too");
    };

    let late = name.commit(&*b, Some(first), marked::<S>(3), vec![]);

    let current = Box::new(S::held(second, 2));
    assert_eq!(late.await, Ok(Commit::Lost(Some(current))));
    assert_eq!(read(&*b, &name).await.version, Some(second));
}

pub(in crate::store) async fn a_first_commit_fails_where_there_is_a_record<S: Sample>(
    place: &impl Place,
) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = S::called("us");
    let first = name.commit(&*a, None, marked::<S>(1), vec![]).await;
    assert!(matches!(first, Ok(Commit::Done(_))), "{first:?}");
    let again = name.commit(&*b, None, marked::<S>(2), vec![]).await;
    assert!(matches!(again, Ok(Commit::Lost(Some(_)))), "{again:?}");
}

pub(in crate::store) async fn of_many_commits_at_once_one_wins<S: Sample>(place: &impl Place) {
    let names: Vec<_> = (0..5).map(|n| format!("replica-{n}")).collect();
    let stores = join_all(names.iter().map(|name| place.join(name))).await;
    let name = S::called("us");
    let mut expected = None;
    for round in 0..4 {
        let tries = (0..40).map(|n| {
            let (store, name) = (stores[n % 5].clone(), name.clone());
            let next = marked::<S>(round * 100 + n as u64);
            let event = Bytes::from(format!("{round}/{n}"));
            tokio::spawn(async move { name.commit(&*store, expected, next, vec![event]).await })
        });
        let mut winners = Vec::new();
        let mut lost = BTreeSet::new();
        for (n, tried) in join_all(tries).await.into_iter().enumerate() {
            match tried.expect("no panic").expect("the store is up") {
                Commit::Done(version) => winners.push((n, version)),
                Commit::Lost(Some(current)) => {
                    lost.insert((S::mark(&current), S::version(&current)));
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

pub(in crate::store) async fn a_repeated_commit_is_recognised<S: Sample>(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = S::called("us");
    let events = || vec![Bytes::from("opened")];
    let first = name.commit(&*a, None, marked::<S>(1), events()).await;
    let again = name.commit(&*a, None, marked::<S>(1), events()).await;
    assert!(matches!(first, Ok(Commit::Done(_))), "{first:?}");
    assert_eq!(again, first);

    let other = name.commit(&*b, None, marked::<S>(1), events()).await;
    assert!(
        matches!(other, Ok(Commit::Lost(_))),
        "not another's: {other:?}"
    );
    let query = EventQuery {
        limit: 10,
        ..EventQuery::default()
    };
    assert_eq!(b.events(query).await.expect("events").events, events());
}

pub(in crate::store) async fn a_view_is_replaced_and_read_by_the_others<S: Sample>(
    place: &impl Place,
) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = S::called("us");
    let write = |requests| S::request(vec![(name.clone(), Some(S::view(requests)))], vec![]);
    let found = S::found(sync(&*a, write(1)).await);
    assert_eq!(found.len(), 1, "what is written is also read");
    assert!(found[0].others.is_empty(), "a has its own");

    for _ in 0..3 {
        let found = S::found(sync(&*a, write(5)).await);
        assert!(found[0].others.is_empty());
    }
    sync(&*b, write(9)).await;

    let (of_a, of_b) = (ReplicaId::new("a"), ReplicaId::new("b"));
    assert_eq!(read(&*b, &name).await.others, [(of_a, S::view(5))]);
    assert_eq!(read(&*a, &name).await.others, [(of_b, S::view(9))]);
    let other = read(&*b, &S::called("eu")).await;
    assert!(other.others.is_empty(), "another name has none");
}

pub(in crate::store) async fn views_of_a_silent_replica_age_out<S: Sample>(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = S::called("us");
    let ask = |view| S::request(vec![(name.clone(), view)], vec![]);
    let written = sync(&*a, ask(Some(S::view(1)))).await.now;
    assert_eq!(read(&*b, &name).await.others.len(), 1);

    let gone = eventually("the view ages out", async || {
        let reply = sync(&*b, ask(None)).await;
        let now = reply.now;
        S::found(reply)[0].others.is_empty().then_some(now)
    });
    let age = gone.await.since(written);
    assert!(age >= Duration::from_secs(3), "kept for {age:?} only");
    assert!(age < Duration::from_secs(5), "kept for {age:?}");
}

/// A version of some earlier history.
fn old(revision: u64) -> Version {
    Version { epoch: 5, revision }
}

/// What is there after agents brought these.
async fn brought<S: Sample>(store: &dyn Store, held: Vec<S::Record>) -> State<S> {
    let held = held.into_iter().map(|record| (S::called("us"), record));
    let request = S::request(vec![], held.collect());
    S::found(sync(store, request).await).remove(0)
}

pub(in crate::store) async fn what_agents_hold_is_adopted_in_a_higher_epoch<S: Sample>(
    place: &impl Place,
) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = S::called("us");

    let first = brought::<S>(&*a, vec![S::held(old(7), 70)]).await;
    assert_eq!(first.record.as_ref().map(S::mark), Some(70));
    assert!(first.version > Some(old(7)), "higher than what agents hold");

    let older = brought::<S>(&*b, vec![S::held(old(6), 60)]).await;
    assert_eq!(older.record, first.record);
    assert_eq!(older.version, first.version);

    let newer = brought::<S>(&*b, vec![S::held(old(9), 90), S::held(old(8), 80)]).await;
    assert_eq!(newer.record.as_ref().map(S::mark), Some(90));
    assert!(newer.version > first.version);
    assert_eq!(read(&*a, &name).await.record, newer.record);

    let later = Version {
        epoch: 6,
        revision: 1,
    };
    let newest = brought::<S>(&*a, vec![S::held(later, 1)]).await;
    assert_eq!(newest.record.as_ref().map(S::mark), Some(1));
    assert!(newest.version > newer.version);
}

pub(in crate::store) async fn what_agents_hold_is_not_adopted_after_a_decision<S: Sample>(
    place: &impl Place,
) {
    let store = place.join("a").await;
    let name = S::called("us");
    let adopted = brought::<S>(&*store, vec![S::held(old(7), 70)]).await;
    let version = adopted.version;
    let done = name.commit(&*store, version, marked::<S>(1), vec![]).await;
    assert!(matches!(done, Ok(Commit::Done(_))), "{done:?}");

    let state = brought::<S>(&*store, vec![S::held(old(100), 100)]).await;

    assert_eq!(state.record.as_ref().map(S::mark), Some(1));
}

pub(in crate::store) async fn what_agents_hold_from_this_history_starts_a_new_epoch_if_it_was_lost<
    S: Sample,
>(
    place: &impl Place,
) {
    let store = place.join("a").await;
    let (name, other) = (S::called("us"), S::called("eu"));
    let done = name.commit(&*store, None, marked::<S>(1), vec![]).await;
    let Ok(Commit::Done(version)) = done else {
        panic!("{done:?}");
    };
    let same = brought::<S>(&*store, vec![S::held(version, 1)]).await;
    assert_eq!(same.version, Some(version), "nothing is lost");

    let lost = Version {
        revision: version.revision + 3,
        ..version
    };
    let mut hints = store.hints();
    let state = brought::<S>(&*store, vec![S::held(lost, 4)]).await;

    wait_for(&mut hints, &Hint::Everything).await;
    assert!(state.epoch > version.epoch);
    assert!(state.version > Some(lost));
    assert_eq!(state.record.as_ref().map(S::mark), Some(4));
    assert_eq!(read(&*store, &other).await.record, None);
}

pub(in crate::store) async fn nonsense_versions_are_not_adopted<S: Sample>(place: &impl Place) {
    let store = place.join("a").await;
    let epoch = read(&*store, &S::called("us")).await.epoch;
    for (epoch, revision) in [
        (u64::MAX, 1),
        (5, u64::MAX),
        (MAX_VERSION.epoch + 1, 1),
        (0, 9),
    ] {
        let version = Version { epoch, revision };
        let state = brought::<S>(&*store, vec![S::held(version, 1)]).await;
        assert_eq!(state.record, None, "{version:?}");
    }
    assert_eq!(read(&*store, &S::called("us")).await.epoch, epoch);
}
