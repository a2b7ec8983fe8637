//! An agent's own file: what is about its host and not about the fleet.
//! Listeners, certificates, limits, what it tells about single requests.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    error::{ConfigErrors, Report},
    read::{At, Fields},
    sections::{ms, secs, section},
    settings::KeyPair,
    tree,
    values::{
        self, address, address_range, boolean, bytes, count, duration, file, one_of, share, url,
    },
};

/// Everything about a host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostConfig {
    /// Where requests are taken; empty: where the command line says.
    pub listeners: Vec<Listener>,
    /// What clients may make the agent hold.
    pub limits: HostLimits,
    /// Whose `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<AddressRange>,
    /// One line for each request; `None`: none.
    pub access_log: Option<AccessLog>,
    /// Spans of requests; `None`: none are made, and contexts pass through.
    pub tracing: Option<Tracing>,
    /// Memory for kept answers, all services together, in bytes.
    pub cache_bytes: CacheBytes,
}

/// Memory for kept answers, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheBytes(pub u64);

impl Default for CacheBytes {
    fn default() -> Self {
        Self(64 << 20)
    }
}

/// One place where requests are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// Connections begin with a PROXY protocol v2 header.
    pub proxy_protocol: bool,
    /// TLS; `None`: plain text.
    pub tls: Option<ListenerTls>,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// One or more; the name that a client asks for (SNI) picks one, and the first
    /// is for everyone else.
    pub certificates: Vec<KeyPair>,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
    /// PEM file of the authorities of client certificates.
    pub client_ca_file: Option<PathBuf>,
}

/// Whether clients show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    None,
    /// They may; one that is shown must be valid.
    Optional,
    /// They must.
    Required,
}

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// The first of them.
    pub address: std::net::IpAddr,
    /// How many bits they share.
    pub prefix: u8,
}

impl AddressRange {
    /// Whether it has an address. IPv4 addresses mapped into IPv6 count as IPv4.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        match (self.address, address.to_canonical()) {
            (V4(own), V4(other)) => {
                let shift = 32 - u32::from(self.prefix);
                (own.to_bits() ^ other.to_bits())
                    .checked_shr(shift)
                    .unwrap_or(0)
                    == 0
            }
            (V6(own), V6(other)) => {
                let shift = 128 - u32::from(self.prefix);
                (own.to_bits() ^ other.to_bits())
                    .checked_shr(shift)
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }
}

/// What clients may make an agent hold. Every limit may be moved, none removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLimits {
    /// Connections from clients, all listeners together. 1 to 1,000,000.
    pub max_connections: u32,
    /// Connections from one client address. 1 to 1,000,000.
    pub max_connections_per_address: u32,
    /// From the first byte of a header to its last, and from accepting a connection
    /// to its first request. 100 ms to 10 min.
    pub header_read_timeout: Duration,
    /// A body, either way, of which nothing comes or nothing is taken. 100 ms to 1 h.
    pub body_idle_timeout: Duration,
    /// The same for streams that pause by design: gRPC, server-sent events,
    /// WebSocket. 1 s to 24 h.
    pub stream_idle_timeout: Duration,
    /// A client's connection without a request. 1 s to 1 h.
    pub keep_alive_timeout: Duration,
    /// From SIGTERM until connections are cut. 0 s to 1 h.
    pub drain_timeout: Duration,
    /// Request target in bytes. 256 B to 64 KiB.
    pub max_target_bytes: u32,
    /// One header field in bytes. 256 B to 64 KiB.
    pub max_field_bytes: u32,
    /// All fields of a header in bytes, both ways. 1 KiB to 256 KiB.
    pub max_header_bytes: u32,
    /// Fields of a header, both ways. 10 to 1,000.
    pub max_headers: u32,
    /// Streams of an HTTP/2 connection. 1 to 1,000.
    pub max_streams: u32,
}

impl Default for HostLimits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 1_000,
            header_read_timeout: secs(10),
            body_idle_timeout: secs(30),
            stream_idle_timeout: secs(300),
            keep_alive_timeout: secs(60),
            drain_timeout: secs(30),
            max_target_bytes: 8 << 10,
            max_field_bytes: 8 << 10,
            max_header_bytes: 16 << 10,
            max_headers: 100,
            max_streams: 100,
        }
    }
}

/// Where requests are written down.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// The file that lines are appended to; `None`: standard output.
    pub file: Option<PathBuf>,
    /// Share of requests that are written down, 0 to 1; failed ones always are.
    pub sample: f64,
}

/// Where spans of requests go.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// The collector, OTLP over gRPC: `http://HOST:PORT`.
    pub otlp_endpoint: String,
    /// Share of requests without a context of their own that are traced, 0 to 1.
    pub sample: f64,
    /// `service.name` of the resource.
    pub service_name: String,
}

impl HostConfig {
    /// Reads a host file, YAML or JSON. `source` names it in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn parse(text: &str, source: &str) -> Result<Self, ConfigErrors> {
        let root = tree::read(text, source)?;
        let report = Report::new(source, false);
        let config = host(&At::root(&root, &report));
        report.finish()?;
        Ok(config)
    }
}

fn host(root: &At<'_>) -> HostConfig {
    let mut config = HostConfig::default();
    let Some(mut fields) = root.fields() else {
        return config;
    };
    if let Some(at) = fields.get("listeners") {
        config.listeners = listeners(&at);
    }
    section(&mut fields, "limits", |f| limits(f, &mut config.limits));
    fields.read("trusted_proxies", &mut config.trusted_proxies, |at| {
        values::items(at, address_range)
    });
    section(&mut fields, "access_log", |f| {
        config.access_log = Some(access_log(f));
    });
    section(&mut fields, "tracing", |f| config.tracing = tracing(f));
    section(&mut fields, "cache", |f| {
        f.read("max_bytes", &mut config.cache_bytes.0, bytes(0..=1 << 40));
    });
    fields.finish();
    config
}

fn listeners(at: &At<'_>) -> Vec<Listener> {
    let items = at.items().unwrap_or_default();
    if items.is_empty() || items.len() > MAX_LISTENERS {
        at.error(format_args!(
            "{} listeners: use 1 to {MAX_LISTENERS}",
            items.len()
        ));
    }
    let mut read: Vec<Listener> = Vec::new();
    for item in &items {
        let Some(listener) = listener(item) else {
            continue;
        };
        let known =
            |other: &Listener| other.address == listener.address && listener.address.port() != 0;
        if read.iter().any(known) {
            item.error(format_args!("{} is in the list twice", listener.address));
        }
        read.push(listener);
    }
    read
}

/// A socket for each core and listener.
const MAX_LISTENERS: usize = 100;

fn listener(at: &At<'_>) -> Option<Listener> {
    let mut fields = at.fields()?;
    let mut place = None;
    if !fields.read("address", &mut place, |at| address(at).map(Some)) {
        at.error("address is missing: give IP:PORT, for example 0.0.0.0:8443");
    }
    let mut proxy_protocol = false;
    fields.read("proxy_protocol", &mut proxy_protocol, boolean);
    let mut tls = None;
    section(&mut fields, "tls", |f| tls = Some(listener_tls(f)));
    fields.finish();
    Some(Listener {
        address: place?,
        proxy_protocol,
        tls,
    })
}

fn listener_tls(fields: &mut Fields<'_>) -> ListenerTls {
    let mut certificates = Vec::new();
    let given = fields.read("certificates", &mut certificates, |at| {
        values::items(at, key_pair)
    });
    if certificates.is_empty() {
        let why = "certificates is missing: give one or more, for example \
                   [{cert_file: /etc/rampmeter/tls.pem, key_file: /etc/rampmeter/tls.key}]";
        if !given {
            fields.at.error(why);
        }
    }
    let mut client_auth = ClientAuth::None;
    let ways = [
        ("none", ClientAuth::None),
        ("optional", ClientAuth::Optional),
        ("required", ClientAuth::Required),
    ];
    fields.read("client_auth", &mut client_auth, one_of(&ways));
    let mut client_ca_file = None;
    fields.read("client_ca_file", &mut client_ca_file, |at| {
        file(at).map(Some)
    });
    match (client_auth, &client_ca_file) {
        (ClientAuth::None, Some(_)) => fields.at.error(
            "client_ca_file has no effect while client_auth is none: use optional or required",
        ),
        (ClientAuth::Optional | ClientAuth::Required, None) => fields
            .at
            .error("client_ca_file is missing: without authorities no client certificate is valid"),
        _ => {}
    }
    ListenerTls {
        certificates,
        client_auth,
        client_ca_file,
    }
}

fn key_pair(at: &At<'_>) -> Option<KeyPair> {
    let mut fields = at.fields()?;
    let (mut cert_file, mut key_file) = (None, None);
    for (key, into) in [("cert_file", &mut cert_file), ("key_file", &mut key_file)] {
        if !fields.read(key, into, |at| file(at).map(Some)) {
            at.error(format_args!(
                "{key} is missing: give the path of a PEM file"
            ));
        }
    }
    fields.finish();
    Some(KeyPair {
        cert_file: cert_file?,
        key_file: key_file?,
    })
}

fn limits(fields: &mut Fields<'_>, out: &mut HostLimits) {
    let many = || count(1..=1_000_000);
    let hour = secs(3600);
    fields.read("max_connections", &mut out.max_connections, many());
    let per_address = &mut out.max_connections_per_address;
    fields.read("max_connections_per_address", per_address, many());
    for (key, into, range) in [
        (
            "header_read_timeout",
            &mut out.header_read_timeout,
            ms(100)..=secs(600),
        ),
        (
            "body_idle_timeout",
            &mut out.body_idle_timeout,
            ms(100)..=hour,
        ),
        (
            "stream_idle_timeout",
            &mut out.stream_idle_timeout,
            secs(1)..=24 * hour,
        ),
        (
            "keep_alive_timeout",
            &mut out.keep_alive_timeout,
            secs(1)..=hour,
        ),
        ("drain_timeout", &mut out.drain_timeout, ms(0)..=hour),
    ] {
        fields.read(key, into, duration(range));
    }
    let size = |range| move |at: &At<'_>| bytes(range)(at).and_then(|n| u32::try_from(n).ok());
    for (key, into, range) in [
        (
            "max_target_bytes",
            &mut out.max_target_bytes,
            256..=64 << 10,
        ),
        ("max_field_bytes", &mut out.max_field_bytes, 256..=64 << 10),
        (
            "max_header_bytes",
            &mut out.max_header_bytes,
            1 << 10..=256 << 10,
        ),
    ] {
        fields.read(key, into, size(range));
    }
    fields.read("max_headers", &mut out.max_headers, count(10..=1000));
    fields.read("max_streams", &mut out.max_streams, count(1..=1000));
}

fn access_log(fields: &mut Fields<'_>) -> AccessLog {
    let mut log = AccessLog {
        file: None,
        sample: 1.0,
    };
    fields.read("file", &mut log.file, |at| match at.text()? {
        "-" => Some(None),
        _ => file(at).map(Some),
    });
    fields.read("sample", &mut log.sample, share);
    log
}

fn tracing(fields: &mut Fields<'_>) -> Option<Tracing> {
    let mut endpoint = None;
    if !fields.read("otlp_endpoint", &mut endpoint, |at| url(at).map(Some)) {
        let why = "otlp_endpoint is missing: give the collector, for example http://127.0.0.1:4317";
        fields.at.error(why);
    }
    let mut tracing = Tracing {
        otlp_endpoint: String::new(),
        sample: 0.01,
        service_name: "rampmeter-gateway".to_owned(),
    };
    fields.read("sample", &mut tracing.sample, share);
    fields.read("service_name", &mut tracing.service_name, |at| {
        at.text().map(str::to_owned)
    });
    Some(Tracing {
        otlp_endpoint: endpoint?,
        ..tracing
    })
}
