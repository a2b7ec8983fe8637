//! Parts of a fleet quota, over real streams: they add up to the rate while
//! agents come, go, fall silent and read slowly.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use rampmeter_api::v1::{self, EventKind, connect_response::Message as Down};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Duration, Instant, MissedTickBehavior, interval},
};

use crate::harness::{Agent, FLEET, Replica, eventually};

const RATE: f64 = 500.0;

/// Demand of eight agents, in requests a second: one has the clients.
const SKEWED: [f64; 8] = [600.0, 200.0, 100.0, 50.0, 25.0, 15.0, 10.0, 0.0];

fn fleet_file() -> String {
    FLEET.replace(
        "    breaker:",
        "    throttle: {rate: 500, burst: 50}\n    breaker:",
    )
}

/// What an agent may send, by what it was told.
#[derive(Debug, Clone, Copy)]
struct Held {
    rate: f64,
    until: Instant,
    alone: f64,
}

impl Held {
    fn now(&self) -> f64 {
        if Instant::now() < self.until {
            self.rate
        } else {
            self.alone
        }
    }
}

/// What all agents of a test hold.
#[derive(Debug, Clone, Default)]
struct Fleet(Arc<Mutex<BTreeMap<String, Held>>>);

impl Fleet {
    fn sum(&self) -> f64 {
        self.lock().values().map(Held::now).sum()
    }

    fn of(&self, name: &str) -> Option<Held> {
        self.lock().get(name).copied()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Talks,
    /// Says nothing and hears nothing; its stream stays open.
    Silent,
}

/// An agent that keeps wanting, and sends what it may.
struct Crew {
    name: String,
    fleet: Fleet,
    mood: watch::Sender<Mood>,
    task: JoinHandle<()>,
}

impl Crew {
    async fn join(replica: &Replica, fleet: &Fleet, name: &str, wanted: f64) -> Self {
        let agent = replica.agent(name, "fra1").await;
        let mood = watch::Sender::new(Mood::Talks);
        let task = keep_wanting(
            agent,
            fleet.clone(),
            name.to_owned(),
            wanted,
            mood.subscribe(),
        );
        Self {
            name: name.to_owned(),
            fleet: fleet.clone(),
            mood,
            task: tokio::spawn(task),
        }
    }

    /// Its process is killed: the connection ends.
    fn kill(self) {
        self.task.abort();
        self.fleet.lock().remove(&self.name);
    }
}

async fn keep_wanting(
    mut agent: Agent,
    fleet: Fleet,
    name: String,
    wanted: f64,
    mut mood: watch::Receiver<Mood>,
) {
    let every = Duration::from_millis(100);
    let mut reports = interval(every);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut wanting, mut admitting) = (0.0, 0.0);
    let mut last = Instant::now();
    loop {
        while *mood.borrow_and_update() == Mood::Silent {
            mood.changed().await.expect("the test lives");
        }
        tokio::select! {
            down = agent.next() => match down.expect("the stream lives") {
                Some(Down::QuotaGrant(grant)) => {
                    for quota in grant.quotas {
                        fleet.lock().insert(name.clone(), held(&quota));
                    }
                }
                Some(_) => {}
                None => return,
            },
            now = reports.tick() => {
                let passed = now.duration_since(last).as_secs_f64();
                last = now;
                wanting += wanted * passed;
                let rate = fleet.of(&name).map_or(0.0, |held| held.now());
                admitting += wanted.min(rate) * passed;
                let whole = |sum: &mut f64| {
                    let count = sum.floor();
                    *sum -= count;
                    count as u64
                };
                let (wanted, admitted) = (whole(&mut wanting), whole(&mut admitting));
                if wanted > 0 {
                    agent.report_quota("pay", &[(0, wanted, admitted)]).await;
                }
            }
            _ = mood.changed() => {}
        }
    }
}

fn held(quota: &v1::Quota) -> Held {
    let left = quota.expires_in.expect("set");
    Held {
        rate: quota.rate,
        until: Instant::now() + Duration::try_from(left).expect("positive"),
        alone: quota.rate_alone,
    }
}

async fn settled(replica: &Replica, fleet: &Fleet) -> Vec<Crew> {
    let mut crew = Vec::new();
    for (i, wanted) in SKEWED.into_iter().enumerate() {
        crew.push(Crew::join(replica, fleet, &format!("a{i}"), wanted).await);
    }
    eventually("parts follow demand", async || {
        let first = fleet.of("a0")?.now();
        let sum_holds = (fleet.sum() - RATE).abs() < 0.05 * RATE;
        ((270.0..320.0).contains(&first) && sum_holds).then_some(())
    })
    .await;
    crew
}

/// Watches for some time: over any `window` not more than a tenth above or below the
/// rate, and never more than a fifth above it, also on a host that is late.
async fn watch_sum(fleet: &Fleet, span: Duration, window: Duration) {
    let start = Instant::now();
    let mut seen = VecDeque::new();
    let mut looks = interval(Duration::from_millis(20));
    while start.elapsed() < span {
        let now = looks.tick().await;
        let sum = fleet.sum();
        assert!(
            sum <= 1.2 * RATE,
            "{sum} are leased after {:?}",
            start.elapsed()
        );
        seen.push_back((now, sum));
        let Some((from, _)) = seen.front().copied() else {
            continue;
        };
        if now.duration_since(from) >= window {
            let mean = seen.iter().map(|(_, sum)| sum).sum::<f64>() / seen.len() as f64;
            assert!(
                (0.9 * RATE..=1.1 * RATE).contains(&mean),
                "{mean} on average until {:?}",
                start.elapsed()
            );
            seen.pop_front();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_a_skewed_fleet_add_up_to_the_rate_at_any_time() {
    let replica = Replica::alone(&fleet_file()).await;
    let fleet = Fleet::default();
    let _crew = settled(&replica, &fleet).await;
    watch_sum(&fleet, Duration::from_secs(3), Duration::from_millis(40)).await;
    let idle = fleet
        .of("a7")
        .expect("an agent without demand has a part, too");
    assert!(idle.rate > 0.0, "{idle:?}");
    assert!((idle.alone - 0.75 * RATE / 8.0).abs() < 1e-9, "{idle:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sum_holds_while_one_agent_is_killed_and_one_is_cut_off() {
    let replica = Replica::alone(&fleet_file()).await;
    let fleet = Fleet::default();
    let mut crew = settled(&replica, &fleet).await;
    crew[1].mood.send_replace(Mood::Silent);
    crew.remove(0).kill();
    // Past the silence at which the cut off agent loses its stream (5 s).
    watch_sum(&fleet, Duration::from_secs(8), Duration::from_secs(5)).await;
    let cut_off = fleet.of("a1").expect("it had a grant");
    assert!(cut_off.until < Instant::now(), "its lease has run out");
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_do_not_pile_up_for_an_agent_that_does_not_read() {
    let keyed = fleet_file().replace("burst: 50", "burst: 50, key: 'header:x-key'");
    let replica = Replica::alone(&keyed).await;
    let mut agent = replica.slow_agent("slow", "fra1").await;
    // All that the transport holds on its way is filled within a second or two.
    let keys = |round: u64| (1..2_000).map(move |key| (key, 1 + round % 7, 1)).collect();
    let mut rounds = interval(Duration::from_millis(100));
    for round in 0..80 {
        rounds.tick().await;
        let keys: Vec<_> = keys(round);
        agent.report_quota("pay", &keys).await;
    }
    // A new key, to tell what was granted before we read again.
    agent.report_quota("pay", &[(9_999, 5, 5)]).await;
    let mut granted = 0;
    agent
        .find(|down| {
            let Down::QuotaGrant(grant) = down else {
                return None;
            };
            granted += grant.quotas.len();
            let new = grant.quotas.iter().any(|q| q.key_hash == 9_999);
            new.then_some(())
        })
        .await;
    assert!(
        granted < 10 * 2_000,
        "{granted} grants waited for a reader that was away for 8 s"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_exceeded_is_shown_and_told_with_numbers() {
    let replica = Replica::alone(&fleet_file()).await;
    let fleet = Fleet::default();
    let _crew = settled(&replica, &fleet).await;
    let shown = eventually("the quota is shown", async || {
        let request = v1::GetServiceRequest { name: "pay".into() };
        let answer = replica
            .fleet()
            .await
            .get_service(request)
            .await
            .ok()?
            .into_inner();
        let quota = answer.quotas.first()?.clone();
        (quota.wanted_per_second > 950.0 && quota.admitted_per_second > 400.0).then_some(quota)
    })
    .await;
    assert_eq!(
        (shown.key.as_str(), shown.rate, shown.agents),
        ("", RATE, 8)
    );
    assert!(shown.wanted_per_second < 1_050.0, "{shown:?}");
    assert!(shown.admitted_per_second < 550.0, "{shown:?}");
    let exhausted = eventually("it is told", async || {
        let events = replica.events("").await.into_iter();
        let mut exhausted = events.filter(|e| e.kind() == EventKind::QuotaExhausted);
        exhausted.next()
    })
    .await;
    assert_eq!(exhausted.service, "pay");
    assert!(exhausted.summary.contains("500/s"), "{}", exhausted.summary);
}
