//! Regions taken out of traffic by hand, and what is refused.

use rampmeter_api::v1::{self, EventKind, Mode};
use tonic::Code;

use crate::{
    harness::{EAST, Replica, eventually},
    steering::{Crew, STEERED, events_of, shares},
};

const WEST: &str = "pay/us-west";

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn drain(region: &str) -> v1::DrainRegionRequest {
    v1::DrainRegionRequest {
        region: region.into(),
        service: String::new(),
        reason: "the cable is cut".into(),
        expires_in: seconds(600),
        actor: "ada".into(),
        break_glass: false,
    }
}

fn clear(region: &str) -> v1::ClearDrainRequest {
    v1::ClearDrainRequest {
        region: region.into(),
        service: String::new(),
        reason: "it is spliced".into(),
        actor: "bob".into(),
    }
}

fn force(name: &str, mode: Mode) -> v1::OverrideBackendRequest {
    v1::OverrideBackendRequest {
        name: name.into(),
        mode: mode.into(),
        reason: "test".into(),
        expires_in: seconds(600),
        actor: "eve".into(),
        break_glass: false,
    }
}

/// A replica that takes orders.
async fn settled(yaml: &str) -> Replica {
    let replica = Replica::alone(yaml).await;
    let mut agent = replica.agent("settled", "fra1").await;
    agent.steered("pay", |d| !d.origins.is_empty()).await;
    replica
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_region_is_empty_at_once_and_comes_back_when_the_drain_is_cleared() {
    let replica = Replica::alone(STEERED).await;
    let mut crew = Crew::of(&replica).await;
    let mut operator = replica.operator().await;
    let set = operator
        .drain_region(drain("us-west"))
        .await
        .expect("valid");
    let set = set.into_inner();
    assert_eq!(set.services, ["pay"]);
    assert!(!set.drain.expect("set").break_glass);
    let told = crew
        .west
        .steered("pay", |d| shares(d, "us-west").first() == Some(&0.0))
        .await;
    assert_eq!(told.drains[0].actor, "ada");
    let shown = replica.service("pay").await;
    assert!(
        shown.summary.contains("ada drains us-west"),
        "{}",
        shown.summary
    );
    let request = v1::ExplainBackendRequest { name: WEST.into() };
    let explained = replica.fleet().await.explain_backend(request).await;
    let summary = explained.expect("an answer").into_inner().summary;
    assert!(summary.contains("ada drains us-west"), "{summary}");
    let cleared = operator.clear_drain(clear("us-west")).await.expect("valid");
    assert_eq!(cleared.into_inner().services, ["pay"]);
    crew.west
        .steered("pay", |d| shares(d, "us-west").first() == Some(&1.0))
        .await;
    let events = events_of(&replica, "pay").await;
    let find = |kind| events.iter().find(|e| e.kind() == kind).expect("an event");
    let set = find(EventKind::DrainSet);
    let ended = find(EventKind::DrainCleared);
    assert_eq!((set.actor.as_str(), ended.actor.as_str()), ("ada", "bob"));
    for event in [set, ended] {
        assert!(event.actor_address.starts_with("127.0.0.1:"), "{event:?}");
    }
    assert!(ended.summary.contains("it is spliced"), "{}", ended.summary);
    let again = operator.clear_drain(clear("us-west")).await;
    assert_eq!(again.expect_err("none").code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_by_itself() {
    let replica = settled(STEERED).await;
    let short = v1::DrainRegionRequest {
        expires_in: seconds(1),
        ..drain("us-west")
    };
    let mut operator = replica.operator().await;
    operator.drain_region(short).await.expect("valid");
    eventually("it has run out", async || {
        let events = events_of(&replica, "pay").await;
        let ended = events
            .iter()
            .find(|e| e.kind() == EventKind::DrainCleared)?;
        assert!(ended.summary.contains("ran out"), "{}", ended.summary);
        replica.service("pay").await.drains.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_cannot_be_is_refused_by_field_and_changes_nothing() {
    let replica = settled(STEERED).await;
    let before = replica.service("pay").await.plan.and_then(|p| p.version);
    let mut operator = replica.operator().await;
    let with = |change: fn(&mut v1::DrainRegionRequest)| {
        let mut request = drain("us-west");
        change(&mut request);
        request
    };
    let cases = [
        (
            with(|r| r.reason = " ".into()),
            Code::InvalidArgument,
            "reason",
        ),
        (
            with(|r| r.expires_in = None),
            Code::InvalidArgument,
            "1 s to 24 h",
        ),
        (
            with(|r| r.expires_in = seconds(0)),
            Code::InvalidArgument,
            "1 s to 24 h",
        ),
        (
            with(|r| r.expires_in = seconds(86_401)),
            Code::InvalidArgument,
            "1 s to 24 h",
        ),
        (
            with(|r| r.region = String::new()),
            Code::InvalidArgument,
            "region",
        ),
        (
            with(|r| r.region = "us-wets".into()),
            Code::NotFound,
            "did you mean \"us-west\"?",
        ),
        (
            with(|r| r.region = "mars".into()),
            Code::NotFound,
            "us-east, us-west",
        ),
        (
            with(|r| r.service = "payy".into()),
            Code::NotFound,
            "did you mean \"pay\"?",
        ),
        (
            with(|r| r.actor = "x".repeat(501)),
            Code::InvalidArgument,
            "at most 500",
        ),
    ];
    for (request, code, sentence) in cases {
        let refused = operator.drain_region(request).await.expect_err(sentence);
        assert_eq!(refused.code(), code, "{refused}");
        assert!(
            refused.message().contains(sentence),
            "{sentence:?} is missing in {refused}"
        );
    }
    let after = replica.service("pay").await;
    assert!(after.drains.is_empty());
    assert_eq!(
        after.plan.and_then(|p| p.version),
        before,
        "nothing was committed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admitted_region_is_drained_only_by_breaking_the_glass() {
    let replica = settled(STEERED).await;
    let mut operator = replica.operator().await;
    operator
        .drain_region(drain("us-west"))
        .await
        .expect("the east is left");
    let refused = operator
        .drain_region(drain("us-east"))
        .await
        .expect_err("the last");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for part in ["break_glass", "us-west is drained by ada"] {
        assert!(refused.message().contains(part), "{refused}");
    }
    let forced = operator
        .override_backend(force(EAST, Mode::ForcedOpen))
        .await;
    let refused = forced.expect_err("a drain counts for overrides, too");
    assert!(
        refused.message().contains("us-west is drained by ada"),
        "{refused}"
    );
    let broken = v1::DrainRegionRequest {
        break_glass: true,
        ..drain("us-east")
    };
    let set = operator
        .drain_region(broken)
        .await
        .expect("in so many words");
    assert!(set.into_inner().drain.expect("set").break_glass, "recorded");
    let events = events_of(&replica, "pay").await;
    let set = events.iter().find(|e| e.kind() == EventKind::DrainSet);
    let summary = &set.expect("an event").summary;
    assert!(summary.contains("break-glass"), "{summary}");
    let drains = replica.service("pay").await.drains;
    let broken: Vec<_> = drains
        .iter()
        .map(|d| (d.region.as_str(), d.break_glass))
        .collect();
    assert_eq!(broken, [("us-east", true), ("us-west", false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_held_open_leaves_the_other_as_the_last() {
    let replica = settled(STEERED).await;
    let mut operator = replica.operator().await;
    let forced = force(EAST, Mode::ForcedOpen);
    operator
        .override_backend(forced)
        .await
        .expect("the west is left");
    let refused = operator
        .drain_region(drain("us-west"))
        .await
        .expect_err("the last");
    assert!(
        refused.message().contains("us-east is held open by eve"),
        "{refused}"
    );
    let forced = v1::OverrideBackendRequest {
        break_glass: true,
        ..force(WEST, Mode::ForcedOpen)
    };
    operator
        .override_backend(forced)
        .await
        .expect("in so many words");
    let events = replica.events(WEST).await;
    let set = events.iter().find(|e| e.kind() == EventKind::OverrideSet);
    let set = set.expect("an event");
    assert!(set.summary.contains("break-glass"), "{}", set.summary);
    assert!(set.actor_address.starts_with("127.0.0.1:"), "{set:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_and_an_override_that_contradict_each_other_are_refused() {
    let replica = settled(STEERED).await;
    let mut operator = replica.operator().await;
    let closed = force(WEST, Mode::ForcedClosed);
    operator.override_backend(closed).await.expect("valid");
    let refused = operator
        .drain_region(drain("us-west"))
        .await
        .expect_err("held closed");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("held closed by eve"),
        "{refused}"
    );
    assert!(replica.service("pay").await.drains.is_empty());
    operator
        .drain_region(drain("us-east"))
        .await
        .expect("the west is left");
    let closed = operator
        .override_backend(force(EAST, Mode::ForcedClosed))
        .await;
    let refused = closed.expect_err("drained");
    assert!(
        refused.message().contains("drained for pay by ada"),
        "{refused}"
    );
    assert!(replica.backend(EAST).await.r#override.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_drained_for_all_services_or_for_none() {
    let yaml = format!(
        "{STEERED}  media:\n    routes: [{{path_prefix: /media}}]\n    backends:\n      \
         us-west: {{endpoints: [\"http://127.0.0.1:8082\"]}}\n"
    );
    let replica = settled(&yaml).await;
    let mut operator = replica.operator().await;
    let refused = operator
        .drain_region(drain("us-west"))
        .await
        .expect_err("media has no other");
    assert!(
        refused.message().contains("last admitted region of media"),
        "{refused}"
    );
    for service in ["pay", "media"] {
        assert!(
            replica.service(service).await.drains.is_empty(),
            "{service}"
        );
    }
    let elsewhere = v1::DrainRegionRequest {
        service: "media".into(),
        ..drain("us-east")
    };
    let refused = operator
        .drain_region(elsewhere)
        .await
        .expect_err("not there");
    assert!(refused.message().contains("it is in us-west"), "{refused}");
    let one = v1::DrainRegionRequest {
        service: "pay".into(),
        ..drain("us-west")
    };
    let set = operator.drain_region(one).await.expect("pay has another");
    assert_eq!(set.into_inner().services, ["pay"]);
    assert!(replica.service("media").await.drains.is_empty());
}
