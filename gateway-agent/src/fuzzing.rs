//! Doors for the fuzz targets in `fuzz/`: each feeds a parser what strangers may
//! send, and asserts what must hold whatever it was.

use fleet_config::HostLimits;
use http::{HeaderName, HeaderValue, Request};

use crate::{
    cache::directives::Directives,
    request::{headers, intake, path},
    serve::{
        framing::{Framing, Next},
        proxy_protocol,
    },
};

/// A header as text: the method and target on its first line, a field on each
/// other.
pub fn request(header: &[u8]) {
    let mut lines = header.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let mut words = first.splitn(2, |byte| *byte == b' ');
    let (method, target) = (words.next(), words.next());
    let mut request = Request::builder()
        .method(method.unwrap_or_default())
        .uri(target.unwrap_or_default());
    for line in lines.take(200) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            request = request.header(name, value);
        }
    }
    let Ok(request) = request.body(()) else {
        return;
    };
    let (mut parts, ()) = request.into_parts();
    if let Ok(target) = intake::inspect(&parts, &HostLimits::default()) {
        assert!(target.path == "*" || target.path.starts_with('/'));
        assert!(!target.path.split('/').any(|segment| segment == ".."));
        let again = path::normalise(&target.path).expect("it was well-formed before");
        assert_eq!(again, target.path, "normal forms are stable");
        assert!(!target.host.bytes().any(|byte| byte.is_ascii_uppercase()));
    }
    let named: Vec<HeaderName> = parts
        .headers
        .get_all("connection")
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| name != "close")
        .collect();
    headers::strip_hop_by_hop(&mut parts.headers);
    for name in named.iter().map(HeaderName::as_str).chain(["connection"]) {
        assert!(
            !parts.headers.contains_key(name),
            "{name} is for one hop only"
        );
    }
}

/// An HTTP/1 connection's bytes: whatever comes, the same passes, however it comes.
pub fn framing(bytes: &[u8]) {
    let whole = passed(bytes, bytes.len().max(1));
    for size in [1, 7] {
        assert_eq!(passed(bytes, size), whole, "in pieces of {size}");
    }
}

/// What passes of bytes that come in pieces of this size while every request is
/// answered at once, and whether the rest was refused.
fn passed(bytes: &[u8], size: usize) -> (Vec<u8>, bool) {
    let limits = HostLimits::default();
    let mut framing = Framing::new();
    let (mut waiting, mut out) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(size) {
        waiting.extend(piece);
        while !waiting.is_empty() {
            match framing.next(&waiting, u64::MAX, &limits) {
                Next::Pass(count) => {
                    assert!(count > 0, "it goes on");
                    out.extend(waiting.drain(..count));
                }
                Next::Replace(count, instead) => {
                    assert!(count > 0, "it goes on");
                    waiting.drain(..count);
                    out.extend(instead);
                }
                Next::Wait => break,
                Next::Refuse(_) | Next::End => return (out, true),
            }
        }
    }
    (out, false)
}

/// The lines of a `Cache-Control` field.
pub fn directives(field: &[u8]) {
    let lines = || field.split(|byte| *byte == b'\n');
    let read = Directives::parse(lines());
    let again = Directives::parse(lines());
    assert_eq!(format!("{read:?}"), format!("{again:?}"));
    if Directives::parse(lines().chain([&b"no-store"[..]])).no_store {
        return;
    }
    // Only an open quotation may swallow what follows it, and not on another line.
    panic!("no-store on a line of its own is always heard");
}

/// A PROXY protocol header, alone.
pub fn proxy_protocol(header: &[u8]) {
    let read = proxy_protocol::parse(header);
    assert!(read.is_err() || header.len() <= proxy_protocol::MAX_BYTES);
    if read.is_ok() {
        assert!(proxy_protocol::parse(&header[..header.len() - 1]).is_err());
    }
}
