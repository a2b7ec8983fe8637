//! Reading a service's routes.

use std::net::IpAddr;

use crate::{
    model::{HostPattern, PathMatch, Route},
    read::{At, Fields},
    sections::PRIORITIES,
    tree::Value,
    values::{bytes, header_name, is_token, one_of, path},
};

/// Most routes of a service, and most hosts, methods or header fields of a
/// route: more is a generator gone wrong.
const MAX_ROUTES: usize = 1000;
const MAX_CONDITIONS: usize = 100;

/// The routes with where they are, for messages about pairs of them.
pub(crate) fn read<'a>(at: &At<'a>) -> Vec<(At<'a>, Route)> {
    let items = at.items().unwrap_or_default();
    if items.len() > MAX_ROUTES {
        at.error(format_args!(
            "{} routes: at most {MAX_ROUTES} are allowed",
            items.len()
        ));
        return Vec::new();
    }
    let read = |at: At<'a>| route(&at).map(|route| (at, route));
    items.into_iter().filter_map(read).collect()
}

/// `None` for a route with errors: what it would match is not known.
fn route(at: &At<'_>) -> Option<Route> {
    let errors = at.report.count();
    let mut fields = at.fields()?;
    let mut route = Route {
        hosts: Vec::new(),
        path: PathMatch::Prefix("/".to_owned()),
        methods: Vec::new(),
        headers: Vec::new(),
        priority: None,
        max_request_bytes: None,
    };
    fields.read("hosts", &mut route.hosts, |at| distinct(at, "host", host));
    path_match(&mut fields, &mut route.path);
    fields.read("methods", &mut route.methods, |at| {
        distinct(at, "method", method)
    });
    fields.read("headers", &mut route.headers, headers);
    fields.read("priority", &mut route.priority, |at| {
        one_of(&PRIORITIES)(at).map(Some)
    });
    fields.read("max_request_bytes", &mut route.max_request_bytes, |at| {
        bytes(0..=1 << 40)(at).map(Some)
    });
    fields.finish();
    (at.report.count() == errors).then_some(route)
}

fn path_match(fields: &mut Fields<'_>, out: &mut PathMatch) {
    let exact = fields.read("path", out, |at| path(at).map(PathMatch::Exact));
    let prefix = fields.read("path_prefix", out, |at| path(at).map(prefix));
    match (exact, prefix) {
        (true, true) => fields
            .at
            .error("path and path_prefix are both given: use one of them"),
        (false, false) => fields
            .at
            .error("path_prefix is missing: use path_prefix or path, for example path_prefix: /"),
        _ => {}
    }
}

/// `/pay/` and `/pay` match the same.
fn prefix(path: String) -> PathMatch {
    match path.strip_suffix('/') {
        None | Some("") => PathMatch::Prefix(path),
        Some(short) => PathMatch::Prefix(short.to_owned()),
    }
}

/// A sorted list without repetition.
fn distinct<T: Ord>(
    at: &At<'_>,
    what: &str,
    parse: impl Fn(&At<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = at.items()?;
    if items.is_empty() || items.len() > MAX_CONDITIONS {
        at.error(format_args!(
            "{} entries: use 1 to {MAX_CONDITIONS}, or leave the key out for every {what}",
            items.len()
        ));
        return None;
    }
    let mut list = Vec::new();
    for item in &items {
        let Some(value) = parse(item) else { continue };
        match list.contains(&value) {
            true => item.error(format_args!("{} is in the list twice", item.value)),
            false => list.push(value),
        }
    }
    list.sort_unstable();
    (list.len() == items.len()).then_some(list)
}

fn host(at: &At<'_>) -> Option<HostPattern> {
    let host = at.text()?.to_ascii_lowercase();
    let below = host.strip_prefix("*.");
    let valid = match below {
        Some(parent) => is_dns_name(parent) && parent.parse::<IpAddr>().is_err(),
        None => is_host(&host),
    };
    match (valid, below) {
        (true, Some(parent)) => Some(HostPattern::Suffix(format!(".{parent}"))),
        (true, None) => Some(HostPattern::Exact(host)),
        (false, _) => at.refuse(
            "a host",
            "use a name without scheme and port such as pay.example.com or *.example.com",
        ),
    }
}

/// A DNS name, or an address; an IPv6 address in brackets, as in a `Host` field.
pub(crate) fn is_host(host: &str) -> bool {
    match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inside) => matches!(inside.parse(), Ok(IpAddr::V6(_))),
        None => is_dns_name(host),
    }
}

/// Labels of letters, digits, '-' and '_' (which RFC 1123 lacks and container
/// networks use).
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = name
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    match numeric {
        true => matches!(name.parse(), Ok(IpAddr::V4(_))),
        false => name.len() <= 253 && name.split('.').all(label),
    }
}

fn method(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    if is_token(text) && !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Some(text.to_owned());
    }
    at.refuse("a method", "use capital letters, for example GET")
}

fn headers(at: &At<'_>) -> Option<Vec<(String, String)>> {
    let entries: Vec<_> = at.fields()?.named().collect();
    if entries.is_empty() || entries.len() > MAX_CONDITIONS {
        at.error(format_args!(
            "{} entries: use 1 to {MAX_CONDITIONS}, or leave the key out",
            entries.len()
        ));
        return None;
    }
    let count = entries.len();
    let mut list: Vec<(String, String)> = entries.iter().filter_map(header).collect();
    list.sort_unstable();
    if let Some(pair) = list.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        at.error(format_args!(
            "{:?} is given twice: case does not matter in names",
            pair[0].0
        ));
        return None;
    }
    (list.len() == count).then_some(list)
}

fn header((name, value): &(&str, At<'_>)) -> Option<(String, String)> {
    let key = Value::Text((*name).to_owned());
    let name = header_name(&At {
        value: &key,
        ..value.clone()
    });
    let text = value.text()?;
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim() == text;
    if !plain {
        return value.refuse(
            "a header field's value",
            "use printable ASCII without outer spaces",
        );
    }
    Some((name?, text.to_owned()))
}
