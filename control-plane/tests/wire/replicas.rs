//! Several replicas on one store, a store that goes away, a store that forgot.

use std::sync::{Arc, atomic::Ordering};

use control_plane::store::{ReplicaId, memory::MemoryStore};
use rampmeter_api::{
    convert::duration,
    v1::{self, BreakerState, EventKind, connect_response::Message as Down},
};
use tokio::time::Duration;
use tonic::Code;

use crate::harness::{Agent, EAST, FLEET, Replica, Switched, eventually, hello};

pub(crate) struct Pair {
    pub(crate) one: Replica,
    pub(crate) two: Replica,
    _dir: tempfile::TempDir,
}

async fn pair() -> Pair {
    pair_of(FLEET).await
}

/// Two replicas on one store.
pub(crate) async fn pair_of(yaml: &str) -> Pair {
    let store = MemoryStore::new(ReplicaId::new("one"));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, yaml).expect("a file");
    let two = store.join(ReplicaId::new("two"));
    Pair {
        one: Replica::start("one", Arc::new(store), Some(&file)).await,
        two: Replica::start("two", Arc::new(two), Some(&file)).await,
        _dir: dir,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_split_over_two_replicas_make_one_decision_for_all() {
    let pair = pair().await;
    let mut agents = [
        pair.one.agent("f1", "fra1").await,
        pair.two.agent("f2", "fra1").await,
        pair.one.agent("i1", "iad1").await,
        pair.two.agent("i2", "iad1").await,
    ];
    for agent in &mut agents {
        agent.state(EAST, BreakerState::Closed).await;
    }
    for _ in 0..5 {
        for agent in &mut agents {
            agent.report(EAST, 1, 1).await;
        }
    }
    let mut versions = Vec::new();
    for agent in &mut agents {
        versions.push(
            agent
                .state(EAST, BreakerState::Open)
                .await
                .version
                .expect("set"),
        );
    }
    assert!(versions.windows(2).all(|v| v[0] == v[1]), "{versions:?}");
    let opened = async |replica: &Replica| {
        let events = replica.events(EAST).await;
        let opened = events.iter().filter(|e| e.to_state() == BreakerState::Open);
        opened.map(|e| e.id.clone()).collect::<Vec<_>>()
    };
    let (one, two) = (opened(&pair.one).await, opened(&pair.two).await);
    assert_eq!((one.len(), &one), (1, &two), "one history");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_unique_over_replicas_and_an_agent_may_move() {
    let pair = pair().await;
    let mut first = pair.one.agent("a", "fra1").await;
    eventually("the other replica knows", async || {
        first.next().await.expect("alive");
        let request = v1::GetAgentRequest { name: "a".into() };
        pair.two.fleet().await.get_agent(request).await.ok()
    })
    .await;
    let twin = v1::Hello {
        instance: "another".into(),
        ..hello("a", "fra1")
    };
    let refused = pair.two.try_agent(twin).await.err().expect("refused");
    assert_eq!(refused.code(), Code::AlreadyExists);
    let mut moved = pair.two.agent("a", "fra1").await;
    let away = first.go_away().await;
    assert!(away.reason.contains("another replica"), "{}", away.reason);
    moved.state(EAST, BreakerState::Closed).await;
}

async fn store_flag(agent: &mut Agent, unavailable: bool) {
    agent
        .find(|down| match down {
            Down::Decisions(d) => (d.store_unavailable == unavailable).then_some(()),
            _ => None,
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_store_a_replica_decides_nothing_and_serves_on() {
    let store = Switched::new(MemoryStore::new(ReplicaId::new("one")));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, FLEET).expect("a file");
    let replica = Replica::start("one", store.clone(), Some(&file)).await;
    let mut agents = [
        replica.agent("f1", "fra1").await,
        replica.agent("i1", "iad1").await,
    ];
    for agent in &mut agents {
        agent.state(EAST, BreakerState::Closed).await;
    }
    store.on.store(false, Ordering::SeqCst);
    store_flag(&mut agents[0], true).await;
    for _ in 0..10 {
        for agent in &mut agents {
            agent.report(EAST, 1, 1).await;
        }
    }
    let override_ = v1::OverrideBackendRequest {
        name: EAST.into(),
        mode: v1::Mode::ForcedOpen.into(),
        reason: "test".into(),
        expires_in: Some(duration(Duration::from_secs(60))),
        ..Default::default()
    };
    let refused = replica.operator().await.override_backend(override_).await;
    assert_eq!(refused.expect_err("no store").code(), Code::Unavailable);
    assert_eq!(replica.backend(EAST).await.state(), BreakerState::Closed);
    let mut late = replica.agent("late", "fra1").await;
    late.state(EAST, BreakerState::Closed).await;
    store.on.store(true, Ordering::SeqCst);
    // What was seen meanwhile counts as soon as the store is back.
    for agent in &mut agents {
        agent.state(EAST, BreakerState::Open).await;
    }
    store_flag_is(&replica, true).await;
}

async fn store_flag_is(replica: &Replica, available: bool) {
    eventually("the store's state is shown", async || {
        let summary = replica
            .fleet()
            .await
            .get_fleet(v1::GetFleetRequest {})
            .await
            .ok()?;
        (summary.into_inner().store_available == available).then_some(())
    })
    .await;
}

fn held(revision: u64, state: BreakerState) -> v1::Decision {
    let circuit = v1::Circuit {
        state: state.into(),
        retry_in: (state == BreakerState::Open).then(|| duration(Duration::from_secs(20))),
        ramp_duration: Some(duration(Duration::from_secs(1))),
        ..Default::default()
    };
    v1::Decision {
        backend: EAST.into(),
        version: Some(v1::Version { epoch: 3, revision }),
        mode: v1::Mode::Enforce.into(),
        fleet: Some(circuit),
        pops: Vec::new(),
        override_expires_in: None,
        throttle: None,
        mix: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_forgot_adopts_the_newest_decision_that_agents_hold() {
    let replica = Replica::alone(FLEET).await;
    let with = |name, decision| v1::Hello {
        held: vec![decision],
        ..hello(name, "fra1")
    };
    let behind = with("behind", held(10, BreakerState::Closed));
    let newest = with("newest", held(11, BreakerState::Open));
    let mut behind = replica.try_agent(behind).await.expect("let in");
    let mut newest = replica.try_agent(newest).await.expect("let in");
    let first = |down: &Down| match down {
        Down::Decisions(d) => d.decisions.iter().find(|d| d.backend == EAST).cloned(),
        _ => None,
    };
    for agent in [&mut behind, &mut newest] {
        let told = agent.find(first).await;
        let version = told.version.expect("set");
        assert!(version.epoch > 3, "a higher epoch: {version:?}");
        let circuit = told.fleet.expect("set");
        assert_eq!(
            circuit.state(),
            BreakerState::Open,
            "never CLOSED in between"
        );
        let left = circuit.retry_in.expect("set").seconds;
        assert!((15..=20).contains(&left), "{left} s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_behind_what_an_agent_holds_starts_a_new_epoch_and_says_so() {
    let replica = Replica::alone(FLEET).await;
    let mut first = replica.agent("first", "fra1").await;
    let closed = first.state(EAST, BreakerState::Closed).await;
    let ahead = closed.version.expect("set").epoch + 1000;
    let decision = v1::Decision {
        version: Some(v1::Version {
            epoch: ahead,
            revision: 5,
        }),
        ..held(5, BreakerState::Open)
    };
    let hello = v1::Hello {
        held: vec![decision],
        ..hello("ahead", "iad1")
    };
    let _ahead = replica.try_agent(hello).await.expect("let in");
    let adopted = first.state(EAST, BreakerState::Open).await;
    assert!(adopted.version.expect("set").epoch > ahead, "{adopted:?}");
    eventually("the new epoch is an event", async || {
        let events = replica.events("").await;
        events
            .into_iter()
            .find(|e| e.kind() == EventKind::EpochStarted)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_outlive_the_replica_that_made_them() {
    let pair = pair().await;
    let override_ = v1::OverrideBackendRequest {
        name: EAST.into(),
        mode: v1::Mode::Shadow.into(),
        reason: "test".into(),
        expires_in: Some(duration(Duration::from_secs(60))),
        ..Default::default()
    };
    eventually("configured", async || {
        let request = override_.clone();
        pair.one
            .operator()
            .await
            .override_backend(request)
            .await
            .ok()
    })
    .await;
    pair.one.stop().await;
    let events = pair.two.events(EAST).await;
    let set = events
        .iter()
        .find(|e| e.kind() == EventKind::OverrideSet)
        .expect("kept");
    assert_eq!(
        (set.backend.as_str(), set.actor.as_str()),
        (EAST, "unnamed operator")
    );
    eventually("the other replica shows it", async || {
        let backend = pair.two.backend(EAST).await;
        (backend.mode() == v1::Mode::Shadow).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_agents_hold_is_adopted_also_when_the_store_comes_back_after_them_and_empty() {
    let store = Switched::new(MemoryStore::new(ReplicaId::new("one")));
    store.on.store(false, Ordering::SeqCst);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, FLEET).expect("a file");
    let started = std::time::Instant::now();
    let replica = Replica::start("one", store.clone(), Some(&file)).await;
    let holding = v1::Hello {
        held: vec![held(11, BreakerState::Open)],
        ..hello("f1", "fra1")
    };
    let mut agent = replica.try_agent(holding).await.expect("let in");
    // Longer than agents are heard before an empty store is believed.
    eventually("two seconds without a store", async || {
        (started.elapsed() > Duration::from_secs(2)).then_some(())
    })
    .await;
    store.on.store(true, Ordering::SeqCst);
    let told = agent.find(|down| match down {
        Down::Decisions(d) => d.decisions.iter().find(|d| d.backend == EAST).cloned(),
        _ => None,
    });
    let circuit = told.await.fleet.expect("set");
    assert_eq!(circuit.state(), BreakerState::Open, "it was never lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_page_of_events_does_not_make_the_store_look_away() {
    let store = Switched::new(MemoryStore::new(ReplicaId::new("one")));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, FLEET).expect("a file");
    let replica = Replica::start("one", store.clone(), Some(&file)).await;
    let mut agent = replica.agent("f1", "fra1").await;
    agent.state(EAST, BreakerState::Closed).await;
    store.slow_pages.store(true, Ordering::SeqCst);
    let late = replica
        .fleet()
        .await
        .list_events(v1::ListEventsRequest::default())
        .await;
    assert_eq!(late.expect_err("late").code(), Code::Unavailable);
    let force = v1::OverrideBackendRequest {
        name: EAST.into(),
        mode: v1::Mode::ForcedOpen.into(),
        reason: "test".into(),
        expires_in: Some(duration(Duration::from_secs(60))),
        ..Default::default()
    };
    replica
        .operator()
        .await
        .override_backend(force)
        .await
        .expect("set");
    agent
        .find(|down| match down {
            Down::Decisions(d) => {
                assert!(!d.store_unavailable, "agents are told nothing of it");
                d.decisions
                    .iter()
                    .any(|d| d.mode() == v1::Mode::ForcedOpen)
                    .then_some(())
            }
            _ => None,
        })
        .await;
}
