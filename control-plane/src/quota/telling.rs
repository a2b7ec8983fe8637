//! When to tell people that a quota refuses requests: once when it begins, once
//! when it is over, and not more often than they can read.

use std::time::Duration;

use breaker_core::Timestamp;

/// Events about one quota are at least this far apart.
pub(super) const APART: Duration = Duration::from_secs(60);

/// A quota refuses while more than this share of what is wanted is refused, and
/// more than [`REFUSED_RATE`]: rates are averages and never quite equal.
const REFUSED_SHARE: f64 = 0.01;
/// Requests a second.
const REFUSED_RATE: f64 = 0.1;

/// What is worth an event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum News {
    /// It began to refuse requests.
    Exhausted,
    /// It ceased to.
    Recovered {
        /// For how long it refused, on and off.
        lasted: Duration,
        /// How many requests.
        refused: f64,
    },
}

/// What was told about one quota.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Telling {
    /// Told as exhausted, since when.
    since: Option<Timestamp>,
    /// Requests refused since then.
    refused: f64,
    /// When it was last told of.
    told: Option<Timestamp>,
    /// When it was last looked at.
    looked: Timestamp,
}

impl Telling {
    /// Looks at the rates; `Some` if it is time to tell.
    pub(super) fn look(&mut self, wanted: f64, admitted: f64, now: Timestamp) -> Option<News> {
        let refused = (wanted - admitted).max(0.0);
        let refusing = refused > REFUSED_RATE && refused > REFUSED_SHARE * wanted;
        if self.since.is_some() {
            self.refused += refused * now.since(self.looked).as_secs_f64();
        }
        self.looked = now;
        if self.told.is_some_and(|told| now.since(told) < APART) {
            return None;
        }
        let news = match self.since {
            None if refusing => {
                self.since = Some(now);
                News::Exhausted
            }
            Some(since) if !refusing => {
                self.since = None;
                News::Recovered {
                    lasted: now.since(since),
                    refused: std::mem::take(&mut self.refused),
                }
            }
            None | Some(_) => return None,
        };
        self.told = Some(now);
        Some(news)
    }

    /// Nothing would be lost by forgetting it.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.since.is_none() && self.told.is_none_or(|told| now.since(told) >= APART)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1_000)
    }

    #[test]
    fn a_quota_that_flaps_is_told_of_once_a_minute() {
        let mut telling = Telling::default();
        let mut told = Vec::new();
        for second in 0..300 {
            let admitted = if second % 2 == 0 { 500.0 } else { 700.0 };
            if let Some(news) = telling.look(700.0, admitted, at(second)) {
                told.push((second, news));
            }
        }
        assert!((4..=5).contains(&told.len()), "{told:?}");
        assert!(told.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 60));
        assert_eq!(told[0], (0, News::Exhausted));
    }

    #[test]
    fn the_end_is_told_with_what_was_refused() {
        let mut telling = Telling::default();
        assert_eq!(telling.look(100.0, 100.0, at(0)), None);
        assert_eq!(telling.look(700.0, 500.0, at(1)), Some(News::Exhausted));
        for second in 2..=61 {
            assert_eq!(telling.look(700.0, 500.0, at(second)), None);
        }
        assert!(!telling.is_over(at(61)));
        let over = telling.look(400.0, 399.9, at(62)).expect("news");
        let News::Recovered { lasted, refused } = over else {
            panic!("{over:?}");
        };
        assert_eq!(lasted, Duration::from_secs(61));
        assert!((refused - 12_000.0).abs() < 1.0, "{refused}");
        assert!(telling.is_over(at(122)));
    }
}
