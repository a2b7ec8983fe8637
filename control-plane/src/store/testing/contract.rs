//! What every store must do. Each store runs all of it, through [`contract!`].

mod records;
mod told;

use std::{sync::Arc, time::Duration};

use breaker_core::{BackendName, PopId, Timestamp, ids::ServiceName};

use super::{Sample, agent, backend, eventually, marked, sync};
use crate::store::{AgentPresence, Commit, Presence, ReplicaId, Store, SyncRequest};

/// A store that any number of replicas can join.
pub(in crate::store) trait Place {
    async fn join(&self, replica: &str) -> Arc<dyn Store>;
}

/// Runs the contract on a kind of place.
macro_rules! contract {
    ($start:expr) => {
        use breaker_core::{BackendName, ids::ServiceName};

        $crate::store::testing::contract::contract! { $start;
            replicas_see_each_other_until_they_fall_silent,
            backends_and_services_share_a_sync,
            events_are_listed_newest_first_in_pages,
            the_fleet_file_is_changed_by_compare_and_set,
            hints_name_what_changed,
            the_clock_never_goes_back,
            a_sync_of_nothing_is_fine
        }
        mod backends {
            use super::*;
            $crate::store::testing::contract::contract!(records $start, BackendName);
        }
        mod services {
            use super::*;
            $crate::store::testing::contract::contract!(records $start, ServiceName);
        }
    };
    (records $start:expr, $subject:ty) => {
        $crate::store::testing::contract::contract! { $start;
            a_name_without_a_record_has_an_epoch::<$subject>,
            a_commit_is_read_by_every_replica::<$subject>,
            revisions_rise_by_one::<$subject>,
            a_commit_on_an_old_version_gets_the_newer_record::<$subject>,
            a_first_commit_fails_where_there_is_a_record::<$subject>,
            of_many_commits_at_once_one_wins::<$subject>,
            a_repeated_commit_is_recognised::<$subject>,
            a_view_is_replaced_and_read_by_the_others::<$subject>,
            views_of_a_silent_replica_age_out::<$subject>,
            what_agents_hold_is_adopted_in_a_higher_epoch::<$subject>,
            what_agents_hold_is_not_adopted_after_a_decision::<$subject>,
            what_agents_hold_from_this_history_starts_a_new_epoch_if_it_was_lost::<$subject>,
            nonsense_versions_are_not_adopted::<$subject>
        }
    };
    ($start:expr; $($test:ident $(::<$subject:ty>)?),*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            $crate::store::testing::contract::$test$(::<$subject>)?(&$start).await;
        })*
    };
}
pub(in crate::store) use contract;
pub(in crate::store) use records::{
    a_commit_is_read_by_every_replica, a_commit_on_an_old_version_gets_the_newer_record,
    a_first_commit_fails_where_there_is_a_record, a_name_without_a_record_has_an_epoch,
    a_repeated_commit_is_recognised, a_view_is_replaced_and_read_by_the_others,
    nonsense_versions_are_not_adopted, of_many_commits_at_once_one_wins, revisions_rise_by_one,
    views_of_a_silent_replica_age_out,
    what_agents_hold_from_this_history_starts_a_new_epoch_if_it_was_lost,
    what_agents_hold_is_adopted_in_a_higher_epoch,
    what_agents_hold_is_not_adopted_after_a_decision,
};
pub(in crate::store) use told::{
    events_are_listed_newest_first_in_pages, hints_name_what_changed,
    the_fleet_file_is_changed_by_compare_and_set, wait_for,
};

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

pub(in crate::store) async fn backends_and_services_share_a_sync(place: &impl Place) {
    let (a, b) = (place.join("a").await, place.join("b").await);
    let (of_backend, of_service) = (backend("pay/us"), ServiceName::called("pay"));
    let done = of_backend.commit(&*a, None, marked::<BackendName>(1), vec![]);
    assert!(matches!(done.await, Ok(Commit::Done(_))));
    let done = of_service.commit(&*a, None, marked::<ServiceName>(2), vec![]);
    assert!(matches!(done.await, Ok(Commit::Done(_))));
    let request = |requests| SyncRequest {
        registers: vec![(of_backend.clone(), BackendName::view(requests))],
        services: vec![(of_service.clone(), Some(ServiceName::view(requests + 1)))],
        ..SyncRequest::default()
    };
    sync(&*a, request(7)).await;

    let reply = sync(&*b, request(9)).await;

    let [backend] = &reply.backends[..] else {
        panic!("asked for one: {:?}", reply.backends);
    };
    let [service] = &reply.services[..] else {
        panic!("asked for one: {:?}", reply.services);
    };
    assert_eq!(backend.record.as_ref().map(BackendName::mark), Some(1));
    assert_eq!(service.record.as_ref().map(ServiceName::mark), Some(2));
    let of_a = ReplicaId::new("a");
    assert_eq!(backend.others, [(of_a.clone(), BackendName::view(7))]);
    assert_eq!(service.others, [(of_a, ServiceName::view(8))]);
    assert_eq!(reply.corrupt, []);
}
