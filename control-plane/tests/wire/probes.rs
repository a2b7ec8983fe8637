//! Health checks: who is told to probe what, and what their findings lead to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use control_plane::store::{ReplicaId, memory::MemoryStore};
use rampmeter_api::v1::{self, BreakerState, EventKind, connect_response::Message as Down};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::harness::{Agent, EAST, FLEET, Replica, eventually};

const ONE: &str = "http://127.0.0.1:8080";
const TWO: &str = "http://127.0.0.1:8090";

/// [`FLEET`] with health checks, and a second endpoint of [`EAST`].
fn checked(check: &str) -> String {
    FLEET
        .replace(
            "    breaker:",
            &format!("    health_check: {{{check}}}\n    breaker:"),
        )
        .replace(ONE, &format!("{ONE}\", \"{TWO}"))
}

/// Waits for an assignment that holds for this many targets.
async fn assigned(agent: &mut Agent, targets: usize) -> Vec<(String, String)> {
    let assignment = agent.find(|down| match down {
        Down::ProbeAssignment(a) if a.targets.len() == targets => Some(a.clone()),
        _ => None,
    });
    let targets = assignment.await.targets.into_iter();
    targets.map(|t| (t.backend, t.endpoint)).collect()
}

/// Says what it found of an endpoint of [`EAST`] just now.
async fn found(agent: &mut Agent, endpoint: &str, error: &str, healthy: bool) {
    let probe = v1::ProbeReport {
        backend: EAST.to_owned(),
        endpoint: endpoint.to_owned(),
        healthy,
        age_ms: 0,
        error: error.to_owned(),
        probes: 1,
    };
    agent
        .send(v1::Report {
            probes: vec![probe],
            ..v1::Report::default()
        })
        .await;
}

/// Waits until an agent hears that exactly these endpoints of [`EAST`] are
/// unhealthy, and at which POPs.
async fn health(agent: &mut Agent, expected: &[(&str, &[&str])]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(endpoint, pops)| v1::UnhealthyEndpoint {
            endpoint: (*endpoint).to_owned(),
            pops: pops.iter().map(|pop| (*pop).to_owned()).collect(),
        })
        .collect();
    agent
        .find(|down| match down {
            Down::Decisions(decisions) => decisions
                .health
                .iter()
                .any(|h| h.backend == EAST && h.unhealthy == expected)
                .then_some(()),
            _ => None,
        })
        .await;
}

async fn explained(replica: &Replica) -> v1::ExplainBackendResponse {
    let request = v1::ExplainBackendRequest { name: EAST.into() };
    let answer = replica.fleet().await.explain_backend(request).await;
    answer.expect("an answer").into_inner()
}

type Targets = BTreeSet<(String, String)>;

/// Many agents that live on their own, and what each probes.
struct Crowd {
    probing: Arc<Mutex<BTreeMap<String, Targets>>>,
    lives: BTreeMap<String, JoinHandle<()>>,
}

impl Crowd {
    async fn of(replica: &Replica, pops: usize, each: usize) -> Self {
        let mut crowd = Self {
            probing: Arc::default(),
            lives: BTreeMap::new(),
        };
        for n in 0..pops * each {
            let pop = format!("pop{}", n % pops);
            let name = format!("{pop}-{n}");
            let mut agent = replica.agent(&name, &pop).await;
            let (probing, own) = (crowd.probing.clone(), name.clone());
            let life = async move {
                while let Ok(Some(message)) = agent.next().await {
                    if let Down::ProbeAssignment(assignment) = message {
                        let targets = assignment.targets.into_iter();
                        let targets = targets.map(|t| (t.backend, t.endpoint)).collect();
                        let mut probing = probing.lock().expect("no test panics with it");
                        probing.insert(own.clone(), targets);
                    }
                }
            };
            crowd.lives.insert(name, tokio::spawn(life));
        }
        crowd
    }

    /// Its connection breaks, and it is not heard of again.
    async fn kill(&mut self, name: &str) -> Targets {
        let life = self.lives.remove(name).expect("it lives");
        life.abort();
        let _ = life.await;
        let mut probing = self.probing.lock().expect("no test panics with it");
        probing.remove(name).expect("it was told what to probe")
    }

    fn probing(&self) -> BTreeMap<String, Targets> {
        self.probing.lock().expect("no test panics with it").clone()
    }

    /// By endpoint, the POP of each of its probers.
    fn probers(&self) -> BTreeMap<(String, String), Vec<String>> {
        let mut probers = BTreeMap::<_, Vec<_>>::new();
        for (agent, targets) in self.probing() {
            let (pop, _) = agent.split_once('-').expect("POP-NUMBER");
            for target in targets {
                probers.entry(target).or_default().push(pop.to_owned());
            }
        }
        probers
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_fifty_endpoints_has_one_prober_in_each_of_four_pops_and_a_dead_one_is_replaced() {
    const INTERVAL: Duration = Duration::from_secs(2);
    let endpoints: Vec<_> = (0..50)
        .map(|n| format!("\"http://10.0.0.{n}:80\""))
        .collect();
    let pops: Vec<_> = (0..4)
        .map(|n| format!("pop{n}: {{region_order: [us-east]}}"))
        .collect();
    let yaml = format!(
        "pops: {{{}}}\nservices:\n  pay:\n    routes: [{{path_prefix: /}}]\n    \
         backends: {{us-east: {{endpoints: [{}]}}}}\n    health_check: {{interval: 2s}}\n",
        pops.join(", "),
        endpoints.join(", ")
    );
    let replica = Replica::alone(&yaml).await;
    let mut crowd = Crowd::of(&replica, 4, 50).await;
    let four = ["pop0", "pop1", "pop2", "pop3"];
    let settled = async |crowd: &Crowd| {
        eventually("each endpoint has one prober in each POP", async || {
            let probers = crowd.probers();
            let each_has_four = probers.values().all(|pops| *pops == four);
            let all_were_told = crowd.probing().len() == crowd.lives.len();
            (all_were_told && probers.len() == 50 && each_has_four).then_some(())
        })
        .await;
    };
    settled(&crowd).await;
    let before = crowd.probing();
    let busiest = before.iter().max_by_key(|(_, targets)| targets.len());
    let busiest = busiest.expect("there are agents").0.clone();

    let lost = crowd.kill(&busiest).await;
    let since = Instant::now();
    settled(&crowd).await;
    assert!(since.elapsed() < 2 * INTERVAL, "{:?}", since.elapsed());
    let mut moved = Targets::new();
    for (agent, targets) in crowd.probing() {
        let new = targets.difference(&before[&agent]).cloned();
        moved.extend(new);
        assert!(targets.is_superset(&before[&agent]), "{agent} lost some");
    }
    assert_eq!(moved, lost, "nothing else moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_of_all_pops_decide_where_an_endpoint_takes_no_requests() {
    let replica = Replica::alone(&checked("interval: 1h")).await;
    let mut fra = replica.agent("f1", "fra1").await;
    let mut iad = replica.agent("i1", "iad1").await;
    assigned(&mut fra, 3).await;
    assigned(&mut iad, 3).await;
    for agent in [&mut fra, &mut iad] {
        found(agent, ONE, "", true).await;
        found(agent, TWO, "", true).await;
    }
    health(&mut iad, &[]).await;

    found(&mut fra, ONE, "status 503", false).await;
    health(&mut iad, &[(ONE, &["fra1"])]).await;
    found(&mut iad, ONE, "timed out", false).await;
    health(&mut fra, &[(ONE, &[])]).await;

    let status = eventually("it shows", async || {
        let status = replica.backend(EAST).await.endpoint_status;
        status.first().is_some_and(|s| !s.healthy).then_some(status)
    })
    .await;
    assert_eq!((status[0].endpoint.as_str(), status.len()), (ONE, 2));
    assert_eq!(status[0].unhealthy_pops, [""; 0], "everywhere");
    assert_eq!(status[0].probers, ["f1", "i1"]);
    assert_eq!(status[0].error, "status 503");
    assert!(status[0].probes_per_second > 0.0);
    assert!(status[1].healthy && status[1].error.is_empty());
    let summary = explained(&replica).await.summary;
    let wanted = format!("{ONE} takes no requests at every POP (status 503)");
    assert!(summary.contains(&wanted), "{summary}");

    found(&mut fra, ONE, "", true).await;
    found(&mut iad, ONE, "", true).await;
    health(&mut fra, &[]).await;
    let events = eventually("events", async || {
        let mut events = replica.events(EAST).await;
        events.retain(|e| {
            let kinds = [EventKind::EndpointUnhealthy, EventKind::EndpointHealthy];
            kinds.contains(&e.kind())
        });
        let done = events.first()?.kind() == EventKind::EndpointHealthy;
        done.then_some(events)
    })
    .await;
    let oldest = events.last().expect("there are some");
    assert_eq!(oldest.kind(), EventKind::EndpointUnhealthy);
    assert_eq!(
        oldest.summary,
        format!("{ONE} of {EAST} takes no requests at fra1: health checks of f1 fail: status 503")
    );
    // A new agent hears what is known.
    let mut late = replica.agent("i2", "iad1").await;
    health(&mut late, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_says_of_endpoints_that_others_probe_is_not_believed() {
    let replica = Replica::alone(&checked("interval: 1h")).await;
    let mut agents = [
        replica.agent("f1", "fra1").await,
        replica.agent("f2", "fra1").await,
    ];
    let probers = async |agents: &mut [Agent; 2]| {
        let mut theirs = Vec::new();
        for agent in agents {
            theirs.push(
                agent
                    .find(|down| match down {
                        Down::ProbeAssignment(a) if a.targets.len() < 3 => Some(a.clone()),
                        _ => None,
                    })
                    .await
                    .targets,
            );
        }
        let has_one = |targets: &Vec<v1::ProbeTarget>| targets.iter().any(|t| t.endpoint == ONE);
        theirs.iter().position(has_one)
    };
    let prober = timeout(Duration::from_secs(10), probers(&mut agents)).await;
    let prober = prober.expect("in time").expect("somebody probes it");
    let liar = 1 - prober;
    found(&mut agents[liar], ONE, "because I say so", false).await;
    found(&mut agents[prober], ONE, "status 500", false).await;
    health(&mut agents[prober], &[(ONE, &[])]).await;
    let status = eventually("it shows", async || {
        let status = replica.backend(EAST).await.endpoint_status;
        (!status.first()?.healthy).then_some(status)
    })
    .await;
    assert_eq!(status[0].probers.len(), 1);
    assert_eq!(status[0].error, "status 500");
}

/// Opens [`EAST`] by failures that nobody asks for any more.
async fn open(agents: &mut [Agent]) {
    for round in 0.. {
        assert!(round < 50, "still not open");
        for agent in agents.iter_mut() {
            let slot = v1::Slot {
                requests: 2,
                failures: 2,
                ..v1::Slot::default()
            };
            let backend = v1::BackendReport {
                backend: EAST.to_owned(),
                slots: vec![slot],
                ..v1::BackendReport::default()
            };
            agent
                .send(v1::Report {
                    backends: vec![backend],
                    ..v1::Report::default()
                })
                .await;
        }
        let open = agents[0].state(EAST, BreakerState::Open);
        if timeout(Duration::from_millis(30), open).await.is_ok() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_that_nobody_asks_is_closed_by_health_checks_and_no_sooner_than_by_intervals() {
    let replica = Replica::alone(&checked("interval: 300ms, timeout: 100ms")).await;
    let mut agents = [
        replica.agent("f1", "fra1").await,
        replica.agent("i1", "iad1").await,
    ];
    for agent in &mut agents {
        assigned(agent, 3).await;
        found(agent, ONE, "", true).await;
    }
    open(&mut agents).await;
    agents[0].state(EAST, BreakerState::HalfOpen).await;
    let since = Instant::now();
    let closed = async {
        loop {
            for agent in &mut agents {
                found(agent, ONE, "", true).await;
            }
            let closed = agents[0].state(EAST, BreakerState::Closed);
            if let Ok(decision) = timeout(Duration::from_millis(50), closed).await {
                return decision;
            }
        }
    };
    let closed = timeout(Duration::from_secs(10), closed).await;
    let closed = closed.expect("closed in time");
    assert!(closed.fleet.and_then(|f| f.ramp).is_some(), "and ramps up");
    // The third counts from two intervals after the beginning on.
    assert!(
        since.elapsed() >= Duration::from_millis(500),
        "{:?}",
        since.elapsed()
    );
    let events = replica.events(EAST).await;
    let stood_in = events
        .iter()
        .filter(|e| e.kind() == EventKind::TrialSucceeded);
    assert_eq!(stood_in.count(), 3, "{events:?}");
}

/// Two agents whose POPs find every endpoint unhealthy, and [`EAST`] HALF_OPEN.
async fn hopeless(replica: &Replica) -> [Agent; 2] {
    let mut agents = [
        replica.agent("f1", "fra1").await,
        replica.agent("i1", "iad1").await,
    ];
    for agent in &mut agents {
        assigned(agent, 3).await;
        found(agent, ONE, "timed out", false).await;
        found(agent, TWO, "timed out", false).await;
    }
    health(&mut agents[0], &[(ONE, &[]), (TWO, &[])]).await;
    open(&mut agents).await;
    agents[0].state(EAST, BreakerState::HalfOpen).await;
    agents
}

/// Both want to send requests until the one at `index` is granted a trial.
async fn granted(agents: &mut [Agent; 2], index: usize) -> v1::TrialGrant {
    let granted = async {
        loop {
            for agent in agents.iter_mut() {
                agent.report(EAST, 0, 0).await;
            }
            let grant = agents[index].grant();
            if let Ok(grant) = timeout(Duration::from_millis(200), grant).await {
                return grant;
            }
        }
    };
    let granted = timeout(Duration::from_secs(10), granted).await;
    granted.expect("a grant in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_users_request_is_a_trial_while_every_endpoint_is_unhealthy() {
    let replica = Replica::alone(&checked("interval: 1h")).await;
    let mut agents = hopeless(&replica).await;
    for agent in &mut agents {
        agent.report(EAST, 0, 0).await;
    }
    let explained = eventually("it says what it waits for", async || {
        let explained = explained(&replica).await;
        let waits = explained.next.contains("waits for a health check");
        waits.then_some(explained)
    })
    .await;
    let leases = explained.backend.expect("set").trial_leases;
    assert_eq!(leases, [], "there is demand, and nobody is risked");

    // Healthy at one POP: a request from there is none of a hopeless kind.
    found(&mut agents[1], TWO, "", true).await;
    assert_eq!(granted(&mut agents, 1).await.backend, EAST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_never_passes_does_not_keep_a_backend_away_for_ever() {
    let yaml =
        checked("interval: 1h").replace("ramp_duration", "max_open_duration: 1s, ramp_duration");
    let replica = Replica::alone(&yaml).await;
    let since = Instant::now();
    let mut agents = hopeless(&replica).await;
    granted(&mut agents, 0).await;
    assert!(since.elapsed() >= Duration::from_secs(1), "not at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_probers_and_findings_and_one_tells() {
    let store = MemoryStore::new(ReplicaId::new("one"));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, checked("interval: 1h")).expect("a file");
    let joined = Arc::new(store.join(ReplicaId::new("two")));
    let one = Replica::start("one", Arc::new(store), Some(&file)).await;
    let two = Replica::start("two", joined, Some(&file)).await;
    let mut agents = [one.agent("f1", "fra1").await, two.agent("f2", "fra1").await];
    // Each hears of the other, and the three endpoints are shared between them.
    let mut theirs = Vec::new();
    for agent in &mut agents {
        let assignment = agent.find(|down| match down {
            Down::ProbeAssignment(a) if a.targets.len() < 3 => Some(a.clone()),
            _ => None,
        });
        theirs.push(assignment.await.targets);
    }
    let all: BTreeSet<_> = theirs
        .iter()
        .flatten()
        .map(|t| t.endpoint.clone())
        .collect();
    assert_eq!((all.len(), theirs[0].len() + theirs[1].len()), (3, 3));
    let prober = theirs
        .iter()
        .position(|t| t.iter().any(|t| t.endpoint == ONE));
    let prober = prober.expect("somebody probes it");
    found(&mut agents[prober], ONE, "refused", false).await;
    for agent in &mut agents {
        health(agent, &[(ONE, &[])]).await;
    }
    for replica in [&one, &two] {
        let told = eventually("the event", async || {
            let events = replica.events(EAST).await.into_iter();
            let told = events.filter(|e| e.kind() == EventKind::EndpointUnhealthy);
            let told: Vec<_> = told.collect();
            (!told.is_empty()).then_some(told)
        })
        .await;
        assert_eq!(told.len(), 1, "{told:?}");
    }
}
