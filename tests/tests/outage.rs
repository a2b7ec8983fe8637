//! A backend dies: how many requests still reach it, how long that takes, and
//! what the others get meanwhile. Twenty agents in four POPs, 200 requests a
//! second in all; each figure is the median of five runs, each run against a
//! backend of its own.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use e2e::{Fleet, FleetFile, alone, eventually, median, settled};
use rampmeter_demo::{
    backend::{Answer, Behaviour, ScriptedBackend},
    load::{Load, Record},
};

const RUNS: usize = 5;
/// Three times the backends that break: opening more than half of a fleet in a
/// minute is something else, and limited.
const BACKENDS: usize = 16;
const RATE: f64 = 200.0;
/// Requests before the outage: two calm reports of every agent.
const CALM: u64 = 500;

/// What one run showed.
#[derive(Debug)]
struct Outage {
    /// Requests that reached the dead backend before every agent refused.
    reached: usize,
    /// From the first of them to the last.
    lasted: Duration,
    refusals: Vec<Record>,
    /// See [`one_by_one`].
    waits: Vec<Duration>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_answers_503_is_refused_everywhere_after_a_handful() {
    let runs = five_outages(&Behaviour::status(503), Counted::FromFirstFailure, false).await;
    check("503", &runs, 15, 25);
}

/// Everyone has to be heard first: it might be overload that spares some.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_answers_503_where_overload_is_metered_costs_a_few_requests_more() {
    let runs = five_outages(&Behaviour::status(503), Counted::FromFirstFailure, true).await;
    check("503, metered", &runs, 22, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_refuses_connections_is_refused_everywhere_after_a_handful() {
    let refuse = Behaviour::all(Answer::Refuse);
    let runs = five_outages(&refuse, Counted::FromFirstFailure, true).await;
    check("refused connections", &runs, 15, 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_hangs_is_refused_everywhere_after_the_first_time_outs() {
    let hang = Behaviour::all(Answer::Hang);
    let runs = five_outages(&hang, Counted::FromFirstTimeOut, true).await;
    check("time-outs", &runs, 15, 25);
}

/// Which requests count as having reached the dead backend.
#[derive(Clone, Copy)]
enum Counted {
    /// Every one that failed.
    FromFirstFailure,
    /// Those sent after the first had timed out: nobody can know earlier.
    FromFirstTimeOut,
}

/// `typical` and `worst`: how many requests may reach it.
fn check(what: &str, runs: &[Outage], typical: usize, worst: usize) {
    let reached: Vec<_> = runs.iter().map(|run| run.reached).collect();
    let lasted: Vec<_> = runs.iter().map(|run| run.lasted.as_millis()).collect();
    let mut waits: Vec<_> = runs.iter().flat_map(|run| run.waits.clone()).collect();
    waits.sort();
    let share = |percent: usize| waits[(waits.len() - 1) * percent / 100];
    println!(
        "{what}: reached {reached:?}, lasted {lasted:?} ms, refusals took {:?} at the median, {:?} at p90",
        share(50),
        share(90)
    );
    assert!(
        median(&reached) <= typical,
        "{what}: median of {reached:?} requests"
    );
    assert!(
        reached.iter().all(|count| *count <= worst),
        "{what}: {reached:?} requests"
    );
    assert!(
        median(&lasted) <= 250,
        "{what}: median of {lasted:?} ms from first to last"
    );
    assert!(
        share(50) < Duration::from_millis(2),
        "{what}: refusals took {:?}",
        share(50)
    );
    for refusal in runs.iter().flat_map(|run| &run.refusals) {
        assert!(
            refusal.retry_after >= Some(1),
            "no Retry-After: {refusal:?}"
        );
    }
}

async fn five_outages(fault: &Behaviour, counted: Counted, metered: bool) -> Vec<Outage> {
    let _alone = alone().await;
    let mut file = FleetFile::new(4, &["us-east"])
        .timeout("response_headers", "500ms")
        .breaker("overload_throttle", metered);
    let mut backends = Vec::new();
    for index in 0..BACKENDS {
        let name = format!("s{index}");
        let backend = ScriptedBackend::local(&name).await.expect("a free port");
        file = file.service(&name, &[("us-east", backend.address())]);
        backends.push(backend);
    }
    let fleet = Fleet::start(&file, 5).await.expect("a fleet");
    let mut runs = Vec::new();
    for (index, backend) in backends.iter().enumerate().take(RUNS) {
        let load = fleet.load(&format!("s{index}"), RATE);
        let load = Load {
            seed: index as u64 + 1,
            ..load
        };
        runs.push(outage(&fleet, backend, fault, counted, load).await);
    }
    runs
}

async fn outage(
    fleet: &Fleet,
    backend: &ScriptedBackend,
    fault: &Behaviour,
    counted: Counted,
    load: Load,
) -> Outage {
    let traffic = load.clone().start();
    eventually("calm traffic", Duration::from_secs(20), || async {
        settled(backend.receipts().count() >= CALM)
    })
    .await;
    let broken = Instant::now();
    backend.behave(fault.clone());
    eventually(
        "every agent refuses, again and again",
        Duration::from_secs(20),
        || async {
            let refusals: Vec<_> = traffic
                .since(broken)
                .into_iter()
                .filter(Record::is_refused)
                .collect();
            let agents: BTreeSet<_> = refusals.iter().map(|refusal| &*refusal.target).collect();
            settled(agents.len() == fleet.agents.len() && refusals.len() > 300)
        },
    )
    .await;
    let records: Vec<_> = traffic
        .stop()
        .await
        .into_iter()
        .filter(|r| r.at >= broken)
        .collect();
    let failed = || records.iter().filter(|record| record.is_failed());
    let first = failed()
        .map(|record| record.at + record.latency)
        .min()
        .expect("a failure");
    let reached: Vec<_> = match counted {
        Counted::FromFirstFailure => failed().map(|record| record.at).collect(),
        Counted::FromFirstTimeOut => backend
            .receipts()
            .since(first)
            .iter()
            .map(|receipt| receipt.at)
            .collect(),
    };
    let last = reached.iter().max().copied().unwrap_or(first);
    let refusals = records.into_iter().filter(Record::is_refused).collect();
    let waits = one_by_one(load).await;
    Outage {
        reached: reached.len(),
        lasted: last.saturating_duration_since(first),
        refusals,
        waits,
    }
}

/// How long a hundred clients in turn wait for a refusal: the quickest of three
/// tries each, because the slower ones waited for one of this machine's cores.
async fn one_by_one(load: Load) -> Vec<Duration> {
    let mut waits = Vec::new();
    for target in load.targets.iter().cycle().take(100) {
        let one = Load {
            targets: vec![target.clone()],
            count: Some(3),
            rate: 1000.0,
            ..load.clone()
        };
        let records = one.start().finish().await;
        assert!(
            records.iter().all(Record::is_refused),
            "still refused: {records:?}"
        );
        waits.extend(records.iter().map(|record| record.latency).min());
    }
    waits
}
