//! Failover mode `manual`: what an operator has to approve.

use std::collections::BTreeMap;

use super::{FailoverMode, Steered, step::Stepping};
use crate::{
    ids::RegionName,
    plan::{self, Bounds, Change, OriginPlan, Plan, PlanInput, RegionOrder, work_out},
};

/// A share of its demand that an origin does not use a region for.
const UNUSED: f64 = 1e-6;

/// Share that an origin keeps of a region without room for it while it is shed:
/// it uses that region all the same, and may come back.
const FOOTHOLD: f64 = 2.0 * UNUSED;

/// Share of an origin's demand for which another region is worth asking for.
const WORTH_ASKING: f64 = 0.01;

type Within = BTreeMap<RegionOrder, Vec<bool>>;

impl Stepping<'_> {
    pub(super) fn plan_manually(&mut self, input: &PlanInput) {
        let used = within(self.next.plan.as_ref(), input);
        let current = self.next.plan.as_ref();
        let bounds = Bounds {
            held: current,
            back: current,
            at_once: self.next.rehearsed(self.now),
            within: Some(&used),
        };
        let mut planned = work_out(input, bounds, self.now);
        if planned.held_back {
            self.wake_for_failback();
        }
        stay(&mut planned.plan, self.next.plan.as_ref(), &used);
        self.offer(planned.plan);
        self.propose(input);
    }

    /// Proposes what would be in force in mode `automatic`, and in time, if that
    /// needs regions that the plan in force does not use.
    fn propose(&mut self, input: &PlanInput) {
        let bounds = Bounds {
            held: self.next.proposed.as_ref().or(self.next.plan.as_ref()),
            back: None,
            at_once: None,
            within: None,
        };
        let wanted = work_out(input, bounds, self.now).plan;
        let used = within(self.next.plan.as_ref(), input);
        if !needs_more(&wanted, &used) {
            if self.next.proposed.take().is_some() {
                self.changed();
            }
            return;
        }
        let new = self.next.proposed.as_ref().is_none_or(|proposed| {
            proposed.change(&wanted, self.settings.target_utilization) > Change::Headroom
                && self.now >= proposed.created + plan::DWELL
        });
        if new {
            let tell = self
                .next
                .proposed
                .as_ref()
                .is_none_or(|proposed| proposed.worth_telling(&wanted));
            self.next.proposed = Some(wanted.clone());
            self.changed();
            if tell {
                self.happened(Steered::PlanProposed(wanted));
            }
        }
    }

    pub(super) fn approve(&mut self) {
        let manual = self.settings.mode == FailoverMode::Manual;
        let Some(mut plan) = self.next.proposed.take_if(|_| manual) else {
            return;
        };
        let part = plan::back_part(
            self.settings.failback_per_second,
            plan::back_interval(self.settings.failback_per_second),
        );
        if let Some(current) = &self.next.plan {
            begin(&mut plan, current, part);
        }
        seal(&mut plan);
        plan.created = self.now;
        self.put(plan, true);
    }
}

/// Regions that each origin may use without asking: those that it uses, and its
/// first one before it uses any. All, if those are drained.
fn within(current: Option<&Plan>, input: &PlanInput) -> Within {
    let drained = |name: &RegionName| input.regions.get(name).is_some_and(|r| r.drained);
    let of = |order: &RegionOrder| {
        let current = current.and_then(|plan| plan.origins.get(order));
        let shares = current.map_or(&[][..], |origin| &origin.shares);
        let used: Vec<bool> = match shares.iter().any(|s| *s > UNUSED) {
            true => shares.iter().map(|s| *s > UNUSED).collect(),
            false => order.iter().enumerate().map(|(at, _)| at == 0).collect(),
        };
        let mut regions = order.iter().zip(&used).filter(|(_, used)| **used);
        match regions.all(|(name, _)| drained(name)) {
            true => vec![true; order.len()],
            false => used,
        }
    };
    let orders = input.origins.keys();
    orders.map(|order| (order.clone(), of(order))).collect()
}

/// An origin whose regions take nothing keeps them: they refuse it themselves,
/// and say why. One that is shed keeps a foothold in those that are full.
fn stay(plan: &mut Plan, current: Option<&Plan>, used: &Within) {
    let regions = &plan.regions;
    for (order, origin) in &mut plan.origins {
        let used = order.iter().zip(used.get(order).into_iter().flatten());
        let takes = |(name, used): (_, &bool)| {
            *used && regions.get(name).is_some_and(plan::RegionFigures::takes)
        };
        let takes: Vec<bool> = used.map(takes).collect();
        if takes.contains(&true) {
            let shed = 1.0 - origin.shares.iter().sum::<f64>();
            if shed > FOOTHOLD * takes.len() as f64 {
                let shares = origin.shares.iter_mut().zip(&takes);
                shares
                    .filter(|(_, takes)| **takes)
                    .for_each(|(share, _)| *share = share.max(FOOTHOLD));
            }
            continue;
        }
        match current.and_then(|current| current.origins.get(order)) {
            Some(current) => origin.shares.clone_from(&current.shares),
            None => {
                if let Some(home) = origin.shares.first_mut() {
                    *home = 1.0;
                }
            }
        }
    }
    seal(plan);
}

/// Without headrooms nothing moves by itself, not even for a moment.
fn seal(plan: &mut Plan) {
    for origin in plan.origins.values_mut() {
        origin.headrooms.fill(0.0);
    }
    plan.recount();
}

fn needs_more(wanted: &Plan, used: &Within) -> bool {
    wanted.origins.iter().any(|(order, origin)| {
        let used = used.get(order).into_iter().flatten();
        let mut pairs = origin.shares.iter().zip(used);
        origin.demand > 0.0 && pairs.any(|(share, used)| *share >= WORTH_ASKING && !used)
    })
}

/// Makes an approved plan the first part of its own failback: origins that only
/// move back from regions that still take them begin with `part` of their demand.
fn begin(plan: &mut Plan, current: &Plan, part: f64) {
    let regions = &plan.regions;
    for (order, origin) in &mut plan.origins {
        let Some(current) = current.origins.get(order) else {
            continue;
        };
        let lives = |(name, share): (_, &f64)| {
            *share <= UNUSED || regions.get(name).is_some_and(plan::RegionFigures::takes)
        };
        let back = OriginPlan::outward(origin, current);
        if current.outward(origin) > UNUSED
            || back <= part
            || !order.iter().zip(&current.shares).all(lives)
        {
            continue;
        }
        for (share, old) in origin.shares.iter_mut().zip(&current.shares) {
            *share = old + (*share - old) * part / back;
        }
    }
}
