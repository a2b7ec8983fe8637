//! One framing, one host, one path: what is not clear is refused before anyone
//! can read it in two ways. hyper has refused malformed lengths, bare CR and LF
//! and HTTP/1.0 with `Transfer-Encoding` before this.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header, request::Parts};

use fleet_config::HostLimits;

use crate::{request::path, serve::framing::CHUNKED};

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It can be read in two ways, or in none.
    Ambiguous(&'static str),
    /// The target is longer than allowed.
    TargetTooLong,
    /// A field, or all of them, are longer than allowed.
    FieldsTooLarge,
    /// `CONNECT`: this is no forward proxy.
    Connect,
}

/// What a request is for, in the only way to read it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// Host and port as the client sent them; empty if it named none.
    pub(crate) authority: &'a str,
    /// Host in lower case, without port or final dot.
    pub(crate) host: Cow<'a, str>,
    /// Normalised path, without query.
    pub(crate) path: Cow<'a, str>,
}

/// Reads a request's target, or refuses it.
pub(crate) fn inspect<'r>(request: &'r Parts, limits: &HostLimits) -> Result<Target<'r>, Unfit> {
    if request.method == Method::CONNECT {
        return Err(Unfit::Connect);
    }
    if target_length(&request.uri) > limits.max_target_bytes as usize {
        return Err(Unfit::TargetTooLong);
    }
    if request.version == Version::HTTP_2 {
        check_fields(&request.headers, limits)?;
        check_connection_fields(&request.headers)?;
    } else {
        check_framing(&request.headers)?;
    }
    let authority = authority(request)?;
    let path = path::normalise(request.uri.path())
        .map_err(|_| Unfit::Ambiguous("the path has a malformed escape"))?;
    if !path.starts_with('/') && path != "*" {
        return Err(Unfit::Ambiguous("the path must start with a slash"));
    }
    Ok(Target {
        authority,
        host: host(authority)?,
        path,
    })
}

fn target_length(uri: &http::Uri) -> usize {
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    authority + path
}

/// Of HTTP/2; those of HTTP/1 were counted before they were parsed.
fn check_fields(headers: &HeaderMap, limits: &HostLimits) -> Result<(), Unfit> {
    let mut sum = 0;
    for (name, value) in headers {
        let length = name.as_str().len() + value.len();
        sum += length;
        let too_long = length > limits.max_field_bytes as usize;
        if too_long || sum > limits.max_header_bytes as usize {
            return Err(Unfit::FieldsTooLarge);
        }
    }
    match headers.len() > limits.max_headers as usize {
        true => Err(Unfit::FieldsTooLarge),
        false => Ok(()),
    }
}

/// What HTTP/2 has frames for. h2 has refused most of it already.
fn check_connection_fields(headers: &HeaderMap) -> Result<(), Unfit> {
    const NONE: [HeaderName; 5] = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    let other_te = |te: &HeaderValue| !te.as_bytes().eq_ignore_ascii_case(b"trailers");
    let wrong = NONE.iter().any(|name| headers.contains_key(name))
        || headers.get_all(header::TE).iter().any(other_te);
    match wrong {
        true => Err(Unfit::Ambiguous(
            "HTTP/2 has no fields about a connection, and no te but trailers",
        )),
        false => Ok(()),
    }
}

/// What is between a socket and hyper has checked it: this is for the day it
/// does not.
fn check_framing(headers: &HeaderMap) -> Result<(), Unfit> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    let items = coding.as_bytes().rsplit(|byte| *byte == b',');
    let chunked = |item: &&[u8]| item.trim_ascii().eq_ignore_ascii_case(CHUNKED.as_bytes());
    let last = items.clone().next().is_some_and(|item| chunked(&item));
    if !last || items.filter(chunked).count() != 1 || codings.next().is_some() {
        let why = "transfer-encoding must end in 'chunked', once";
        return Err(Unfit::Ambiguous(why));
    }
    if headers.contains_key(header::CONTENT_LENGTH) {
        let why = "content-length and transfer-encoding exclude each other";
        return Err(Unfit::Ambiguous(why));
    }
    Ok(())
}

/// The one authority that the target and `Host` agree on.
fn authority(request: &Parts) -> Result<&str, Unfit> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Unfit::Ambiguous("there is more than one host field"));
    }
    let host = host.map(|host| host.to_str()).transpose();
    let host = host.map_err(|_| Unfit::Ambiguous("the host is not text"))?;
    let target = request.uri.authority().map(http::uri::Authority::as_str);
    match (target, host) {
        (Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => Err(Unfit::Ambiguous(
            "the host field differs from the request target",
        )),
        (Some(authority), _) | (None, Some(authority)) => Ok(authority),
        (None, None) if request.version <= Version::HTTP_10 => Ok(""),
        (None, None) => Err(Unfit::Ambiguous("there is no host field")),
    }
}

fn host(authority: &str) -> Result<Cow<'_, str>, Unfit> {
    const WRONG: Unfit =
        Unfit::Ambiguous("the host must be a name or an address, with or without port");
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']').ok_or(WRONG)? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end);
    let digits = port.strip_prefix(':').unwrap_or(port);
    let no_port = port.is_empty();
    let clean_port =
        no_port || (digits.len() < port.len() && digits.bytes().all(|b| b.is_ascii_digit()));
    let clean = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'[' | b']' | b':')
    };
    if !clean_port || !host.bytes().all(clean) {
        return Err(WRONG);
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    Ok(match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MAX_FIELD_BYTES, MAX_HEADER_BYTES};
    use http::Request;

    fn parts(uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn host_and_path_have_one_form() {
        for (uri, host, expected) in [
            (
                "/a/../b?q=/../",
                Some("Pay.Example.com:8080"),
                ("pay.example.com", "/b"),
            ),
            ("/", Some("example.com."), ("example.com", "/")),
            ("/", Some("[::1]:80"), ("[::1]", "/")),
            ("http://a.example/x", Some("a.example"), ("a.example", "/x")),
            ("http://a.example/x", None, ("a.example", "/x")),
            ("/", Some(""), ("", "/")),
        ] {
            let fields: Vec<_> = host.into_iter().map(|host| ("host", host)).collect();
            let request = parts(uri, &fields);
            let target = inspect(&request, &HostLimits::default()).expect("it is clear");
            assert_eq!((&*target.host, &*target.path), expected, "{uri} {host:?}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (uri, fields) in [
            ("/", &[][..]),
            ("/", &[("host", "a"), ("host", "a")]),
            ("http://a.example/", &[("host", "b.example")]),
            ("/", &[("host", "a b")]),
            ("/", &[("host", "user@a")]),
            ("/", &[("host", "a/b")]),
            ("/", &[("host", "a:80a")]),
            ("/", &[("host", "[::1")]),
            ("/", &[("host", "[::1]80")]),
            ("/%zz", &[("host", "a")]),
            (
                "/",
                &[("host", "a"), ("transfer-encoding", "chunked, gzip")],
            ),
            (
                "/",
                &[
                    ("host", "a"),
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "chunked"),
                ],
            ),
            (
                "/",
                &[
                    ("host", "a"),
                    ("transfer-encoding", "chunked"),
                    ("content-length", "3"),
                ],
            ),
        ] {
            let request = parts(uri, fields);
            let refused = inspect(&request, &HostLimits::default());
            assert!(
                matches!(refused, Err(Unfit::Ambiguous(_))),
                "{uri} {fields:?}"
            );
        }
    }

    #[test]
    fn long_targets_and_fields_are_refused() {
        let long = "x".repeat(MAX_FIELD_BYTES);
        let request = parts(&format!("/{long}"), &[("host", "a")]);
        assert_eq!(
            inspect(&request, &HostLimits::default()),
            Err(Unfit::TargetTooLong)
        );
        let mut request = parts("/", &[("host", "a"), ("x-long", &long)]);
        request.version = Version::HTTP_2;
        assert_eq!(
            inspect(&request, &HostLimits::default()),
            Err(Unfit::FieldsTooLarge)
        );
        let third = "x".repeat(MAX_HEADER_BYTES / 3);
        let many = [
            ("host", "a"),
            ("x-1", &*third),
            ("x-2", &*third),
            ("x-3", &*third),
        ];
        let mut many = parts("/", &many);
        many.version = Version::HTTP_2;
        assert_eq!(
            inspect(&many, &HostLimits::default()),
            Err(Unfit::FieldsTooLarge)
        );
    }
}
