//! What a store tells: events, the fleet file, hints.

use breaker_core::Timestamp;
use bytes::Bytes;
use tokio::time::timeout;

use super::Place;
use crate::store::{
    About, ConfigRecord, EventQuery, Hint, Hints, PutConfig, Store,
    testing::{DEADLINE, backend, eventually, open_until},
};

pub(in crate::store) async fn events_are_listed_newest_first_in_pages(place: &impl Place) {
    let store = place.join("a").await;
    let names: Vec<_> = (0..7).map(|n| backend(&format!("pay/r{n}"))).collect();
    for n in 0..60 {
        let about = names
            .get(n % 8)
            .cloned()
            .map_or(About::Fleet, About::Backend);
        let event = Bytes::from(format!("{n:03}"));
        store.append(about, vec![event]).await.expect("an append");
    }
    let all = list(&*store, None, 1_000).await;
    let expected: Vec<_> = (0..60).rev().map(|n| format!("{n:03}")).collect();
    let mut sorted = all.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    assert_eq!(
        sorted, expected,
        "all are there, though one instant's may be swapped"
    );
    assert_eq!(all, list(&*store, None, 1).await, "pages hold the same");
    assert_eq!(all, list(&*store, None, 17).await);
    assert_eq!(all, list(&*store, None, 60).await);
    let of_one: Vec<_> = expected
        .iter()
        .filter(|e| e.parse::<usize>().unwrap() % 8 == 3)
        .cloned()
        .collect();
    for limit in [1, 3, 1_000] {
        assert_eq!(list(&*store, Some(3), limit).await, of_one);
    }
}

async fn list(store: &dyn Store, region: Option<u32>, limit: usize) -> Vec<String> {
    let mut query = EventQuery {
        backend: region.map(|n| backend(&format!("pay/r{n}"))),
        limit,
        ..EventQuery::default()
    };
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
        candidate: None,
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
    assert_eq!(list(&*a, None, 10).await, ["applied"]);
}

pub(in crate::store) async fn hints_name_what_changed(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let name = backend("pay/us");
    let mut hints = [a.hints(), b.hints()];
    let done = a.commit(name.clone(), None, open_until(1), vec![]).await;
    assert!(done.is_ok(), "{done:?}");
    for hints in &mut hints {
        wait_for(hints, &Hint::Backend(name.clone())).await;
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
    let event = vec![Bytes::from("e")];
    a.append(About::Fleet, event).await.expect("an append");
    for hints in &mut hints {
        wait_for(hints, &Hint::Events).await;
    }
}

pub(in crate::store) async fn wait_for(hints: &mut Hints, wanted: &Hint) {
    let found = async { while hints.next().await != *wanted {} };
    let in_time = timeout(DEADLINE, found).await;
    assert!(in_time.is_ok(), "no hint of {wanted:?}");
}
