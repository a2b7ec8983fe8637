//! What a new file changes, as an operator reads it before applying it.

use fleet_config::{FleetConfig, diff};

const OLD: &str = r#"
pops: {fra1: {region_order: [eu-west]}, iad1: {region_order: [us-east, eu-west]}}
services:
  pay:
    routes: [{path_prefix: /pay, max_request_bytes: 1MiB}, {path: /old}]
    backends:
      us-east: {endpoints: ["http://10.0.0.10:8080"]}
      eu-west: {endpoints: ["http://10.1.0.10:8080"]}
    breaker: {open_duration: 30s, slow_call_duration: 2s}
    throttle: {rate: 5}
    priority: {default: LOW, shed_key: "header:x-user"}
    failover: {mode: manual, target_utilization: 70%}
  gone: {routes: [{path_prefix: /gone}], backends: {us-east: {endpoints: ["http://10.0.0.10:8081"]}}}
"#;

const NEW: &str = r#"
pops: {fra1: {region_order: [eu-west, us-west]}, iad1: {region_order: [us-west, eu-west]}}
services:
  pay:
    routes: [{path_prefix: /pay, max_request_bytes: 2MiB, priority: HIGH}, {path: /new, methods: [GET, PUT]}]
    backends:
      us-west: {endpoints: ["http://10.2.0.10:8080"]}
      eu-west: {endpoints: ["http://10.1.0.10:8080", "http://10.1.0.11:8080"], capacity_rps: 50}
    breaker: {open_duration: 2s, mode: SHADOW, overload_throttle: false}
    retry: {}
    throttle: {rate: 5, burst: 9, key: "header:x-api-key"}
    priority: {header: x-priority, shed_key: "header:x-user"}
    failover: {failback_percent_per_second: 5}
  more: {routes: [{path_prefix: /more}], backends: {us-west: {endpoints: ["http://10.0.0.10:8081"]}}}
"#;

fn parse(text: &str) -> FleetConfig {
    FleetConfig::parse(text, "fleet.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn each_change_is_one_line_by_key() {
    let lines = diff(&parse(OLD), &parse(NEW));
    insta::assert_snapshot!(lines.join("\n"), @r"
    ~ pops.fra1.region_order: [eu-west] → [eu-west, us-west]
    ~ pops.iad1.region_order: [us-east, eu-west] → [us-west, eu-west]
    - services.gone
    + services.more
    + services.pay.backends.eu-west.capacity_rps: 50
    ~ services.pay.backends.eu-west.endpoints: [http://10.1.0.10:8080] → [http://10.1.0.10:8080, http://10.1.0.11:8080]
    - services.pay.backends.us-east
    + services.pay.backends.us-west
    ~ services.pay.breaker.mode: ENFORCE → SHADOW
    ~ services.pay.breaker.open_duration: 30s → 2s
    ~ services.pay.breaker.overload_rate_threshold: 90% → 50%
    ~ services.pay.breaker.overload_throttle: true → false
    - services.pay.breaker.slow_call_duration: 2s
    ~ services.pay.failover.failback_percent_per_second: 10 → 5
    ~ services.pay.failover.mode: manual → automatic
    ~ services.pay.failover.target_utilization: 70% → 80%
    ~ services.pay.priority.default: LOW → NORMAL
    + services.pay.priority.header: x-priority
    + services.pay.retry
    + services.pay.routes.[path /new methods [GET, PUT]]
    - services.pay.routes.[path /old]
    ~ services.pay.routes.[path_prefix /pay].max_request_bytes: 1MiB → 2MiB
    + services.pay.routes.[path_prefix /pay].priority: HIGH
    ~ services.pay.throttle.burst: 5 → 9
    + services.pay.throttle.key: header:x-api-key
    ");
}

#[test]
fn another_way_to_check_health_is_shown_with_its_protocol() {
    let with = |check: &str| parse(&OLD.replace("throttle: {rate: 5}", check));
    let http = with("health_check: {path: /ready, interval: 2s}");
    let grpc = with("health_check: {protocol: grpc, grpc_service: shop.v1.Pay, interval: 2s}");
    insta::assert_snapshot!(diff(&http, &grpc).join("\n"), @"
    + services.pay.health_check.grpc_service: shop.v1.Pay
    - services.pay.health_check.path: /ready
    ~ services.pay.health_check.protocol: http → grpc
    ");
}

#[test]
fn the_same_meaning_in_other_words_is_no_change() {
    let old = parse(OLD);
    let other = OLD
        .replace("30s", "0.5m")
        .replace("1MiB", "1024KiB")
        .replace("/pay,", "/pay/,");
    assert_ne!(OLD, other);
    assert_eq!(diff(&old, &parse(&other)), [""; 0]);
}
