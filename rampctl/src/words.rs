//! The API's values in the fewest words.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use rampmeter_api::v1::{BreakerState, ByPriority, EventKind, Mode, Scope, TripReason, Version};

use crate::style::{Tone, Word};

pub(crate) fn state(state: BreakerState) -> Word {
    match state {
        BreakerState::Closed => Word::new("CLOSED", Tone::Good),
        BreakerState::Open => Word::new("OPEN", Tone::Bad),
        BreakerState::HalfOpen => Word::new("HALF_OPEN", Tone::Warn),
        BreakerState::Unspecified => Word::new("?", Tone::Faint),
    }
}

pub(crate) fn mode(mode: Mode) -> &'static str {
    short(mode.as_str_name(), "MODE_")
}

pub(crate) fn scope(scope: Scope, subject: &str) -> String {
    match (short(scope.as_str_name(), "SCOPE_"), subject) {
        ("UNSPECIFIED", _) => "-".to_owned(),
        (scope, "") => scope.to_owned(),
        (scope, subject) => format!("{scope} {subject}"),
    }
}

pub(crate) fn kind(kind: EventKind) -> &'static str {
    short(kind.as_str_name(), "EVENT_KIND_")
}

pub(crate) fn reason(reason: TripReason) -> String {
    let words = short(reason.as_str_name(), "TRIP_REASON_");
    words.to_ascii_lowercase().replace('_', " ")
}

fn short<'a>(name: &'a str, prefix: &str) -> &'a str {
    match name.strip_prefix(prefix) {
        Some(rest) => rest,
        None => name,
    }
}

pub(crate) fn version(version: Option<Version>) -> String {
    version.map_or("-".to_owned(), |v| format!("{}.{}", v.epoch, v.revision))
}

/// A share, 0 to 1, as a percentage that is 0 or 100 only if the share is.
pub(crate) fn percent(share: f64) -> String {
    let rounded = match share * 100.0 {
        p if p > 99.0 && p < 100.0 => (p * 10.0).floor() / 10.0,
        p if p > 0.0 && p < 0.1 => 0.1,
        p if p < 10.0 => (p * 10.0).round() / 10.0,
        p => p.round(),
    };
    format!("{rounded}%")
}

pub(crate) fn admission(share: f64) -> Word {
    let tone = match share {
        s if s >= 1.0 => Tone::Plain,
        s if s > 0.0 => Tone::Warn,
        _ => Tone::Bad,
    };
    Word::new(percent(share), tone)
}

/// A rate a second.
pub(crate) fn rate(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        r if r < 10.0 => format!("{r:.1}"),
        r => format!("{r:.0}"),
    }
}

/// `CRITICAL 40, LOW 60`, without those there are none of.
pub(crate) fn by_priority(rates: &ByPriority) -> String {
    let ByPriority {
        critical,
        high,
        normal,
        low,
    } = *rates;
    let all = [
        ("CRITICAL", critical),
        ("HIGH", high),
        ("NORMAL", normal),
        ("LOW", low),
    ];
    let some = all.iter().filter(|(_, rate)| *rate > 0.0);
    let words: Vec<_> = some
        .map(|(name, of)| format!("{name} {}", rate(*of)))
        .collect();
    words.join(", ")
}

/// Over all priorities.
pub(crate) fn total(rates: &ByPriority) -> f64 {
    rates.critical + rates.high + rates.normal + rates.low
}

/// Two units are enough: `3m 12s`.
pub(crate) fn duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0 if duration.is_zero() => "0s".to_owned(),
        0 => format!("{}ms", duration.as_millis().max(1)),
        1..10 if duration.subsec_millis() >= 50 => format!("{:.1}s", duration.as_secs_f64()),
        1..60 => format!("{secs}s"),
        60..3600 => two(secs, 60, "m", 1, "s"),
        3600..86_400 => two(secs, 3600, "h", 60, "m"),
        _ => two(secs, 86_400, "d", 3600, "h"),
    }
}

fn two(secs: u64, large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    match secs % large / small {
        0 => format!("{}{large_unit}", secs / large),
        rest => format!("{}{large_unit} {rest}{small_unit}", secs / large),
    }
}

pub(crate) fn wire_duration(wire: Option<prost_types::Duration>) -> String {
    let known = wire.and_then(|wire| Duration::try_from(wire).ok());
    known.map_or("-".to_owned(), duration)
}

/// `2026-11-23 14:02:11.123`, in UTC.
pub(crate) fn clock(at: Option<Timestamp>) -> String {
    let Some(at) = at else {
        return "-".to_owned();
    };
    let millis = Timestamp {
        nanos: at.nanos / 1_000_000 * 1_000_000,
        ..at
    };
    let text = millis.to_string();
    let text = text.trim_end_matches('Z').replace('T', " ");
    match text.contains('.') {
        true => text,
        false => text + ".000",
    }
}

/// How long ago; the two hosts' clocks may differ, so never negative.
pub(crate) fn ago(at: Option<Timestamp>, now: SystemTime) -> String {
    let at = at.and_then(|at| SystemTime::try_from(at).ok());
    at.map_or("-".to_owned(), |at| {
        duration(now.duration_since(at).unwrap_or_default())
    })
}

/// How long until; "now" once it has passed.
pub(crate) fn until(at: Option<Timestamp>, now: SystemTime) -> Option<String> {
    let at = SystemTime::try_from(at?).ok()?;
    match at.duration_since(now) {
        Ok(left) if left >= Duration::from_millis(1) => Some(format!("in {}", duration(left))),
        _ => Some("now".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (ms, expected) in [
            (0, "0s"),
            (7, "7ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (192_000, "3m 12s"),
            (7_380_000, "2h 3m"),
            (93_784_000, "1d 2h"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn only_all_and_nothing_are_shown_as_such() {
        for (share, expected) in [
            (0.0, "0%"),
            (0.0001, "0.1%"),
            (0.05, "5%"),
            (0.123, "12%"),
            (0.9999, "99.9%"),
            (1.0, "100%"),
        ] {
            assert_eq!(percent(share), expected);
        }
    }

    #[test]
    fn a_clock_that_is_behind_shows_no_negative_time() {
        let at = Timestamp {
            seconds: 100,
            nanos: 0,
        };
        let before = SystemTime::UNIX_EPOCH + Duration::from_secs(99);
        let after = SystemTime::UNIX_EPOCH + Duration::from_secs(130);
        assert_eq!(ago(Some(at), before), "0s");
        assert_eq!(ago(Some(at), after), "30s");
        assert_eq!(until(Some(at), before).as_deref(), Some("in 1s"));
        assert_eq!(until(Some(at), after).as_deref(), Some("now"));
        assert_eq!(
            (ago(None, after), until(None, after)),
            ("-".to_owned(), None)
        );
    }

    #[test]
    fn every_enum_value_has_a_word_of_its_own() {
        assert_eq!(kind(EventKind::TrialLost), "TRIAL_LOST");
        assert_eq!(reason(TripReason::SlowCallRate), "slow call rate");
        assert_eq!(scope(Scope::Pop, "fra1"), "POP fra1");
        assert_eq!(scope(Scope::Unspecified, ""), "-");
        assert_eq!(mode(Mode::ForcedOpen), "FORCED_OPEN");
    }
}
