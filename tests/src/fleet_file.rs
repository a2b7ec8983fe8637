//! Fleet files for tests. They are written as JSON, which is YAML.

use std::{net::SocketAddr, path::Path};

use serde_json::{Map, Value, json};

/// A fleet file in the making.
#[derive(Debug, Clone, Default)]
pub struct FleetFile {
    pops: Map<String, Value>,
    defaults: Map<String, Value>,
    services: Map<String, Value>,
}

impl FleetFile {
    /// POPs `pop0` and so on, which all prefer the regions in this order.
    pub fn new(pops: usize, region_order: &[&str]) -> Self {
        let pop = |index| {
            (
                format!("pop{index}"),
                json!({ "region_order": region_order }),
            )
        };
        Self {
            pops: (0..pops).map(pop).collect(),
            ..Self::default()
        }
    }

    /// Adds a POP that prefers the regions in this order.
    #[must_use]
    pub fn pop(mut self, name: &str, region_order: &[&str]) -> Self {
        let pop = json!({ "region_order": region_order });
        self.pops.insert(name.to_owned(), pop);
        self
    }

    /// Says how many requests a second a region of a service takes.
    #[must_use]
    pub fn capacity(mut self, service: &str, region: &str, per_second: f64) -> Self {
        self.services[service]["backends"][region]["capacity_rps"] = per_second.into();
        self
    }

    /// Adds a service behind `/NAME`, with its regions' addresses.
    #[must_use]
    pub fn service(mut self, name: &str, backends: &[(&str, SocketAddr)]) -> Self {
        let backend = |(region, address): &(&str, SocketAddr)| {
            (
                (*region).to_owned(),
                json!({ "endpoints": [format!("http://{address}")] }),
            )
        };
        let backends: Map<_, _> = backends.iter().map(backend).collect();
        let service =
            json!({ "routes": [{ "path_prefix": format!("/{name}") }], "backends": backends });
        self.services.insert(name.to_owned(), service);
        self
    }

    /// Sets a breaker setting of every service.
    #[must_use]
    pub fn breaker(self, key: &str, value: impl Into<Value>) -> Self {
        self.default_of("breaker", key, value.into())
    }

    /// Sets a time-out of every service.
    #[must_use]
    pub fn timeout(self, key: &str, value: &str) -> Self {
        self.default_of("timeouts", key, value.into())
    }

    /// Sets a setting of every service, in the section of this name.
    #[must_use]
    pub fn setting(self, section: &str, key: &str, value: impl Into<Value>) -> Self {
        self.default_of(section, key, value.into())
    }

    fn default_of(mut self, group: &str, key: &str, value: Value) -> Self {
        let group = self.defaults.entry(group).or_insert_with(|| json!({}));
        group[key] = value;
        self
    }

    /// Names of its POPs.
    pub fn pops(&self) -> impl Iterator<Item = &str> {
        self.pops.keys().map(String::as_str)
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let file =
            json!({ "pops": self.pops, "defaults": self.defaults, "services": self.services });
        format!("{file:#}")
    }

    /// Writes it.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, self.text())
    }
}
