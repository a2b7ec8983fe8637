//! Files that are right, and what they mean.

use std::time::Duration;

use breaker_core::{
    ids::{BackendName, PopId, ServiceName},
    policy::{BreakerPolicy, Mode},
};
use fleet_config::{
    Failover, FleetConfig, Priority, PriorityRule, Probe, RequestKey, Service, Timeouts,
};

const MINIMAL: &str = r#"{"pops":{"pop0":{"region_order":["us-east"]}},"services":{"pay":{"routes":[{"path_prefix":"/"}],"backends":{"us-east":{"endpoints":["http://127.0.0.1:8080"]}}}}}"#;

const EVERYTHING: &str = r#"
pops:
  fra1: {region_order: [eu-west, us-west, us-east]}
  iad1: {region_order: [us-east, us-west, eu-west]}
defaults: {}
services:
  payments:
    routes: [{hosts: [pay.example.com], path_prefix: /payments, priority: CRITICAL}]
    backends:
      us-east: {endpoints: ["http://10.0.0.10:8080", "http://10.0.0.11:8080"], capacity_rps: 4000}
      us-west: {endpoints: ["http://10.1.0.10:8080"], capacity_rps: 3000}
    timeouts: {connect: 1s, response_headers: 10s, total: 30s}
    retry: {max_retries: 2, budget_percent: 20, base_backoff: 25ms}
    breaker: {mode: ENFORCE, failure_rate_threshold: 50%, overload_rate_threshold: 90%, min_request_volume: 5, window: 10s, open_duration: 30s,
              max_open_duration: 300s, half_open_max_trials: 1, half_open_successes: 3, ramp_duration: 30s, quorum: 0.5,
              slow_call_duration: 2s, slow_call_rate_threshold: 80%}
    limits: {max_concurrency: 1024, max_queue: 0, queue_timeout: 100ms}
    throttle: {rate: 500, burst: 1000, key: "header:x-api-key"}
    priority: {header: x-priority, default: NORMAL, shed_key: "header:x-user-id"}
    fallback: {stale_if_error: 300s, max_entry_bytes: 1MiB}
    failover: {mode: automatic, target_utilization: 0.8, failback_percent_per_second: 10}
    health_check: {path: /healthz, interval: 5s, timeout: 1s, rise: 2, fall: 3, probers_per_pop: 1}
"#;

fn parse(text: &str) -> FleetConfig {
    FleetConfig::parse(text, "fleet.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

fn service<'a>(config: &'a FleetConfig, name: &str) -> &'a Service {
    config.services.get(name).expect("the service is there")
}

fn with_settings(settings: &str) -> FleetConfig {
    let rest = MINIMAL.strip_suffix("}}}").expect("it ends so");
    parse(&format!("{rest}, {settings}}}}}}}"))
}

#[test]
fn with_everything_optional_left_out_defaults_apply() {
    let config = parse(MINIMAL);
    let pay = service(&config, "pay");
    assert_eq!(pay.timeouts, Timeouts::default());
    assert_eq!(pay.limits.max_concurrency, 1024);
    assert_eq!(pay.breaker.trial_timeout, Duration::from_secs(31));
    assert_eq!(config.warnings, [""; 0]);
    let names: Vec<_> = config.backends().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["pay/us-east"]);
}

#[test]
fn without_a_meter_for_overload_its_threshold_is_the_one_for_failures() {
    let overload = |breaker: &str| {
        let config = with_settings(&format!(r#""breaker": {breaker}"#));
        service(&config, "pay").breaker.overload_rate_threshold
    };
    assert_eq!(overload(r#"{"failure_rate_threshold": "30%"}"#), 0.9);
    assert_eq!(overload(r#"{"overload_rate_threshold": "60%"}"#), 0.6);
    let unmetered = r#"{"overload_throttle": false, "failure_rate_threshold": "30%"}"#;
    assert_eq!(overload(unmetered), 0.3);
    let written = r#"{"overload_throttle": false, "overload_rate_threshold": "60%"}"#;
    assert_eq!(overload(written), 0.6);
}

#[test]
fn what_orders_and_meters_traffic_means_what_it_says() {
    let config = parse(EVERYTHING);
    let payments = service(&config, "payments");
    let expected = PriorityRule {
        header: Some("x-priority".into()),
        default: Priority::Normal,
        shed_key: Some(RequestKey::Header("x-user-id".into())),
    };
    assert_eq!(payments.priority, expected);
    assert_eq!(payments.failover, Some(Failover::default()));
    assert!(payments.breaker.overload_throttle);
    assert_eq!(payments.routes[0].priority, Some(Priority::Critical));
    let capacities: Vec<_> = payments.backends.values().map(|b| b.capacity_rps).collect();
    assert_eq!(capacities, [Some(4000.0), Some(3000.0)]);
    // Without a burst: what a second brings, and one request at least.
    let burst = |rate: &str| {
        let config = with_settings(&format!(r#""throttle": {{"rate": {rate}}}"#));
        let throttle = service(&config, "pay").throttle.clone();
        throttle.expect("a throttle is written").burst
    };
    assert_eq!((burst("500"), burst("0.1")), (500, 1));
}

#[test]
fn the_documented_file_loads_and_says_what_has_no_effect_yet() {
    let config = parse(EVERYTHING);
    let payments = service(&config, "payments");
    let expected = BreakerPolicy {
        slow_call_duration: Some(Duration::from_secs(2)),
        ..BreakerPolicy::default()
    };
    assert_eq!(payments.breaker, expected);
    let throttle = payments.throttle.as_ref().expect("a throttle is written");
    assert_eq!(throttle.key, Some(RequestKey::Header("x-api-key".into())));
    insta::assert_snapshot!(config.warnings.join("\n"), @r#"
    pops.fra1.region_order names "eu-west", where no service has a backend: backends are in us-east, us-west
    pops.iad1.region_order names "eu-west", where no service has a backend: backends are in us-east, us-west
    "#);
}

#[test]
fn a_pop_gets_a_services_regions_in_its_own_order() {
    let config = parse(EVERYTHING);
    let order = |pop: &str| -> Vec<String> {
        let pop = PopId::new(pop).expect("a name");
        let service = ServiceName::new("payments").expect("a name");
        let order = config.region_order(&pop, &service);
        order.map(|backend| backend.name.to_string()).collect()
    };
    assert_eq!(order("fra1"), ["payments/us-west", "payments/us-east"]);
    assert_eq!(order("iad1"), ["payments/us-east", "payments/us-west"]);
    assert_eq!(order("nowhere"), [""; 0]);
}

#[test]
fn a_service_overrides_the_defaults_key_by_key() {
    let config = parse(
        r#"
pops: {a: {region_order: [r]}}
defaults:
  breaker: {mode: SHADOW, open_duration: 2s}
  timeouts: {total: 5s, connect: 200ms}
  retry: {max_retries: 1}
services:
  one: {routes: [{path_prefix: /one}], backends: {r: {endpoints: ["http://one"]}}}
  two:
    routes: [{path_prefix: /two}]
    backends: {r: {endpoints: ["http://[::1]:81/"]}}
    breaker: {mode: ENFORCE}
    timeouts: {total: 100ms}
    retry: {budget_percent: 5}
"#,
    );
    let (one, two) = (service(&config, "one"), service(&config, "two"));
    assert_eq!(one.breaker.mode, Mode::Shadow);
    assert_eq!(two.breaker.mode, Mode::Enforce);
    assert_eq!(two.breaker.open_duration, Duration::from_secs(2));
    assert_eq!(one.breaker.trial_timeout, Duration::from_secs(6));
    // A part that was not written for this service is cut to its total.
    assert_eq!(two.timeouts.connect, Duration::from_millis(100));
    let retry = two.retry.as_ref().expect("a retry is written");
    assert_eq!((retry.max_retries, retry.budget_percent), (1, 5.0));
    assert_eq!(
        two.backends["r"].endpoints[0].to_string(),
        "http://[::1]:81"
    );
}

#[test]
fn an_agent_survives_keys_of_a_newer_version() {
    let text = MINIMAL.replace("\"routes\"", "\"teleport\": true, \"routes\"");
    assert!(FleetConfig::parse(&text, "fleet.yaml").is_err());
    let (config, warnings) = FleetConfig::parse_lenient(&text, "fleet.yaml").expect("lenient");
    assert_eq!(config.services.len(), 1);
    insta::assert_snapshot!(warnings.join("\n"), @"services.pay.teleport: unknown key: allowed are routes, backends, timeouts, breaker, limits, protocol, tls, upgrades, ejection, retry, throttle, priority, fallback, failover, health_check");
}

#[test]
fn hosts_and_paths_match_by_whole_labels_and_segments() {
    let config = parse(&MINIMAL.replace(
        r#"{"path_prefix":"/"}"#,
        r#"{"hosts": ["*.Example.com", "pay.test"], "path_prefix": "/pay/"}, {"path": "/status"}"#,
    ));
    let routes = &service(&config, "pay").routes;
    let host = |host| routes[0].hosts.iter().any(|pattern| pattern.matches(host));
    for (name, matches) in [
        ("a.example.com", true),
        ("a.b.example.com", true),
        ("example.com", false),
        ("badexample.com", false),
        ("pay.test", true),
    ] {
        assert_eq!(host(name), matches, "{name}");
    }
    for (path, matches) in [
        ("/pay", true),
        ("/pay/1", true),
        ("/payments", false),
        ("/", false),
    ] {
        assert_eq!(routes[0].path.matches(path), matches, "{path}");
    }
    assert!(routes[1].path.matches("/status"));
    assert!(!routes[1].path.matches("/status/1"));
}

#[test]
fn a_backend_is_found_by_its_name() {
    let config = parse(EVERYTHING);
    let name = BackendName::parse("payments/us-west").expect("a name");
    let (_, backend) = config.backend(&name).expect("it is there");
    assert_eq!(backend.capacity_rps, Some(3000.0));
    assert!(
        config
            .policy(&BackendName::parse("payments/moon").expect("a name"))
            .is_none()
    );
}

#[test]
fn a_health_check_asks_a_path_or_a_grpc_service_or_the_server_as_a_whole() {
    let probe = |check: &str| {
        let config = with_settings(&format!(r#""health_check": {check}"#));
        let check = service(&config, "pay").health_check.clone();
        check.expect("a health check is written").probe
    };
    let http = |path: &str| Probe::Http { path: path.into() };
    let grpc = |service: &str| Probe::Grpc {
        service: service.into(),
    };
    assert_eq!(probe("{}"), http("/healthz"));
    assert_eq!(probe(r#"{"path": "/ready"}"#), http("/ready"));
    assert_eq!(probe(r#"{"protocol": "grpc"}"#), grpc(""));
    let named = probe(r#"{"protocol": "grpc", "grpc_service": "shop.v1.Pay"}"#);
    assert_eq!(named, grpc("shop.v1.Pay"));
}
