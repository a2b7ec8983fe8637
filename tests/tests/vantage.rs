//! Who may convict a backend: not one agent, not one POP.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use e2e::{Fleet, FleetFile, alone, eventually, settled};
use rampmeter_api::v1::{BreakerState, EventKind};
use rampmeter_demo::{
    backend::{Behaviour, ScriptedBackend},
    load::{Load, Record, Running},
};

const PAY: &str = "pay/us-east";
const RATE: f64 = 200.0;
const SOON: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_broken_path_and_most_of_the_traffic_convicts_nobody_but_itself() {
    let _alone = alone().await;
    let (fleet, backend) = fleet().await;
    let broken_agent = "pop0-0";
    let mut targets = fleet.targets();
    for target in targets
        .iter_mut()
        .filter(|target| &*target.name == broken_agent)
    {
        // 30 of 49: three fifths of all requests.
        target.weight = 30.0;
    }
    let traffic = Load {
        targets,
        ..fleet.load("pay", RATE)
    }
    .start();
    let broken = break_after_calm(&traffic, &backend, Behaviour::broken_path([broken_agent])).await;
    let api = fleet.control_planes[0].api().await.expect("a replica");
    let explained = eventually("the suspect is named", SOON, || async {
        let explained = api.explain(PAY).await.ok()?;
        let evidence = explained.evidence.clone()?;
        let named = evidence
            .suspects
            .iter()
            .any(|suspect| suspect.agent == broken_agent);
        named.then_some(explained)
    })
    .await;
    assert!(
        explained.summary.contains(broken_agent),
        "the summary names it: {}",
        explained.summary
    );
    eventually("the agent protects itself, many times", SOON, || async {
        let records = traffic.since(broken);
        let local = records
            .iter()
            .filter(|r| r.is_refused() && &*r.target == broken_agent);
        settled(local.count() >= 300)
    })
    .await;
    let records = traffic.stop().await;
    let others = records
        .iter()
        .filter(|record| &*record.target != broken_agent);
    let hurt: Vec<_> = others.filter(|record| !record.is_served()).collect();
    assert!(
        hurt.is_empty(),
        "other agents' clients were served throughout, but: {hurt:?}"
    );
    let failed = records.iter().filter(|record| record.is_failed()).count();
    assert!(
        failed <= 25,
        "its own local breaker stopped it, after {failed} requests"
    );
    let transitions = transitions(&fleet).await;
    assert!(
        transitions.is_empty(),
        "nothing was decided for others, but: {transitions:?}"
    );
    assert_eq!(
        api.breaker(PAY).await.expect("a state"),
        BreakerState::Closed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pop_with_a_broken_path_gets_a_decision_of_its_own() {
    let _alone = alone().await;
    let (fleet, backend) = fleet().await;
    let in_pop0: Vec<_> = fleet
        .agents
        .iter()
        .map(|agent| agent.start.id.clone())
        .filter(|id| id.starts_with("pop0-"))
        .collect();
    let traffic = fleet.load("pay", RATE).start();
    let broken =
        break_after_calm(&traffic, &backend, Behaviour::broken_path(in_pop0.clone())).await;
    let api = fleet.control_planes[0].api().await.expect("a replica");
    eventually("pop0 is open", SOON, || async {
        let pops = api.backend(PAY).await.ok()?.pops;
        settled(
            pops.iter()
                .any(|pop| pop.pop == "pop0" && pop.state() == BreakerState::Open),
        )
    })
    .await;
    eventually(
        "every agent of pop0 refuses, the others serve on",
        SOON,
        || async {
            let records = traffic.since(broken);
            let refusing: BTreeSet<_> = records
                .iter()
                .filter(|r| r.is_refused())
                .map(|r| &*r.target)
                .collect();
            let served = records.iter().filter(|r| r.is_served()).count();
            settled(in_pop0.iter().all(|id| refusing.contains(&**id)) && served >= 400)
        },
    )
    .await;
    let records = traffic.stop().await;
    let hurt: Vec<_> = records
        .iter()
        .filter(|r| !r.is_served() && !in_pop0.iter().any(|id| **id == *r.target))
        .collect();
    assert!(
        hurt.is_empty(),
        "other POPs' clients were served throughout, but: {hurt:?}"
    );
    let backend = api.backend(PAY).await.expect("a backend");
    assert_eq!(backend.state(), BreakerState::Closed, "the fleet's breaker");
    let open: Vec<_> = backend
        .pops
        .iter()
        .map(|pop| (&*pop.pop, pop.state()))
        .collect();
    assert_eq!(open, [("pop0", BreakerState::Open)]);
    let scopes: Vec<_> = transitions(&fleet).await;
    assert!(
        scopes.iter().all(|scope| scope == "SCOPE_POP pop0"),
        "{scopes:?}"
    );
}

async fn fleet() -> (Fleet, ScriptedBackend) {
    let backend = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    let file = FleetFile::new(4, &["us-east"]).service("pay", &[("us-east", backend.address())]);
    (Fleet::start(&file, 5).await.expect("a fleet"), backend)
}

async fn break_after_calm(
    traffic: &Running,
    backend: &ScriptedBackend,
    fault: Behaviour,
) -> Instant {
    eventually("calm traffic", SOON, || async {
        settled(backend.receipts().count() >= 500)
    })
    .await;
    assert!(
        traffic.next(0).0.iter().all(Record::is_served),
        "calm before the fault"
    );
    let broken = Instant::now();
    backend.behave(fault);
    broken
}

/// Scope and subject of every transition.
async fn transitions(fleet: &Fleet) -> Vec<String> {
    let api = fleet.control_planes[0].api().await.expect("a replica");
    let events = api.events(PAY).await.expect("events");
    let moved = events
        .iter()
        .filter(|event| event.kind() == EventKind::Transition);
    moved
        .map(|event| format!("{} {}", event.scope().as_str_name(), event.subject))
        .collect()
}
