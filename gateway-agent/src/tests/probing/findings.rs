//! What is probed, believed and reported, in virtual time.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use breaker_core::{BackendName, Timestamp, ids::PopId};
use fleet_config::{FleetConfig, HealthCheck};
use rampmeter_api::v1;

use crate::{
    probe::findings::{Findings, Target},
    tests::{control::secs, probing::fleet},
};

const START: Timestamp = Timestamp::from_millis(100_000);
const CALM: Duration = Duration::from_secs(1);
const EAST: &str = "pay/us-east";

/// One backend with endpoints on ports 1 to 3, probed every 5 s.
fn config() -> Arc<FleetConfig> {
    let endpoints = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let config = FleetConfig::parse(&fleet(&endpoints, "rise: 2, fall: 2"), "test");
    Arc::new(config.expect("a good fleet file"))
}

fn east() -> BackendName {
    BackendName::parse(EAST).expect("a name")
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn target(port: u16) -> Target {
    Target {
        backend: east(),
        endpoint: url(port),
    }
}

fn assignment(ports: &[u16]) -> v1::ProbeAssignment {
    let target = |port: &u16| v1::ProbeTarget {
        backend: EAST.to_owned(),
        endpoint: url(*port),
    };
    v1::ProbeAssignment {
        targets: ports.iter().map(target).collect(),
    }
}

/// Which ports the fleet calls unhealthy, and at which POPs.
fn told(ports: &[(u16, &[&str])]) -> v1::BackendHealth {
    let endpoint = |(port, pops): &(u16, &[&str])| v1::UnhealthyEndpoint {
        endpoint: url(*port),
        pops: pops.iter().map(|pop| (*pop).to_owned()).collect(),
    };
    v1::BackendHealth {
        backend: EAST.to_owned(),
        unhealthy: ports.iter().map(endpoint).collect(),
    }
}

struct Rig {
    findings: Findings,
    now: Timestamp,
}

impl Rig {
    fn new(by_file: bool) -> Self {
        let mut findings = Findings::new(START);
        findings.configure(config(), by_file, START);
        Self {
            findings,
            now: START,
        }
    }

    fn connected() -> Self {
        let mut rig = Self::new(false);
        rig.findings.connected(true, START);
        rig
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.findings.look(self.now);
    }

    fn probed(&mut self, port: u16, answer: Result<(), &str>) {
        let limits = HealthCheck {
            rise: 2,
            fall: 2,
            ..HealthCheck::default()
        };
        let answer = answer.map_err(str::to_owned);
        let limits = limits.rise_fall();
        self.findings
            .probed(&target(port), limits, answer, self.now);
    }

    fn tell(&mut self, ports: &[(u16, &[&str])]) {
        let pop = PopId::new("fra1").expect("a name");
        assert_eq!(self.findings.tell(&told(ports), &pop), Some(east()));
    }

    fn ports(&mut self) -> Vec<String> {
        let jobs = self.findings.jobs().into_keys();
        jobs.map(|target| target.endpoint).collect()
    }

    fn unhealthy(&self) -> Vec<String> {
        self.findings.unhealthy(&east()).into_iter().collect()
    }

    /// Reported now: (endpoint, healthy, age in ms, error, probes).
    fn reported(&mut self) -> Vec<(String, bool, u32, String, u32)> {
        let reports = self.findings.reports(self.now, CALM).into_iter();
        let probes = reports.flat_map(|report| report.probes);
        probes
            .map(|p| (p.endpoint, p.healthy, p.age_ms, p.error, p.probes))
            .collect()
    }
}

#[test]
fn an_agent_probes_what_it_is_told_and_alone_everything() {
    let mut rig = Rig::connected();
    assert_eq!(rig.ports(), [""; 0], "others probe");
    rig.findings.assign(&assignment(&[2, 9]));
    assert_eq!(rig.ports(), [url(2)], "and nothing that is not configured");
    rig.findings.connected(false, rig.now);
    rig.pass(Duration::from_millis(9_999));
    assert_eq!(rig.ports(), [url(2)], "others may still live");
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.ports(), [url(1), url(2), url(3)]);
    rig.findings.connected(true, rig.now);
    assert_eq!(rig.ports(), [url(2)], "until it is told anew");
    rig.findings.assign(&assignment(&[]));
    assert_eq!(rig.ports(), [""; 0]);
}

#[test]
fn an_agent_with_a_file_of_its_own_is_alone_from_the_start() {
    assert_eq!(Rig::new(true).ports().len(), 3);
    let mut waiting = Rig::new(false);
    assert_eq!(waiting.ports().len(), 0, "its control plane may come yet");
    waiting.pass(secs(10));
    assert_eq!(waiting.ports().len(), 3);
}

#[test]
fn the_fleets_findings_hold_for_the_pops_they_name() {
    let mut rig = Rig::connected();
    rig.tell(&[(1, &[]), (2, &["iad1"]), (3, &["iad1", "fra1"])]);
    assert_eq!(rig.unhealthy(), [url(1), url(3)]);
    rig.tell(&[]);
    assert_eq!(rig.unhealthy(), [""; 0]);
}

#[test]
fn a_prober_in_the_fleet_does_not_believe_itself_alone() {
    let mut rig = Rig::connected();
    rig.findings.assign(&assignment(&[1]));
    rig.probed(1, Err("status 503"));
    rig.probed(1, Err("status 503"));
    assert_eq!(rig.unhealthy(), [""; 0], "the others of its POP may see it");
    rig.findings.connected(false, rig.now);
    rig.pass(secs(10));
    assert_eq!(rig.unhealthy(), [url(1)]);
}

#[test]
fn who_takes_over_holds_an_endpoint_for_what_it_was() {
    let mut rig = Rig::connected();
    rig.tell(&[(1, &[])]);
    rig.findings.assign(&assignment(&[1, 2]));
    rig.probed(1, Err("timed out"));
    rig.probed(2, Err("timed out"));
    let reported = rig.reported();
    let healthy: Vec<_> = reported
        .iter()
        .map(|(e, healthy, ..)| (e.as_str(), *healthy))
        .collect();
    assert_eq!(healthy, [(&*url(1), false), (&*url(2), true)]);
}

#[test]
fn what_was_found_alone_holds_after_it_until_the_fleet_says_otherwise() {
    let mut rig = Rig::connected();
    rig.tell(&[(1, &[]), (2, &[])]);
    rig.findings.connected(false, rig.now);
    rig.pass(secs(60));
    assert_eq!(
        rig.unhealthy(),
        [url(1), url(2)],
        "nothing else is known yet"
    );
    for _ in 0..2 {
        rig.probed(1, Ok(()));
        rig.probed(3, Err("status 500"));
    }
    assert_eq!(rig.unhealthy(), [url(2), url(3)]);
    rig.findings.connected(true, rig.now);
    assert_eq!(rig.unhealthy(), [url(2), url(3)]);
    rig.tell(&[(3, &[])]);
    assert_eq!(rig.unhealthy(), [url(3)]);
}

#[test]
fn a_change_is_reported_at_once_and_the_rest_once_a_calm_interval() {
    let mut rig = Rig::connected();
    rig.findings.assign(&assignment(&[1, 2]));
    assert_eq!(rig.reported(), [], "nothing was found yet");
    rig.probed(1, Ok(()));
    assert_eq!(rig.reported(), []);
    rig.pass(CALM);
    assert_eq!(rig.reported(), [(url(1), true, 1000, String::new(), 1)]);
    rig.pass(CALM);
    assert_eq!(rig.reported(), [], "told already");
    rig.probed(1, Err("status 503"));
    rig.pass(CALM);
    let failed = "status 503".to_owned();
    assert_eq!(rig.reported(), [(url(1), true, 1000, failed.clone(), 1)]);
    rig.probed(1, Err("status 503"));
    assert_eq!(
        rig.reported(),
        [(url(1), false, 0, failed.clone(), 1)],
        "unhealthy"
    );
    // A new assignment may come from a replica that knows nothing.
    rig.findings.assign(&assignment(&[1, 2]));
    assert_eq!(rig.reported(), [(url(1), false, 0, failed, 0)]);
}

#[test]
fn findings_of_endpoints_that_others_probe_are_not_told() {
    let mut rig = Rig::new(false);
    rig.pass(secs(10));
    (1..=3).for_each(|port| rig.probed(port, Ok(())));
    rig.findings.connected(true, rig.now);
    rig.findings.assign(&assignment(&[3]));
    let reported = rig.reported();
    assert_eq!(reported, [(url(3), true, 0, String::new(), 1)]);
}

#[test]
fn a_check_that_is_taken_out_frees_its_endpoints() {
    let mut rig = Rig::connected();
    rig.tell(&[(1, &[])]);
    let endpoint = SocketAddr::from(([127, 0, 0, 1], 1));
    let without = fleet(&[endpoint], "").replace("health_check: {}", "");
    let config = FleetConfig::parse(&without, "test").expect("a good fleet file");
    rig.findings.configure(Arc::new(config), false, rig.now);
    assert_eq!(rig.unhealthy(), [""; 0]);
}
