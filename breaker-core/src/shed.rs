//! Who is let through when not all may: the order in which requests are shed.
//!
//! A request has a rank: its priority, and within it a place that depends on its
//! shed key and the hour. A share of the demand cuts that order in one spot, the
//! same at every gateway, so a user is let in everywhere or nowhere (DAGOR, Zhou
//! et al., SoCC 2018, which WeChat runs on), and nobody is unlucky for longer
//! than an hour.

use std::ops::{Add, AddAssign, Index, IndexMut};

/// How important a request is, most important first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Shed last: payments.
    Critical,
    /// Before normal.
    High,
    /// Everything else.
    #[default]
    Normal,
    /// Shed first: marketing analytics.
    Low,
}

impl Priority {
    /// All, most important first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];
}

/// Requests, or requests a second, of each priority.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ByPriority(pub [f64; 4]);

impl ByPriority {
    /// Over all priorities.
    pub fn total(&self) -> f64 {
        self.0.iter().sum()
    }
}

impl Index<Priority> for ByPriority {
    type Output = f64;

    fn index(&self, priority: Priority) -> &f64 {
        &self.0[priority as usize]
    }
}

impl IndexMut<Priority> for ByPriority {
    fn index_mut(&mut self, priority: Priority) -> &mut f64 {
        &mut self.0[priority as usize]
    }
}

impl Add for ByPriority {
    type Output = Self;

    fn add(mut self, rhs: Self) -> Self {
        self += rhs;
        self
    }
}

impl AddAssign for ByPriority {
    fn add_assign(&mut self, rhs: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(rhs.0) {
            *mine += theirs;
        }
    }
}

/// The mix of priorities of some demand, as shares that add up to 1. Default: all
/// NORMAL, for as long as nothing is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix(ByPriority);

impl Default for Mix {
    fn default() -> Self {
        Self(ByPriority([0.0, 0.0, 1.0, 0.0]))
    }
}

impl Mix {
    /// Of a demand; the default without any.
    pub fn of(demand: ByPriority) -> Self {
        let total = demand.total();
        if !(total > 0.0 && total.is_finite()) {
            return Self::default();
        }
        // Shares stay as they are, to the last bit: a mix survives a journey.
        let total = match (total - 1.0).abs() < 1e-9 {
            true => 1.0,
            false => total,
        };
        Self(ByPriority(
            demand.0.map(|rate| (rate / total).clamp(0.0, 1.0)),
        ))
    }

    /// Shares by priority, which add up to 1.
    pub const fn shares(&self) -> ByPriority {
        self.0
    }

    /// Where a request stands in the order of the whole demand, [0, 1): 0 is shed
    /// last. `place` is where it stands in its own priority, [0, 1).
    ///
    /// A share `a` of the demand is the requests whose position is below `a`.
    pub fn position(&self, priority: Priority, place: f64) -> f64 {
        let before: f64 = self.0.0[..priority as usize].iter().sum();
        before + self.0[priority] * place
    }

    /// Share of one priority that passes when `admission` of all does, 0 to 1.
    pub fn admitted(&self, priority: Priority, admission: f64) -> f64 {
        if admission >= 1.0 {
            return 1.0;
        }
        let before: f64 = self.0.0[..priority as usize].iter().sum();
        let share = self.0[priority];
        match share > 0.0 {
            true => ((admission - before) / share).clamp(0.0, 1.0),
            // Unseen so far: all of it fits, or none.
            false => f64::from(u8::from(before < admission)),
        }
    }
}

/// A shed key, hashed once; the same on every host and in every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShedKey(u64);

impl ShedKey {
    /// Of a key's value.
    pub fn of(value: &[u8]) -> Self {
        Self(fnv1a(value))
    }

    /// The hash: what is said of a key instead of its value.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The key's place, [0, 1), where `salt` is (the service for plans, the
    /// backend for its throttle: two decisions about one request must not be
    /// one), in this hour (Unix time / 3600).
    pub fn place(self, salt: Self, hour: u64) -> f64 {
        let mixed = finish(self.0 ^ finish(salt.0 ^ finish(hour)));
        // 53 bits: what a float between 0 and 1 tells apart.
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// FNV-1a (Fowler, Noll, Vo), 64 bits.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): keys that
/// differ in a bit end up far apart.
pub(crate) const fn finish(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
