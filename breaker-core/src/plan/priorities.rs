//! Priorities first, across origins: no CRITICAL request is shed while a less
//! important one is let into a region that it could have used.
//!
//! Which requests of an origin are where follows from its shares: the nearest
//! region gets its most important ones, and what it sheds are the least important.
//! Where everything fits, nobody lacks anything and nobody moves. Else, request
//! for request, the one that is worth less gives way, first others' traffic and
//! then a region's own, and looks for a place further out, or among what is worth
//! still less, or is shed. So nobody gives way for more than it takes, and a region
//! gets no more than it had: others come only as far as they and what does not
//! give way to them fit below the target.

use super::{
    NOTHING,
    waterfall::{Flow, Waterfall},
};
use crate::{
    ids::RegionName,
    shed::Priority::{self, Critical, High, Low, Normal},
};

/// Who lacks, and who gives way: for the most important first, and of the least
/// important first.
const PAIRS: [(Priority, Priority); 6] = [
    (Critical, Low),
    (Critical, Normal),
    (Critical, High),
    (High, Low),
    (High, Normal),
    (Normal, Low),
];

/// Few are needed: more than one where who gave way finds a place from which
/// another gives way.
const ROUNDS: usize = 64;

/// What comes into one region, and what gives way to it.
struct Swap<'a> {
    region: &'a RegionName,
    /// Requests a second, all lacking origins together.
    wanted: f64,
    /// Requests a second that change places.
    swapped: f64,
    /// Requests a second that each origin could give.
    offers: Vec<f64>,
}

impl<'a> Waterfall<'a> {
    pub(super) fn put_priorities_first(&mut self) {
        for _ in 0..ROUNDS {
            let mut moved = false;
            for (lacks, yields) in PAIRS {
                for ring in 0..self.rings() {
                    let swaps = self.swaps(lacks, yields, ring);
                    moved |= !swaps.is_empty();
                    swaps.iter().for_each(|swap| self.swap(swap, lacks, ring));
                }
                self.pour(false);
            }
            if !moved {
                return;
            }
        }
    }

    /// Where origins that lack some of a priority can have, in this ring of their
    /// order, places of requests that are no more important than `yields`.
    fn swaps(&self, lacks: Priority, yields: Priority, ring: usize) -> Vec<Swap<'a>> {
        let of_region = |name: &&'a RegionName| {
            let region = *name;
            let comes = self.flows.iter().filter(|f| f.is_in(region, ring));
            let wanted: f64 = comes.map(|flow| flow.lacks(lacks, ring)).sum();
            if wanted <= 0.0 {
                return None;
            }
            let flows = || self.flows.iter();
            let offers: Vec<f64> = flows().map(|f| f.behind(f.begin(yields), region)).collect();
            let gives: f64 = flows().map(|f| f.behind(f.end(lacks), region)).sum();
            let basin = self.regions.get(region)?;
            let room = basin.room_beside(basin.load - gives, ring);
            let swapped = wanted.min(room).min(offers.iter().sum());
            (swapped > NOTHING * wanted.max(1.0)).then_some(Swap {
                region,
                wanted,
                swapped,
                offers,
            })
        };
        self.regions.keys().filter_map(of_region).collect()
    }

    fn swap(&mut self, swap: &Swap<'_>, lacks: Priority, ring: usize) {
        let mut left = swap.swapped;
        for own in [false, true] {
            let offers = self.flows.iter_mut().zip(&swap.offers);
            let mut offers: Vec<_> = offers
                .filter(|(flow, _)| flow.is_in(swap.region, 0) == own)
                .collect();
            let offered: f64 = offers.iter().map(|(_, offer)| **offer).sum();
            if offered <= 0.0 {
                continue;
            }
            let taken = left.min(offered);
            for (flow, offer) in &mut offers {
                flow.take(swap.region, **offer * taken / offered);
            }
            left -= taken;
        }
        for flow in self.flows.iter_mut().filter(|f| f.is_in(swap.region, ring)) {
            flow.give(ring, flow.lacks(lacks, ring) * swap.swapped / swap.wanted);
        }
    }
}

impl Flow<'_> {
    fn is_in(&self, region: &RegionName, ring: usize) -> bool {
        self.order().get(ring) == Some(region)
    }

    /// Requests a second that are more important than a priority.
    fn begin(&self, priority: Priority) -> f64 {
        self.mix.position(priority, 0.0) * self.demand
    }

    /// Requests a second up to a priority.
    fn end(&self, priority: Priority) -> f64 {
        self.mix.position(priority, 1.0) * self.demand
    }

    /// Of what is in a region, requests a second that come behind the first so many.
    fn behind(&self, first: f64, region: &RegionName) -> f64 {
        let mut reach = 0.0;
        for (name, outlet) in self.order().iter().zip(&self.outlets) {
            reach += outlet.load;
            if name == region {
                return (reach - first).clamp(0.0, outlet.load.max(0.0));
            }
        }
        0.0
    }

    /// Requests a second up to a priority that lack a place, and that the region
    /// in this ring of the order may have.
    fn lacks(&self, priority: Priority, ring: usize) -> f64 {
        let lacks = self.end(priority) - (self.demand - self.left);
        // Less is an error of rounding.
        match lacks > NOTHING * self.demand {
            true => lacks.min(self.want(ring, false)),
            false => 0.0,
        }
    }

    fn take(&mut self, region: &RegionName, load: f64) {
        if let Some(ring) = self.order().iter().position(|name| name == region) {
            self.give(ring, -load);
        }
    }
}
