//! What it costs to ask an endpoint: how long it takes to answer, times how many
//! already wait for it. Pure: time is an argument.
//!
//! The latency is an average that decays with time and not with requests, and that
//! jumps to a worse value at once ("peak EWMA", as Finagle and linkerd have it): an
//! endpoint that becomes slow is avoided after its first slow answer, and is tried
//! again as what is known of it grows old. Differences that may be noise do not
//! count, or one unlucky answer would send everything elsewhere.

use std::time::Duration;

use tokio::time::Instant;

/// After this long, what was measured counts for a third: long enough to remember
/// a slow endpoint between two requests, short enough to find out soon that it
/// recovered.
const DECAY: Duration = Duration::from_secs(5);

/// What is quicker is as quick as this.
const FLOOR: Duration = Duration::from_millis(1);

/// An endpoint is slower than another if it takes this many times as long.
const SLOWER: f64 = 3.0;

/// The latency of one endpoint, as one core sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Latency {
    seconds: f64,
    at: Instant,
}

impl Latency {
    /// Nothing is known yet.
    pub(crate) fn unknown(now: Instant) -> Self {
        Self {
            seconds: 0.0,
            at: now,
        }
    }

    /// With another answer, after `waited`.
    pub(crate) fn with(self, waited: Duration, now: Instant) -> Self {
        let (before, seconds) = (self.at(now), waited.as_secs_f64());
        let weight = self.weight(now);
        let seconds = match seconds > before {
            true => seconds,
            false => self.seconds * weight + seconds * (1.0 - weight),
        };
        Self { seconds, at: now }
    }

    /// The latency, in seconds, of which less is certain as time goes by.
    fn at(self, now: Instant) -> f64 {
        // Most are; it saves them the exponential.
        match self.seconds <= FLOOR.as_secs_f64() {
            true => FLOOR.as_secs_f64(),
            false => (self.seconds * self.weight(now)).max(FLOOR.as_secs_f64()),
        }
    }

    fn weight(self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at);
        (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

/// What an endpoint has to do: how long it takes, and how many requests wait there.
pub(crate) type Burden = (Latency, u32);

/// Whether another request costs less at the second endpoint than at the first.
pub(crate) fn is_cheaper(second: Burden, first: Burden, now: Instant) -> bool {
    let seconds = [first.0.at(now), second.0.at(now)];
    let waiting = [first.1, second.1].map(|n| f64::from(n) + 1.0);
    let alike = seconds[0] <= SLOWER * seconds[1] && seconds[1] <= SLOWER * seconds[0];
    match alike {
        true => waiting[1] < waiting[0],
        false => seconds[1] * waiting[1] < seconds[0] * waiting[0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How many of 1,000 requests, one a millisecond, each endpoint gets if it takes
    /// so many milliseconds for each.
    fn spread(takes: &[u32]) -> Vec<usize> {
        let start = Instant::now();
        let mut latencies = vec![Latency::unknown(start); takes.len()];
        let mut running: Vec<(Instant, usize)> = Vec::new();
        let (mut counts, mut dice) = (vec![0; takes.len()], 0x9e37_79b9_7f4a_7c15_u64);
        for step in 0..1000 {
            let now = start + step * MS;
            running.retain(|(end, at)| {
                if *end <= now {
                    latencies[*at] = latencies[*at].with(takes[*at] * MS, now);
                }
                *end > now
            });
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let first = (dice % takes.len() as u64) as usize;
            let second = (first + 1 + (dice >> 32) as usize % (takes.len() - 1)) % takes.len();
            let burden = |at: usize| {
                let in_flight = running.iter().filter(|(_, on)| *on == at).count();
                (latencies[at], in_flight as u32)
            };
            let at = if is_cheaper(burden(second), burden(first), now) {
                second
            } else {
                first
            };
            counts[at] += 1;
            running.push((now + takes[at] * MS, at));
        }
        counts
    }

    #[test]
    fn a_slow_endpoint_gets_clearly_fewer_requests() {
        let counts = spread(&[10, 10, 100]);
        assert!(
            counts[2] * 5 < counts[0] && counts[2] * 5 < counts[1],
            "{counts:?}"
        );
        assert!(counts[2] > 0, "it is still asked: {counts:?}");
    }

    #[test]
    fn equals_get_the_same() {
        let counts = spread(&[10, 10, 10, 10]);
        assert!(counts.iter().all(|n| (200..300).contains(n)), "{counts:?}");
    }

    #[test]
    fn what_is_known_of_a_slow_answer_grows_old() {
        let start = Instant::now();
        let slow = Latency::unknown(start).with(100 * MS, start);
        let quick = Latency::unknown(start).with(10 * MS, start);
        let later = start + 3 * DECAY;
        assert!(is_cheaper((quick, 8), (slow, 0), start));
        let quick = quick.with(10 * MS, later);
        assert!(!is_cheaper((quick, 1), (slow, 0), later));
    }

    #[test]
    fn one_unlucky_answer_does_not_send_everything_elsewhere() {
        let now = Instant::now();
        let unlucky = Latency::unknown(now).with(25 * MS, now);
        let lucky = Latency::unknown(now).with(10 * MS, now);
        assert!(!is_cheaper((lucky, 0), (unlucky, 0), now));
        assert!(is_cheaper((lucky, 0), (unlucky, 1), now));
    }
}
