//! Who may connect, and what an agent may say.

use std::time::Duration;

use rampmeter_api::v1::{self, BreakerState, connect_request::Message as Up};
use tonic::Code;

use crate::harness::{EAST, FLEET, Replica, eventually, hello};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_welcomed_with_the_configuration_and_every_decision() {
    let replica = Replica::alone(FLEET).await;
    let mut agent = replica.agent("a", "fra1").await;
    assert_eq!(agent.welcome.replica, "one");
    use v1::connect_response::Message as Down;
    let yaml = agent.find(|down| match down {
        Down::Config(config) => Some(config.yaml.clone()),
        _ => None,
    });
    assert_eq!(yaml.await, FLEET);
    let snapshot = agent.find(|down| match down {
        Down::Decisions(decisions) => Some(decisions.clone()),
        _ => None,
    });
    let snapshot = snapshot.await;
    assert!(snapshot.complete && !snapshot.store_unavailable);
    let names: Vec<_> = snapshot
        .decisions
        .iter()
        .map(|d| d.backend.as_str())
        .collect();
    assert_eq!(names, ["pay/us-east", "pay/us-west"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_cannot_be_is_refused_with_what_is_allowed() {
    let replica = Replica::alone(FLEET).await;
    // The configuration is in force once somebody gets it.
    replica
        .agent("first", "fra1")
        .await
        .state(EAST, BreakerState::Closed)
        .await;
    let good = || hello("a", "fra1");
    let cases = [
        (
            v1::Hello {
                pop: "nowhere".into(),
                ..good()
            },
            "known are fra1, iad1",
        ),
        (
            v1::Hello {
                pop: String::new(),
                ..good()
            },
            "hello.pop",
        ),
        (
            v1::Hello {
                agent: "a b".into(),
                ..good()
            },
            "has the character ' '",
        ),
        (
            v1::Hello {
                agent: "x".repeat(64),
                ..good()
            },
            "1 to 63 characters",
        ),
        (
            v1::Hello {
                instance: String::new(),
                ..good()
            },
            "hello.instance",
        ),
        (
            v1::Hello {
                version: "x".repeat(1000),
                ..good()
            },
            "hello.version",
        ),
        (
            v1::Hello {
                address: "a\nb".into(),
                ..good()
            },
            "hello.address",
        ),
    ];
    for (hello, sentence) in cases {
        let refused = replica.try_agent(hello).await.err().expect(sentence);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(
            refused.message().contains(sentence),
            "{sentence:?} is missing in {refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_starts_with_hello_and_has_only_one() {
    let replica = Replica::alone(FLEET).await;
    let beat = Up::Heartbeat(v1::Heartbeat { nonce: 1 });
    let refused = replica.stream(beat).await.err().expect("refused");
    assert!(refused.message().contains("first message"), "{refused}");
    let mut agent = replica.agent("a", "fra1").await;
    agent.say(Up::Hello(hello("a", "fra1"))).await;
    let ended = agent.end().await.expect("refused");
    assert_eq!(ended.code(), Code::InvalidArgument, "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_agent_keeps_its_id_and_its_own_reconnect_replaces_it() {
    let replica = Replica::alone(FLEET).await;
    let mut first = replica.agent("a", "fra1").await;
    let twin = v1::Hello {
        instance: "another".into(),
        ..hello("a", "fra1")
    };
    let refused = replica
        .try_agent(twin.clone())
        .await
        .err()
        .expect("refused");
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("in use by another"), "{refused}");
    let mut again = replica.agent("a", "fra1").await;
    assert!(first.go_away().await.reason.contains("newer stream"));
    again.state(EAST, BreakerState::Closed).await;
    // It says goodbye: the id is free at once.
    again.say(Up::Goodbye(v1::Goodbye::default())).await;
    again.end().await;
    eventually("the id is free", async || {
        replica.try_agent(twin.clone()).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_heartbeats_are_answered_and_silence_ends_the_stream() {
    let replica = Replica::alone(FLEET).await;
    let mut agent = replica.agent("a", "fra1").await;
    agent.say(Up::Heartbeat(v1::Heartbeat { nonce: 77 })).await;
    use v1::connect_response::Message as Down;
    let ours = |down: &Down| matches!(down, Down::Heartbeat(b) if b.nonce == 77).then_some(());
    agent.find(ours).await;
    eventually("the round trip is known", async || {
        agent.next().await.expect("alive");
        let request = v1::GetAgentRequest { name: "a".into() };
        let agent = replica
            .fleet()
            .await
            .get_agent(request)
            .await
            .ok()?
            .into_inner()
            .agent?;
        let known = agent.round_trip.is_some_and(|r| r.nanos > 0);
        (known && agent.in_sync).then_some(())
    })
    .await;
    // From here on it reads nothing and says nothing.
    eventually("the silent agent is gone", async || {
        let request = v1::GetAgentRequest { name: "a".into() };
        replica
            .fleet()
            .await
            .get_agent(request)
            .await
            .is_err()
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_over_its_size_ends_the_stream_with_the_limit() {
    let replica = Replica::alone(FLEET).await;
    let mut agent = replica.agent("a", "fra1").await;
    let backends = vec![
        v1::BackendReport {
            backend: "x".repeat(100),
            ..Default::default()
        };
        3000
    ];
    agent
        .say(Up::Report(v1::Report {
            sequence: 1,
            backends,
            ..v1::Report::default()
        }))
        .await;
    let ended = agent.end().await.expect("refused");
    assert_eq!(ended.code(), Code::InvalidArgument);
    assert!(ended.message().contains("262144"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_makes_up_is_cut_and_counted_and_the_rest_is_kept() {
    let replica = Replica::alone(FLEET).await;
    let mut agent = replica.agent("a", "fra1").await;
    agent.state(EAST, BreakerState::Closed).await;
    agent.report("no/where", 5, 0).await;
    agent.report(EAST, u32::MAX, 0).await;
    agent.report(EAST, 7, 0).await;
    let metric = async |name: &str| {
        let page = crate::ports::get(replica.http, "/metrics").await;
        let line = page.lines().find(|l| l.starts_with(name))?.to_owned();
        line.rsplit(' ').next()?.parse::<u64>().ok()
    };
    eventually("it is counted", async || {
        let unknown = metric("rampmeter_control_reports_unknown_backend_total").await?;
        let cut = metric("rampmeter_control_figures_cut_total").await?;
        (unknown == 1 && cut >= 1).then_some(())
    })
    .await;
    eventually("the rest is kept", async || {
        let outcomes = replica.backend(EAST).await.traffic?.outcomes?;
        (outcomes.requests() > 7 && outcomes.requests() < 1_000_000).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_report_counts_once() {
    let replica = Replica::alone(FLEET).await;
    let mut agent = replica.agent("a", "fra1").await;
    agent.state(EAST, BreakerState::Closed).await;
    let slot = v1::Slot {
        requests: 3,
        ..Default::default()
    };
    let backend = v1::BackendReport {
        backend: EAST.into(),
        slots: vec![slot],
        ..Default::default()
    };
    for sequence in [1, 1, 1, 2] {
        let backends = vec![backend.clone()];
        agent
            .say(Up::Report(v1::Report {
                sequence,
                backends,
                ..v1::Report::default()
            }))
            .await;
    }
    eventually("both are seen", async || {
        let outcomes = replica.backend(EAST).await.traffic?.outcomes?;
        assert!(outcomes.requests() <= 6, "{outcomes:?}");
        (outcomes.requests() == 6).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_sent_away_with_a_spread_when_the_replica_ends() {
    let replica = Replica::alone(FLEET).await;
    let mut agent = replica.agent("a", "fra1").await;
    let stopping = tokio::spawn(replica.stop());
    let away = agent.go_away().await;
    let wait = Duration::try_from(away.retry_in.expect("set")).expect("positive");
    assert!(wait < Duration::from_secs(2), "{wait:?}");
    drop(agent);
    stopping.await.expect("it ends");
}
