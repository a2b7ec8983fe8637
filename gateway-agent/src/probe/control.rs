//! Health checks on the control side: findings come in, requests are told.

use breaker_core::{BackendName, Timestamp, probing::RiseFall};
use rampmeter_api::v1;

use super::{Unhealthy, findings::Target};
use crate::{config::configuration::ConfigSource, fleet::control::Control};

impl Control {
    /// The configuration changed.
    pub(crate) fn configure_probes(&mut self, now: Timestamp) {
        let table = self.table.load();
        if let Some(config) = &table.config {
            let by_file = self.source == ConfigSource::File;
            self.probing.configure(config.clone(), by_file, now);
        }
        // Also those whose check was taken out.
        let backends: Vec<_> = self.backends.keys().cloned().collect();
        backends.iter().for_each(|name| self.tell_requests(name));
    }

    /// A stream is up, or ended.
    pub(crate) fn connect_probes(&mut self, up: bool, now: Timestamp) {
        self.probing.connected(up, now);
        self.tell_all();
    }

    /// What the fleet's probers found.
    pub(crate) fn take_health(&mut self, health: &[v1::BackendHealth]) {
        for health in health {
            if let Some(backend) = self.probing.tell(health, &self.identity.pop) {
                self.tell_requests(&backend);
            }
        }
    }

    /// One of our own probes ended.
    pub(crate) fn probed(
        &mut self,
        target: &Target,
        limits: RiseFall,
        answer: Result<(), String>,
        now: Timestamp,
    ) {
        let why = answer.as_ref().err().cloned().unwrap_or_default();
        if self.probing.probed(target, limits, answer, now) {
            let Target { backend, endpoint } = target;
            match why.is_empty() {
                true => tracing::info!(%backend, endpoint, "health checks succeed again"),
                false => tracing::warn!(%backend, endpoint, why, "health checks fail"),
            }
            self.tell_requests(backend);
        }
    }

    /// Whether this agent is alone may have changed with time.
    pub(crate) fn look_at_probes(&mut self, now: Timestamp) {
        if self.probing.look(now) {
            self.tell_all();
        }
    }

    fn tell_all(&mut self) {
        for backend in self.probing.checked() {
            self.tell_requests(&backend);
        }
    }

    fn tell_requests(&mut self, backend: &BackendName) {
        let Some(watched) = self.backends.get(backend) else {
            return;
        };
        let unhealthy = Unhealthy(self.probing.unhealthy(backend));
        watched.backend.live.reach.set_unhealthy(unhealthy);
    }
}
