//! Files that are wrong, and what is said about them.

use fleet_config::{FleetConfig, MAX_FILE_BYTES};

fn errors(text: &str) -> String {
    match FleetConfig::parse(text, "fleet.yaml") {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(errors) => errors.to_string(),
    }
}

/// A right file whose only service has `more` besides.
fn with(more: &str) -> String {
    format!(
        "pops: {{fra1: {{region_order: [eu-west]}}}}
services:
  pay:
    routes: [{{path_prefix: /}}]
    backends: {{eu-west: {{endpoints: [\"http://10.0.0.1:80\"]}}}}
{more}"
    )
}

#[test]
fn every_mistake_is_named_at_once_with_line_key_value_and_what_is_allowed() {
    let text = r#"
pops:
  fra1: {region_order: [eu-west, eu-west]}
  "no good": {region_order: [eu-west]}
  iad1: {}
defaults:
  breaker: {open_duration: 5 parsecs}
  routes: []
servises: {}
services:
  payments:
    routes:
      - {hosts: ["https://pay.example.com"], path_prefix: payments}
      - {methods: [get, POST], path: /a, path_prefix: /b, priority: URGENT}
      - {headers: {x-beta: 1}, max_request_bytes: 1 megabyte, path_prefix: /}
    backends:
      us-east: {endpoints: ["http://a:8080", "https://b", "ftp://c", "http://a:8080"]}
      eu-west: {capacity_rps: -1}
    timeouts: {connect: 40s, total: 30s}
    breaker:
      mode: FORCED_OPEN
      failure_rate_threshold: 50
      quorum: 150%
      min_request_volume: 0.5
      window: 2m
      open_duraton: 3s
      max_open_duration: 1s
      max_open_duration: 2s
    limits: {max_concurrency: 0}
    throttle: {burst: 5, key: cookie}
    health_check: {path: healthz, timeout: 9s}
  empty: {}
"#;
    insta::assert_snapshot!(errors(text), @r#"
    fleet.yaml:3: pops.fra1.region_order[1]: "eu-west" is in the list twice
    fleet.yaml:4: pops.no good: POP "no good" has the character ' ': allowed are letters, digits, '.', '_' and '-'
    fleet.yaml:5: pops.iad1: region_order is missing: list the regions, the preferred one first
    fleet.yaml:7: defaults.breaker.open_duration: "5 parsecs" is not a duration: use a number with ms, s, m or h, for example 30s
    fleet.yaml:8: defaults.routes: belongs to a service: services that shared it could not be told apart
    fleet.yaml:9: servises: unknown key: did you mean "services"?
    fleet.yaml:13: services.payments.routes[0].hosts[0]: "https://pay.example.com" is not a host: use a name without scheme and port such as pay.example.com or *.example.com
    fleet.yaml:13: services.payments.routes[0].path_prefix: "payments" is not a path: start with a slash; no query, wildcard, space, empty or dot segment; at most 1024 characters
    fleet.yaml:14: services.payments.routes[1]: path and path_prefix are both given: use one of them
    fleet.yaml:14: services.payments.routes[1].methods[0]: "get" is not a method: use capital letters, for example GET
    fleet.yaml:14: services.payments.routes[1].priority: "URGENT" is not allowed: use CRITICAL, HIGH, NORMAL, LOW
    fleet.yaml:15: services.payments.routes[2].headers.x-beta: 1 is not text: put it in quotation marks
    fleet.yaml:15: services.payments.routes[2].max_request_bytes: "1 megabyte" is not a size: use a number with B, KiB, MiB or GiB, for example 1MiB
    fleet.yaml:17: services.payments.backends.us-east.endpoints[2]: "ftp://c" is not an endpoint: use http://HOST:PORT or https://HOST:PORT, for example http://10.0.0.10:8080
    fleet.yaml:17: services.payments.backends.us-east.endpoints[3]: http://a:8080 is in the list twice
    fleet.yaml:17: services.payments.backends.us-east: no POP has "us-east" in its region_order, so no request could go there: POPs list eu-west
    fleet.yaml:18: services.payments.backends.eu-west: endpoints is missing: give a list, for example ["http://10.0.0.10:8080"]
    fleet.yaml:18: services.payments.backends.eu-west.capacity_rps: -1 is out of range: use more than 0, at most 1000000000
    fleet.yaml:19: services.payments.timeouts.connect: 40s is longer than timeouts.total (30s), so it would never run out
    fleet.yaml:20: services.payments.breaker: open_duration (30s) is longer than max_open_duration (1s): raise the maximum or lower the first
    fleet.yaml:21: services.payments.breaker.mode: "FORCED_OPEN" is not a setting but an operator's decision: use `rampctl override`, which asks for a reason and an expiry; here use ENFORCE, SHADOW, DISABLED
    fleet.yaml:22: services.payments.breaker.failure_rate_threshold: 50 is not a share: use a percentage such as 50%, or a number from 0 to 1
    fleet.yaml:23: services.payments.breaker.quorum: 150% is out of range: use 0% to 100%
    fleet.yaml:24: services.payments.breaker.min_request_volume: 0.5 is not a whole number: use 1 to 1000000
    fleet.yaml:25: services.payments.breaker.window: 2m is out of range: use 1s to 1m
    fleet.yaml:26: services.payments.breaker.open_duraton: unknown key: did you mean "open_duration"?
    fleet.yaml:28: services.payments.breaker.max_open_duration: the key is given twice
    fleet.yaml:29: services.payments.limits.max_concurrency: 0 is out of range: use 1 to 1000000
    fleet.yaml:30: services.payments.throttle.key: "cookie" is not a key: use header:NAME, for example header:x-api-key
    fleet.yaml:30: services.payments.throttle: rate is missing: give the requests a second, for example rate: 500
    fleet.yaml:31: services.payments.health_check.path: "healthz" is not a path: start with a slash; no query, wildcard, space, empty or dot segment; at most 1024 characters
    fleet.yaml:31: services.payments.health_check.timeout: 9s is longer than health_check.interval (5s): probes would overlap
    fleet.yaml:32: services.empty: routes is missing: give at least one route, for example [{path_prefix: /}]
    fleet.yaml:32: services.empty: backends is missing: give at least one region with its endpoints
    "#);
}

#[test]
fn a_health_check_speaks_one_protocol() {
    let check = |settings: &str| {
        errors(&format!(
            r#"
pops: {{fra1: {{region_order: [eu-west]}}}}
defaults: {{health_check: {{path: /ready}}}}
services:
  pay:
    routes: [{{path_prefix: /}}]
    backends: {{eu-west: {{endpoints: ["http://a:8080"]}}}}
    health_check: {settings}
"#
        ))
    };
    insta::assert_snapshot!(check("{protocol: grpc, path: /healthz}"), @"fleet.yaml:8: services.pay.health_check.path: belongs to protocol http, but the protocol is grpc: change it or leave this out");
    insta::assert_snapshot!(check("{grpc_service: shop.v1.Payments}"), @"fleet.yaml:8: services.pay.health_check.grpc_service: belongs to protocol grpc, but the protocol is http: change it or leave this out");
    insta::assert_snapshot!(check("{protocol: grpc, grpc_service: 'shop..Payments/Check'}"), @r#"fleet.yaml:8: services.pay.health_check.grpc_service: "shop..Payments/Check" is not a gRPC service: use its full name, for example shop.v1.Payments; leave it out for the server as a whole"#);
    insta::assert_snapshot!(check("{protocol: tcp}"), @r#"fleet.yaml:8: services.pay.health_check.protocol: "tcp" is not allowed: use http, grpc"#);
    insta::assert_snapshot!(check("{rise: 0, fall: 1000, probers_per_pop: 0, interval: 10ms}"), @"
    fleet.yaml:8: services.pay.health_check.interval: 10ms is out of range: use 100ms to 1h
    fleet.yaml:8: services.pay.health_check.rise: 0 is out of range: use 1 to 100
    fleet.yaml:8: services.pay.health_check.fall: 1000 is out of range: use 1 to 100
    fleet.yaml:8: services.pay.health_check.probers_per_pop: 0 is out of range: use 1 to 100
    ");
}

#[test]
fn malformed_yaml_is_one_error_with_line_and_column() {
    insta::assert_snapshot!(errors("pops:\n  fra1: {region_order: [eu-west\nservices: {}\n"), @"fleet.yaml:3: column 9: illegal placement of ':' indicator");
    insta::assert_snapshot!(errors("pops: a: b\n"), @"fleet.yaml:1: column 8: mapping values are not allowed in this context");
    insta::assert_snapshot!(errors("pops: {}\n---\npops: {}\n"), @"fleet.yaml:3: column 1: only single YAML document expected but multiple found");
    insta::assert_snapshot!(errors("? [a, b]\n: c\n"), @"fleet.yaml:1: column 3: expected string scalar");
    insta::assert_snapshot!(errors("pops: !ruby/object {}\n"), @"fleet.yaml:1: column 20: unsupported tag `!ruby/object`");
}

#[test]
fn a_file_of_another_kind_is_told_apart() {
    insta::assert_snapshot!(errors(""), @r"
    fleet.yaml:1: pops is missing: give at least one, for example pops: {fra1: {region_order: [eu-west]}}
    fleet.yaml:1: services is missing: give at least one, for example services: {payments: {routes: […], backends: {…}}}
    ");
    insta::assert_snapshot!(errors("just words"), @r#"fleet.yaml:1: "just words" is not a mapping: use keys with values, one a line"#);
    insta::assert_snapshot!(errors("[1, 2]"), @"fleet.yaml:1: a list is not a mapping: use keys with values, one a line");
    insta::assert_snapshot!(errors("pops: 3\nservices: []\n"), @r"
    fleet.yaml:1: pops: 3 is not a mapping: use keys with values, one a line
    fleet.yaml:2: services: a list is not a mapping: use keys with values, one a line
    ");
    insta::assert_snapshot!(errors("pops: {}\nservices: {}\n"), @r"
    fleet.yaml:1: pops: 0 entries: give 1 to 1000, each named after its POP
    fleet.yaml:2: services: 0 entries: give 1 to 10000, each named after its service
    ");
}

#[test]
fn two_routes_for_the_same_requests_are_refused_with_both_their_names() {
    let text = r#"
pops: {a: {region_order: [r]}}
services:
  one:
    routes: [{path_prefix: /a, hosts: [x.test, y.test]}, {path_prefix: /b, methods: [GET]}]
    backends: {r: {endpoints: ["http://one"]}}
  two:
    routes: [{path_prefix: /a/, hosts: [Y.test]}, {path_prefix: /b, methods: [POST]}, {path: /b}]
    backends: {r: {endpoints: ["http://two"]}}
  three:
    routes: [{path_prefix: /b, methods: [DELETE, POST]}, {path: /b, headers: {x-beta: "1"}}]
    backends: {r: {endpoints: ["http://three"]}}
"#;
    insta::assert_snapshot!(errors(text), @r"
    fleet.yaml:8: services.two.routes[0]: path_prefix /a is already the route services.one.routes[0] of service one (line 5): a request could go to either
    fleet.yaml:8: services.two.routes[1]: path_prefix /b is already the route services.three.routes[0] of service three (line 11): a request could go to either
    ");
}

#[test]
fn regions_that_lead_nowhere_are_refused() {
    let text = r#"
pops: {fra1: {region_order: [eu-west]}, iad1: {region_order: [us-esat]}}
services:
  pay:
    routes: [{path_prefix: /}]
    backends: {eu-west: {endpoints: ["http://a"]}, us-east: {endpoints: ["http://b"]}}
"#;
    insta::assert_snapshot!(errors(text), @r#"
    fleet.yaml:2: pops.iad1: no service has a backend in any region of this region_order: backends are in eu-west, us-east
    fleet.yaml:6: services.pay.backends.us-east: no POP has "us-east" in its region_order, so no request could go there: POPs list eu-west, us-esat
    "#);
}

#[test]
fn contradictions_are_refused() {
    let text = with(
        "    breaker: {open_duration: 10m, slow_call_duration: 30s}\n    timeouts: {response_headers: 31s}",
    );
    insta::assert_snapshot!(errors(&text), @r"
    fleet.yaml:3: services.pay: breaker.slow_call_duration (30s) is not below timeouts.total (30s), so no call could be slow
    fleet.yaml:6: services.pay.breaker: open_duration (10m) is longer than max_open_duration (5m): raise the maximum or lower the first
    fleet.yaml:7: services.pay.timeouts.response_headers: 31s is longer than timeouts.total (30s), so it would never run out
    ");
}

#[test]
fn settings_that_order_and_meter_traffic_must_be_able_to() {
    let text = with(
        "    breaker: {overload_throttle: true, overload_rate_threshold: 10%}
    throttle: {rate: 0, burst: 0}
    failover: {mode: auto, target_utilization: 0, failback_percent_per_second: 0}
    priority: {header: X-Priority, default: MEDIUM, shed_key: \"header:x-priority\"}",
    );
    insta::assert_snapshot!(errors(&text), @r#"
    fleet.yaml:6: services.pay.breaker: overload_rate_threshold (10%) is not above the 10% of overloads that the throttle provokes to find out what the backend takes, so the breaker would open on them: raise it, or set overload_throttle: false
    fleet.yaml:7: services.pay.throttle.rate: 0 is out of range: use more than 0, at most 1000000000
    fleet.yaml:7: services.pay.throttle.burst: 0 is out of range: use 1 to 1000000000
    fleet.yaml:8: services.pay.failover.mode: "auto" is not allowed: use automatic, manual
    fleet.yaml:8: services.pay.failover.target_utilization: 0 is out of range: use more than 0%, at most 100%
    fleet.yaml:8: services.pay.failover.failback_percent_per_second: 0 is out of range: use more than 0, at most 100
    fleet.yaml:9: services.pay.priority.default: "MEDIUM" is not allowed: use CRITICAL, HIGH, NORMAL, LOW
    fleet.yaml:9: services.pay.priority: shed_key is the field that names the priority (x-priority), so all requests of one priority would be let in or shed together: use one that tells callers apart, for example header:x-user-id
    "#);
    let text = with(
        "    breaker: {overload_throttle: sometimes}\n    throttle: {rate: 5, burst: 0.5}\n    failover: {target_utilization: 120%}",
    );
    insta::assert_snapshot!(errors(&text), @r#"
    fleet.yaml:6: services.pay.breaker.overload_throttle: "sometimes" is not true or false: use true or false
    fleet.yaml:7: services.pay.throttle.burst: 0.5 is not a whole number: use 1 to 1000000000
    fleet.yaml:8: services.pay.failover.target_utilization: 120% is out of range: use 0% to 100%
    "#);
}

#[test]
fn settings_that_lead_nowhere_are_warned_of() {
    let text = with("    breaker: {overload_rate_threshold: 5%}\n    failover: {mode: manual}");
    let config = FleetConfig::parse(&text, "fleet.yaml").expect("it is allowed");
    insta::assert_snapshot!(config.warnings.join("\n"), @r"
    services.pay.breaker: overload_rate_threshold (5%) is not above the 10% of overloads that the throttle provokes to find out what the backend takes, so the breaker would open on them: raise it, or set overload_throttle: false
    services.pay.failover has no effect: there is no other region than eu-west
    ");
}

#[test]
fn endpoints_must_be_plain_http_addresses() {
    let refused = [
        "10.0.0.1:80",
        "http://",
        "http://:80",
        "http://a:0",
        "http://a:65536",
        "http://a:",
        "http://a/path",
        "http://user@a",
        "http://a?b",
        "http://1.2.3",
        "http://[::1",
        "http://::1",
        "http://a b",
        "http://-a",
        "unix:///tmp/x",
    ];
    for endpoint in refused {
        let text = with("").replace("http://10.0.0.1:80", endpoint);
        let message = errors(&text);
        let expected = format!("{endpoint:?} is not an endpoint: use http://HOST:PORT");
        assert!(message.contains(&expected), "{message}");
    }
    for endpoint in [
        "http://a",
        "HTTP://A.b:1/",
        "http://[2001:db8::1]:80",
        "http://my_svc",
    ] {
        let text = with("").replace("http://10.0.0.1:80", endpoint);
        assert!(
            FleetConfig::parse(&text, "fleet.yaml").is_ok(),
            "{endpoint}"
        );
    }
}

#[test]
fn aliases_that_unfold_into_a_huge_file_are_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let inner = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("a{level}: &a{level} [{inner}]\n");
    }
    insta::assert_snapshot!(errors(&text), @"fleet.yaml:6: column 10: the file is too large once its aliases are unfolded: at most 500000 values, 32 levels deep, 200000 of them through aliases");
}

#[test]
fn deep_nesting_is_refused() {
    insta::assert_snapshot!(errors(&"[".repeat(100_000)), @"fleet.yaml:1: column 256: recursion limit exceeded");
    insta::assert_snapshot!(errors(&"{a: ".repeat(100)), @"fleet.yaml:1: column 397: unclosed bracket '{'");
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    insta::assert_snapshot!(errors(&"#".repeat(MAX_FILE_BYTES + 1)), @"fleet.yaml: the file has 4194305 bytes: at most 4194304 (4 MiB) are allowed");
}

#[test]
fn ten_thousand_services_are_allowed_and_no_more() {
    let file = |count: usize| -> String {
        let mut text = String::from("pops: {p: {region_order: [r]}}\nservices:\n");
        for n in 0..count {
            text += &format!(
                "  s{n}: {{routes: [{{path: /{n}}}], backends: {{r: {{endpoints: [\"http://a\"]}}}}}}\n"
            );
        }
        text
    };
    let config = FleetConfig::parse(&file(10_000), "fleet.yaml").expect("it is allowed");
    assert_eq!(config.backends().count(), 10_000);
    insta::assert_snapshot!(errors(&file(10_001)), @"fleet.yaml:2: services: 10001 entries: give 1 to 10000, each named after its service");
}

#[test]
fn routes_that_multiply_without_end_are_refused() {
    let list = |prefix: &str| {
        let items: Vec<_> = (0..100).map(|n| format!("{prefix}{n}")).collect();
        items.join(", ")
    };
    let (hosts, methods) = (list("h"), list("M"));
    let routes: Vec<_> = (0..100)
        .map(|n| format!("{{path: /{n}, hosts: [{hosts}], methods: [{methods}]}}"))
        .collect();
    let text = with("").replace("{path_prefix: /}", &routes.join(", "));
    insta::assert_snapshot!(errors(&text), @"fleet.yaml:4: services.pay.routes[21]: too many routes: at most 200000 combinations of a route with a host and a method are allowed");
}

#[test]
fn errors_past_the_first_thousand_are_counted_and_not_shown() {
    let keys: String = (0..1500).map(|n| format!("surprise{n}: 1\n")).collect();
    let message = errors(&keys);
    assert_eq!(message.lines().count(), 1001);
    let last = message.lines().last();
    // Two more: pops and services are missing.
    assert_eq!(last, Some("fleet.yaml: 502 more errors are not shown"));
}

#[test]
fn how_backends_are_spoken_to_must_make_sense() {
    let text = with(
        "
    timeouts: {per_try: 31s}
    protocol: quic
    tls: {server_name: 'a b', ca_file: '', key_file: k.pem}
    upgrades: [websocket, 'web socket', H2C]
    ejection: {consecutive_failures: 1001, base_ejection_time: 0s, max_ejection: 0%}
    limits: {max_connections: 0}
    retry: {grpc_codes: [UNAVAILABLE, OK]}
    fallback: {serve_fresh: maybe}",
    );
    insta::assert_snapshot!(errors(&text), @r#"
    fleet.yaml:7: services.pay.timeouts.per_try: 31s is longer than timeouts.total (30s), so it would never run out
    fleet.yaml:8: services.pay.protocol: "quic" is not allowed: use http1, http2
    fleet.yaml:9: services.pay.tls.server_name: "a b" is not a host: use a DNS name or an address
    fleet.yaml:9: services.pay.tls.ca_file: "" is not a file: use a path, for example /etc/rampmeter/ca.pem
    fleet.yaml:9: services.pay.tls: cert_file and key_file belong together: give both, or neither
    fleet.yaml:10: services.pay.upgrades[1]: "web socket" is not a protocol's name: use a word such as websocket
    fleet.yaml:10: services.pay.upgrades[2]: "h2c" would carry requests past every route and limit: leave it out
    fleet.yaml:11: services.pay.ejection.consecutive_failures: 1001 is out of range: use 0 to 1000
    fleet.yaml:11: services.pay.ejection.base_ejection_time: 0s is out of range: use 1s to 1h
    fleet.yaml:11: services.pay.ejection.max_ejection: "0%" is out of range: use more than 0%, at most 100%
    fleet.yaml:12: services.pay.limits.max_connections: 0 is out of range: use 1 to 60000
    fleet.yaml:13: services.pay.retry.grpc_codes[1]: "OK" is not a gRPC status: use CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED
    fleet.yaml:14: services.pay.fallback.serve_fresh: "maybe" is not true or false: use true or false
    "#);
}
