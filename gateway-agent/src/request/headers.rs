//! Fields between hops: what belongs to one connection is removed, what tells
//! the backend about the client is ours to write.

use breaker_core::AgentId;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, Entry},
};

use crate::{request::proxy::Client, serve::framing::CHUNKED};

/// This agent in `Via`. Its name is in it, so that agents may be chained, and a
/// request that comes back to the same one is known.
#[derive(Debug)]
pub(crate) struct Via {
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
    pseudonym: String,
}

impl Via {
    /// Of an agent. One for each core: clones of a field are counted, and cores
    /// do not share counters.
    pub(crate) fn new(agent: Option<&AgentId>) -> Self {
        let pseudonym = agent.map_or_else(
            || "rampmeter".to_owned(),
            |agent| format!("rampmeter-{agent}"),
        );
        // Names are of token characters, so this is always a value.
        let field = |version| HeaderValue::try_from(format!("{version} {pseudonym}"));
        let field = |version| field(version).unwrap_or(HeaderValue::from_static("1.1 rampmeter"));
        Self {
            http10: field("1.0"),
            http11: field("1.1"),
            http2: field("2"),
            pseudonym,
        }
    }

    /// Whether a header has been here before.
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(header::VIA).iter();
        let hops = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let mut names = hops.filter_map(|hop| {
            let words = hop.split(|byte| matches!(byte, b' ' | b'\t'));
            words.filter(|word| !word.is_empty()).nth(1)
        });
        names.any(|name| name == self.pseudonym.as_bytes())
    }

    /// Adds this hop to a header that was received with `version`.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap, version: Version) {
        let field = match version {
            Version::HTTP_10 => &self.http10,
            Version::HTTP_2 => &self.http2,
            _ => &self.http11,
        };
        match headers.entry(header::VIA) {
            Entry::Occupied(mut via) => via.append(field.clone()),
            Entry::Vacant(none) => drop(none.insert(field.clone())),
        }
    }
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// What the client speaks, `http` or `https`.
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Who a client is by its certificate, which only we could know and do not tell:
/// it never passes.
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Other ways to claim a client's address or target; backends trust them.
const CLAIMS: [HeaderName; 4] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
];

/// RFC 9110 §7.6.1, without `Trailer`, which says which trailers follow and is
/// needed to pass them on.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
];

/// Removes what is meant for the next hop only, including fields that
/// `Connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Asking for each name would cost a hash for each, and most headers have none.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.eq_ignore_ascii_case(b"close"))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Whether the client takes trailers: the one value of `TE` that we pass on.
pub(crate) fn accepts_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter();
    let mut tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// The transfer codings of a body that is more than chunks: they are how its
/// content is to be read, and nobody but the backend can.
fn codings_of_content(headers: &HeaderMap) -> Option<HeaderValue> {
    let codings = headers.get(header::TRANSFER_ENCODING)?;
    let plain = codings.as_bytes().eq_ignore_ascii_case(CHUNKED.as_bytes());
    (!plain).then(|| codings.clone())
}

/// Makes a client's header fit for a backend. Clients are not trusted to say who
/// they are, so their own `Forwarded` and `X-Forwarded-*` go; those of a trusted
/// proxy stay, with the proxy added to the list.
pub(crate) fn prepare_request(headers: &mut HeaderMap, client: &Client, host: &HeaderValue) {
    if headers.keys().any(is_for_us) {
        clean(headers, client.trusted);
    }
    match client.trusted {
        true => extend_claims(headers, client, host),
        false => replace_claims(headers, client, host),
    }
}

/// Whether a client's field is one of those that [`clean`] looks for.
fn is_for_us(name: &HeaderName) -> bool {
    let lists = [&HOP_BY_HOP[..], &CLAIMS, &[header::EXPECT, CLIENT_CERT]];
    lists.into_iter().any(|list| list.contains(name))
}

/// Removes what a client may not tell a backend.
fn clean(headers: &mut HeaderMap, trusted: bool) {
    let trailers = accepts_trailers(headers);
    let codings = codings_of_content(headers);
    strip_hop_by_hop(headers);
    if let Some(codings) = codings {
        // A backend that does not know them may misread where the body ends: its
        // connection is not used again.
        headers.insert(header::TRANSFER_ENCODING, codings);
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    // hyper has answered it already, or will when the body is first read.
    headers.remove(header::EXPECT);
    headers.remove(CLIENT_CERT);
    if !trusted {
        for name in &CLAIMS {
            headers.remove(name);
        }
    }
}

fn replace_claims(headers: &mut HeaderMap, client: &Client, host: &HeaderValue) {
    headers.insert(FORWARDED_FOR, client.address.clone());
    headers.insert(FORWARDED_PROTO, client.scheme.clone());
    headers.insert(FORWARDED_HOST, host.clone());
}

fn extend_claims(headers: &mut HeaderMap, client: &Client, host: &HeaderValue) {
    let before = headers.get_all(FORWARDED_FOR).iter();
    let hops = before.chain([&client.address]).map(HeaderValue::as_bytes);
    // In one field: many backends read only the first.
    let list = hops.collect::<Vec<_>>().join(&b", "[..]);
    let list = HeaderValue::from_maybe_shared(Bytes::from(list));
    headers.insert(FORWARDED_FOR, list.unwrap_or(client.address.clone()));
    for (name, ours) in [(FORWARDED_PROTO, &client.scheme), (FORWARDED_HOST, host)] {
        if let Entry::Vacant(none) = headers.entry(name) {
            none.insert(ours.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn via(agent: &str) -> Via {
        Via::new(AgentId::new(agent).ok().as_ref())
    }

    fn client(trusted: bool) -> Client {
        Client {
            address: HeaderValue::from_static("192.0.2.7"),
            scheme: HeaderValue::from_static("https"),
            trusted,
            host: std::sync::Arc::default(),
        }
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn everything_connection_names_goes() {
        let mut fields = headers(&[
            ("connection", "keep-alive, X-Private"),
            ("connection", "close ,\tx-other"),
            ("x-private", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "gzip"),
            ("trailer", "x-sum"),
            ("x-kept", "3"),
        ]);
        strip_hop_by_hop(&mut fields);
        assert_eq!(names(&fields), ["trailer", "x-kept"]);
    }

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let mut fields = headers(&[
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-client-cert", "Subject=\"CN=root\""),
            ("x-real-ip", "10.0.0.1"),
            ("te", "trailers, deflate"),
        ]);
        let host = HeaderValue::from_static("pay.example.com");
        prepare_request(&mut fields, &client(false), &host);
        let all = |name: &str| fields.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(all("x-forwarded-host"), ["pay.example.com"]);
        assert_eq!(all("x-forwarded-proto"), ["https"]);
        assert_eq!(all("te"), ["trailers"]);
        for gone in ["forwarded", "x-real-ip", "x-forwarded-client-cert"] {
            assert!(all(gone).is_empty(), "{gone}");
        }
    }

    #[test]
    fn a_trusted_proxy_says_who_is_behind_it() {
        let mut fields = headers(&[
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-client-cert", "Subject=\"CN=root\""),
        ]);
        let host = HeaderValue::from_static("pay.example.com");
        prepare_request(&mut fields, &client(true), &host);
        let all = |name: &str| fields.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("x-forwarded-for"), ["10.0.0.1, 10.0.0.2, 192.0.2.7"]);
        assert_eq!(all("x-forwarded-proto"), ["http"]);
        assert_eq!(all("x-forwarded-host"), ["pay.example.com"]);
        assert_eq!(all("forwarded"), ["for=10.0.0.1"]);
        assert!(all("x-forwarded-client-cert").is_empty());

        let mut none = HeaderMap::new();
        prepare_request(&mut none, &client(true), &host);
        assert_eq!(none["x-forwarded-for"], "192.0.2.7");
        assert_eq!(none["x-forwarded-proto"], "https");
    }

    #[test]
    fn each_hop_is_added_with_the_version_it_was_received_with() {
        for (version, expected) in [
            (Version::HTTP_10, "1.0 rampmeter-a1"),
            (Version::HTTP_11, "1.1 rampmeter-a1"),
            (Version::HTTP_2, "2 rampmeter-a1"),
        ] {
            let mut fields = headers(&[("via", "1.0 cache")]);
            via("a1").add_to(&mut fields, version);
            let all: Vec<_> = fields.get_all("via").iter().collect();
            assert_eq!(all, ["1.0 cache", expected]);
        }
    }

    #[test]
    fn an_agent_knows_itself_in_via_and_nobody_else() {
        for (fields, known) in [
            (&[][..], false),
            (&[("via", "1.1 rampmeter-a1")], true),
            (&[("via", "1.0 cache, 2 \t rampmeter-a1 (here)")], true),
            (
                &[
                    ("via", "1.1 rampmeter-a2"),
                    ("via", "HTTP/1.1 rampmeter-a1"),
                ],
                true,
            ),
            (&[("via", "1.1 rampmeter-a11, 1.1 rampmeter")], false),
            (&[("via", "rampmeter-a1")], false),
            (&[("via", ",, ,")], false),
        ] {
            assert_eq!(via("a1").is_in(&headers(fields)), known, "{fields:?}");
        }
    }
}
