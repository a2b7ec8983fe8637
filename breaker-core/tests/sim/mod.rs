//! A fleet in virtual time: agents in POPs, replicas, and a store with a
//! compare-and-set, over a network that delays, reorders, loses and duplicates.
//! One seed repeats one run.

// Each test file uses its own part of the simulator.
#![allow(dead_code, unreachable_pub)]

pub mod agent;
pub mod chaos;
pub mod replica;
pub mod rng;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use agent::Agent;
use breaker_core::{
    AgentId, Breaker, BreakerPolicy, FleetView, PopId, Timestamp, TrialLease, Window,
    breaker::{Happening, TrialOutcome},
};
use replica::{Replica, Report};
use rng::Rng;

/// Microseconds of virtual time.
pub type Micros = u64;

pub const fn ms(ms: u64) -> Micros {
    ms * 1000
}

pub const fn secs(secs: u64) -> Micros {
    secs * 1_000_000
}

#[derive(Debug, Clone)]
pub struct Network {
    /// One way, both ends included, in milliseconds.
    pub delay_ms: (u64, u64),
    pub loss: f64,
    pub duplication: f64,
}

#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    pub pops: usize,
    pub replicas: usize,
    /// Share of the traffic for each agent; agent `i` is in POP `i % pops`.
    pub weights: Vec<f64>,
    /// Requests a second in the whole fleet.
    pub rate: f64,
    pub network: Network,
    pub policy: BreakerPolicy,
    /// The backend answers 503, not 500.
    pub overloads: bool,
    /// This share of answers takes this many milliseconds; the others take 5.
    pub slow: Option<(f64, u64)>,
}

impl Setup {
    pub fn even(seed: u64, agents: usize, pops: usize, rate: f64) -> Self {
        Self {
            seed,
            pops,
            replicas: 2,
            weights: vec![1.0; agents],
            rate,
            network: Network {
                delay_ms: (3, 7),
                loss: 0.0,
                duplication: 0.0,
            },
            policy: BreakerPolicy::default(),
            overloads: false,
            slow: None,
        }
    }
}

/// How likely a request of this agent fails at this time, 0 to 1.
pub type Fault = Box<dyn Fn(usize, Micros) -> f64>;

pub enum Event {
    Arrive,
    Outcome {
        agent: usize,
        life: u64,
        failed: bool,
        trial: Option<String>,
    },
    AgentTick(usize),
    AtReplica {
        replica: usize,
        agent: usize,
        message: ToReplica,
    },
    AtAgent {
        agent: usize,
        message: ToAgent,
    },
    ReplicaTick {
        replica: usize,
        life: u64,
    },
    /// The store tells replicas that something changed.
    Hint {
        replica: usize,
    },
    Commit {
        replica: usize,
        life: u64,
        proposal: Box<replica::Proposal>,
    },
    Chaos(chaos::Chaos),
}

/// Earliest first, then in the order of scheduling.
struct Scheduled {
    order: Reverse<(Micros, u64)>,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

#[derive(Clone)]
pub enum ToReplica {
    Report(Report),
    Trial(String, TrialOutcome),
}

#[derive(Clone)]
pub enum ToAgent {
    Decision(Box<Breaker>),
    /// For one life of the agent: a stream does not outlive either end.
    Grant(TrialLease, u64),
    /// What did you see?
    ReportNow,
}

/// What is shared by the replicas.
pub struct Store {
    pub up: bool,
    pub breaker: Breaker,
    pub registers: BTreeMap<usize, (Timestamp, FleetView)>,
    /// Beside the registers: what the throttle and the ramp refused.
    pub metered: BTreeMap<usize, Window>,
    /// Everything ever committed, with what happened.
    pub history: Vec<(Timestamp, Breaker, Vec<Happening>)>,
}

pub struct World {
    pub setup: Setup,
    pub now: Micros,
    pub rng: Rng,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    pub agents: Vec<Agent>,
    pub replicas: Vec<Replica>,
    pub store: Store,
    pub fault: Fault,
    /// Requests that reached the backend: when, and from whom.
    pub reached: Vec<(Micros, usize)>,
    /// Trials that the backend is serving now, by lease.
    pub trials_in_flight: Vec<String>,
    pub most_trials_in_flight: usize,
}

impl World {
    pub fn new(setup: Setup, fault: Fault) -> Self {
        let mut rng = Rng::new(setup.seed);
        let agents: Vec<Agent> = (0..setup.weights.len())
            .map(|i| Agent::new(i, i % setup.pops, i % setup.replicas))
            .collect();
        let replicas = (0..setup.replicas).map(Replica::new).collect();
        let store = Store {
            up: true,
            breaker: Breaker::new(1, Timestamp::default()),
            registers: BTreeMap::new(),
            metered: BTreeMap::new(),
            history: Vec::new(),
        };
        let ticks: Vec<Micros> = agents.iter().map(|_| rng.between(0, 20_000)).collect();
        let mut world = Self {
            now: 0,
            rng,
            queue: BinaryHeap::new(),
            scheduled: 0,
            agents,
            replicas,
            store,
            fault,
            reached: Vec::new(),
            trials_in_flight: Vec::new(),
            most_trials_in_flight: 0,
            setup,
        };
        for (agent, at) in ticks.into_iter().enumerate() {
            world.after(at, Event::AgentTick(agent));
        }
        for replica in 0..world.replicas.len() {
            world.after(0, Event::ReplicaTick { replica, life: 0 });
        }
        world.after(0, Event::Arrive);
        world
    }

    pub fn time(&self) -> Timestamp {
        Timestamp::from_millis(self.now / 1000)
    }

    pub fn after(&mut self, delay: Micros, event: Event) {
        self.scheduled += 1;
        self.queue.push(Scheduled {
            order: Reverse((self.now + delay, self.scheduled)),
            event,
        });
    }

    /// Sends over the network: late, perhaps twice, perhaps never.
    pub fn send(&mut self, event: impl Fn() -> Event) {
        let Network {
            delay_ms: (low, high),
            loss,
            duplication,
        } = self.setup.network;
        let copies = 1 + u32::from(self.rng.chance(duplication));
        for _ in 0..copies {
            if !self.rng.chance(loss) {
                let delay = self.rng.between(ms(low), ms(high));
                self.after(delay, event());
            }
        }
    }

    pub fn run_until(&mut self, end: Micros) {
        self.run_while(end, |_| true);
    }

    /// Runs until `end` or until `go_on` says no after an event.
    pub fn run_while(&mut self, end: Micros, go_on: impl Fn(&Self) -> bool) {
        while let Some(next) = self.queue.pop() {
            let Reverse((at, _)) = next.order;
            if at > end {
                self.queue.push(next);
                break;
            }
            self.now = at;
            self.handle(next.event);
            if !go_on(self) {
                return;
            }
        }
        self.now = end;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive => {
                let gap = self.rng.exponential(1e6 / self.setup.rate);
                self.after(gap as Micros, Event::Arrive);
                let agent = self.rng.weighted(&self.setup.weights);
                self.request(agent);
            }
            Event::Outcome {
                agent,
                life,
                failed,
                trial,
            } => self.outcome(agent, life, failed, trial),
            Event::AgentTick(agent) => {
                self.after(ms(20), Event::AgentTick(agent));
                self.return_lease_if_late(agent);
                self.report_if_due(agent);
            }
            Event::AtReplica {
                replica,
                agent,
                message,
            } => self.at_replica(replica, agent, message),
            Event::AtAgent { agent, message } => self.at_agent(agent, message),
            Event::ReplicaTick { replica, life } => self.replica_tick(replica, life),
            Event::Hint { replica } => self.sync_soon(replica),
            Event::Commit {
                replica,
                life,
                proposal,
            } => self.commit(replica, life, *proposal),
            Event::Chaos(chaos) => self.chaos(chaos),
        }
    }

    /// Every living agent refuses.
    pub fn all_refuse(&self) -> bool {
        let now = self.time();
        self.agents
            .iter()
            .filter(|a| a.up)
            .all(|a| a.admission(&self.setup.policy, now) == 0.0)
    }

    /// What the replicas' living registers say together.
    pub fn view(&self) -> FleetView {
        let mut view = FleetView::default();
        for (written, register) in self.store.registers.values() {
            if self.time().since(*written) < replica::REGISTER_LIFE {
                view.merge(register);
            }
        }
        view
    }

    /// Transitions so far, as (POP, from, to).
    pub fn transitions(&self) -> Vec<&Happening> {
        self.store
            .history
            .iter()
            .flat_map(|(_, _, happenings)| happenings)
            .filter(|h| matches!(h, Happening::Transition { .. }))
            .collect()
    }
}

pub fn agent_id(agent: usize) -> AgentId {
    AgentId::new(&format!("agent-{agent:03}")).expect("a valid name")
}

pub fn pop_id(pop: usize) -> PopId {
    PopId::new(&format!("pop-{pop}")).expect("a valid name")
}
