//! Plans that come into force.

use super::{FailoverMode, Observed, Steered, step::Stepping};
use crate::plan::{self, Bounds, Change, Plan, PlanInput, work_out};

impl Stepping<'_> {
    pub(super) fn plan(&mut self, seen: &Observed) {
        let input = self.input(seen);
        match self.settings.mode {
            FailoverMode::Automatic => self.plan_automatically(&input),
            FailoverMode::Manual => self.plan_manually(&input),
        }
        let ramps = input
            .regions
            .values()
            .any(|region| region.takes() && region.admission < 1.0);
        if ramps {
            self.wake_at(self.now + plan::DWELL);
        }
    }

    fn input(&self, seen: &Observed) -> PlanInput {
        let mut regions = seen.regions.clone();
        for (name, region) in &mut regions {
            region.configured = region.capacity.is_some();
            region.capacity = region
                .capacity
                .or_else(|| self.next.learned.get(name).copied());
            region.drained = self.next.drains.contains_key(name);
        }
        PlanInput {
            regions,
            origins: seen.demand.clone(),
            target_utilization: self.settings.target_utilization,
            failback_per_second: self.settings.failback_per_second,
        }
    }

    fn plan_automatically(&mut self, input: &PlanInput) {
        if self.next.proposed.take().is_some() {
            self.changed();
        }
        let current = self.next.plan.as_ref();
        let bounds = Bounds {
            held: current,
            back: current,
            at_once: self.next.rehearsed(self.now),
            within: None,
        };
        let planned = work_out(input, bounds, self.now);
        if planned.held_back {
            self.wake_for_failback();
        }
        self.offer(planned.plan);
    }

    /// The plan in force is the earliest that the next part may follow.
    pub(super) fn wake_for_failback(&mut self) {
        let interval = plan::back_interval(self.settings.failback_per_second);
        let made = self.next.plan.as_ref().map(|plan| plan.created);
        let due = made.map_or(self.now, |made| made + interval);
        let due = if due > self.now {
            due
        } else {
            self.now + interval
        };
        self.wake_at(due);
    }

    /// Puts a plan in force if it differs enough from the one that is.
    pub(super) fn offer(&mut self, plan: Plan) {
        let Some(current) = &self.next.plan else {
            if !plan.origins.is_empty() {
                self.put(plan, false);
            }
            return;
        };
        let due = current.created + plan::DWELL;
        match current.change(&plan, self.settings.target_utilization) {
            Change::None => {}
            Change::Headroom | Change::Gradual if self.now < due => self.wake_at(due),
            Change::Headroom | Change::Gradual | Change::Urgent => self.put(plan, false),
        }
    }

    /// Puts a plan in force, and tells of it.
    pub(super) fn put(&mut self, plan: Plan, approved: bool) {
        let old = self.next.plan.replace(plan.clone());
        self.changed();
        let news = match &old {
            None => !plan.all_home(),
            Some(old) => old.worth_telling(&plan),
        };
        let (shed, demand) = (plan.shed, plan.demand());
        let (sheds, shed_before) = (plan.sheds(), old.as_ref().is_some_and(Plan::sheds));
        if approved {
            self.happened(Steered::PlanApproved(plan));
        } else if news {
            let moved = old.map_or(0.0, |old| old.moved(&plan));
            self.happened(Steered::PlanChanged { plan, moved });
        }
        match (shed_before, sheds) {
            (false, true) => self.happened(Steered::ShedStarted { shed, demand }),
            (true, false) => self.happened(Steered::ShedEnded),
            _ => {}
        }
    }
}
