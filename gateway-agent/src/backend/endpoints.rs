//! One core's connections to one backend's endpoints, and which of these the next
//! request goes to. They outlast a change of the configuration, and follow what
//! names resolve to.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admit::backend::Live,
    backend::{cost::is_cheaper, pool::Pool, reach::Target},
};

/// One core of so many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) core: usize,
    pub(crate) cores: usize,
}

impl Share {
    /// This core's part of `all`, one at least; the first cores have what is left
    /// over.
    pub(crate) fn of(self, all: u32) -> u32 {
        let cores = u32::try_from(self.cores.max(1)).unwrap_or(u32::MAX);
        let more = (self.core as u64) < u64::from(all % cores);
        (all / cores + u32::from(more)).max(1)
    }
}

/// One backend's endpoints, as one core uses them.
#[derive(Debug)]
pub(crate) struct Endpoints {
    live: Arc<Live>,
    share: Share,
    view: RefCell<View>,
}

/// What was true when it was last looked at.
#[derive(Debug, Default)]
struct View {
    /// `Reach::changes` then; `None`: never looked.
    seen: Option<u64>,
    /// Until an ejection ends.
    until: Option<Instant>,
    /// One for each target.
    pools: Vec<Rc<Pool>>,
    /// Places among these that may be used.
    usable: Vec<usize>,
}

impl Endpoints {
    pub(crate) fn new(live: Arc<Live>, share: Share) -> Rc<Self> {
        Rc::new(Self {
            live,
            share,
            view: RefCell::default(),
        })
    }

    /// The cheaper of two endpoints drawn at random among those that may be used.
    pub(crate) fn pick(&self, roll: u64) -> Option<Rc<Pool>> {
        self.refresh();
        let view = self.view.borrow();
        let pool = |at: u64| view.pools.get(*view.usable.get(at as usize)?);
        let count = view.usable.len() as u64;
        if count < 2 {
            return pool(0).cloned();
        }
        let first = roll % count;
        let second = (first + 1 + (roll >> 32) % (count - 1)) % count;
        let (first, second) = (pool(first)?, pool(second)?);
        let now = tokio::time::Instant::now();
        Some(match is_cheaper(second.burden(), first.burden(), now) {
            true => second.clone(),
            false => first.clone(),
        })
    }

    /// One that is not among these, if there is one, else any.
    pub(crate) fn pick_other(&self, roll: u64, tried: &[Rc<Pool>]) -> Option<Rc<Pool>> {
        let others = self.others(tried);
        match others.len() as u64 {
            0 => self.pick(roll),
            count => others.get((roll % count) as usize).cloned(),
        }
    }

    /// There is one that may be used and is not among these.
    pub(crate) fn has_other(&self, tried: &[Rc<Pool>]) -> bool {
        !self.others(tried).is_empty()
    }

    fn others(&self, tried: &[Rc<Pool>]) -> Vec<Rc<Pool>> {
        self.refresh();
        let view = self.view.borrow();
        let pools = view.usable.iter().map(|at| &view.pools[*at]);
        let untried = |pool: &&Rc<Pool>| !tried.iter().any(|other| Rc::ptr_eq(pool, other));
        pools.filter(untried).cloned().collect()
    }

    /// Closes connections that have idled for too long.
    pub(crate) fn sweep(&self) {
        self.refresh();
        let now = tokio::time::Instant::now();
        for pool in &self.view.borrow().pools {
            pool.sweep(now);
        }
    }

    /// The backend left the configuration.
    pub(crate) fn retire(&self) {
        for pool in &self.view.borrow().pools {
            pool.retire();
        }
    }

    /// Looks at what changed: costs a read, mostly.
    fn refresh(&self) {
        let changes = self.live.reach.changes();
        let view = &mut *self.view.borrow_mut();
        let holds = view.until.is_none_or(|until| Instant::now() < until);
        if view.seen == Some(changes) && holds {
            return;
        }
        view.seen = Some(changes);
        self.follow(view);
        self.sort_out(view);
    }

    /// Pools for the addresses that there are now. Others finish what they have.
    fn follow(&self, view: &mut View) {
        let targets = self.live.reach.targets();
        let same = view.pools.len() == targets.len()
            && (view.pools.iter().zip(&*targets)).all(|(pool, target)| pool.is_of(target));
        if same {
            return;
        }
        let known = std::mem::take(&mut view.pools);
        let pool = |target: &Arc<Target>| {
            let known = known.iter().find(|pool| pool.is_of(target)).cloned();
            known.unwrap_or_else(|| Pool::new(target.clone(), self.live.clone(), self.share))
        };
        view.pools = targets.iter().map(pool).collect();
        let kept = |old: &&Rc<Pool>| view.pools.iter().any(|pool| Rc::ptr_eq(old, pool));
        known
            .iter()
            .filter(|old| !kept(old))
            .for_each(|old| old.retire());
    }

    /// Which may be used: those that are healthy and not ejected. If that is none,
    /// the healthy ones, or else all: whether the backend is asked at all is for its
    /// breaker to say.
    fn sort_out(&self, view: &mut View) {
        let (reach, now) = (&self.live.reach, Instant::now());
        let unhealthy = reach.unhealthy();
        let healthy = |at: &usize| {
            !unhealthy
                .0
                .contains(&view.pools[*at].endpoint().to_string())
        };
        let ejected = |at: &usize| reach.ejected_for(view.pools[*at].target(), now);
        let mut best: Vec<_> = (0..view.pools.len()).filter(healthy).collect();
        if best.is_empty() {
            best = (0..view.pools.len()).collect();
        }
        let soonest: Option<Duration> = best.iter().filter_map(ejected).min();
        let good: Vec<_> = best
            .iter()
            .copied()
            .filter(|at| ejected(at).is_none())
            .collect();
        view.until = soonest.map(|left| now + left);
        view.usable = if good.is_empty() { best } else { good };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_cores_together_have_what_is_allowed() {
        for (all, cores) in [(1024, 2), (10, 3), (7, 4), (1, 1)] {
            let parts = (0..cores).map(|core| Share { core, cores }.of(all));
            assert_eq!(parts.sum::<u32>(), all);
        }
        let starved = Share { core: 3, cores: 4 };
        assert_eq!(starved.of(2), 1, "each has one");
    }
}
