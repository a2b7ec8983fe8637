//! From failures to OPEN, through trials, to full admission.

use std::time::Duration;

use rampmeter_api::v1::{self, BreakerState, EventKind, TrialOutcome};
use tokio::time::timeout;

use crate::harness::{Agent, EAST, FLEET, Replica, eventually};

/// Two agents in each of two POPs.
async fn crew(replica: &Replica) -> Vec<Agent> {
    let mut crew = Vec::new();
    for (name, pop) in [
        ("f1", "fra1"),
        ("f2", "fra1"),
        ("i1", "iad1"),
        ("i2", "iad1"),
    ] {
        crew.push(replica.agent(name, pop).await);
    }
    for agent in &mut crew {
        agent.state(EAST, BreakerState::Closed).await;
    }
    crew
}

/// Every agent sees failures only, a few at a time, until the breaker opens.
async fn fail(crew: &mut [Agent]) -> u32 {
    let mut failed = 0;
    for round in 0.. {
        assert!(round < 50, "100 failures and still not open");
        for agent in crew.iter_mut() {
            agent.report(EAST, 1, 1).await;
            failed += 1;
        }
        let open = crew[0].state(EAST, BreakerState::Open);
        if timeout(Duration::from_millis(30), open).await.is_ok() {
            break;
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_seen_in_two_pops_open_the_breaker_for_every_agent() {
    let replica = Replica::alone(FLEET).await;
    let mut crew = crew(&replica).await;
    let failed = fail(&mut crew).await;
    assert!(failed <= 16, "{failed} failures to decide");
    for agent in &mut crew[1..] {
        let decision = agent.state(EAST, BreakerState::Open).await;
        assert_eq!(decision.version.expect("set").revision, 1);
    }
    let event = eventually("the transition is an event", async || {
        let events = replica.events(EAST).await;
        events
            .into_iter()
            .find(|e| e.kind() == EventKind::Transition)
    })
    .await;
    let evidence = event.evidence.expect("a conviction has evidence");
    assert_eq!((evidence.pops_failing, evidence.pops_active), (2, 2));
    assert!(evidence.score >= evidence.score_threshold, "{evidence:?}");
    assert_eq!(replica.backend(EAST).await.state(), BreakerState::Open);
    assert_eq!(
        replica.backend("pay/us-west").await.state(),
        BreakerState::Closed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn three_trials_one_at_a_time_close_and_the_ramp_ends_at_full_admission() {
    let replica = Replica::alone(FLEET).await;
    let mut crew = crew(&replica).await;
    fail(&mut crew).await;
    for trial in 1..=3 {
        let (index, grant) = next_grant(&mut crew).await;
        assert_eq!(
            replica.backend(EAST).await.trial_leases.len(),
            1,
            "trial {trial}"
        );
        crew[index].answer(&grant, TrialOutcome::Succeeded).await;
    }
    let closed = crew[0].state(EAST, BreakerState::Closed).await;
    let ramp = closed.fleet.and_then(|f| f.ramp).expect("a ramp");
    assert!(ramp.admission < 0.5, "{ramp:?}");
    eventually("full admission", async || {
        let backend = replica.backend(EAST).await;
        (backend.admission() >= 1.0).then_some(())
    })
    .await;
    let kinds: Vec<_> = replica
        .events(EAST)
        .await
        .iter()
        .map(v1::Event::kind)
        .collect();
    let count = |kind| kinds.iter().filter(|k| **k == kind).count();
    assert_eq!(count(EventKind::TrialGranted), 3);
    assert_eq!(count(EventKind::TrialSucceeded), 3);
    assert_eq!(
        count(EventKind::Transition),
        3,
        "OPEN, HALF_OPEN, CLOSED: {kinds:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_trial_opens_again() {
    let replica = Replica::alone(FLEET).await;
    let mut crew = crew(&replica).await;
    fail(&mut crew).await;
    let (index, grant) = next_grant(&mut crew).await;
    crew[index].answer(&grant, TrialOutcome::Failed).await;
    let open = crew[index].state(EAST, BreakerState::Open).await;
    assert_eq!(open.fleet.expect("set").trips, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_agent_died_runs_out_and_goes_to_another() {
    let replica = Replica::alone(FLEET).await;
    let mut crew = crew(&replica).await;
    fail(&mut crew).await;
    let (index, first) = next_grant(&mut crew).await;
    drop(crew.remove(index));
    let lost = replica.backend(EAST).await.trial_leases;
    assert!(
        lost.iter().all(|l| l.lease_id == first.lease_id),
        "only the lost one: {lost:?}"
    );
    let (_, second) = next_grant(&mut crew).await;
    assert_ne!(first.lease_id, second.lease_id);
    let events = replica.events(EAST).await;
    assert!(
        events.iter().any(|e| e.kind() == EventKind::TrialLost),
        "{events:?}"
    );
    assert_eq!(replica.backend(EAST).await.trial_leases.len(), 1);
}

/// Which agent got the next grant; all keep wanting the backend.
async fn next_grant(crew: &mut [Agent]) -> (usize, v1::TrialGrant) {
    for _ in 0..200 {
        for (index, agent) in crew.iter_mut().enumerate() {
            agent.report(EAST, 0, 0).await;
            if let Ok(grant) = timeout(Duration::from_millis(10), agent.grant()).await {
                return (index, grant);
            }
        }
    }
    panic!("no agent got a trial");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_failing_agent_convicts_nobody_and_is_named() {
    let replica = Replica::alone(FLEET).await;
    let mut crew = crew(&replica).await;
    for _ in 0..20 {
        crew[0].report(EAST, 5, 5).await;
        for agent in &mut crew[1..] {
            agent.report(EAST, 2, 0).await;
        }
    }
    let mut fleet = replica.fleet().await;
    let explained = eventually("the suspect is named", async || {
        let request = v1::ExplainBackendRequest { name: EAST.into() };
        let explained = fleet
            .explain_backend(request)
            .await
            .expect("an answer")
            .into_inner();
        let evidence = explained.evidence.clone()?;
        evidence
            .suspects
            .iter()
            .any(|s| s.agent == "f1")
            .then_some(explained)
    })
    .await;
    assert_eq!(
        explained.backend.expect("set").state(),
        BreakerState::Closed
    );
    assert!(explained.summary.contains("f1"), "{}", explained.summary);
    let request = v1::GetAgentRequest { name: "f1".into() };
    let agent = fleet
        .get_agent(request)
        .await
        .expect("an answer")
        .into_inner()
        .agent;
    assert_eq!(agent.expect("set").suspect_for, [EAST]);
    eventually("the suspect is an event, once", async || {
        let events = replica.events(EAST).await;
        let suspects = events
            .iter()
            .filter(|e| e.kind() == EventKind::SuspectVantage);
        (suspects.count() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broken_pop_is_decided_for_that_pop_alone() {
    let yaml = FLEET.replace(
        "  iad1:",
        "  sin1: {region_order: [us-east, us-west]}\n  gru1: {region_order: [us-east, us-west]}\n  iad1:",
    );
    let replica = Replica::alone(&yaml).await;
    let mut broken = vec![
        replica.agent("f1", "fra1").await,
        replica.agent("f2", "fra1").await,
    ];
    let mut fine = Vec::new();
    for pop in ["iad1", "sin1", "gru1"] {
        fine.push(replica.agent(pop, pop).await);
    }
    for _ in 0..10 {
        for agent in &mut fine {
            agent.report(EAST, 5, 0).await;
        }
        for agent in &mut broken {
            agent.report(EAST, 3, 3).await;
        }
    }
    let backend = eventually("a decision for fra1", async || {
        let backend = replica.backend(EAST).await;
        (!backend.pops.is_empty()).then_some(backend)
    })
    .await;
    assert_eq!(backend.state(), BreakerState::Closed);
    assert_eq!(backend.pops.len(), 1);
    assert_eq!(
        (backend.pops[0].pop.as_str(), backend.pops[0].state()),
        ("fra1", BreakerState::Open)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_random_failures_change_nothing() {
    let replica = Replica::alone(FLEET).await;
    let mut crew = crew(&replica).await;
    for round in 0..100 {
        for (index, agent) in crew.iter_mut().enumerate() {
            let failures = u32::from((round + index * 25) % 100 == 0);
            agent.report(EAST, 1, failures).await;
        }
    }
    let seen = eventually("all is seen", async || {
        let traffic = replica.backend(EAST).await.traffic?;
        let outcomes = traffic.outcomes?;
        (outcomes.requests() == 400).then_some(outcomes.failures())
    })
    .await;
    assert_eq!(seen, 4);
    let events = replica.events(EAST).await;
    assert!(
        events.iter().all(|e| e.kind() != EventKind::Transition),
        "{events:?}"
    );
}
