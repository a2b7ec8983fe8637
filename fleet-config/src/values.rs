//! Values with their ranges. Each function returns a reader for one range, to be
//! passed to `Fields::read`; the reader reports what is wrong and gives `None`.

use std::{ops::RangeInclusive, time::Duration};

use crate::{
    read::At,
    settings::RequestKey,
    tree::Value,
    units::{self, show_bytes, show_duration, show_share},
};

/// A duration.
pub(crate) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&At<'_>) -> Option<Duration> {
    move |at| {
        let parsed = match at.value {
            Value::Text(text) => units::duration(text.trim()),
            _ => None,
        };
        let Some(duration) = parsed else {
            return at.refuse(
                "a duration",
                "use a number with ms, s, m or h, for example 30s",
            );
        };
        if range.contains(&duration) {
            return Some(duration);
        }
        let (min, max) = (show_duration(*range.start()), show_duration(*range.end()));
        at.error(format_args!(
            "{} is out of range: use {min} to {max}",
            show_duration(duration)
        ));
        None
    }
}

/// A share above 0, at most 1.
pub(crate) fn positive_share(at: &At<'_>) -> Option<f64> {
    let share = share(at)?;
    if share > 0.0 {
        return Some(share);
    }
    at.error(format_args!(
        "{} is out of range: use more than 0%, at most 100%",
        at.value
    ));
    None
}

/// A share, 0 to 1.
pub(crate) fn share(at: &At<'_>) -> Option<f64> {
    let parsed = match at.value {
        Value::Text(text) => units::percentage(text.trim()),
        Value::Integer(number @ 0..=1) => Some(*number as f64),
        Value::Float(number) if (0.0..=1.0).contains(number) => Some(*number),
        _ => None,
    };
    let Some(share) = parsed else {
        return at.refuse(
            "a share",
            "use a percentage such as 50%, or a number from 0 to 1",
        );
    };
    if share <= 1.0 {
        return Some(share);
    }
    at.error(format_args!(
        "{} is out of range: use 0% to 100%",
        show_share(share)
    ));
    None
}

/// A whole number.
pub(crate) fn count(range: RangeInclusive<u32>) -> impl Fn(&At<'_>) -> Option<u32> {
    move |at| {
        let (min, max) = (range.start(), range.end());
        let Value::Integer(number) = at.value else {
            return at.refuse("a whole number", format_args!("use {min} to {max}"));
        };
        let in_range = u32::try_from(*number).ok().filter(|n| range.contains(n));
        if in_range.is_none() {
            at.error(format_args!("{number} is out of range: use {min} to {max}"));
        }
        in_range
    }
}

/// A number above 0, at most `max`.
pub(crate) fn positive_number(max: f64) -> impl Fn(&At<'_>) -> Option<f64> {
    move |at| {
        let number = match at.value {
            Value::Integer(number) => *number as f64,
            Value::Float(number) => *number,
            _ => return at.refuse("a number", format_args!("use more than 0, at most {max}")),
        };
        if number > 0.0 && number <= max {
            return Some(number);
        }
        at.error(format_args!(
            "{number} is out of range: use more than 0, at most {max}"
        ));
        None
    }
}

/// A size in bytes.
pub(crate) fn bytes(range: RangeInclusive<u64>) -> impl Fn(&At<'_>) -> Option<u64> {
    move |at| {
        let parsed = match at.value {
            Value::Text(text) => units::bytes(text.trim()),
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let Some(bytes) = parsed else {
            return at.refuse(
                "a size",
                "use a number with B, KiB, MiB or GiB, for example 1MiB",
            );
        };
        if range.contains(&bytes) {
            return Some(bytes);
        }
        let (min, max) = (show_bytes(*range.start()), show_bytes(*range.end()));
        at.error(format_args!(
            "{} is out of range: use {min} to {max}",
            show_bytes(bytes)
        ));
        None
    }
}

/// One of some words.
pub(crate) fn one_of<T: Copy>(words: &[(&'static str, T)]) -> impl Fn(&At<'_>) -> Option<T> {
    move |at| {
        let text = at.text()?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            at.error(format_args!(
                "{} is not allowed: use {}",
                at.value,
                words.join(", ")
            ));
        }
        found.map(|(_, value)| *value)
    }
}

/// `true` or `false`.
pub(crate) fn boolean(at: &At<'_>) -> Option<bool> {
    match at.value {
        Value::Bool(value) => Some(*value),
        _ => at.refuse("true or false", "use true or false"),
    }
}

/// The name of a header field, made lower case.
pub(crate) fn header_name(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    if is_token(text) {
        return Some(text.to_ascii_lowercase());
    }
    at.refuse("a header field's name", "use letters, digits and '-'")
}

/// `header:NAME`.
pub(crate) fn request_key(at: &At<'_>) -> Option<RequestKey> {
    let name = at
        .text()?
        .strip_prefix("header:")
        .filter(|name| is_token(name));
    match name {
        Some(name) => Some(RequestKey::Header(name.to_ascii_lowercase())),
        None => at.refuse("a key", "use header:NAME, for example header:x-api-key"),
    }
}

/// The full name of a gRPC service.
pub(crate) fn grpc_service(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    let word = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    if text.len() <= MAX_GRPC_SERVICE_BYTES && text.split('.').all(word) {
        return Some(text.to_owned());
    }
    at.refuse(
        "a gRPC service",
        "use its full name, for example shop.v1.Payments; leave it out for the server as a whole",
    )
}

/// Longest name of a gRPC service.
const MAX_GRPC_SERVICE_BYTES: usize = 200;

/// A `token` of RFC 9110, of sane length.
pub(crate) fn is_token(text: &str) -> bool {
    let special = b"!#$%&'*+-.^_`|~";
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || special.contains(&byte);
    (1..=100).contains(&text.len()) && text.bytes().all(allowed)
}

/// A path to ask for or to match: printable ASCII from a slash on, without query,
/// fragment, dot segments or empty segments, as routing sees paths.
pub(crate) fn path(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    let plain = printable && !text.contains(['?', '#', '*', '\\']);
    let inner = text
        .strip_prefix('/')
        .map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let normal = inner.is_some_and(|inner| {
        inner.is_empty()
            || inner
                .split('/')
                .all(|part| !matches!(part, "" | "." | ".."))
    });
    if text.len() <= MAX_PATH_BYTES && plain && normal && text != "//" {
        return Some(text.to_owned());
    }
    at.refuse(
        "a path",
        "start with a slash; no query, wildcard, space, empty or dot segment; at most 1024 characters",
    )
}

/// Longest path in a route: beyond it nobody can read a route table.
const MAX_PATH_BYTES: usize = 1024;
