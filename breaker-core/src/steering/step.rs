//! How a service's record moves: one pure step for each input.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Drain, Drill, DrillState, Observed, Steered, Steering, SteeringInput, SteeringSettings,
    SteeringStep, drill,
};
use crate::{ids::RegionName, plan, shed::ByPriority, time::Timestamp};

/// While a drill runs, its guard looks this often: it must end a drill within a
/// second.
const DRILL_LOOK: Duration = Duration::from_millis(100);

/// For so long after a drill, traffic moves back to its region at once: enough
/// for a replica to close the breaker, also if the one that ended the drill died.
const AFTER_DRILL: Duration = Duration::from_secs(10);

/// A learned capacity is taken over when it grew by this factor.
const LEARNED_MORE: f64 = 1.05;

/// Or when it shrank by this one: replicas whose figures differ a little must
/// not overwrite each other.
const LEARNED_LESS: f64 = 0.8;

impl Steering {
    /// Takes one step. Pure: the caller commits `next`, or drops it.
    pub fn step(
        &self,
        input: SteeringInput<'_>,
        settings: &SteeringSettings,
        now: Timestamp,
    ) -> SteeringStep {
        let mut stepping = Stepping {
            next: self.clone(),
            settings,
            now,
            changed: false,
            happenings: Vec::new(),
            deadlines: Vec::new(),
        };
        stepping.expire_drains();
        match input {
            SteeringInput::Tick(seen) => stepping.tick(seen),
            SteeringInput::Drain(region, drain) => stepping.drain(region, drain),
            SteeringInput::Approve => stepping.approve(),
            SteeringInput::StartDrill(drill) => stepping.start_drill(*drill),
            SteeringInput::EndDrill(state, seen) => stepping.end_drill(state, seen),
        }
        stepping.finish()
    }

    /// The region of a drill that ended a moment ago. It was never ill, so what a
    /// failback is slow for does not apply.
    pub(super) fn rehearsed(&self, now: Timestamp) -> Option<&str> {
        let ended = |drill: &&Drill| {
            drill.state != DrillState::Running && now.since(drill.ends) < AFTER_DRILL
        };
        let drill = self.drill.as_ref().filter(ended)?;
        Some(drill.backend.region())
    }

    /// The drill, if one runs.
    pub fn running_drill(&self) -> Option<&Drill> {
        let running = |drill: &&Drill| drill.state == DrillState::Running;
        self.drill.as_ref().filter(running)
    }
}

/// A step in the making.
pub(super) struct Stepping<'a> {
    pub(super) next: Steering,
    pub(super) settings: &'a SteeringSettings,
    pub(super) now: Timestamp,
    changed: bool,
    happenings: Vec<Steered>,
    deadlines: Vec<Timestamp>,
}

impl Stepping<'_> {
    fn tick(&mut self, seen: &Observed) {
        self.learn(&seen.learned, seen);
        self.follow_mix(seen);
        self.plan(seen);
        if let Some(observation) = &seen.drill {
            self.judge_drill(observation);
        }
    }

    fn finish(mut self) -> SteeringStep {
        let expiries = self.next.drains.values().map(|drain| drain.expires);
        let drill = self.next.running_drill();
        let look = drill.map(|drill| drill.ends.min(self.now + DRILL_LOOK));
        let deadlines = expiries.chain(look).chain(self.deadlines);
        let wake_at = deadlines.filter(|at| *at > self.now).min();
        self.next.version.revision += 1;
        SteeringStep {
            next: self.changed.then_some(self.next),
            happenings: self.happenings,
            wake_at,
        }
    }

    pub(super) fn happened(&mut self, happening: Steered) {
        self.changed = true;
        self.happenings.push(happening);
    }

    pub(super) const fn changed(&mut self) {
        self.changed = true;
    }

    pub(super) fn wake_at(&mut self, at: Timestamp) {
        self.deadlines.push(at);
    }

    fn expire_drains(&mut self) {
        let now = self.now;
        let drains = &mut self.next.drains;
        let ended: Vec<_> = drains
            .extract_if(.., |_, drain| drain.expires <= now)
            .collect();
        for (region, drain) in ended {
            self.happened(Steered::DrainEnded(region, drain, true));
        }
    }

    fn drain(&mut self, region: RegionName, drain: Option<Drain>) {
        match drain {
            Some(drain) if drain.expires <= self.now => {}
            Some(drain) => {
                self.next.drains.insert(region.clone(), drain.clone());
                self.happened(Steered::DrainSet(region, drain));
            }
            None => {
                if let Some(drain) = self.next.drains.remove(&region) {
                    self.happened(Steered::DrainEnded(region, drain, false));
                }
            }
        }
    }

    /// Takes over learned capacities, and forgets regions that are gone.
    fn learn(&mut self, learned: &BTreeMap<RegionName, f64>, seen: &Observed) {
        let before = self.next.learned.clone();
        let known = &mut self.next.learned;
        known.retain(|region, _| seen.regions.contains_key(region));
        for (region, capacity) in learned {
            if !seen.regions.contains_key(region) {
                continue;
            }
            let known = known.entry(region.clone()).or_default();
            if *capacity > *known * LEARNED_MORE || *capacity < *known * LEARNED_LESS {
                *known = *capacity;
            }
        }
        if self.next.learned != before {
            self.changed();
        }
    }

    fn follow_mix(&mut self, seen: &Observed) {
        let demand = seen
            .demand
            .values()
            .fold(ByPriority::default(), |sum, demand| sum + *demand);
        let sheds = self.next.plan.as_ref().is_some_and(|plan| plan.shed > 0.0);
        let mix = plan::followed(self.next.mix, demand, sheds);
        if mix != self.next.mix {
            self.next.mix = mix;
            self.changed();
        }
    }

    fn start_drill(&mut self, drill: Drill) {
        let fits = drill.state == DrillState::Running && drill.ends > self.now;
        if !fits || self.next.running_drill().is_some() {
            return;
        }
        self.next.drill = Some(drill.clone());
        self.happened(Steered::DrillStarted(Box::new(drill)));
    }

    fn end_drill(&mut self, state: DrillState, seen: &super::DrillObservation) {
        if let Some(drill) = self.next.running_drill() {
            let report = drill.report_with(seen, self.next.plan.as_ref(), self.now);
            let drill = Drill {
                report,
                ..drill.clone()
            };
            self.put_drill(drill::ended(drill, state, self.now));
        }
    }

    fn judge_drill(&mut self, seen: &super::DrillObservation) {
        let Some(drill) = self.next.running_drill() else {
            return;
        };
        let judged = drill::judge(drill, seen, self.next.plan.as_ref(), self.now);
        if let Some(judged) = judged {
            self.put_drill(judged);
        }
    }

    fn put_drill(&mut self, drill: Drill) {
        self.next.drill = Some(drill.clone());
        match drill.state {
            DrillState::Running => self.changed(),
            _ => self.happened(Steered::DrillEnded(Box::new(drill))),
        }
    }
}
