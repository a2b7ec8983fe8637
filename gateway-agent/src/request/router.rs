//! Which service a request is for: the most specific route that matches.
//!
//! An exact host beats a wildcard, a longer wildcard a shorter one, and any of
//! them a route for every host; then an exact path beats a prefix and a longer
//! prefix a shorter one; then more conditions on method and headers beat fewer.

use std::{cmp::Reverse, collections::HashMap, rc::Rc, sync::Arc};

use breaker_core::ids::ServiceName;
use fleet_config::{FleetConfig, HostPattern, PathMatch, Route};
use http::{HeaderMap, Method};

use crate::{admit::service::Service, request::ranking::Ranking};

/// Where requests of one route go.
#[derive(Debug)]
pub(crate) struct Destination {
    /// The service, with its regions in the order the POP prefers them.
    pub(crate) service: Arc<Service>,
    /// How its requests are ranked.
    pub(crate) ranking: Ranking,
    /// Largest request body in bytes.
    pub(crate) max_request_bytes: Option<u64>,
    /// Protocols that its requests may switch to, in lower case.
    pub(crate) upgrades: Rc<[String]>,
}

/// All routes of a fleet. One for each core, so nothing in it is shared.
#[derive(Debug, Default)]
pub(crate) struct Router {
    exact: HashMap<Box<str>, Vec<Rule>>,
    /// Longest suffix first.
    suffixes: Vec<(Box<str>, Vec<Rule>)>,
    any: Vec<Rule>,
}

/// A route under one of its hosts.
#[derive(Debug, Clone)]
struct Rule {
    path: PathMatch,
    methods: Rc<[String]>,
    headers: Rc<[(String, String)]>,
    destination: Rc<Destination>,
}

impl Router {
    /// The routes of `config` to its services.
    pub(crate) fn new(config: &FleetConfig, services: &HashMap<ServiceName, Arc<Service>>) -> Self {
        let mut router = Self::default();
        for (name, service) in services {
            let Some(settings) = config.services.get(name) else {
                continue;
            };
            let upgrades: Rc<[String]> = settings.upgrades.as_slice().into();
            for route in &settings.routes {
                let destination = Rc::new(Destination {
                    service: service.clone(),
                    ranking: Ranking::new(route, settings),
                    max_request_bytes: route.max_request_bytes,
                    upgrades: upgrades.clone(),
                });
                router.add(route, &destination);
            }
        }
        router.sort();
        router
    }

    fn add(&mut self, route: &Route, destination: &Rc<Destination>) {
        let rule = Rule {
            path: route.path.clone(),
            methods: route.methods.as_slice().into(),
            headers: route.headers.as_slice().into(),
            destination: destination.clone(),
        };
        if route.hosts.is_empty() {
            self.any.push(rule.clone());
        }
        for host in &route.hosts {
            self.rules_for(host).push(rule.clone());
        }
    }

    fn rules_for(&mut self, host: &HostPattern) -> &mut Vec<Rule> {
        match host {
            HostPattern::Exact(host) => self.exact.entry(host.as_str().into()).or_default(),
            HostPattern::Suffix(suffix) => {
                let known = self.suffixes.iter().position(|(s, _)| **s == **suffix);
                let at = known.unwrap_or_else(|| {
                    self.suffixes.push((suffix.as_str().into(), Vec::new()));
                    self.suffixes.len() - 1
                });
                &mut self.suffixes[at].1
            }
        }
    }

    fn sort(&mut self) {
        self.suffixes
            .sort_by_key(|(suffix, _)| Reverse(suffix.len()));
        let groups = self.exact.values_mut();
        let groups = groups.chain(self.suffixes.iter_mut().map(|(_, rules)| rules));
        for rules in groups.chain([&mut self.any]) {
            rules.sort_by_key(|rule| Reverse(rule.specificity()));
        }
    }

    /// The most specific route's destination. `host` is in lower case and
    /// without port, `path` normalised and without query.
    pub(crate) fn route(
        &self,
        host: &str,
        path: &str,
        method: &Method,
        headers: &HeaderMap,
    ) -> Option<&Rc<Destination>> {
        let exact = self.exact.get(host).map_or(&[][..], Vec::as_slice);
        let suffixes = self.suffixes.iter();
        let suffixes = suffixes.filter(|(s, _)| host.len() > s.len() && host.ends_with(&**s));
        let rules = exact.iter().chain(suffixes.flat_map(|(_, rules)| rules));
        let mut rules = rules.chain(&self.any);
        let rule = rules.find(|rule| rule.matches(path, method, headers))?;
        Some(&rule.destination)
    }
}

impl Rule {
    fn matches(&self, path: &str, method: &Method, headers: &HeaderMap) -> bool {
        let method_fits = self.methods.is_empty() || self.methods.iter().any(|m| method == &**m);
        let has = |(name, value): &(String, String)| {
            let mut values = headers.get_all(name.as_str()).iter();
            values.any(|found| found.as_bytes() == value.as_bytes())
        };
        method_fits && self.path.matches(path) && self.headers.iter().all(has)
    }

    fn specificity(&self) -> (bool, usize, usize, bool) {
        let (exact, length) = match &self.path {
            PathMatch::Exact(path) => (true, path.len()),
            PathMatch::Prefix(path) => (false, path.len()),
        };
        (exact, length, self.headers.len(), !self.methods.is_empty())
    }
}
