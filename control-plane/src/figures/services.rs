//! What callers of each service wanted and got, as this replica's agents saw it.
//!
//! Demand decides where traffic goes, so it must be smooth: an agent that reports
//! once a second would otherwise double and vanish with each report that falls in
//! or out of the span. So a report counts as spread evenly over the time that it
//! covers, and an agent's rate is taken up to its last report, not up to now.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::AddAssign,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use breaker_core::{AgentId, ByPriority, PopId, Timestamp, ids::ServiceName, plan::RegionOrder};
use rampmeter_api::{convert::steering::from_by_priority, v1};

use super::{
    Noted, SPAN,
    intake::{BUDGET, COUNT_LIMIT},
};
use crate::store::{CallerView, ServiceView};

/// Demand is taken over this much: three calm reports, and long enough that a
/// hundred requests a second are known to 6 %.
const DEMAND_SPAN: Duration = Duration::from_secs(3);

/// Agents report once a second in calm times: what the first report covers.
const CALM_REPORT: Duration = Duration::from_secs(1);

/// An agent that did not report for this long has no demand any more: a calm
/// report and a half.
const REPORTED_WITHIN: Duration = Duration::from_millis(1500);

/// Reports closer together than this are kept as one, so that an agent costs a
/// dozen entries at any rate of reporting.
const STRETCH: Duration = Duration::from_millis(250);

/// Two reports may arrive in one millisecond, but no demand is spread over none.
const LEAST_STRETCH: Duration = Duration::from_millis(10);

/// What callers got is kept in slots of this many milliseconds.
const SLOT_MS: u64 = 100;

/// What a drill's guard looks at.
const RECENT: Duration = Duration::from_secs(1);

/// The figures of services.
#[derive(Debug, Default)]
pub struct Services(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    agents: HashMap<AgentId, Reporting>,
    services: HashMap<ServiceName, OfService>,
}

/// When an agent reported, whatever about.
#[derive(Debug, Clone, Copy)]
struct Reporting {
    /// Its first report covers the time since then.
    since: Timestamp,
    /// Its last report.
    heard: Timestamp,
    /// Requests it may still claim, as of its last report.
    budget: u64,
}

#[derive(Debug, Default)]
struct OfService {
    agents: BTreeMap<AgentId, Wanting>,
    /// By slot, oldest first.
    callers: VecDeque<(u64, CallerView)>,
    /// What they got since this replica heard of the drill that runs.
    drill: Option<(String, CallerView)>,
}

/// One agent's demand for one service.
#[derive(Debug)]
struct Wanting {
    pop: PopId,
    /// Oldest first.
    stretches: VecDeque<Stretch>,
}

/// Demand that was spread evenly over some time.
#[derive(Debug)]
struct Stretch {
    from: Timestamp,
    to: Timestamp,
    demand: ByPriority,
}

/// What became of a report's services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Names that are no services of ours.
    pub unknown: Noted,
    /// Figures that were cut.
    pub cut: Noted,
}

impl Services {
    /// Takes in one agent's report, received at `now`. Also one that names no
    /// service counts: then nobody wanted one.
    pub fn record(
        &self,
        agent: &AgentId,
        pop: &PopId,
        report: &v1::Report,
        known: impl Fn(&ServiceName) -> bool,
        now: Timestamp,
    ) -> Taken {
        let mut taken = Taken::default();
        let mut inner = self.lock();
        let before = inner.agents.get(agent).copied();
        let mut reporting = Reporting::again(before, now);
        let from = before
            .map(|before| before.heard)
            .filter(|heard| now.since(*heard) <= REPORTED_WITHIN)
            .unwrap_or(now - CALM_REPORT)
            .min(now - LEAST_STRETCH);
        for wire in &report.services {
            let name = ServiceName::new(&wire.service).ok().filter(|n| known(n));
            let Some(name) = name else {
                taken
                    .unknown
                    .note(|| wire.service.chars().take(80).collect());
                continue;
            };
            let demand = demand(wire, &mut reporting.budget, &mut taken.cut);
            let callers = callers(wire, &mut taken.cut);
            let of_service = inner.services.entry(name).or_default();
            of_service.record(agent, pop, from, now, demand);
            of_service.record_callers(callers, now);
        }
        inner.agents.insert(agent.clone(), reporting);
        taken
    }

    /// This replica's view of a service, for its register; `None` without
    /// activity. `order` has the regions of the service as a POP prefers them,
    /// `drill` is the one that runs.
    pub fn view(
        &self,
        name: &ServiceName,
        order: impl Fn(&PopId) -> RegionOrder,
        drill: Option<&str>,
        now: Timestamp,
    ) -> Option<ServiceView> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner
            .agents
            .retain(|_, agent| now.since(agent.heard) <= SPAN);
        let of_service = inner.services.get_mut(name)?;
        of_service.forget(now);
        of_service.count_for(drill);
        let idle = of_service.agents.is_empty() && of_service.callers.is_empty();
        if idle && drill.is_none() {
            inner.services.remove(name);
            return None;
        }
        Some(ServiceView {
            origins: of_service.origins(&inner.agents, order, now),
            rates: of_service.rates(),
            recent: of_service.recent(now),
            drill: of_service.drill.clone(),
            ..ServiceView::default()
        })
    }

    /// Drops services that are no longer configured.
    pub fn retain(&self, keep: impl Fn(&ServiceName) -> bool) {
        self.lock().services.retain(|name, _| keep(name));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporting {
    fn again(before: Option<Self>, now: Timestamp) -> Self {
        let Some(before) = before else {
            return Self {
                since: now - CALM_REPORT,
                heard: now,
                budget: BUDGET,
            };
        };
        let earned = now.since(before.heard).as_millis() as u64 * BUDGET / SPAN.as_millis() as u64;
        Self {
            heard: now,
            budget: before.budget.saturating_add(earned).min(BUDGET),
            ..before
        }
    }

    /// The time over which its demand is taken.
    fn span(&self, now: Timestamp) -> (Timestamp, Timestamp) {
        let end = self.heard.max(now - REPORTED_WITHIN);
        (self.since.max(end - DEMAND_SPAN), end)
    }
}

impl OfService {
    fn record(
        &mut self,
        agent: &AgentId,
        pop: &PopId,
        from: Timestamp,
        now: Timestamp,
        demand: ByPriority,
    ) {
        let wanting = self.agents.entry(agent.clone()).or_insert_with(|| Wanting {
            pop: pop.clone(),
            stretches: VecDeque::new(),
        });
        if wanting.pop != *pop {
            wanting.pop = pop.clone();
        }
        wanting.add(from, now, demand);
    }

    fn record_callers(&mut self, callers: CallerView, now: Timestamp) {
        if let Some((_, counts)) = &mut self.drill {
            *counts += callers;
        }
        let slot = now.as_millis() / SLOT_MS;
        match self.callers.back_mut() {
            Some((last, sum)) if *last >= slot => *sum += callers,
            _ => self.callers.push_back((slot, callers)),
        }
    }

    fn count_for(&mut self, drill: Option<&str>) {
        let counted = self.drill.as_ref().map(|(id, _)| id.as_str());
        if counted != drill {
            self.drill = drill.map(|id| (id.to_owned(), CallerView::default()));
        }
    }

    fn forget(&mut self, now: Timestamp) {
        let oldest = now - DEMAND_SPAN - REPORTED_WITHIN;
        self.agents.retain(|_, wanting| {
            wanting.stretches.retain(|s| s.to > oldest);
            !wanting.stretches.is_empty()
        });
        let oldest = (now - SPAN).as_millis() / SLOT_MS;
        self.callers.retain(|(slot, _)| *slot > oldest);
    }

    fn origins(
        &self,
        reporting: &HashMap<AgentId, Reporting>,
        order: impl Fn(&PopId) -> RegionOrder,
        now: Timestamp,
    ) -> BTreeMap<RegionOrder, ByPriority> {
        let mut pops = BTreeMap::<&PopId, ByPriority>::new();
        for (agent, wanting) in &self.agents {
            if let Some(reporting) = reporting.get(agent) {
                let (from, to) = reporting.span(now);
                *pops.entry(&wanting.pop).or_default() += wanting.rate(from, to);
            }
        }
        let mut origins = BTreeMap::<RegionOrder, ByPriority>::new();
        for (pop, rate) in pops {
            let order = order(pop);
            if !order.is_empty() && rate.total() > 0.0 {
                *origins.entry(order).or_default() += rate;
            }
        }
        origins
    }

    fn rates(&self) -> CallerView {
        per_second(self.callers.iter().map(|(_, callers)| callers), SPAN)
    }

    fn recent(&self, now: Timestamp) -> CallerView {
        let oldest = (now - RECENT).as_millis() / SLOT_MS;
        let recent = self.callers.iter().filter(|(slot, _)| *slot > oldest);
        per_second(recent.map(|(_, callers)| callers), RECENT)
    }
}

impl Wanting {
    fn add(&mut self, from: Timestamp, to: Timestamp, demand: ByPriority) {
        match self.stretches.back_mut() {
            Some(last) if last.to >= from && last.from.until(last.to) < STRETCH => {
                last.to = to;
                last.demand += demand;
            }
            _ => self.stretches.push_back(Stretch { from, to, demand }),
        }
    }

    /// Requests a second between two points in time.
    fn rate(&self, from: Timestamp, to: Timestamp) -> ByPriority {
        let mut sum = ByPriority::default();
        for stretch in &self.stretches {
            let overlap = stretch.from.max(from).until(stretch.to.min(to));
            let length = stretch.from.until(stretch.to);
            sum += scaled(stretch.demand, overlap.as_secs_f64() / length.as_secs_f64());
        }
        scaled(sum, 1.0 / from.until(to).as_secs_f64())
    }
}

fn scaled(rates: ByPriority, by: f64) -> ByPriority {
    ByPriority(rates.0.map(|rate| rate * by))
}

/// Demand that can be true: whole requests, no more than the agent may claim.
fn demand(wire: &v1::ServiceReport, budget: &mut u64, cut: &mut Noted) -> ByPriority {
    let said = wire.demand.unwrap_or_default();
    let said = match from_by_priority("demand", &said) {
        Ok(said) => said,
        Err(error) => {
            cut.note(|| format!("{}: {error}", wire.service));
            return ByPriority::default();
        }
    };
    let (total, left) = (said.total(), *budget as f64);
    let kept = if total > left {
        cut.note(|| format!("{}: demand {total} cut to {left}", wire.service));
        scaled(said, left / total)
    } else {
        said
    };
    *budget = budget.saturating_sub(kept.total().ceil() as u64);
    kept
}

/// What callers got, as far as it can be true.
fn callers(wire: &v1::ServiceReport, cut: &mut Noted) -> CallerView {
    let said = [
        wire.succeeded,
        wire.failed,
        wire.refused,
        wire.shed,
        wire.shadowed,
    ];
    let mut kept = said.map(|count| count.min(COUNT_LIMIT));
    kept[3] = kept[3].min(kept[2]);
    if kept != said {
        cut.note(|| {
            format!(
                "{}: succeeded, failed, refused, shed, shadowed {said:?} cut to {kept:?}",
                wire.service
            )
        });
    }
    let [succeeded, failed, refused, shed, shadowed] = kept.map(|count| count as f64);
    CallerView {
        succeeded,
        failed,
        refused,
        shed,
        shadowed,
    }
}

impl AddAssign for CallerView {
    fn add_assign(&mut self, rhs: Self) {
        self.succeeded += rhs.succeeded;
        self.failed += rhs.failed;
        self.refused += rhs.refused;
        self.shed += rhs.shed;
        self.shadowed += rhs.shadowed;
    }
}

/// Counts over some time as a rate.
fn per_second<'a>(counts: impl Iterator<Item = &'a CallerView>, over: Duration) -> CallerView {
    let mut sum = CallerView::default();
    counts.for_each(|counts| sum += *counts);
    let seconds = over.as_secs_f64();
    CallerView {
        succeeded: sum.succeeded / seconds,
        failed: sum.failed / seconds,
        refused: sum.refused / seconds,
        shed: sum.shed / seconds,
        shadowed: sum.shadowed / seconds,
    }
}

#[cfg(test)]
mod tests;
