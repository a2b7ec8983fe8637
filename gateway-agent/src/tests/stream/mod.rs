//! The stream against a control plane that does as the test says.

pub(super) mod plane;

use std::{net::SocketAddr, time::Duration};

use breaker_core::breaker::StateName;
use rampmeter_api::v1::{self, connect_request::Message as Up, connect_response::Message as Down};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::Status;

use self::plane::{Plane, eventually, within};
use crate::{
    admit::{gate::CoreGate, service::Wish},
    clock::nanos,
    config::configuration::ConfigSource,
    fleet::{
        control::Control,
        drive::{self, Shared},
        stream::{ControlPlane, Dialer},
    },
    tests::control::{closed, decision, fleet, identity, open, prost},
};

/// An agent without a data plane.
pub(super) struct Client {
    pub(super) control: Shared,
    gate: CoreGate,
    pub(super) stop: watch::Sender<bool>,
    dialer: JoinHandle<()>,
}

impl Client {
    pub(super) fn start(planes: &[SocketAddr]) -> Self {
        let control = Control::new(identity(), 1);
        let gate = control.gates().remove(0);
        let control = Shared::new(control);
        let (stop, stopping) = watch::channel(false);
        let addresses = planes
            .iter()
            .map(|address| ControlPlane::new(&format!("http://{address}")).expect("a good URL"));
        let served = SocketAddr::from(([127, 0, 0, 1], 8080));
        let dialer = Dialer::new(control.clone(), addresses.collect(), served);
        tokio::spawn(drive::run(control.clone(), stopping.clone()));
        let dialer = tokio::spawn(dialer.run(stopping));
        Self {
            control,
            gate,
            stop,
            dialer,
        }
    }

    fn state(&self) -> Option<StateName> {
        let control = self.control.lock();
        control
            .backends
            .get("pay/us-east")
            .map(|watched| watched.state)
    }

    fn fail_once(&self) {
        use breaker_core::{FailureKind, OutcomeClass};
        let service = &self.gate.snapshot().services["pay"];
        let permit = self.gate.admit(service, &Wish::default());
        let permit = permit.expect("admitted");
        permit.finish(OutcomeClass::Failure(FailureKind::Reset), None);
    }

    fn is_connected(&self) -> bool {
        self.control.lock().status.connected.is_some()
    }
}

#[tokio::test]
async fn an_agent_says_who_it_is_and_obeys_what_it_hears() {
    let mut plane = Plane::start().await;
    let agent = Client::start(&[plane.address]);
    let mut call = plane.call().await;
    let hello = call.greet().await;
    assert_eq!((hello.agent.as_str(), hello.pop.as_str()), ("a1", "fra1"));
    assert_eq!((hello.config_revision, hello.held.len()), (0, 0));
    assert_eq!(hello.address, "127.0.0.1:8080");

    let acknowledged = call.configure(7, fleet("")).await;
    assert_eq!(
        (
            acknowledged.config_revision,
            acknowledged.config_error.as_str()
        ),
        (7, "")
    );
    let acknowledged = call.decide(3, decision(5, open())).await;
    assert_eq!(
        (
            acknowledged.decisions_sequence,
            acknowledged.config_revision
        ),
        (3, 7)
    );
    assert_eq!(agent.state(), Some(StateName::Open));
}

#[tokio::test]
async fn a_bad_configuration_is_answered_with_its_errors_and_the_old_one_stays() {
    let mut plane = Plane::start().await;
    let agent = Client::start(&[plane.address]);
    let mut call = plane.call().await;
    call.greet().await;
    for (yaml, complaint) in [
        ("{".to_owned(), "configuration 1"),
        (fleet("").replace("10s", "10 parsecs"), "parsecs"),
        (
            fleet("").replace("fra1", "iad1"),
            "POP \"fra1\" of this agent is not in the fleet file",
        ),
    ] {
        let acknowledged = call.configure(1, yaml).await;
        assert_eq!(acknowledged.config_revision, 0);
        assert!(
            acknowledged.config_error.contains(complaint),
            "{}",
            acknowledged.config_error
        );
    }
    assert!(!agent.control.lock().is_ready());
    // What a newer control plane knows and this agent does not is no mistake.
    let newer = fleet("").replace("breaker:", "warp_drive: {factor: 9}\n    breaker:");
    let acknowledged = call.configure(2, newer).await;
    assert_eq!(
        (
            acknowledged.config_revision,
            acknowledged.config_error.as_str()
        ),
        (2, "")
    );
    let acknowledged = call.configure(3, "{".to_owned()).await;
    assert_eq!(acknowledged.config_revision, 2);
    assert!(agent.control.lock().is_ready());
    assert_eq!(agent.control.lock().source, ConfigSource::ControlPlane);
}

#[tokio::test]
async fn a_failure_goes_up_at_once() {
    let mut plane = Plane::start().await;
    let agent = Client::start(&[plane.address]);
    let mut call = plane.call().await;
    call.greet().await;
    call.configure(1, fleet("")).await;
    agent.fail_once();
    let report = call.find(|up| match up {
        Up::Report(report) => Some(report.clone()),
        _ => None,
    });
    let report = report.await;
    let slot = report.backends[0].slots[0];
    assert_eq!((slot.requests, slot.failures), (1, 1));
    // Far below the calm second; generous, because machines that test are busy.
    assert!(slot.age_ms < 500, "{} ms old", slot.age_ms);
    assert_eq!(report.sequence, 1);
}

#[tokio::test]
async fn a_broken_stream_is_made_again_and_brings_what_is_held() {
    let mut plane = Plane::start().await;
    let agent = Client::start(&[plane.address]);
    let mut call = plane.call().await;
    call.greet().await;
    call.configure(4, fleet("")).await;
    call.decide(1, decision(9, open())).await;
    drop(call);
    let mut call = plane.call().await;
    let hello = call.greet().await;
    assert_eq!((hello.config_revision, hello.held.len()), (4, 1));
    assert_eq!(
        hello.held[0].version,
        Some(v1::Version {
            epoch: 1,
            revision: 9
        })
    );
    // An older decision, as from a replica that lost its memory.
    call.decide(1, decision(8, closed())).await;
    assert_eq!(agent.state(), Some(StateName::Open));
}

#[tokio::test]
async fn plans_and_quotas_are_taken_and_plans_are_brought_to_the_next_stream() {
    let mut plane = Plane::start().await;
    let agent = Client::start(&[plane.address]);
    let mut call = plane.call().await;
    call.greet().await;
    let limited = fleet("").replace("timeouts:", "throttle: {rate: 9, burst: 1}\n    timeouts:");
    call.configure(4, limited).await;
    let version = Some(v1::Version {
        epoch: 1,
        revision: 7,
    });
    let decisions = v1::Decisions {
        sequence: 1,
        services: vec![v1::ServiceDecision {
            service: "pay".to_owned(),
            version,
            ..v1::ServiceDecision::default()
        }],
        ..v1::Decisions::default()
    };
    call.say(Down::Decisions(decisions)).await;
    assert_eq!(call.acknowledged().await.decisions_sequence, 1);
    let quota = v1::Quota {
        service: "pay".to_owned(),
        rate: 4.0,
        expires_in: Some(prost(Duration::from_secs(60))),
        ..v1::Quota::default()
    };
    let quotas = vec![quota];
    call.say(Down::QuotaGrant(v1::QuotaGrant { quotas })).await;
    let rate = || {
        let control = agent.control.lock();
        let quota = control.services["pay"].service.quota.clone();
        quota.map(|quota| quota.standing(nanos(control.clock.now())).rate)
    };
    eventually("the grant", || rate() == Some(4.0)).await;
    drop(call);
    let hello = plane.call().await.greet().await;
    assert_eq!(hello.held_services.len(), 1);
    assert_eq!(hello.held_services[0].version, version);
}

#[tokio::test]
async fn silence_ends_a_stream_and_heartbeats_keep_it() {
    let mut plane = Plane::start().await;
    let agent = Client::start(&[plane.address]);
    let mut call = plane.call().await;
    call.greet().await;
    // As long as heartbeats are answered, nothing ends it.
    for _ in 0..4 {
        call.find(|up| matches!(up, Up::Heartbeat(_)).then_some(()))
            .await;
    }
    assert_eq!(agent.control.lock().status.streams, 1);
    // The old stream stays open, and says nothing.
    let mut again = plane.call().await;
    again.greet().await;
    eventually("the second stream", || {
        agent.control.lock().status.streams == 2
    })
    .await;
    drop(call);
}

#[tokio::test]
async fn a_heartbeat_of_the_control_plane_is_answered_with_its_number() {
    let mut plane = Plane::start().await;
    let _agent = Client::start(&[plane.address]);
    let mut call = plane.call().await;
    call.greet().await;
    call.say(Down::Heartbeat(v1::Heartbeat { nonce: u64::MAX }))
        .await;
    let echo = |up: &Up| matches!(up, Up::Heartbeat(beat) if beat.nonce == u64::MAX);
    call.find(|up| echo(up).then_some(())).await;
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    // Accepts in the kernel, and never answers.
    let hung = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut plane = Plane::start().await;
    let addresses = [gone.local_addr(), hung.local_addr()].map(|address| address.expect("bound"));
    drop(gone);
    let agent = Client::start(&[addresses[0], addresses[1], plane.address]);
    let mut answering = plane.call().await;
    answering.greet().await;
    eventually("connected", || agent.is_connected()).await;
    drop(hung);
}

#[tokio::test]
async fn a_control_plane_that_accepts_and_never_welcomes_is_given_up() {
    let mut mute = Plane::start().await;
    let mut plane = Plane::start().await;
    let agent = Client::start(&[mute.address, plane.address]);
    let _call = mute.call().await;
    let mut answering = plane.call().await;
    answering.greet().await;
    eventually("connected", || agent.is_connected()).await;
}

#[tokio::test]
async fn an_agent_that_is_asked_to_go_elsewhere_goes() {
    let mut first = Plane::start().await;
    let mut second = Plane::start().await;
    let agent = Client::start(&[first.address, second.address]);
    let mut call = first.call().await;
    call.greet().await;
    call.say(Down::GoAway(v1::GoAway {
        reason: "rebalancing".to_owned(),
        retry_in: Some(prost(Duration::from_millis(50))),
    }))
    .await;
    let mut answering = second.call().await;
    answering.greet().await;
    eventually("connected", || agent.is_connected()).await;
}

#[tokio::test]
async fn a_duplicate_name_is_told_and_tried_again_slowly() {
    let mut plane = Plane::start().await;
    plane.refuse(Some(Status::already_exists(
        "a1 is connected from 10.0.0.9",
    )));
    let agent = Client::start(&[plane.address]);
    let error = || agent.control.lock().status.last_error.clone();
    eventually("the refusal", || error().is_some()).await;
    assert!(error().is_some_and(|error| error.contains("10.0.0.9")));
    plane.refuse(None);
    let since = std::time::Instant::now();
    let mut answering = plane.call().await;
    answering.greet().await;
    assert!(since.elapsed() > Duration::from_secs(2), "not in a hurry");
}

#[tokio::test]
async fn an_agent_that_stops_reports_the_rest_and_says_goodbye() {
    let mut plane = Plane::start().await;
    let agent = Client::start(&[plane.address]);
    let mut call = plane.call().await;
    call.greet().await;
    call.configure(1, fleet("")).await;
    agent.fail_once();
    agent.stop.send_replace(true);
    let mut reported = 0;
    loop {
        match call.next().await {
            Up::Report(report) => reported += report.backends.len(),
            Up::Goodbye(_) => break,
            _ => {}
        }
    }
    assert_eq!(reported, 1);
    drop(call);
    within("the end", agent.dialer).await.expect("no panic");
}

#[test]
fn a_url_that_cannot_be_a_control_plane_is_refused_with_what_is_allowed() {
    for url in [
        "",
        "localhost:7700",
        "https://h:1",
        "http://h",
        "http://h:1/path",
        "http://h:x",
        "ftp://h:1",
    ] {
        let error = ControlPlane::new(url).expect_err(url);
        assert!(error.contains("http://HOST:PORT"), "{error}");
    }
    ControlPlane::new("http://127.0.0.1:7700").expect("as documented");
    ControlPlane::new("http://control-plane.example:7700/").expect("a trailing slash is no path");
}
