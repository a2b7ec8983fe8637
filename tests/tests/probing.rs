//! Health checks of a large fleet: what endpoints receive, and who takes over.
//!
//! The agents are real but for their data plane: two hundred control sides with
//! their streams and probers, in one thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use breaker_core::{AgentId, PopId};
use e2e::{ControlPlane, alone, eventually, settled};
use gateway_agent::{
    admin::state::state,
    fleet::{
        control::Control,
        drive::{self, Shared},
        local::Identity,
        stream::{ControlPlane as Address, Dialer},
    },
    probe::prober,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinSet, LocalSet},
};

const POPS: usize = 4;
const AGENTS: usize = 200;
const ENDPOINTS: usize = 50;
const INTERVAL: Duration = Duration::from_secs(4);

/// Two hundred agents start, are let in and are assigned.
const START: Duration = Duration::from_secs(60);

/// Endpoints that count their probes.
struct Endpoints(Vec<(SocketAddr, Arc<AtomicU64>)>);

impl Endpoints {
    async fn start() -> Self {
        let mut endpoints = Vec::new();
        for _ in 0..ENDPOINTS {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound");
            let count = Arc::new(AtomicU64::new(0));
            endpoints.push((address, count.clone()));
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(answer(stream, count.clone()));
                }
            });
        }
        Self(endpoints)
    }

    fn counts(&self) -> Vec<u64> {
        self.0.iter().map(|(_, count)| count.load(SeqCst)).collect()
    }
}

async fn answer(mut stream: TcpStream, count: Arc<AtomicU64>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    count.fetch_add(1, SeqCst);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    // A prober that has gone needs no answer.
    let _ = stream.write_all(answer).await;
}

fn fleet_file(endpoints: &Endpoints) -> String {
    let pops: Vec<_> = (0..POPS)
        .map(|n| format!("pop{n}: {{region_order: [us-east]}}"))
        .collect();
    let urls: Vec<_> = endpoints
        .0
        .iter()
        .map(|(a, _)| format!("'http://{a}'"))
        .collect();
    format!(
        "pops: {{{}}}
services:
  pay:
    routes: [{{path_prefix: /}}]
    backends: {{us-east: {{endpoints: [{}]}}}}
    health_check: {{interval: {}s}}
",
        pops.join(", "),
        urls.join(", "),
        INTERVAL.as_secs()
    )
}

/// An agent without a data plane. Dropping it kills it: its stream breaks.
struct Prober {
    pop: usize,
    control: Shared,
    _tasks: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

impl Prober {
    fn start(number: usize, url: &str) -> Self {
        let pop = number % POPS;
        let identity = Identity {
            agent: AgentId::new(&format!("agent{number}")).expect("a name"),
            pop: PopId::new(&format!("pop{pop}")).expect("a name"),
        };
        let control = Shared::new(Control::new(identity, 1));
        let (stop, stopping) = watch::channel(false);
        let address = Address::new(url).expect("a URL");
        let serves = SocketAddr::from(([127, 0, 0, 1], 1));
        let dialer = Dialer::new(control.clone(), vec![address], serves);
        let mut tasks = JoinSet::new();
        tasks.spawn_local(drive::run(control.clone(), stopping.clone()));
        tasks.spawn_local(prober::run(control.clone(), stopping.clone()));
        tasks.spawn_local(dialer.run(stopping));
        Self {
            pop,
            control,
            _tasks: tasks,
            _stop: stop,
        }
    }

    /// Endpoints that it has probed and still probes.
    fn probes(&self) -> BTreeSet<String> {
        let state = state(&self.control.lock());
        let endpoints = state["probing"]["endpoints"].as_array().cloned();
        let endpoints = endpoints.unwrap_or_default().into_iter();
        let named = endpoints.filter_map(|e| e["endpoint"].as_str().map(str::to_owned));
        named.collect()
    }
}

/// By endpoint: the POP of each agent that probes it.
fn probers(agents: &[Prober]) -> BTreeMap<String, Vec<usize>> {
    let mut probers = BTreeMap::<_, Vec<_>>::new();
    for agent in agents {
        for endpoint in agent.probes() {
            probers.entry(endpoint).or_default().push(agent.pop);
        }
    }
    probers.values_mut().for_each(|pops| pops.sort_unstable());
    probers
}

/// Waits until every endpoint was probed from each POP by exactly one agent.
async fn shared_out(agents: &[Prober], within: Duration) {
    let each: Vec<_> = (0..POPS).collect();
    eventually("one prober in each POP", within, || async {
        let probers = probers(agents);
        settled(probers.len() == ENDPOINTS && probers.values().all(|pops| *pops == each))
    })
    .await;
}

#[tokio::test]
async fn two_hundred_agents_send_four_probes_an_interval_to_each_of_fifty_endpoints() {
    let _alone = alone().await;
    LocalSet::new().run_until(four_probes_an_interval()).await;
}

async fn four_probes_an_interval() {
    const INTERVALS: u32 = 4;
    let endpoints = Endpoints::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, fleet_file(&endpoints)).expect("written");
    let plane = ControlPlane::start(&file, "memory").await;
    let plane = plane.expect("a control plane");
    let url = plane.url();
    let mut agents: Vec<_> = (0..AGENTS).map(|n| Prober::start(n, &url)).collect();
    shared_out(&agents, START).await;

    let (before, since) = (endpoints.counts(), Instant::now());
    eventually(
        "some intervals pass",
        INTERVAL * (INTERVALS + 1),
        || async { settled(since.elapsed() >= INTERVAL * INTERVALS) },
    )
    .await;
    let intervals = since.elapsed().as_secs_f64() / INTERVAL.as_secs_f64();
    let counts: Vec<_> = endpoints
        .counts()
        .iter()
        .zip(&before)
        .map(|(a, b)| a - b)
        .collect();
    let mean = counts.iter().sum::<u64>() as f64 / ENDPOINTS as f64 / intervals;
    assert!(
        (3.0..=4.4).contains(&mean),
        "{mean:.2} an interval; {counts:?}"
    );
    // Each of the four may have had one more or one less within the time.
    let bounds = (intervals.floor() as u64 - 1) * 4..=(intervals.ceil() as u64 + 1) * 4;
    assert!(
        counts.iter().all(|n| bounds.contains(n)),
        "{bounds:?}: {counts:?}"
    );

    let busiest = (0..AGENTS).max_by_key(|n| agents[*n].probes().len());
    let killed = agents.swap_remove(busiest.expect("there are agents"));
    let lost = killed.probes().len();
    let since = Instant::now();
    drop(killed);
    shared_out(&agents, 2 * INTERVAL).await;
    println!(
        "{mean:.2} probes an interval of {INTERVAL:?} at each endpoint; {lost} endpoints of a killed \
         prober were probed by others after {:.2?}",
        since.elapsed()
    );
}
