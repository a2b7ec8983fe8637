//! What the tests of both stores share.

pub(super) mod contract;
pub(super) mod redis_server;
mod sample;

use std::{future::Future, time::Duration};

use breaker_core::{
    AgentId, BackendName, Breaker, Circuit, Counts, FleetView, Mix, PopId, PopView, Timestamp,
    Version, Window,
};
use tokio::time::{Instant, sleep};

pub(super) use self::sample::{Sample, State, marked};
use super::{Record, ReplicaView, Store, StoreError, SyncReply, SyncRequest};

/// Longer than anything here takes; a test that reaches it has failed.
pub(super) const DEADLINE: Duration = Duration::from_secs(15);

/// Polls until `probe` gives something, and fails with `what` at the deadline.
pub(super) async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "never happened: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn backend(name: &str) -> BackendName {
    BackendName::parse(name).expect("a backend's name")
}

/// A record that is recognised by `until`, in version (0, 0).
pub(super) fn open_until(until: u64) -> Record {
    held(Version::default(), until)
}

/// The same as an agent might hold it.
pub(super) fn held(version: Version, until: u64) -> Record {
    let fleet = Circuit::Open {
        since: Timestamp::from_millis(1),
        until: Timestamp::from_millis(until),
        trips: 1,
    };
    Record {
        breaker: Breaker {
            version,
            fleet,
            pops: Default::default(),
            over: None,
            throttle: None,
            mix: Mix::default(),
        },
        last_transition: format!("opened until {until}").into(),
    }
}

/// By what [`open_until`] is recognised.
pub(super) fn until(record: &Record) -> u64 {
    match &record.breaker.fleet {
        Circuit::Open { until, .. } => until.as_millis(),
        other => panic!("not a record of these tests: {other:?}"),
    }
}

/// A view with so many requests.
pub(super) fn view(requests: u64) -> ReplicaView {
    let mut total = Window::default();
    let counts = Counts {
        requests,
        ..Counts::default()
    };
    total.record(Timestamp::from_millis(1_000), counts);
    let pop = PopView {
        pop: PopId::new("fra1").expect("a POP's name"),
        agents: 1,
        total,
        worst: Vec::new(),
        heard: Timestamp::from_millis(1_500),
    };
    ReplicaView {
        fleet: FleetView {
            pops: vec![pop],
            ..FleetView::default()
        },
        ..ReplicaView::default()
    }
}

pub(super) fn agent(name: &str) -> AgentId {
    AgentId::new(name).expect("an agent's name")
}

pub(super) async fn sync(store: &dyn Store, request: SyncRequest) -> SyncReply {
    store.sync(request).await.expect("a sync")
}

/// What the store holds of one backend or service.
pub(super) async fn read<S: Sample>(store: &dyn Store, name: &S) -> State<S> {
    try_read(store, name).await.expect("a sync")
}

pub(super) async fn try_read<S: Sample>(
    store: &dyn Store,
    name: &S,
) -> Result<State<S>, StoreError> {
    let request = S::request(vec![(name.clone(), None)], vec![]);
    let mut found = S::found(store.sync(request).await?);
    assert_eq!(found.len(), 1, "asked for one");
    Ok(found.remove(0))
}
