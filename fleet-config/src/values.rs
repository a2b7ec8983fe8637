//! Values with their ranges. Each function returns a reader for one range, to be
//! passed to `Fields::read`; the reader reports what is wrong and gives `None`.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use crate::{
    host::AddressRange,
    read::At,
    routes::is_host,
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

/// Several of something; every one that is wrong is reported.
pub(crate) fn items<T>(at: &At<'_>, item: impl Fn(&At<'_>) -> Option<T>) -> Option<Vec<T>> {
    let items = at.items()?;
    if items.len() > MAX_LIST {
        at.error(format_args!(
            "{} items: use {MAX_LIST} at most",
            items.len()
        ));
        return None;
    }
    let read: Vec<_> = items.iter().map(item).collect();
    read.into_iter().collect()
}

/// Several of something, sorted and without repetition.
pub(crate) fn list<T: Ord>(at: &At<'_>, item: impl Fn(&At<'_>) -> Option<T>) -> Option<Vec<T>> {
    let mut read = items(at, item)?;
    read.sort_unstable();
    read.dedup();
    Some(read)
}

/// Longest list.
const MAX_LIST: usize = 100;

/// A protocol's name in `Upgrade`, made lower case.
pub(crate) fn token(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    if text.eq_ignore_ascii_case("h2c") {
        at.error("\"h2c\" would carry requests past every route and limit: leave it out");
        return None;
    }
    if is_token(text) {
        return Some(text.to_ascii_lowercase());
    }
    at.refuse("a protocol's name", "use a word such as websocket")
}

/// A gRPC status code by its name; not `OK`.
pub(crate) fn grpc_code(at: &At<'_>) -> Option<u8> {
    let text = at.text()?;
    let found = GRPC_CODES.iter().position(|name| *name == text);
    match found.and_then(|at| u8::try_from(at + 1).ok()) {
        Some(code) => Some(code),
        None => at.refuse(
            "a gRPC status",
            format_args!("use {}", GRPC_CODES.join(", ")),
        ),
    }
}

/// From 1 on.
pub(crate) const GRPC_CODES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A file's path.
pub(crate) fn file(at: &At<'_>) -> Option<PathBuf> {
    let text = at.text()?;
    match text.is_empty() || text.contains('\0') {
        true => at.refuse("a file", "use a path, for example /etc/rampmeter/ca.pem"),
        false => Some(PathBuf::from(text)),
    }
}

/// Where to listen.
pub(crate) fn address(at: &At<'_>) -> Option<SocketAddr> {
    match at.text()?.parse() {
        Ok(address) => Some(address),
        Err(_) => at.refuse("an address", "use IP:PORT, for example 0.0.0.0:8443"),
    }
}

/// Addresses in CIDR notation, or one address.
pub(crate) fn address_range(at: &At<'_>) -> Option<AddressRange> {
    let text = at.text()?;
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let range = address.parse::<IpAddr>().ok().and_then(|address| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(bits), |prefix| prefix.parse().ok())?;
        (prefix <= bits).then_some(AddressRange { address, prefix })
    });
    match range {
        Some(range) => Some(range),
        None => at.refuse(
            "a range of addresses",
            "use ADDRESS/BITS, for example 10.0.0.0/8",
        ),
    }
}

/// `http://HOST:PORT`.
pub(crate) fn url(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    match text.strip_prefix("http://") {
        Some(rest) if !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic()) => {
            Some(text.to_owned())
        }
        _ => at.refuse(
            "a collector's URL",
            "use http://HOST:PORT; TLS is for a collector on this host to add",
        ),
    }
}

/// A DNS name or an address, as certificates have it.
pub(crate) fn server_name(at: &At<'_>) -> Option<String> {
    let text = at.text()?.to_ascii_lowercase();
    match is_host(&text) {
        true => Some(text),
        false => at.refuse("a host", "use a DNS name or an address"),
    }
}

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
