use std::sync::Arc;

use bytes::Bytes;

use super::{EVENTS_KEPT, MemoryStore};
use crate::store::{
    About, EVENTS_PAGE, EventQuery, ReplicaId, Store,
    testing::contract::{Place, contract},
};

impl Place for MemoryStore {
    async fn join(&self, replica: &str) -> Arc<dyn Store> {
        Arc::new(MemoryStore::join(self, ReplicaId::new(replica)))
    }
}

contract!(MemoryStore::new(ReplicaId::new("first")));

#[tokio::test]
async fn old_events_are_dropped() {
    let store = MemoryStore::new(ReplicaId::new("a"));
    let events = (0..EVENTS_KEPT + 5).map(|n| Bytes::from(n.to_string()));
    store.append(About::Fleet, events.collect()).await.unwrap();
    let mut query = EventQuery {
        limit: usize::MAX,
        ..EventQuery::default()
    };
    let mut listed = Vec::new();
    loop {
        let page = store.events(query.clone()).await.unwrap();
        assert!(page.events.len() <= EVENTS_PAGE);
        listed.extend(page.events);
        query.before = page.next;
        if query.before.is_none() {
            break;
        }
    }
    assert_eq!(listed.len(), EVENTS_KEPT);
    assert_eq!(listed[EVENTS_KEPT - 1], "5");
}
