//! Which requests go where.

use std::sync::Arc;

use breaker_core::PopId;
use http::{HeaderMap, HeaderValue, Method};

use super::rig::Rig;
use crate::{admit::snapshot::Snapshot, request::router::Router};
use fleet_config::FleetConfig;

/// Services by what they say of themselves.
const FLEET: &str = "
pops: {p: {region_order: [r]}}
services:
  a-exact-host: {routes: [{hosts: [pay.example.com], path_prefix: /}], backends: &b {r: {endpoints: ['http://127.0.0.1:1']}}}
  b-wildcard: {routes: [{hosts: ['*.example.com'], path_prefix: /}], backends: *b}
  c-long-wildcard: {routes: [{hosts: ['*.eu.example.com'], path_prefix: /}], backends: *b}
  d-any-prefix: {routes: [{path_prefix: /pay}], backends: *b}
  e-any-long-prefix: {routes: [{path_prefix: /pay/v2}], backends: *b}
  f-any-exact: {routes: [{path: /pay/v2/status}], backends: *b}
  g-any-method: {routes: [{path_prefix: /pay, methods: [DELETE]}], backends: *b}
  h-any-header: {routes: [{path_prefix: /pay, headers: {x-canary: 'yes'}}], backends: *b}
";

fn service(host: &str, path: &str, method: Method, canary: Option<&'static str>) -> Option<String> {
    let config = FleetConfig::parse(FLEET, "test").expect("a good fleet file");
    let config = Arc::new(config);
    let pop = PopId::new("p").expect("a name");
    let snapshot = Snapshot::empty().next(1, config.clone(), &pop, 1, &Arc::default());
    let router = Router::new(&config, &snapshot.services);
    let mut headers = HeaderMap::new();
    if let Some(value) = canary {
        headers.insert("x-canary", HeaderValue::from_static(value));
    }
    let found = router.route(host, path, &method, &headers)?;
    Some(found.service.name.to_string())
}

#[test]
fn the_most_specific_route_wins() {
    for (host, path, expected) in [
        ("pay.example.com", "/pay", Some("a-exact-host")),
        ("www.example.com", "/pay", Some("b-wildcard")),
        ("a.eu.example.com", "/", Some("c-long-wildcard")),
        ("example.com", "/pay/x", Some("d-any-prefix")),
        ("example.com", "/pay/v2/x", Some("e-any-long-prefix")),
        ("example.com", "/pay/v2/status", Some("f-any-exact")),
        ("example.com", "/pay/v2/status/", Some("e-any-long-prefix")),
        ("example.com", "/payments", None),
        ("", "/", None),
    ] {
        let found = service(host, path, Method::GET, None);
        assert_eq!(found.as_deref(), expected, "{host}{path}");
    }
}

#[test]
fn conditions_on_method_and_header_count() {
    let found = |method, canary| service("x", "/pay", method, canary);
    assert_eq!(found(Method::DELETE, None).as_deref(), Some("g-any-method"));
    assert_eq!(
        found(Method::GET, Some("yes")).as_deref(),
        Some("h-any-header")
    );
    assert_eq!(
        found(Method::GET, Some("no")).as_deref(),
        Some("d-any-prefix")
    );
}

#[tokio::test]
async fn an_unknown_route_is_not_found_and_says_who_says_so() {
    let rig = Rig::start(FLEET);
    let mut client = rig.client().await;
    client
        .write("GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 404 not found\r\n"), "{head}");
    assert!(
        head.contains("content-type: application/problem+json\r\n"),
        "{head}"
    );
    assert!(head.contains("x-rampmeter: reason=no_route\r\n"), "{head}");
}

#[tokio::test]
async fn before_there_is_a_configuration_nothing_is_found() {
    let rig = Rig::unconfigured();
    let mut client = rig.client().await;
    client.write(super::GET).await;
    assert!(client.head().await.starts_with("http/1.1 404"));
}

#[tokio::test]
async fn a_service_without_a_region_for_this_pop_is_unavailable() {
    let rig = Rig::start(
        "pops: {p: {region_order: [q]}, o: {region_order: [r]}}
services:
  s: {routes: [{path_prefix: /}], backends: {r: {endpoints: ['http://127.0.0.1:1']}}}
  t: {routes: [{path_prefix: /t}], backends: {q: {endpoints: ['http://127.0.0.1:1']}}}",
    );
    let mut client = rig.client().await;
    client.write(super::GET).await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert!(head.contains("x-rampmeter: reason=no_region\r\n"), "{head}");
}
