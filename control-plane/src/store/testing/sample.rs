//! Backends and services, for tests of what both must do.

use std::fmt::Debug;

use breaker_core::{
    BackendName, Steering, Version,
    ids::{RegionName, ServiceName},
};
use bytes::Bytes;

use super::{backend, held, until, view};
use crate::store::{
    Answer, CallerView, Commit, Current, Record, ReplicaView, ServiceView, Store, SyncReply,
    SyncRequest, subject::Subject,
};

/// What the store holds of one.
pub(in crate::store) type State<S> = Current<S, <S as Subject>::Record, <S as Subject>::View>;

/// A kind of name that the contract is run on.
pub(in crate::store) trait Sample:
    Subject<Record: Debug + Sync, View: Debug + PartialEq> + Debug + Sync + 'static
{
    fn called(name: &str) -> Self;
    /// A record that is recognised by its mark.
    fn held(version: Version, mark: u64) -> Self::Record;
    fn mark(record: &Self::Record) -> u64;
    /// A view that is recognised by the number of requests.
    fn view(requests: u32) -> Self::View;

    fn request(
        asked: Vec<(Self, Option<Self::View>)>,
        held: Vec<(Self, Self::Record)>,
    ) -> SyncRequest;
    fn found(reply: SyncReply) -> Vec<State<Self>>;
    fn commit<'a>(
        &self,
        store: &'a dyn Store,
        expected: Option<Version>,
        next: Self::Record,
        events: Vec<Bytes>,
    ) -> Answer<'a, Commit<Self::Record>>;
}

/// A record that no store has given a version.
pub(in crate::store) fn marked<S: Sample>(mark: u64) -> S::Record {
    S::held(Version::default(), mark)
}

impl Sample for BackendName {
    fn called(name: &str) -> Self {
        backend(&format!("pay/{name}"))
    }

    fn held(version: Version, mark: u64) -> Record {
        held(version, mark)
    }

    fn mark(record: &Record) -> u64 {
        until(record)
    }

    fn view(requests: u32) -> ReplicaView {
        view(requests.into())
    }

    fn request(asked: Vec<(Self, Option<ReplicaView>)>, held: Vec<(Self, Record)>) -> SyncRequest {
        let mut request = SyncRequest {
            held,
            ..SyncRequest::default()
        };
        for (name, view) in asked {
            match view {
                Some(view) => request.registers.push((name, view)),
                None => request.read.push(name),
            }
        }
        request
    }

    fn found(reply: SyncReply) -> Vec<State<Self>> {
        reply.backends
    }

    fn commit<'a>(
        &self,
        store: &'a dyn Store,
        expected: Option<Version>,
        next: Record,
        events: Vec<Bytes>,
    ) -> Answer<'a, Commit> {
        store.commit(self.clone(), expected, next, events)
    }
}

impl Sample for ServiceName {
    fn called(name: &str) -> Self {
        Self::new(name).expect("a service's name")
    }

    fn held(version: Version, mark: u64) -> Steering {
        let region = RegionName::new("us").expect("a region's name");
        Steering {
            version,
            learned: [(region, mark as f64)].into(),
            ..Steering::default()
        }
    }

    fn mark(record: &Steering) -> u64 {
        record.learned.values().sum::<f64>() as u64
    }

    fn view(requests: u32) -> ServiceView {
        ServiceView {
            rates: CallerView {
                succeeded: requests.into(),
                ..CallerView::default()
            },
            ..ServiceView::default()
        }
    }

    fn request(
        asked: Vec<(Self, Option<ServiceView>)>,
        held: Vec<(Self, Steering)>,
    ) -> SyncRequest {
        SyncRequest {
            services: asked,
            held_services: held,
            ..SyncRequest::default()
        }
    }

    fn found(reply: SyncReply) -> Vec<State<Self>> {
        reply.services
    }

    fn commit<'a>(
        &self,
        store: &'a dyn Store,
        expected: Option<Version>,
        next: Steering,
        events: Vec<Bytes>,
    ) -> Answer<'a, Commit<Steering>> {
        store.commit_service(self.clone(), expected, next, events)
    }
}
