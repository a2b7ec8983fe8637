//! The fleet file: applied whole, or refused whole.

use std::sync::Arc;

use control_plane::store::{ReplicaId, memory::MemoryStore};
use rampmeter_api::v1::{self, BreakerState, EventKind, connect_response::Message as Down};
use tonic::Code;

use crate::harness::{Agent, EAST, FLEET, Replica, eventually};

fn without_west() -> String {
    let lines = FLEET.lines().filter(|l| !l.contains("us-west:"));
    lines.map(|l| l.replace(", us-west]", "]") + "\n").collect()
}

fn apply(yaml: &str) -> v1::ApplyConfigRequest {
    v1::ApplyConfigRequest {
        yaml: yaml.to_owned(),
        ..Default::default()
    }
}

async fn revision(agent: &mut Agent) -> u64 {
    agent
        .find(|down| match down {
            Down::Config(config) => Some(config.revision),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_reaches_the_agents_and_removes_what_it_drops() {
    let replica = Replica::alone(FLEET).await;
    let mut agent = replica.agent("a", "fra1").await;
    assert_eq!(revision(&mut agent).await, 1);
    agent.state("pay/us-west", BreakerState::Closed).await;
    std::fs::write(replica.file(), without_west()).expect("a file");
    assert_eq!(revision(&mut agent).await, 2);
    let removed = agent.find(|down| match down {
        Down::Decisions(d) if !d.removed.is_empty() => Some(d.removed.clone()),
        _ => None,
    });
    assert_eq!(removed.await, ["pay/us-west"]);
    let request = v1::GetBackendRequest {
        name: "pay/us-west".into(),
    };
    let gone = replica
        .fleet()
        .await
        .get_backend(request)
        .await
        .expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_change_is_refused_with_every_error_and_the_old_one_stays() {
    let replica = Replica::alone(FLEET).await;
    let bad = FLEET.replace("open_duration: 500ms", "open_duration: soon, colour: red");
    std::fs::write(replica.file(), bad).expect("a file");
    let refused = eventually("the refusal is an event", async || {
        let events = replica.events("").await;
        events
            .into_iter()
            .find(|e| e.kind() == EventKind::ConfigRefused)
    })
    .await;
    for word in ["open_duration", "soon", "colour"] {
        assert!(
            refused.summary.contains(word),
            "{word} is missing in {}",
            refused.summary
        );
    }
    let running = replica
        .operator()
        .await
        .get_config(v1::GetConfigRequest {})
        .await;
    let running = running.expect("an answer").into_inner();
    assert_eq!((running.revision, running.yaml.as_str()), (1, FLEET));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_would_change_before_it_does() {
    let replica = Replica::alone(FLEET).await;
    replica
        .agent("a", "fra1")
        .await
        .state(EAST, BreakerState::Closed)
        .await;
    let mut operator = replica.operator().await;
    let check = v1::ApplyConfigRequest {
        validate_only: true,
        ..apply(&without_west())
    };
    let answer = operator
        .apply_config(check)
        .await
        .expect("valid")
        .into_inner();
    assert_eq!((answer.revision, answer.applied), (1, false));
    assert!(
        answer.changes.iter().any(|c| c.contains("us-west")),
        "{answer:?}"
    );
    let stale = v1::ApplyConfigRequest {
        expected_revision: 7,
        ..apply(&without_west())
    };
    let refused = operator.apply_config(stale).await.expect_err("stale");
    assert_eq!(refused.code(), Code::Aborted);
    assert!(refused.message().contains("revision 1, not 7"), "{refused}");
    let answer = operator
        .apply_config(apply(&without_west()))
        .await
        .expect("valid")
        .into_inner();
    assert_eq!((answer.revision, answer.applied), (2, true));
    let again = operator
        .apply_config(apply(&without_west()))
        .await
        .expect("valid")
        .into_inner();
    assert_eq!(
        (again.revision, again.applied),
        (2, false),
        "the same file changes nothing"
    );
    let refused = operator
        .apply_config(apply("pops: ["))
        .await
        .expect_err("malformed");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_agents_wait_for_one_to_be_applied() {
    let store = Arc::new(MemoryStore::new(ReplicaId::new("bare")));
    let replica = Replica::start("bare", store, None).await;
    let refused = replica
        .fleet()
        .await
        .list_services(v1::ListServicesRequest {})
        .await;
    let refused = refused.expect_err("nothing to list");
    assert!(refused.message().contains("ApplyConfig"), "{refused}");
    let mut agent = replica.agent("a", "fra1").await;
    let mut stranger = replica.agent("b", "mars").await;
    replica
        .operator()
        .await
        .apply_config(apply(FLEET))
        .await
        .expect("valid");
    agent.state(EAST, BreakerState::Closed).await;
    let away = stranger.go_away().await;
    assert!(away.reason.contains("mars"), "{}", away.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_file_at_a_start_does_not_undo_a_newer_configuration() {
    let store = MemoryStore::new(ReplicaId::new("one"));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, FLEET).expect("a file");
    let first = Replica::start("one", Arc::new(store.clone()), Some(&file)).await;
    eventually("revision 1", async || {
        config(&first).await.filter(|c| c.revision == 1)
    })
    .await;
    first
        .operator()
        .await
        .apply_config(apply(&without_west()))
        .await
        .expect("valid");
    // Another replica starts with the file that was replaced.
    let second = Replica::start(
        "two",
        Arc::new(store.join(ReplicaId::new("two"))),
        Some(&file),
    )
    .await;
    let running = eventually("a configuration", async || config(&second).await).await;
    assert_eq!((running.revision, running.yaml), (2, without_west()));
    // A file never seen is news, and reaches both.
    let news = FLEET.replace("ramp_duration: 1s", "ramp_duration: 2s");
    std::fs::write(&file, &news).expect("a file");
    for replica in [&first, &second] {
        eventually("revision 3", async || {
            config(replica)
                .await
                .filter(|c| c.revision == 3 && c.yaml == news)
        })
        .await;
    }
}

async fn config(replica: &Replica) -> Option<v1::GetConfigResponse> {
    let answer = replica
        .operator()
        .await
        .get_config(v1::GetConfigRequest {})
        .await;
    answer.ok().map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_at_the_cap_passes_through_all_parts_and_one_beyond_is_refused_by_name() {
    let replica = Replica::alone(FLEET).await;
    let mut agent = replica.agent("a", "fra1").await;
    assert_eq!(revision(&mut agent).await, 1);
    let cap = fleet_config::MAX_FILE_BYTES;
    let mut large = FLEET.replace("open_duration: 500ms", "open_duration: 700ms");
    while large.len() + 80 < cap {
        large.push_str(&format!("# {}\n", "x".repeat(77)));
    }
    large.push_str(&"#".repeat(cap - large.len()));
    let mut operator = replica
        .operator()
        .await
        .max_decoding_message_size(usize::MAX);
    operator.apply_config(apply(&large)).await.expect("applied");
    let running = operator.get_config(v1::GetConfigRequest {}).await;
    let running = running.expect("a file").into_inner();
    assert!(running.yaml == large, "the file comes back as it was");
    let told = agent.find(|down| match down {
        Down::Config(config) if config.revision == 2 => Some(config.yaml.len()),
        _ => None,
    });
    assert_eq!(told.await, cap);
    large.push('#');
    let refused = operator.apply_config(apply(&large)).await;
    let refused = refused.expect_err("too large");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("4194304"),
        "{}",
        refused.message()
    );
}
