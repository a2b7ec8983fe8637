//! What only the whole file can tell: whether its parts fit together.

use std::collections::{BTreeSet, HashMap};

use breaker_core::ids::{RegionName, ServiceName};

use crate::{
    fleet::{Pops, Services},
    model::{Pop, Route},
    read::At,
};

/// Most combinations of a route with a host and a method: each is looked up here,
/// and an entry in every agent's router.
const MAX_MATCHES: usize = 200_000;

/// No two routes may match the same request equally well.
pub(crate) fn check_routes(services: &Services<'_>) {
    let mut seen: HashMap<_, (&At<'_>, &ServiceName)> = HashMap::new();
    for (name, service) in services {
        for (at, route) in &service.routes {
            if seen.len() > MAX_MATCHES {
                at.error(format_args!(
                    "too many routes: at most {MAX_MATCHES} combinations of a route with a host \
                     and a method are allowed"
                ));
                return;
            }
            let clash = match_keys(route).find_map(|key| match seen.get(&key) {
                Some((first, owner)) if first.path != at.path => Some((*first, *owner)),
                _ => {
                    seen.insert(key, (at, name));
                    None
                }
            });
            if let Some((first, owner)) = clash {
                at.error(format_args!(
                    "{} is already the route {} of service {owner} (line {}): a request could go \
                     to either",
                    route.path, first.path, first.line
                ));
            }
        }
    }
}

/// One key for each request shape the route matches.
fn match_keys(route: &Route) -> impl Iterator<Item = impl Eq + std::hash::Hash + use<'_>> {
    let hosts = or_any(&route.hosts);
    hosts.into_iter().flat_map(move |host| {
        let methods = or_any(&route.methods);
        methods
            .into_iter()
            .map(move |method| (host, &route.path, method, &route.headers))
    })
}

fn or_any<T>(list: &[T]) -> Vec<Option<&T>> {
    match list {
        [] => vec![None],
        list => list.iter().map(Some).collect(),
    }
}

/// Every order leads to a backend, and every backend is in an order.
pub(crate) fn check_regions(pops: &Pops<'_>, services: &Services<'_>) {
    let served: BTreeSet<_> = services.values().flat_map(|s| s.backends.keys()).collect();
    let listed: BTreeSet<_> = pops
        .values()
        .flat_map(|(_, pop)| &pop.region_order)
        .collect();
    if served.is_empty() || listed.is_empty() {
        // What is missing has been said; all else would only repeat it.
        return;
    }
    for (at, pop) in pops.values() {
        check_order(at, &pop.region_order, &served);
    }
    for (region, (at, _)) in services.values().flat_map(|s| &s.backends) {
        if !listed.contains(region) {
            at.error(format_args!(
                "no POP has {region:?} in its region_order, so no request could go there: POPs \
                 list {}",
                join(&listed)
            ));
        }
    }
    warn_of_gaps(pops, services);
}

/// A region that no service is in may be one where some soon will be; an order of
/// nothing else is a mistake.
fn check_order(at: &At<'_>, order: &[RegionName], served: &BTreeSet<&RegionName>) {
    let without: Vec<_> = order
        .iter()
        .filter(|region| !served.contains(region))
        .collect();
    let Some(region) = without.first() else {
        return;
    };
    if without.len() == order.len() {
        at.error(format_args!(
            "no service has a backend in any region of this region_order: backends are in {}",
            join(served)
        ));
        return;
    }
    at.report.warn(format!(
        "{}.region_order names {region:?}, where no service has a backend: backends are in {}",
        at.path,
        join(served)
    ));
}

fn warn_of_gaps(pops: &Pops<'_>, services: &Services<'_>) {
    for service in services
        .values()
        .filter(|service| !service.backends.is_empty())
    {
        let serves = |pop: &Pop| {
            pop.region_order
                .iter()
                .any(|r| service.backends.contains_key(r))
        };
        let without: Vec<_> = pops.iter().filter(|(_, (_, pop))| !serves(pop)).collect();
        let Some((first, _)) = without.first() else {
            continue;
        };
        let more = match without.len() {
            1 => String::new(),
            count => format!(" and {} more POPs", count - 1),
        };
        service.at.report.warn(format!(
            "{} has no backend in a region that POP {first}{more} lists: requests for it there \
             are refused",
            service.at.path
        ));
    }
}

fn join(names: &BTreeSet<&RegionName>) -> String {
    let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    names.join(", ")
}
