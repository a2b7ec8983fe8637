//! A configuration beside the one in force: judged by the same reports, acted on
//! by nobody.

use std::sync::Arc;

use control_plane::store::{ReplicaId, memory::MemoryStore};
use rampmeter_api::v1::{self, BreakerState, EventKind, connect_response::Message as Down};
use tonic::{Code, Status};

use crate::harness::{Agent, EAST, FLEET, Replica, eventually};

/// One that does not trip, whatever a test's few agents see.
fn patient() -> String {
    FLEET.replace(
        "ramp_duration: 1s}",
        "ramp_duration: 1s, min_request_volume: 100000}",
    )
}

fn candidate(yaml: &str) -> v1::ApplyConfigRequest {
    v1::ApplyConfigRequest {
        yaml: yaml.to_owned(),
        candidate: true,
        ..v1::ApplyConfigRequest::default()
    }
}

async fn set(
    replica: &Replica,
    request: v1::ApplyConfigRequest,
) -> Result<v1::ApplyConfigResponse, Status> {
    let answer = replica.operator().await.apply_config(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn drop_it(replica: &Replica, reason: &str) -> Result<(), Status> {
    let request = v1::DropCandidateRequest {
        reason: reason.to_owned(),
        actor: "ana".to_owned(),
    };
    let answer = replica.operator().await.drop_candidate(request).await;
    answer.map(drop)
}

async fn get(replica: &Replica, service: &str) -> Result<v1::GetCandidateResponse, Status> {
    let request = v1::GetCandidateRequest {
        service: service.to_owned(),
    };
    let answer = replica.fleet().await.get_candidate(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn in_force(replica: &Replica) -> (u64, String) {
    let request = v1::GetConfigRequest {};
    let answer = replica.operator().await.get_config(request).await;
    let answer = answer.expect("an answer").into_inner();
    (answer.revision, answer.yaml)
}

async fn crew(replica: &Replica) -> [Agent; 2] {
    let mut crew = [
        replica.agent("f1", "fra1").await,
        replica.agent("i1", "iad1").await,
    ];
    for agent in &mut crew {
        agent.state(EAST, BreakerState::Closed).await;
    }
    crew
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_of_the_outage_in_which_it_would_have_opened() {
    let replica = Replica::alone(&patient()).await;
    let mut crew = crew(&replica).await;
    let answer = set(&replica, candidate(FLEET)).await.expect("valid");
    assert_eq!((answer.revision, answer.applied), (1, true));
    assert_eq!(
        answer.changes,
        ["~ services.pay.breaker.min_request_volume: 100000 → 5"]
    );
    let told = eventually("the candidate would have opened", async || {
        for agent in &mut crew {
            agent.report(EAST, 5, 5).await;
        }
        let answer = get(&replica, "pay").await.expect("an answer");
        let east = answer.backends.iter().find(|b| b.name == EAST)?.clone();
        (east.would_have_rejected > 0).then_some((answer, east))
    })
    .await;
    let (answer, east) = told;
    assert_eq!(east.candidate_state(), BreakerState::Open);
    assert_eq!(east.live_state(), BreakerState::Closed);
    assert_eq!(replica.backend(EAST).await.state(), BreakerState::Closed);
    let [episode] = &east.episodes[..] else {
        panic!("one outage: {east:?}");
    };
    assert_eq!(episode.reason(), v1::TripReason::FailureRate);
    assert!(episode.close_time.is_none(), "it lasts");
    // us-west has room without end: its capacity is not configured.
    assert!(episode.would_have_moved_per_second > 0.0, "{episode:?}");
    assert!(
        east.summary.starts_with("would be open since"),
        "{}",
        east.summary
    );
    assert!(
        answer
            .summary
            .contains("would have opened 1 of the 2 backends"),
        "{}",
        answer.summary
    );
    let west = &answer.backends[1];
    assert_eq!(west.summary, "would not have opened");
    let over = eventually("it would have closed again", async || {
        for agent in &mut crew {
            agent.report(EAST, 5, 0).await;
        }
        let answer = get(&replica, "").await.expect("an answer");
        let east = answer.backends.into_iter().find(|b| b.name == EAST)?;
        let first = east.episodes.first()?.close_time;
        first.map(|_| east)
    })
    .await;
    assert!(over.summary.contains("would have opened"), "{over:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_changes_nothing_for_agents_and_ends_when_dropped_or_put_in_force() {
    let replica = Replica::alone(&patient()).await;
    let mut agent = replica.agent("a", "fra1").await;
    agent
        .find(|down| matches!(down, Down::Config(c) if c.revision == 1).then_some(()))
        .await;
    set(&replica, candidate(FLEET)).await.expect("valid");
    assert_eq!(in_force(&replica).await, (1, patient()));
    drop_it(&replica, "it opens too often")
        .await
        .expect("dropped");
    let answer = get(&replica, "").await.expect("an answer");
    assert_eq!((answer.source.as_str(), answer.backends.len()), ("", 0));
    set(&replica, candidate(FLEET)).await.expect("valid");
    let apply = v1::ApplyConfigRequest {
        candidate: false,
        expected_revision: 1,
        ..candidate(FLEET)
    };
    assert_eq!(set(&replica, apply).await.expect("valid").revision, 2);
    let answer = get(&replica, "").await.expect("an answer");
    assert_eq!(answer.source, "", "what is in force has nothing to tell");
    // The next that the agent hears of is the file that was applied.
    let next = agent.find(|down| match down {
        Down::Config(config) => Some(config.revision),
        _ => None,
    });
    assert_eq!(next.await, 2);
    let events = replica.events("").await;
    let of = |kind| events.iter().filter(move |e| e.kind() == kind);
    assert_eq!(of(EventKind::CandidateSet).count(), 2);
    let dropped = of(EventKind::CandidateDropped).next().expect("an event");
    assert_eq!(dropped.actor, "ana");
    assert!(
        dropped.actor_address.starts_with("127.0.0.1:"),
        "{}",
        dropped.actor_address
    );
    assert!(
        dropped.summary.contains("it opens too often"),
        "{}",
        dropped.summary
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_wrong_is_refused_like_any_file_and_nothing_changes() {
    let replica = Replica::alone(&patient()).await;
    crew(&replica).await;
    set(&replica, candidate(FLEET)).await.expect("valid");
    let before = get(&replica, "").await.expect("an answer");
    let other = FLEET.replace("us-west", "us-north");
    let cases = [
        (candidate("pops: ["), Code::InvalidArgument, "column"),
        (
            candidate(&FLEET.replace("open_duration", "open_duraton")),
            Code::InvalidArgument,
            "did you mean",
        ),
        (
            candidate(&other),
            Code::InvalidArgument,
            "lacks pay/us-west and adds pay/us-north",
        ),
        (
            v1::ApplyConfigRequest {
                expected_revision: 7,
                ..candidate(FLEET)
            },
            Code::Aborted,
            "revision 1, not 7",
        ),
    ];
    for (request, code, why) in cases {
        let refused = set(&replica, request).await.expect_err("wrong");
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(why), "{refused}");
    }
    let checked = v1::ApplyConfigRequest {
        validate_only: true,
        ..candidate(&patient())
    };
    let checked = set(&replica, checked).await.expect("valid");
    assert!(!checked.applied);
    let after = get(&replica, "").await.expect("an answer");
    assert_eq!(after.apply_time, before.apply_time);
    assert_eq!(after.changes, before.changes);
    assert_eq!(in_force(&replica).await, (1, patient()));
    let unnamed = drop_it(&replica, " ").await.expect_err("no reason");
    assert_eq!(unnamed.code(), Code::InvalidArgument);
    drop_it(&replica, "done").await.expect("dropped");
    let twice = drop_it(&replica, "done").await.expect_err("gone");
    assert_eq!(twice.code(), Code::FailedPrecondition);
    let unknown = get(&replica, "mars").await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_there_is_nothing_to_run_beside() {
    let store = Arc::new(MemoryStore::new(ReplicaId::new("bare")));
    let replica = Replica::start("bare", store, None).await;
    let refused = set(&replica, candidate(FLEET)).await.expect_err("bare");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_judges_it() {
    let store = MemoryStore::new(ReplicaId::new("one"));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, patient()).expect("a file");
    let first = Replica::start("one", Arc::new(store.clone()), Some(&file)).await;
    let second = Arc::new(store.join(ReplicaId::new("two")));
    let second = Replica::start("two", second, None).await;
    let mut crew = crew(&first).await;
    set(&first, candidate(FLEET)).await.expect("valid");
    eventually("the other replica tells the same", async || {
        for agent in &mut crew {
            agent.report(EAST, 5, 5).await;
        }
        let answer = get(&second, "pay").await.ok()?;
        let east = answer.backends.iter().find(|b| b.name == EAST)?;
        (east.candidate_state() == BreakerState::Open).then_some(())
    })
    .await;
}
