//! Reading a service's backends.

use std::{
    collections::{BTreeMap, HashSet},
    net::Ipv6Addr,
};

use breaker_core::ids::{BackendName, RegionName, ServiceName};

use crate::{
    model::{Backend, Endpoint, Scheme},
    read::At,
    routes::is_host,
    values::positive_number,
};

/// Most endpoints of a backend: an agent keeps a pool for each.
const MAX_ENDPOINTS: usize = 1000;

/// The backends with where they are; `None` for one with errors, whose region is
/// known all the same.
pub(crate) fn read<'a>(
    at: &At<'a>,
    service: &ServiceName,
) -> BTreeMap<RegionName, (At<'a>, Option<Backend>)> {
    let entries = at.fields().into_iter().flat_map(|fields| fields.named());
    let mut backends = BTreeMap::new();
    for (name, at) in entries {
        match RegionName::new(name) {
            Ok(region) => {
                let name = BackendName::of(service, &region);
                let backend = backend(&at, name);
                backends.insert(region, (at, backend));
            }
            Err(error) => at.error(error),
        }
    }
    backends
}

fn backend(at: &At<'_>, name: BackendName) -> Option<Backend> {
    let mut fields = at.fields()?;
    let mut endpoints = None;
    let given = fields.read("endpoints", &mut endpoints, |at| list(at).map(Some));
    if !given {
        at.error("endpoints is missing: give a list, for example [\"http://10.0.0.10:8080\"]");
    }
    let mut capacity_rps = None;
    fields.read("capacity_rps", &mut capacity_rps, |at| {
        positive_number(1e9)(at).map(Some)
    });
    fields.finish();
    Some(Backend {
        name,
        endpoints: endpoints?,
        capacity_rps,
    })
}

fn list(at: &At<'_>) -> Option<Vec<Endpoint>> {
    let items = at.items()?;
    if items.is_empty() || items.len() > MAX_ENDPOINTS {
        at.error(format_args!(
            "{} endpoints: use 1 to {MAX_ENDPOINTS}",
            items.len()
        ));
        return None;
    }
    let mut seen = HashSet::new();
    for item in &items {
        let Some(endpoint) = endpoint(item) else {
            continue;
        };
        if !seen.insert(endpoint.clone()) {
            item.error(format_args!("{endpoint} is in the list twice"));
        }
    }
    let mut list: Vec<_> = seen.into_iter().collect();
    list.sort_unstable();
    Some(list)
}

fn endpoint(at: &At<'_>) -> Option<Endpoint> {
    let text = at.text()?;
    let Some((scheme, rest)) = text.split_once("://") else {
        return at.refuse("an endpoint", SHAPE);
    };
    let (scheme, default_port) = match scheme.to_ascii_lowercase().as_str() {
        "http" => (Scheme::Http, 80),
        "https" => (Scheme::Https, 443),
        _ => return at.refuse("an endpoint", SHAPE),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest).to_ascii_lowercase();
    let Some((host, port)) = host_and_port(&authority, default_port) else {
        return at.refuse("an endpoint", SHAPE);
    };
    Some(Endpoint { scheme, host, port })
}

const SHAPE: &str = "use http://HOST:PORT or https://HOST:PORT, for example http://10.0.0.10:8080";

fn host_and_port(authority: &str, default_port: u16) -> Option<(String, u16)> {
    // A colon inside brackets belongs to an IPv6 address.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, default_port),
    };
    if !is_host(host) || port == 0 {
        return None;
    }
    let inside = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host = match inside.and_then(|inside| inside.parse::<Ipv6Addr>().ok()) {
        Some(address) => address.to_string(),
        None => host.to_owned(),
    };
    Some((host, port))
}
