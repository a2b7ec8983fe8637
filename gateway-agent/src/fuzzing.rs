//! Doors for the fuzz targets in `fuzz/`: each feeds a parser what strangers may
//! send, and asserts what must hold whatever it was.

use http::{HeaderName, HeaderValue, Request};

use crate::request::{headers, intake, path};

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
    if let Ok(target) = intake::inspect(&parts) {
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
