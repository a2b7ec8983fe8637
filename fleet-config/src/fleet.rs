//! Reading the whole file.

use std::collections::BTreeMap;

use breaker_core::ids::{PopId, RegionName, ServiceName};

use crate::{
    backends,
    error::{ConfigErrors, Report},
    model::{Backend, FleetConfig, Pop, Route, Service},
    read::{At, Fields},
    references::{check_regions, check_routes},
    routes,
    sections::Settings,
    tree,
};

/// Most services and POPs: what one agent's memory and one `/metrics` page bear.
const MAX_SERVICES: usize = 10_000;
const MAX_POPS: usize = 1_000;
/// Most regions in one POP's order.
const MAX_REGIONS: usize = 100;

impl FleetConfig {
    /// Reads a fleet file, YAML or JSON. `source` names it in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn parse(text: &str, source: &str) -> Result<Self, ConfigErrors> {
        read(text, source, false)
    }

    /// Like [`parse`](Self::parse), but unknown keys are warnings: an agent must
    /// survive a file that a newer control plane has accepted.
    ///
    /// # Errors
    /// Everything else that is wrong with it, at once.
    pub fn parse_lenient(text: &str, source: &str) -> Result<(Self, Vec<String>), ConfigErrors> {
        let config = read(text, source, true)?;
        let warnings = config.warnings.clone();
        Ok((config, warnings))
    }
}

fn read(text: &str, source: &str, lenient: bool) -> Result<FleetConfig, ConfigErrors> {
    let root = tree::read(text, source)?;
    let report = Report::new(source, lenient);
    let (pops, services) = sections(&At::root(&root, &report));
    let warnings = report.finish()?;
    Ok(FleetConfig {
        pops,
        services,
        warnings,
    })
}

fn sections(root: &At<'_>) -> (BTreeMap<PopId, Pop>, BTreeMap<ServiceName, Service>) {
    let Some(mut fields) = root.fields() else {
        return Default::default();
    };
    let pops = fields.get("pops");
    let defaults = fields.get("defaults");
    let services = fields.get("services");
    fields.finish();
    for (key, given, example) in [
        ("pops", &pops, "pops: {fra1: {region_order: [eu-west]}}"),
        (
            "services",
            &services,
            "services: {payments: {routes: […], backends: {…}}}",
        ),
    ] {
        if given.is_none() {
            root.error(format_args!(
                "{key} is missing: give at least one, for example {example}"
            ));
        }
    }
    let defaults = defaults.map(|at| read_defaults(&at)).unwrap_or_default();
    let pops = pops.map(|at| read_pops(&at)).unwrap_or_default();
    let services = services
        .map(|at| read_services(&at, &defaults))
        .unwrap_or_default();
    check_routes(&services);
    check_regions(&pops, &services);
    let without_places = |(name, read): (ServiceName, ServiceRead<'_>)| (name, read.into_service());
    (
        pops.into_iter()
            .map(|(name, (_, pop))| (name, pop))
            .collect(),
        services.into_iter().map(without_places).collect(),
    )
}

fn read_defaults(at: &At<'_>) -> Settings {
    let Some(mut fields) = at.fields() else {
        return Settings::default();
    };
    let settings = Settings::default().read(&mut fields);
    for key in ["routes", "backends"] {
        fields.forbid(
            key,
            "belongs to a service: services that shared it could not be told apart",
        );
    }
    fields.finish();
    settings
}

/// The POPs with where they are.
pub(crate) type Pops<'a> = BTreeMap<PopId, (At<'a>, Pop)>;

fn read_pops<'a>(at: &At<'a>) -> Pops<'a> {
    let entries = named(at, "POP", MAX_POPS);
    let mut pops = BTreeMap::new();
    for (name, at) in entries {
        match PopId::new(name) {
            Ok(id) => {
                let region_order = region_order(&at).unwrap_or_default();
                pops.insert(id, (at, Pop { region_order }));
            }
            Err(error) => at.error(error),
        }
    }
    pops
}

fn named<'a>(at: &At<'a>, what: &str, max: usize) -> Vec<(&'a str, At<'a>)> {
    let Some(fields) = at.fields() else {
        return Vec::new();
    };
    let entries: Vec<_> = fields.named().collect();
    if (1..=max).contains(&entries.len()) {
        return entries;
    }
    at.error(format_args!(
        "{} entries: give 1 to {max}, each named after its {what}",
        entries.len()
    ));
    Vec::new()
}

fn region_order(at: &At<'_>) -> Option<Vec<RegionName>> {
    let mut fields = at.fields()?;
    let order = fields.get("region_order");
    fields.finish();
    let Some(at) = order else {
        at.error("region_order is missing: list the regions, the preferred one first");
        return None;
    };
    let items = at.items()?;
    if items.is_empty() || items.len() > MAX_REGIONS {
        at.error(format_args!(
            "{} regions: list 1 to {MAX_REGIONS}",
            items.len()
        ));
    }
    let mut regions = Vec::new();
    for item in &items {
        match item.text().map(RegionName::new) {
            None => {}
            Some(Err(error)) => item.error(error),
            Some(Ok(region)) if regions.contains(&region) => {
                item.error(format_args!("{} is in the list twice", item.value));
            }
            Some(Ok(region)) => regions.push(region),
        }
    }
    Some(regions)
}

/// A service and where its parts are.
pub(crate) struct ServiceRead<'a> {
    pub(crate) at: At<'a>,
    pub(crate) routes: Vec<(At<'a>, Route)>,
    pub(crate) backends: BTreeMap<RegionName, (At<'a>, Option<Backend>)>,
    settings: Settings,
}

impl ServiceRead<'_> {
    fn into_service(self) -> Service {
        let settings = self.settings;
        Service {
            routes: self.routes.into_iter().map(|(_, route)| route).collect(),
            backends: self
                .backends
                .into_iter()
                .filter_map(|(region, (_, backend))| Some((region, backend?)))
                .collect(),
            breaker: settings.thresholds.policy(settings.timeouts.total),
            timeouts: settings.timeouts,
            limits: settings.limits,
            protocol: settings.protocol,
            tls: settings.tls,
            upgrades: settings.upgrades,
            ejection: settings.ejection,
            priority: settings.priority,
            retry: settings.retry,
            throttle: settings.throttle,
            fallback: settings.fallback,
            failover: settings.failover,
            health_check: settings.health_check,
        }
    }
}

pub(crate) type Services<'a> = BTreeMap<ServiceName, ServiceRead<'a>>;

fn read_services<'a>(at: &At<'a>, defaults: &Settings) -> Services<'a> {
    let mut services = BTreeMap::new();
    for (name, at) in named(at, "service", MAX_SERVICES) {
        match ServiceName::new(name) {
            Ok(name) => {
                if let Some(service) = service(at, &name, defaults) {
                    services.insert(name, service);
                }
            }
            Err(error) => at.error(error),
        }
    }
    services
}

fn service<'a>(at: At<'a>, name: &ServiceName, defaults: &Settings) -> Option<ServiceRead<'a>> {
    let mut fields = at.fields()?;
    let routes = required(
        &mut fields,
        "routes",
        "one route, for example [{path_prefix: /}]",
    );
    let routes = routes.map(|at| routes::read(&at)).unwrap_or_default();
    let backends = required(&mut fields, "backends", "one region with its endpoints");
    let backends = backends
        .map(|at| backends::read(&at, name))
        .unwrap_or_default();
    let settings = defaults.clone().read(&mut fields);
    fields.finish();
    if backends.len() == 1 && settings.failover != defaults.failover {
        at.report.warn(format!(
            "{}.failover has no effect: there is no other region than {}",
            at.path,
            backends.keys().map(|r| r.as_str()).collect::<String>()
        ));
    }
    Some(ServiceRead {
        at,
        routes,
        backends,
        settings,
    })
}

/// A list or mapping that must have something in it.
fn required<'a>(fields: &mut Fields<'a>, key: &'static str, least: &str) -> Option<At<'a>> {
    let at = fields.get(key);
    match &at {
        None => fields
            .at
            .error(format_args!("{key} is missing: give at least {least}")),
        Some(at) if at.is_empty() => at.error(format_args!("is empty: give at least {least}")),
        Some(_) => {}
    }
    at
}
