//! One look at one backend: trials that ended, evidence, trials to grant.

use std::time::Duration;

use breaker_core::{
    Breaker, BreakerPolicy, Circuit, Timestamp, Verdict,
    breaker::{Happening, Input, StateName},
    vantage::judge,
};

use super::{CALM, Coordinator, HOT, SPACING, policy};
use crate::{
    board::{self, Seen},
    budget,
    clock::jitter,
    commit::{ATTEMPTS, Attempt, Known},
    config::Fleet,
    drills, events,
    store::{About, BackendState, ReplicaView, StoreError},
};

impl Coordinator {
    /// Decides about one backend; returns when to look again.
    pub(super) async fn decide(
        &mut self,
        state: BackendState,
        fleet: &Fleet,
    ) -> Result<Duration, StoreError> {
        let policy = policy(fleet, &state.name);
        let figures = self.figures(&state);
        self.judge_endpoints(&state, fleet, &figures).await;
        let mut known = Known::of(state);
        known.publish(&self.plane, policy);
        self.undo_drill(&mut known, policy).await?;
        self.end_trials(&mut known, policy, &figures).await?;
        let (verdict, wake_at) = self.tick(&mut known, policy, &figures).await?;
        self.stand_in(&mut known, policy, fleet, &figures).await?;
        self.grant_trials(&mut known, policy).await?;
        let now = self.plane.clock.now();
        let memory = self.memory.entry(known.name.clone()).or_default();
        memory.learn(&known.breaker, &verdict.evidence, now);
        self.tell_suspects(&known, &verdict, now).await;
        let (plane, name) = (&self.plane, &known.name);
        plane.candidates.look(plane, &known.breaker, name, &figures);
        let next = self.next_look(&known.breaker, &verdict, wake_at);
        self.plane.board.show(
            &known.name,
            Seen {
                breaker: known.breaker,
                last_transition: known.last_transition,
                evidence: Some(verdict.evidence),
                figures,
                wake_at,
            },
        );
        Ok(next)
    }

    /// Closes what a drill opened, once it is over, so that traffic returns.
    async fn undo_drill(
        &mut self,
        known: &mut Known,
        policy: &BreakerPolicy,
    ) -> Result<(), StoreError> {
        let service = self.plane.board.services.get(known.name.service());
        let drill = service.as_ref().and_then(|s| s.steering.drill.as_ref());
        let Some(drill) = drill.filter(|drill| drill.backend == known.name) else {
            return Ok(());
        };
        // Lost: another replica may have closed it.
        for _ in 0..ATTEMPTS {
            let now = self.plane.clock.now();
            if !drills::left_behind(drill, &known.breaker, now) {
                break;
            }
            known
                .attempt(&self.plane, policy, Input::Reset, now)
                .await?;
        }
        Ok(())
    }

    /// All replicas' views. Who reports is counted over all of them already.
    fn figures(&self, state: &BackendState) -> ReplicaView {
        let own = self.memory.get(&state.name).and_then(|m| m.view.clone());
        let others = state.others.iter().map(|(_, view)| view.clone());
        let mut figures = board::merge(own.into_iter().chain(others));
        let (known, reporting) = self.plane.peers.coverage(self.plane.clock.now());
        figures.fleet.agents_known = known;
        figures.fleet.agents_reporting = reporting;
        figures
    }

    async fn tick(
        &mut self,
        known: &mut Known,
        policy: &BreakerPolicy,
        figures: &ReplicaView,
    ) -> Result<(Verdict, Option<Timestamp>), StoreError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let now = self.plane.clock.now();
            let since = known.breaker.evidence_since();
            let verdict = judge(&figures.fleet, policy, since, now);
            let load = board::load(figures, &verdict.evidence.suspects, since, now);
            let input = Input::Tick {
                verdict: &verdict,
                retry_after: figures.max_retry_after,
                jitter: jitter(),
                may_open: budget::may_open(&self.plane.board, &known.name, now),
                load: Some(&load),
            };
            match known.attempt(&self.plane, policy, input, now).await? {
                Attempt::Unchanged(step) => {
                    self.tell_shadow(known, &step.happenings, now).await;
                    return Ok((verdict, step.wake_at));
                }
                Attempt::Done(step) => return Ok((verdict, step.wake_at)),
                // The next look goes on from what the other replica decided.
                Attempt::Lost if attempt == ATTEMPTS => return Ok((verdict, Some(now))),
                Attempt::Lost => {}
            }
        }
    }

    fn next_look(
        &self,
        breaker: &Breaker,
        verdict: &Verdict,
        wake_at: Option<Timestamp>,
    ) -> Duration {
        let counts = verdict.recent;
        let trouble = counts.failures + counts.overloads + counts.slow > 0
            || verdict.evidence.overall.nats > 0.0;
        let calm = breaker
            .circuits()
            .all(|(_, c)| matches!(c, Circuit::Closed { ramp: None, .. }));
        let metered = breaker.throttle.is_some();
        let regular = if calm && !trouble && !metered {
            CALM
        } else {
            HOT
        };
        let wake = wake_at.map_or(regular, |at| self.until(at) + Duration::from_millis(1));
        regular.min(wake).max(SPACING)
    }

    /// A trip that is held back is no change, so it comes with no commit.
    async fn tell_shadow(&mut self, known: &Known, happenings: &[Happening], now: Timestamp) {
        let memory = self.memory.entry(known.name.clone()).or_default();
        if happenings.is_empty() || !memory.shadowed(now) {
            return;
        }
        let (news, _) = events::of_step(&self.plane, &known.name, &known.breaker, happenings, None);
        events::tell(&self.plane, &known.name, known.breaker.version, happenings);
        let append = self
            .plane
            .store
            .append(About::Backend(known.name.clone()), news);
        // Lost with the store; the log has it.
        let _ = self.plane.ask("append", append).await;
    }

    /// Says whose failures nobody confirms, while others could: what comes in
    /// after the fleet stopped sending are stragglers.
    async fn tell_suspects(&mut self, known: &Known, verdict: &Verdict, now: Timestamp) {
        if known.breaker.fleet.state() != StateName::Closed {
            return;
        }
        let memory = self.memory.entry(known.name.clone()).or_default();
        let new = memory.new_suspects(&verdict.evidence, now);
        if new.is_empty() {
            return;
        }
        for suspect in &new {
            tracing::warn!(
                backend = %known.name, agent = %suspect.agent, pop = %suspect.pop,
                bad = suspect.score.bad, requests = suspect.score.requests,
                "an agent sees failures that nobody else confirms"
            );
        }
        let news = new
            .iter()
            .map(|s| events::of_suspect(&self.plane, &known.name, s))
            .collect();
        let append = self
            .plane
            .store
            .append(About::Backend(known.name.clone()), news);
        // Lost with the store; the log has it.
        let _ = self.plane.ask("append", append).await;
    }
}
