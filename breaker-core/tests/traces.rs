//! Stories of one backend in text files, each line with what it led to.
//!
//! `> TIME COMMAND…` lines are run, what they print stands below them. To write
//! the printed lines anew, and then read them: `UPDATE_TRACES=1 cargo test -p
//! breaker-core --test traces`.

#![allow(clippy::unwrap_used)] // A test may panic.

mod tell;

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, time::Duration};

use breaker_core::{
    AgentId, Baseline, Breaker, BreakerPolicy, Counts, FleetView, Mode, PopId, PopView, Timestamp,
    TrialLease, Window,
    breaker::{Input, Override, TrialCandidate, TrialOutcome, choose_trial},
    vantage::judge,
};

#[test]
fn every_trace_reads_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let mut traces = 0;
    for entry in fs::read_dir(folder).unwrap() {
        check(&entry.unwrap().path());
        traces += 1;
    }
    assert!(traces >= 8, "only {traces} traces found");
}

fn check(path: &Path) {
    let written = fs::read_to_string(path).unwrap();
    let mut world = World::default();
    let mut told = String::new();
    for line in written.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            writeln!(told, "{line}").unwrap();
            let printed = world.run(command);
            printed
                .lines()
                .for_each(|line| writeln!(told, "{line}").unwrap());
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(told, "{line}").unwrap();
        }
    }
    if std::env::var_os("UPDATE_TRACES").is_some() {
        fs::write(path, told).unwrap();
    } else {
        assert_eq!(told, written, "{} tells another story", path.display());
    }
}

struct World {
    policy: BreakerPolicy,
    breaker: Breaker,
    windows: BTreeMap<(PopId, AgentId), Window>,
    baseline: Baseline,
    coverage: f64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            policy: BreakerPolicy::default(),
            breaker: Breaker::new(1, Timestamp::default()),
            windows: BTreeMap::new(),
            // Learned: nothing failed in calm times.
            baseline: Baseline {
                requests: 1000,
                ..Baseline::default()
            },
            coverage: 1.0,
        }
    }
}

impl World {
    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let now = Timestamp::default() + span(words[0]);
        let options: BTreeMap<&str, &str> =
            words.iter().filter_map(|w| w.split_once('=')).collect();
        match words[1] {
            "policy" => options.iter().for_each(|(key, value)| self.set(key, value)),
            "see" => self.see(words[2], &options, now),
            "coverage" => self.coverage = words[2].parse().unwrap(),
            "explain" => {
                let verdict = self.verdict(now);
                return tell::breaker(&self.breaker, &verdict, &self.policy, now);
            }
            "trial" => return self.end_trial(words[2], words[3], &options, now),
            "grant" => return self.grant(words[2], words[3], now),
            "override" => return self.set_override(&words[2..], now),
            "tick" => return self.tick(&options, words.contains(&"limited"), now),
            other => panic!("unknown command {other:?} in {line:?}"),
        }
        String::new()
    }

    fn set(&mut self, key: &str, value: &str) {
        let policy = &mut self.policy;
        match key {
            "open_duration" => policy.open_duration = span(value),
            "max_open_duration" => policy.max_open_duration = span(value),
            "ramp_duration" => policy.ramp_duration = span(value),
            "trial_timeout" => policy.trial_timeout = span(value),
            "slow_call_duration" => policy.slow_call_duration = Some(span(value)),
            "half_open_max_trials" => policy.half_open_max_trials = value.parse().unwrap(),
            "half_open_successes" => policy.half_open_successes = value.parse().unwrap(),
            "mode" => policy.mode = mode(value),
            _ => panic!("unknown setting {key:?}"),
        }
    }

    fn see(&mut self, agent: &str, options: &BTreeMap<&str, &str>, now: Timestamp) {
        let count = |key: &str| options.get(key).map_or(0, |n| n.parse::<u64>().unwrap());
        let counts = Counts {
            requests: count("ok") + count("failed") + count("overloaded") + count("slow"),
            failures: count("failed"),
            overloads: count("overloaded"),
            slow: count("slow"),
        };
        self.windows
            .entry(named(agent))
            .or_default()
            .record(now, counts);
    }

    fn verdict(&mut self, now: Timestamp) -> breaker_core::Verdict {
        let since = self.breaker.evidence_since();
        let mut by_pop: BTreeMap<&PopId, Vec<(&AgentId, &Window)>> = BTreeMap::new();
        for window in self.windows.values_mut() {
            window.compact(now, self.policy.window);
        }
        for ((pop, agent), window) in &self.windows {
            by_pop.entry(pop).or_default().push((agent, window));
        }
        let view = FleetView {
            pops: by_pop
                .into_iter()
                .map(|(pop, agents)| {
                    PopView::of_agents(
                        pop.clone(),
                        agents.into_iter(),
                        &self.policy,
                        self.baseline,
                        since,
                    )
                })
                .collect(),
            baseline: self.baseline,
            agents_known: 100,
            agents_reporting: (self.coverage * 100.0) as u32,
        };
        judge(&view, &self.policy, since, now)
    }

    fn tick(&mut self, options: &BTreeMap<&str, &str>, limited: bool, now: Timestamp) -> String {
        let verdict = self.verdict(now);
        let input = Input::Tick {
            verdict: &verdict,
            retry_after: options.get("retry_after").map(|s| span(s)),
            jitter: options.get("jitter").map_or(0.5, |j| j.parse().unwrap()),
            may_open: !limited,
            load: None,
        };
        self.step(input, now)
    }

    /// Grants to `POP/AGENT`, or to whom `choose_trial` picks of a comma list.
    fn grant(&mut self, agents: &str, id: &str, now: Timestamp) -> String {
        let candidates: Vec<TrialCandidate> = agents
            .split(',')
            .map(named)
            .map(|(pop, agent)| TrialCandidate {
                agent,
                pop,
                demand: 1.0,
                idempotent: 1.0,
            })
            .collect();
        let wanted = self.breaker.wants_trial(&self.policy, now);
        let chosen = wanted.into_iter().find_map(|pop| {
            choose_trial(&self.breaker, pop.as_ref(), &candidates).map(|chosen| (pop, chosen))
        });
        let Some((pop, chosen)) = chosen else {
            return "no trial to give".to_owned();
        };
        let lease = TrialLease {
            id: id.to_owned(),
            agent: chosen.agent.clone(),
            pop: chosen.pop.clone(),
            expires: now + self.policy.trial_timeout,
        };
        self.step(Input::Grant { pop, lease }, now)
    }

    fn end_trial(
        &mut self,
        lease: &str,
        outcome: &str,
        options: &BTreeMap<&str, &str>,
        now: Timestamp,
    ) -> String {
        let outcome = match outcome {
            "succeeded" => TrialOutcome::Succeeded,
            "failed" => TrialOutcome::Failed,
            "returned" => TrialOutcome::Returned,
            other => panic!("unknown outcome {other:?}"),
        };
        let retry_after = options.get("retry_after").map(|s| span(s));
        self.step(
            Input::Trial {
                lease,
                outcome,
                retry_after,
                jitter: 0.5,
            },
            now,
        )
    }

    fn set_override(&mut self, words: &[&str], now: Timestamp) -> String {
        let over = match words {
            ["clear"] => None,
            [name, length] => Some(Override {
                mode: mode(name),
                actor: "alice".to_owned(),
                reason: "maintenance".to_owned(),
                created: now,
                expires: now + span(length),
            }),
            _ => panic!("override MODE LENGTH, or override clear"),
        };
        self.step(Input::Override(over), now)
    }

    fn step(&mut self, input: Input<'_>, now: Timestamp) -> String {
        let step = self.breaker.step(input, &self.policy, now);
        let mut told = String::new();
        for happening in &step.happenings {
            writeln!(told, "* {}", tell::happening(happening, now)).unwrap();
        }
        let Some(next) = step.next else {
            return if told.is_empty() {
                "nothing changes".to_owned()
            } else {
                told.trim_end().to_owned()
            };
        };
        assert!(next.version > self.breaker.version, "{next:?}");
        self.breaker = next;
        let fleet = tell::circuit(&self.breaker.fleet, &self.policy, now);
        write!(
            told,
            "= revision {}: {fleet}",
            self.breaker.version.revision
        )
        .unwrap();
        for (pop, circuit) in &self.breaker.pops {
            write!(
                told,
                "; {pop} {}",
                tell::circuit(circuit, &self.policy, now)
            )
            .unwrap();
        }
        if let Some(at) = step.wake_at {
            write!(told, "; look again at {at}").unwrap();
        }
        told
    }
}

fn named(agent: &str) -> (PopId, AgentId) {
    let (pop, agent) = agent.split_once('/').expect("POP/AGENT");
    (PopId::new(pop).unwrap(), AgentId::new(agent).unwrap())
}

fn span(text: &str) -> Duration {
    match text.strip_suffix("ms") {
        Some(ms) => Duration::from_millis(ms.parse().unwrap()),
        None => Duration::from_secs_f64(text.strip_suffix('s').expect("ms or s").parse().unwrap()),
    }
}

fn mode(name: &str) -> Mode {
    match name {
        "ENFORCE" => Mode::Enforce,
        "SHADOW" => Mode::Shadow,
        "FORCED_OPEN" => Mode::ForcedOpen,
        "FORCED_CLOSED" => Mode::ForcedClosed,
        "DISABLED" => Mode::Disabled,
        other => panic!("unknown mode {other:?}"),
    }
}
