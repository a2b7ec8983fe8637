//! Overrides: who, why, and for how long.

use rampmeter_api::v1::{self, BreakerState, EventKind, Mode};
use tonic::Code;

use crate::harness::{EAST, FLEET, Replica, eventually};

fn open(name: &str) -> v1::OverrideBackendRequest {
    v1::OverrideBackendRequest {
        name: name.into(),
        mode: Mode::ForcedOpen.into(),
        reason: "the database moves".into(),
        expires_in: seconds(600),
        actor: "ada".into(),
        break_glass: false,
    }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

async fn settled() -> Replica {
    let replica = Replica::alone(FLEET).await;
    replica
        .agent("settled", "fra1")
        .await
        .state(EAST, BreakerState::Closed)
        .await;
    replica
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_reaches_the_agents_and_is_cleared_again() {
    let replica = settled().await;
    let mut agent = replica.agent("a", "fra1").await;
    agent.state(EAST, BreakerState::Closed).await;
    let mut operator = replica.operator().await;
    let set = operator
        .override_backend(open(EAST))
        .await
        .expect("valid")
        .into_inner();
    assert_eq!(set.r#override.expect("set").actor, "ada");
    use v1::connect_response::Message as Down;
    let mode = async |agent: &mut crate::harness::Agent, mode: Mode| {
        agent
            .find(|down| match down {
                Down::Decisions(d) => d.decisions.iter().any(|d| d.mode() == mode).then_some(()),
                _ => None,
            })
            .await;
    };
    mode(&mut agent, Mode::ForcedOpen).await;
    let backend = replica.backend(EAST).await;
    assert_eq!(
        (backend.mode(), backend.admission),
        (Mode::ForcedOpen, Some(0.0))
    );
    let clear = v1::ClearOverrideRequest {
        name: EAST.into(),
        reason: "it has moved".into(),
        actor: "ada".into(),
    };
    operator.clear_override(clear.clone()).await.expect("valid");
    mode(&mut agent, Mode::Enforce).await;
    let again = operator
        .clear_override(clear)
        .await
        .expect_err("nothing to clear");
    assert_eq!(again.code(), Code::FailedPrecondition);
    let events = replica.events(EAST).await;
    let set = events
        .iter()
        .find(|e| e.kind() == EventKind::OverrideSet)
        .expect("an event");
    assert_eq!(set.actor, "ada");
    assert!(
        set.summary.contains("the database moves"),
        "{}",
        set.summary
    );
    assert!(
        events
            .iter()
            .any(|e| e.kind() == EventKind::OverrideCleared)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_ends_by_itself() {
    let replica = settled().await;
    let short = v1::OverrideBackendRequest {
        expires_in: seconds(1),
        ..open(EAST)
    };
    replica
        .operator()
        .await
        .override_backend(short)
        .await
        .expect("valid");
    eventually("the override is over", async || {
        replica
            .backend(EAST)
            .await
            .r#override
            .is_none()
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_that_cannot_be_is_refused_by_field() {
    let replica = settled().await;
    let mut operator = replica.operator().await;
    let cases = [
        (
            v1::OverrideBackendRequest {
                reason: " ".into(),
                ..open(EAST)
            },
            Code::InvalidArgument,
            "reason",
        ),
        (
            v1::OverrideBackendRequest {
                expires_in: None,
                ..open(EAST)
            },
            Code::InvalidArgument,
            "1 s to 24 h",
        ),
        (
            v1::OverrideBackendRequest {
                expires_in: seconds(0),
                ..open(EAST)
            },
            Code::InvalidArgument,
            "1 s to 24 h",
        ),
        (
            v1::OverrideBackendRequest {
                expires_in: seconds(86_401),
                ..open(EAST)
            },
            Code::InvalidArgument,
            "1 s to 24 h",
        ),
        (
            v1::OverrideBackendRequest {
                expires_in: seconds(-5),
                ..open(EAST)
            },
            Code::InvalidArgument,
            "1 s to 24 h",
        ),
        (
            v1::OverrideBackendRequest {
                mode: Mode::Enforce.into(),
                ..open(EAST)
            },
            Code::InvalidArgument,
            "MODE_FORCED_OPEN",
        ),
        (
            v1::OverrideBackendRequest {
                mode: 99,
                ..open(EAST)
            },
            Code::InvalidArgument,
            "MODE_FORCED_OPEN",
        ),
        (
            open("pay/us-eats"),
            Code::NotFound,
            "did you mean \"pay/us-east\"?",
        ),
        (open(""), Code::InvalidArgument, "SERVICE/REGION"),
    ];
    for (request, code, sentence) in cases {
        let refused = operator
            .override_backend(request)
            .await
            .expect_err(sentence);
        assert_eq!(refused.code(), code, "{refused}");
        assert!(
            refused.message().contains(sentence),
            "{sentence:?} is missing in {refused}"
        );
    }
    assert!(replica.backend(EAST).await.r#override.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admitted_region_needs_breaking_the_glass() {
    let replica = settled().await;
    let mut operator = replica.operator().await;
    operator
        .override_backend(open("pay/us-west"))
        .await
        .expect("the other region is left");
    let refused = operator
        .override_backend(open(EAST))
        .await
        .expect_err("the last one");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("break_glass"), "{refused}");
    let broken = v1::OverrideBackendRequest {
        break_glass: true,
        ..open(EAST)
    };
    operator
        .override_backend(broken)
        .await
        .expect("in so many words");
}
