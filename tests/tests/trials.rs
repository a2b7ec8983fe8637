//! Half-open: one request at a time in the whole fleet, whoever crashes.

use std::time::{Duration, Instant};

use e2e::{Api, Fleet, FleetFile, RedisServer, alone, eventually, settled};
use rampmeter_api::v1::{BreakerState, EventKind};
use rampmeter_demo::{
    backend::{Answer, Behaviour, Receipt, ScriptedBackend},
    load::Running,
};

const PAY: &str = "pay/us-east";
const SOON: Duration = Duration::from_secs(15);

/// A fleet whose only backend is dead, with traffic that wants it.
struct Dead {
    fleet: Fleet,
    backend: ScriptedBackend,
    /// Stops when dropped.
    _traffic: Running,
    /// When every agent had stopped sending.
    quiet: Instant,
}

#[tokio::test(flavor = "multi_thread")]
async fn each_round_sends_a_dead_backend_one_request() {
    let _alone = alone().await;
    let dead = Dead::start(1, "memory", "1s").await;
    let api = dead.api(0).await;
    let rounds = async || {
        let events = api.events(PAY).await.expect("events");
        events
            .iter()
            .filter(|event| event.to_state() == BreakerState::HalfOpen)
            .count()
    };
    // On a busy machine a round may be over before all was quiet.
    let before = rounds().await;
    // Four rounds and the quiet after the last.
    eventually("four half-open rounds", Duration::from_secs(30), || async {
        settled(rounds().await >= before + 4)
    })
    .await;
    eventually("open again", SOON, || async {
        settled(api.breaker(PAY).await.ok()? == BreakerState::Open)
    })
    .await;
    let (rounds, trials) = (rounds().await - before, dead.trials());
    println!("{} requests in {rounds} rounds", trials.len());
    assert_eq!(trials.len(), rounds, "one request in each round");
    for pair in trials.windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(
            gap >= Duration::from_millis(1600),
            "rounds are 2 s apart, ± 20 %, these {gap:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_agent_that_holds_the_lease_moves_the_trial_to_another() {
    let _alone = alone().await;
    let mut dead = Dead::start(1, "memory", "3s").await;
    dead.backend.behave(Behaviour::all(Answer::Hang));
    let first = dead.next_trial(0).await;
    let holder = first.mark.clone().expect("a mark");
    dead.fleet.agent(&holder).process.kill();
    dead.backend.behave(Behaviour::ok());
    let second = dead.next_trial(1).await;
    assert_ne!(
        second.mark.as_ref(),
        Some(&holder),
        "the dead agent sends nothing"
    );
    dead.closes_with_one_trial_at_a_time(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_replica_that_granted_the_lease_leaves_one_trial_and_a_way_out() {
    let _alone = alone().await;
    let redis = RedisServer::start().await.expect("a Redis");
    let mut dead = Dead::start(2, &redis.url(), "3s").await;
    dead.backend.behave(Behaviour::all(Answer::Hang));
    dead.next_trial(0).await;
    let granted_by = dead.granting_replica().await;
    dead.fleet.control_planes[granted_by].process.kill();
    // The trial times out while nobody who granted it is left.
    dead.backend.behave(Behaviour::ok());
    dead.closes_with_one_trial_at_a_time(1 - granted_by).await;
}

impl Dead {
    async fn start(replicas: usize, store: &str, time_out: &str) -> Self {
        let backend = ScriptedBackend::local("us-east")
            .await
            .expect("a free port");
        let file = FleetFile::new(2, &["us-east"])
            .service("pay", &[("us-east", backend.address())])
            .breaker("open_duration", "2s")
            .breaker("max_open_duration", "2s")
            .breaker("ramp_duration", "1s")
            .timeout("response_headers", time_out)
            .timeout("total", time_out);
        let fleet = Fleet::start_with(&file, 2, replicas, store)
            .await
            .expect("a fleet");
        let traffic = fleet.load("pay", 100.0).start();
        eventually("calm traffic", SOON, || async {
            settled(backend.receipts().count() >= 100)
        })
        .await;
        backend.behave(Behaviour::status(503));
        for control_plane in &fleet.control_planes {
            eventually("open", SOON, || async {
                settled(
                    control_plane.api().await.ok()?.breaker(PAY).await.ok()? == BreakerState::Open,
                )
            })
            .await;
        }
        let broken = Instant::now();
        eventually("no request under way", SOON, || async {
            let still = backend
                .receipts()
                .since(Instant::now() - Duration::from_millis(300))
                .len();
            settled(broken.elapsed() > Duration::from_millis(300) && still == 0)
        })
        .await;
        Self {
            fleet,
            backend,
            _traffic: traffic,
            quiet: Instant::now(),
        }
    }

    async fn api(&self, replica: usize) -> Api {
        self.fleet.control_planes[replica]
            .api()
            .await
            .expect("a replica")
    }

    /// Requests that reached the backend since it was open everywhere.
    fn trials(&self) -> Vec<Receipt> {
        self.backend.receipts().since(self.quiet)
    }

    /// The trial after the first `known`, once it has arrived.
    async fn next_trial(&self, known: usize) -> Receipt {
        eventually("a trial", Duration::from_secs(20), || async {
            self.trials().get(known).cloned()
        })
        .await
    }

    /// Index of the replica that granted the newest lease.
    async fn granting_replica(&self) -> usize {
        let granted = eventually("the grant is known", SOON, || async {
            let events = self.api(0).await.events(PAY).await.ok()?;
            events
                .into_iter()
                .rev()
                .find(|event| event.kind() == EventKind::TrialGranted)
        })
        .await;
        let replicas = &self.fleet.control_planes;
        let named = replicas
            .iter()
            .position(|replica| replica.name == granted.actor);
        named.unwrap_or_else(|| panic!("no replica is called {:?}", granted.actor))
    }

    /// Until the healed backend is closed, its trials come one at a time.
    async fn closes_with_one_trial_at_a_time(&self, replica: usize) {
        let api = self.api(replica).await;
        eventually("closed", Duration::from_secs(30), || async {
            settled(api.breaker(PAY).await.ok()? == BreakerState::Closed)
        })
        .await;
        let events = api.events(PAY).await.expect("events");
        let closing = events
            .iter()
            .rev()
            .find(|event| event.to_state() == BreakerState::Closed);
        let closing = closing
            .and_then(|event| event.event_time)
            .expect("a closing transition");
        let closed_ago = std::time::SystemTime::now()
            .duration_since(closing.try_into().expect("a time"))
            .unwrap_or_default();
        let closed = Instant::now() - closed_ago;
        for trial in self.trials().iter().filter(|trial| trial.at < closed) {
            assert_eq!(trial.outstanding, 1, "two trials at a time: {trial:?}");
        }
    }
}
