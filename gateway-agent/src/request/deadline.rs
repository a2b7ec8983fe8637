//! A gRPC caller's deadline: it bounds what we wait for, and is passed on less the
//! time that went by here, so that nobody works on a call that has been given up.

use std::time::Duration;

use fleet_config::Timeouts;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What the protocol has room for: eight digits.
const MAX_UNITS: u128 = 99_999_999;

/// Less than this went by: not worth writing another value.
const GRAIN: Duration = Duration::from_millis(1);

/// When a call's caller gives it up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    arrived: Instant,
    at: Instant,
}

impl Deadline {
    /// The caller's, if it named one that makes sense, for a call that arrives now.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
        let arrived = Instant::now();
        let at = arrived.checked_add(parse(value)?)?;
        Some(Self { arrived, at })
    }

    /// How long there still is.
    pub(crate) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Time-outs that end with it.
    pub(crate) fn bound(self, timeouts: Timeouts) -> Timeouts {
        let left = self.left();
        timeouts.within(timeouts.total.saturating_sub(left))
    }

    /// Tells the backend how long there still is.
    pub(crate) fn pass_on(self, headers: &mut HeaderMap) {
        if self.arrived.elapsed() < GRAIN {
            return;
        }
        if let Ok(value) = HeaderValue::try_from(format(self.left())) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
}

/// One to eight digits and a unit.
fn parse(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let good = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let count: u64 = good.then(|| digits.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// In the smallest unit from microseconds up that has room for it, rounded down.
fn format(left: Duration) -> String {
    if left.as_micros() <= MAX_UNITS {
        format!("{}u", left.as_micros())
    } else if left.as_millis() <= MAX_UNITS {
        format!("{}m", left.as_millis())
    } else {
        format!("{}S", u128::from(left.as_secs()).min(MAX_UNITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_digits_and_a_unit() {
        for (value, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("5u", Some(Duration::from_micros(5))),
            ("7n", Some(Duration::from_nanos(7))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789m", None),
            ("m", None),
            ("", None),
            ("-1m", None),
            ("5x", None),
            ("5é", None),
        ] {
            assert_eq!(parse(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_left_is_written_as_it_is_read() {
        for left in [
            Duration::from_micros(1_500),
            Duration::from_secs(90),
            Duration::from_secs(5_000),
            Duration::from_secs(1 << 28),
        ] {
            let read = parse(&format(left)).expect("it is good");
            assert!(
                read <= left.min(Duration::from_secs(99_999_999)),
                "{read:?}"
            );
            assert!(read + left / 100 >= left.min(Duration::from_secs(99_999_999)));
        }
    }
}
