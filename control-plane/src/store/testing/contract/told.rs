//! What a store tells: events, the fleet file, hints.

use breaker_core::{BackendName, Timestamp, ids::ServiceName};
use bytes::Bytes;
use tokio::time::timeout;

use super::Place;
use crate::store::{
    About, Candidate, Commit, ConfigRecord, EventQuery, Hint, Hints, PutConfig, Store,
    testing::{DEADLINE, Sample, backend, eventually, marked},
};

pub(in crate::store) async fn events_are_listed_newest_first_in_pages(place: &impl Place) {
    let store = place.join("a").await;
    let mut all_of = vec![About::Fleet, About::Service(ServiceName::called("pay"))];
    all_of.extend((0..6).map(|n| About::Backend(backend(&format!("pay/r{n}")))));
    for n in 0..60 {
        let event = Bytes::from(format!("{n:03}"));
        let appended = store.append(all_of[n % 8].clone(), vec![event]).await;
        appended.expect("an append");
    }
    let everything = EventQuery::default;
    let all = list(&*store, everything(), 1_000).await;
    let expected: Vec<_> = (0..60).rev().map(|n| format!("{n:03}")).collect();
    let mut sorted = all.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    assert_eq!(
        sorted, expected,
        "all are there, though one instant's may be swapped"
    );
    for limit in [1, 17, 60] {
        let pages = list(&*store, everything(), limit).await;
        assert_eq!(all, pages, "pages hold the same");
    }
    let of_service = EventQuery {
        service: Some(ServiceName::called("pay")),
        ..EventQuery::default()
    };
    let of_backend = EventQuery {
        backend: Some(backend("pay/r3")),
        ..EventQuery::default()
    };
    for (nth, query) in [(1, of_service), (5, of_backend)] {
        let of_one: Vec<_> = (0..60)
            .rev()
            .filter(|n| n % 8 == nth)
            .map(|n| format!("{n:03}"))
            .collect();
        for limit in [1, 3, 1_000] {
            assert_eq!(list(&*store, query.clone(), limit).await, of_one);
        }
    }
}

async fn list(store: &dyn Store, mut query: EventQuery, limit: usize) -> Vec<String> {
    query.limit = limit;
    let mut events = Vec::new();
    loop {
        // All groups are read for one page: on a busy host that may be late.
        let page = eventually("a page of events", || {
            let page = store.events(query.clone());
            async { page.await.ok() }
        });
        let page = page.await;
        assert!(page.events.len() <= limit);
        let text = |event: &Bytes| String::from_utf8_lossy(event).into_owned();
        events.extend(page.events.iter().map(text));
        let Some(next) = page.next else {
            return events;
        };
        let token = next.to_string().parse().expect("a token is a cursor");
        query.before = Some(token);
    }
}

pub(in crate::store) async fn the_fleet_file_is_changed_by_compare_and_set(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let file = |revision: u64, yaml: &str| ConfigRecord {
        revision,
        yaml: yaml.to_owned(),
        applied: Timestamp::from_millis(5),
        source: "fleet.yaml".to_owned(),
        digests: vec!["d1".to_owned(), "d0".to_owned()],
        candidate: Some(Candidate {
            yaml: format!("{yaml}, but stricter"),
            applied: Timestamp::from_millis(6),
            source: "candidate.yaml".to_owned(),
        }),
    };
    assert_eq!(a.config().await, Ok(None));
    let event = || vec![Bytes::from("applied")];
    let put = a.put_config(0, file(1, "one"), event()).await;
    assert_eq!(put, Ok(PutConfig::Done));
    let again = a.put_config(0, file(1, "one"), event()).await;
    assert_eq!(again, Ok(PutConfig::Done), "a repetition is recognised");
    let late = b.put_config(0, file(1, "other"), event()).await;
    let current = Box::new(file(1, "one"));
    assert_eq!(late, Ok(PutConfig::Lost(Some(current))));
    let put = b.put_config(1, file(2, "two"), vec![]).await;
    assert_eq!(put, Ok(PutConfig::Done));
    assert_eq!(a.config().await, Ok(Some(file(2, "two"))));
    assert_eq!(list(&*a, EventQuery::default(), 10).await, ["applied"]);
}

pub(in crate::store) async fn hints_name_what_changed(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = backend("pay/us");
    let service = ServiceName::called("pay");
    let mut hints = [a.hints(), b.hints()];
    let done = name.commit(&*a, None, marked::<BackendName>(1), vec![]);
    assert!(matches!(done.await, Ok(Commit::Done(_))));
    for hints in &mut hints {
        wait_for(hints, &Hint::Backend(name.clone())).await;
    }
    let done = service.commit(&*a, None, marked::<ServiceName>(1), vec![]);
    assert!(matches!(done.await, Ok(Commit::Done(_))));
    for hints in &mut hints {
        wait_for(hints, &Hint::Service(service.clone())).await;
    }
    let put = b.put_config(
        0,
        ConfigRecord {
            revision: 1,
            ..ConfigRecord::default()
        },
        vec![],
    );
    assert_eq!(put.await, Ok(PutConfig::Done));
    for hints in &mut hints {
        wait_for(hints, &Hint::Config).await;
    }
    for (about, hint) in [
        (About::Fleet, Hint::Events),
        (About::Backend(name.clone()), Hint::Backend(name)),
        (About::Service(service.clone()), Hint::Service(service)),
    ] {
        let event = vec![Bytes::from("e")];
        a.append(about, event).await.expect("an append");
        for hints in &mut hints {
            wait_for(hints, &hint).await;
        }
    }
}

pub(in crate::store) async fn wait_for(hints: &mut Hints, wanted: &Hint) {
    let found = async { while hints.next().await != *wanted {} };
    let in_time = timeout(DEADLINE, found).await;
    assert!(in_time.is_ok(), "no hint of {wanted:?}");
}
