//! The file of an agent's host.

use std::{net::IpAddr, time::Duration};

use fleet_config::{AddressRange, ClientAuth, HostConfig, HostLimits};

#[test]
fn a_file_with_everything_is_read() {
    let text = r#"
listeners:
  - {address: "0.0.0.0:8080"}
  - address: "[::]:8443"
    proxy_protocol: true
    tls:
      certificates:
        - {cert_file: /tls/a.pem, key_file: /tls/a.key}
        - {cert_file: /tls/b.pem, key_file: /tls/b.key}
      client_auth: optional
      client_ca_file: /tls/clients.pem
limits: {max_connections: 500, header_read_timeout: 5s, max_field_bytes: 4KiB}
trusted_proxies: [10.0.0.0/8, "fd00::/8", 192.0.2.1]
access_log: {file: /var/log/access.json, sample: 10%}
tracing: {otlp_endpoint: "http://127.0.0.1:4317", sample: 5%}
cache: {max_bytes: 256MiB}
"#;
    let config = HostConfig::parse(text, "host.yaml").expect("it is right");
    assert_eq!(config.listeners.len(), 2);
    assert!(config.listeners[1].proxy_protocol);
    let tls = config.listeners[1].tls.as_ref().expect("it has TLS");
    assert_eq!(tls.certificates.len(), 2);
    assert_eq!(tls.client_auth, ClientAuth::Optional);
    assert_eq!(config.limits.max_connections, 500);
    assert_eq!(config.limits.header_read_timeout, Duration::from_secs(5));
    assert_eq!(config.limits.max_headers, HostLimits::default().max_headers);
    let log = config.access_log.expect("there is one");
    assert_eq!(log.sample, 0.1);
    assert_eq!(config.tracing.expect("there is one").sample, 0.05);
    assert_eq!(config.cache_bytes.0, 256 << 20);
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config = HostConfig::parse("{}", "host.yaml").expect("it is right");
    assert_eq!(config, HostConfig::default());
}

#[test]
fn ranges_of_addresses_have_what_shares_their_bits() {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let text = "trusted_proxies: [10.0.0.0/8, \"fd00::/8\", 192.0.2.1, 0.0.0.0/0]";
    let ranges = HostConfig::parse(text, "f").expect("right").trusted_proxies;
    for (at, inside, outside) in [
        (0, "10.255.0.1", "11.0.0.1"),
        (0, "::ffff:10.0.0.1", "fd00::1"),
        (1, "fdff::1", "fe00::1"),
        (2, "192.0.2.1", "192.0.2.2"),
        (3, "203.0.113.9", "::1"),
    ] {
        let range: AddressRange = ranges[at];
        assert!(range.contains(address(inside)), "{range:?} {inside}");
        assert!(!range.contains(address(outside)), "{range:?} {outside}");
    }
}

#[test]
fn every_mistake_is_named_at_once() {
    let text = r#"
listeners:
  - {address: "localhost:80"}
  - {address: "0.0.0.0:443", tls: {client_auth: required}}
  - {address: "0.0.0.0:443", tls: {certificates: [{cert_file: a.pem}], client_ca_file: c.pem}}
limits: {max_connections: 0, max_header_bytes: 1GiB, header_timeout: 1s}
trusted_proxies: [10.0.0.0/33]
access_log: {sample: 200%}
tracing: {sample: 1%}
cache: {max_bytes: lots}
"#;
    let errors = HostConfig::parse(text, "host.yaml").expect_err("it is wrong");
    insta::assert_snapshot!(errors.to_string(), @r#"
    host.yaml:3: listeners[0].address: "localhost:80" is not an address: use IP:PORT, for example 0.0.0.0:8443
    host.yaml:4: listeners[1].tls: certificates is missing: give one or more, for example [{cert_file: /etc/rampmeter/tls.pem, key_file: /etc/rampmeter/tls.key}]
    host.yaml:4: listeners[1].tls: client_ca_file is missing: without authorities no client certificate is valid
    host.yaml:5: listeners[2].tls.certificates[0]: key_file is missing: give the path of a PEM file
    host.yaml:5: listeners[2].tls: client_ca_file has no effect while client_auth is none: use optional or required
    host.yaml:5: listeners[2]: 0.0.0.0:443 is in the list twice
    host.yaml:6: limits.max_connections: 0 is out of range: use 1 to 1000000
    host.yaml:6: limits.max_header_bytes: 1GiB is out of range: use 1KiB to 256KiB
    host.yaml:6: limits.header_timeout: unknown key: allowed are max_connections, max_connections_per_address, header_read_timeout, body_idle_timeout, stream_idle_timeout, keep_alive_timeout, drain_timeout, max_target_bytes, max_field_bytes, max_header_bytes, max_headers, max_streams
    host.yaml:7: trusted_proxies[0]: "10.0.0.0/33" is not a range of addresses: use ADDRESS/BITS, for example 10.0.0.0/8
    host.yaml:8: access_log.sample: 200% is out of range: use 0% to 100%
    host.yaml:9: tracing: otlp_endpoint is missing: give the collector, for example http://127.0.0.1:4317
    host.yaml:10: cache.max_bytes: "lots" is not a size: use a number with B, KiB, MiB or GiB, for example 1MiB
    "#);
}

#[test]
fn a_collector_is_reached_in_plain_text() {
    let text = r#"tracing: {otlp_endpoint: "https://127.0.0.1:4317"}"#;
    let errors = HostConfig::parse(text, "f").expect_err("it is not supported");
    insta::assert_snapshot!(
        errors.to_string(),
        @r#"f:1: tracing.otlp_endpoint: "https://127.0.0.1:4317" is not a collector's URL: use http://HOST:PORT; TLS is for a collector on this host to add"#
    );
}
