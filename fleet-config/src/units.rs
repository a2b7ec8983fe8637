//! Durations, sizes and shares as people write them.

use std::time::Duration;

/// Reads a duration as the fleet file spells it: `30s`, `1.5m`, `250ms`, `2h`, in
/// whole milliseconds.
pub fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let millis = match unit {
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return None,
    };
    let millis = plain_number(number.trim_end())? * millis;
    // A century is beyond any setting's range, and far from overflow.
    (millis < 3.2e12).then(|| Duration::from_millis(millis.round() as u64))
}

/// `64KiB`, `1MiB`, `512B`, in bytes.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let unit = match unit {
        "B" => 1_u64,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    let bytes = plain_number(number.trim_end())? * unit as f64;
    (bytes < 1e15).then_some(bytes.round() as u64)
}

/// `50%` as 0.5.
pub(crate) fn percentage(text: &str) -> Option<f64> {
    Some(plain_number(text.strip_suffix('%')?.trim_end())? / 100.0)
}

/// Reads a share as the fleet file spells it, `50%` or `0.5`: 0 to 1.
pub fn share(text: &str) -> Option<f64> {
    let share = percentage(text).or_else(|| plain_number(text))?;
    (share <= 1.0).then_some(share)
}

/// Digits with at most one point: no sign, exponent, `inf` or `nan`.
fn plain_number(text: &str) -> Option<f64> {
    let plain = text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    plain.then(|| text.parse().ok()).flatten()
}

/// The shortest exact spelling.
pub(crate) fn show_duration(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0s".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

/// The shortest exact spelling.
pub(crate) fn show_bytes(bytes: u64) -> String {
    match bytes {
        0 => "0B".to_owned(),
        b if b % (1 << 30) == 0 => format!("{}GiB", b >> 30),
        b if b % (1 << 20) == 0 => format!("{}MiB", b >> 20),
        b if b % (1 << 10) == 0 => format!("{}KiB", b >> 10),
        b => format!("{b}B"),
    }
}

/// As a percentage.
pub(crate) fn show_share(share: f64) -> String {
    let percent = (share * 1e6).round() / 1e4;
    format!("{percent}%")
}
