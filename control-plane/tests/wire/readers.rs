//! What readers ask, and how they are told that they asked wrong.

use rampmeter_api::v1::{self, BreakerState, watch_backends_response::Change};
use tokio::time::timeout;
use tonic::Code;

use crate::harness::{EAST, FLEET, Replica, SOON, eventually};

async fn settled() -> Replica {
    let replica = Replica::alone(FLEET).await;
    replica
        .agent("settled", "fra1")
        .await
        .state(EAST, BreakerState::Closed)
        .await;
    // What is decided later would find agents that do not listen any more.
    eventually("there is a plan", async || {
        replica.service("pay").await.plan
    })
    .await;
    replica
}

fn force_open() -> v1::OverrideBackendRequest {
    v1::OverrideBackendRequest {
        name: EAST.into(),
        mode: v1::Mode::ForcedOpen.into(),
        reason: "test".into(),
        expires_in: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_by_service_and_state() {
    let replica = settled().await;
    let mut fleet = replica.fleet().await;
    let mut names = Vec::new();
    let mut request = v1::ListBackendsRequest {
        page_size: 1,
        ..Default::default()
    };
    loop {
        let page = fleet
            .list_backends(request.clone())
            .await
            .expect("a page")
            .into_inner();
        names.extend(page.backends.into_iter().map(|b| b.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(names, ["pay/us-east", "pay/us-west"]);
    let open = v1::ListBackendsRequest {
        states: vec![BreakerState::Open.into()],
        ..Default::default()
    };
    assert!(
        fleet
            .list_backends(open)
            .await
            .expect("a page")
            .into_inner()
            .backends
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_are_not_found_with_a_guess() {
    let replica = settled().await;
    let mut fleet = replica.fleet().await;
    let name = || "pay/us-wets".to_owned();
    let backend = fleet
        .get_backend(v1::GetBackendRequest { name: name() })
        .await
        .expect_err("unknown");
    let explain = fleet
        .explain_backend(v1::ExplainBackendRequest { name: name() })
        .await
        .expect_err("unknown");
    for error in [backend, explain] {
        assert_eq!(error.code(), Code::NotFound);
        assert!(
            error.message().contains("did you mean \"pay/us-west\"?"),
            "{error}"
        );
    }
    let service = fleet
        .get_service(v1::GetServiceRequest {
            name: "payy".into(),
        })
        .await;
    assert!(
        service
            .expect_err("unknown")
            .message()
            .contains("did you mean \"pay\"?")
    );
    let agent = fleet
        .get_agent(v1::GetAgentRequest {
            name: "nobody".into(),
        })
        .await;
    assert_eq!(agent.expect_err("unknown").code(), Code::NotFound);
    let request = v1::ListAgentsRequest {
        pop: "fra2".into(),
        ..Default::default()
    };
    let pop = fleet.list_agents(request).await.expect_err("unknown");
    assert!(pop.message().contains("did you mean \"fra1\"?"), "{pop}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_be_is_refused() {
    let replica = settled().await;
    let mut fleet = replica.fleet().await;
    let request = v1::ListEventsRequest {
        page_token: "yesterday".into(),
        ..Default::default()
    };
    let refused = fleet.list_events(request).await.expect_err("no token");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let request = v1::ListBackendsRequest {
        page_size: 5000,
        ..Default::default()
    };
    let refused = fleet.list_backends(request).await.expect_err("too large");
    assert!(refused.message().contains("1 to 1000"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_see_every_backend_once_and_then_changes_and_events() {
    let replica = settled().await;
    let mut fleet = replica.fleet().await;
    let mut backends = fleet
        .watch_backends(v1::WatchBackendsRequest::default())
        .await
        .expect("a stream")
        .into_inner();
    let mut events = fleet
        .watch_events(v1::WatchEventsRequest::default())
        .await
        .expect("a stream")
        .into_inner();
    let next = async |stream: &mut tonic::Streaming<v1::WatchBackendsResponse>| {
        let message = timeout(SOON, stream.message()).await.expect("in time");
        match message.expect("the stream lives").and_then(|m| m.change) {
            Some(Change::Backend(backend)) => backend,
            other => panic!("{other:?}"),
        }
    };
    let first = (
        next(&mut backends).await.name,
        next(&mut backends).await.name,
    );
    assert_eq!(first, ("pay/us-east".to_owned(), "pay/us-west".to_owned()));
    replica
        .operator()
        .await
        .override_backend(force_open())
        .await
        .expect("valid");
    let changed = next(&mut backends).await;
    assert_eq!(
        (changed.name.as_str(), changed.mode()),
        (EAST, v1::Mode::ForcedOpen)
    );
    let event = timeout(SOON, events.message()).await.expect("in time");
    let event = event
        .expect("the stream lives")
        .and_then(|m| m.event)
        .expect("an event");
    assert_eq!(event.kind(), v1::EventKind::OverrideSet);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_is_summed_up() {
    let replica = settled().await;
    let mut agent = replica.agent("a", "iad1").await;
    agent.state(EAST, BreakerState::Closed).await;
    let summary = eventually("the agent is in sync", async || {
        let request = v1::GetFleetRequest {};
        let summary = replica
            .fleet()
            .await
            .get_fleet(request)
            .await
            .ok()?
            .into_inner();
        (summary.agents == 1 && summary.agents_in_sync == 1).then_some(summary)
    })
    .await;
    assert_eq!((summary.backends, summary.config_revision), (2, 1));
    assert!(summary.store_available);
    let pops: Vec<_> = summary
        .pops
        .iter()
        .map(|p| (p.pop.as_str(), p.agents))
        .collect();
    assert_eq!(pops, [("fra1", 0), ("iad1", 1)]);
    assert_eq!(summary.replicas.len(), 1);
}
