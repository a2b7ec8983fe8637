//! Fields between hops: what belongs to one connection is removed, what tells
//! the backend about the client is ours to write.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, Entry},
};

use crate::serve::framing::CHUNKED;

/// Ours in `Via`, after the received protocol.
pub(crate) const VIA: HeaderValue = HeaderValue::from_static("1.1 rampmeter");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

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

/// Makes a client's header fit for a backend. Clients are not trusted to say
/// who they are, so their own `Forwarded` and `X-Forwarded-*` go.
pub(crate) fn prepare_request(headers: &mut HeaderMap, client: &HeaderValue, host: &HeaderValue) {
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
    for name in &CLAIMS {
        headers.remove(name);
    }
    headers.insert(FORWARDED_FOR, client.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers.insert(FORWARDED_HOST, host.clone());
    append_via(headers);
}

/// Makes a backend's header fit for a client.
pub(crate) fn prepare_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    append_via(headers);
}

fn append_via(headers: &mut HeaderMap) {
    match headers.entry(header::VIA) {
        Entry::Occupied(mut via) => via.append(VIA),
        Entry::Vacant(none) => drop(none.insert(VIA)),
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
            ("x-real-ip", "10.0.0.1"),
            ("via", "1.0 cache"),
            ("te", "trailers, deflate"),
        ]);
        let client = HeaderValue::from_static("192.0.2.7");
        let host = HeaderValue::from_static("pay.example.com");
        prepare_request(&mut fields, &client, &host);
        let all = |name: &str| fields.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(all("x-forwarded-host"), ["pay.example.com"]);
        assert_eq!(all("x-forwarded-proto"), ["http"]);
        assert_eq!(all("via"), ["1.0 cache", "1.1 rampmeter"]);
        assert_eq!(all("te"), ["trailers"]);
        assert!(all("forwarded").is_empty() && all("x-real-ip").is_empty());
    }
}
