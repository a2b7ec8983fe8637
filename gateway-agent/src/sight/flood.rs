//! How many failures are written down. In an outage every request is one, and a
//! log that tells each of them fills the disk and says no more.

/// Lines about failures that an agent writes a second; enough to see which
/// service, backend and reason it is.
pub(crate) const MAX_FAILURES: u32 = 1000;

/// One core's share of [`MAX_FAILURES`], in seconds of its own clock.
#[derive(Debug)]
pub(crate) struct Flood {
    allowed: u32,
    second: u64,
    /// In this second.
    told: u32,
    /// Since the last one that was told.
    held_back: u64,
}

impl Flood {
    /// For one of `cores`.
    pub(crate) fn new(cores: usize) -> Self {
        let cores = u32::try_from(cores).unwrap_or(u32::MAX).max(1);
        Self {
            allowed: (MAX_FAILURES / cores).max(1),
            second: 0,
            told: 0,
            held_back: 0,
        }
    }

    /// Whether to tell a failure in this `second`: then how many were held back
    /// since the last one, else `None`.
    pub(crate) fn let_through(&mut self, second: u64) -> Option<u64> {
        if self.second != second {
            self.second = second;
            self.told = 0;
        }
        if self.told < self.allowed {
            self.told += 1;
            return Some(std::mem::take(&mut self.held_back));
        }
        self.held_back += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_up_to_the_limit_each_second_and_the_rest_is_a_number() {
        let mut flood = Flood::new(4);
        let mut in_second = |second| -> Vec<u64> {
            let told = (0..100_000).filter_map(|_| flood.let_through(second));
            told.collect()
        };
        assert_eq!(in_second(7), vec![0; 250]);
        let next = in_second(8);
        assert_eq!(next.len(), 250);
        assert_eq!(next[0], 99_750, "what the second before held back");
        assert!(next[1..].iter().all(|held_back| *held_back == 0));
    }

    #[test]
    fn many_cores_have_a_line_each() {
        let mut flood = Flood::new(1 << 20);
        assert_eq!(flood.let_through(1), Some(0));
        assert_eq!(flood.let_through(1), None);
        assert_eq!(flood.let_through(2), Some(1));
    }
}
