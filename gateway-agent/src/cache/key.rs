//! What a kept answer is found by: the service and the whole URL, scheme and host
//! included, and then the fields of the request that `Vary` names. A key without
//! host and scheme served one site's answers to another (CVE-2026-2836).

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName, Uri, header};

use crate::{cache::directives::members, request::path};

/// The part of a key that is the URL, and the service it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key(Arc<str>);

impl Key {
    /// Of a request. `authority` is host and port as sent, in any case: another
    /// port is another key, as its backend sees it. `path` is normalised, and the
    /// query as it came, because nobody but its backend can say what it means.
    pub(crate) fn new(
        service: &str,
        scheme: &str,
        authority: &str,
        path: &str,
        query: Option<&str>,
    ) -> Self {
        // None of the parts has a blank, and only the query a question mark.
        let mark = if query.is_some() { "?" } else { "" };
        let query = query.unwrap_or_default();
        let authority = match authority.bytes().any(|b| b.is_ascii_uppercase()) {
            true => Cow::Owned(authority.to_ascii_lowercase()),
            false => Cow::Borrowed(authority),
        };
        Self(format!("{service} {scheme}://{authority}{path}{mark}{query}").into())
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Where a request went, to find what its answer names.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) scheme: &'static str,
    pub(crate) authority: String,
    /// Normalised.
    pub(crate) path: String,
}

impl Place {
    /// The key of this place, with a query.
    pub(crate) fn key(&self, service: &str, query: Option<&str>) -> Key {
        Key::new(service, self.scheme, &self.authority, &self.path, query)
    }

    /// The key of what `reference` (RFC 3986 §4.1) names, seen from here; `None`
    /// if that is on another host, or nonsense: no one invalidates what is not theirs.
    pub(crate) fn key_of(&self, service: &str, reference: &str) -> Option<Key> {
        let reference = reference.split('#').next()?;
        let uri: Uri = match reference.bytes().next()? {
            b'/' if reference.starts_with("//") => {
                format!("{}:{reference}", self.scheme).parse().ok()?
            }
            b'/' => reference.parse().ok()?,
            b'?' => format!("{}{reference}", self.path).parse().ok()?,
            _ if reference.contains("://") => reference.parse().ok()?,
            _ => {
                let folder = self.path.rfind('/').map_or("/", |at| &self.path[..=at]);
                format!("{folder}{reference}").parse().ok()?
            }
        };
        let same_scheme = uri.scheme_str().is_none_or(|scheme| scheme == self.scheme);
        let authority = uri.authority().map(http::uri::Authority::as_str);
        let same_host = authority.is_none_or(|host| host.eq_ignore_ascii_case(&self.authority));
        let path = path::normalise(uri.path()).ok()?;
        let key = || Key::new(service, self.scheme, &self.authority, &path, uri.query());
        (same_scheme && same_host).then(key)
    }
}

/// The request's fields that an answer depends on, as they were: the second part
/// of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variant(Box<[Selected]>);

/// A field and what it said; `None`: it was not there.
type Selected = (HeaderName, Option<Box<[u8]>>);

impl Variant {
    /// What an answer with these fields depends on; a name that is none is left out.
    pub(crate) fn of(response: &HeaderMap, request: &HeaderMap) -> Self {
        let values = response.get_all(header::VARY).iter();
        let names = values.flat_map(|value| members(value.as_bytes()));
        let names = names.filter_map(|name| HeaderName::from_bytes(name).ok());
        Self(names.map(|name| selected(name, request)).collect())
    }

    /// Whether a request with these fields gets it.
    pub(crate) fn fits(&self, request: &HeaderMap) -> bool {
        let fits =
            |(name, value): &Selected| normalised(name, request).as_deref() == value.as_deref();
        self.0.iter().all(fits)
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        let field = |(name, value): &Selected| {
            64 + name.as_str().len() + value.as_ref().map_or(0, |value| value.len())
        };
        self.0.iter().map(field).sum()
    }
}

fn selected(name: HeaderName, request: &HeaderMap) -> Selected {
    let value = normalised(&name, request).map(Cow::into_owned);
    (name, value.map(Vec::into_boxed_slice))
}

/// All lines of a field as one, without blanks around its members, which mean
/// nothing in any list (RFC 9111 §4.1).
fn normalised<'a>(name: &HeaderName, request: &'a HeaderMap) -> Option<Cow<'a, [u8]>> {
    let values = request.get_all(name);
    let mut lines = values.iter();
    let first = lines.next()?.as_bytes();
    let many = lines.next().is_some();
    if !many && !first.contains(&b',') {
        return Some(Cow::Borrowed(first.trim_ascii()));
    }
    let mut all = Vec::with_capacity(first.len());
    for member in values.iter().flat_map(|value| members(value.as_bytes())) {
        if !all.is_empty() {
            all.push(b',');
        }
        all.extend_from_slice(member);
    }
    Some(Cow::Owned(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn cve_2026_2836_a_key_has_service_scheme_host_port_path_and_query() {
        let key = |service, scheme, host, path, query| Key::new(service, scheme, host, path, query);
        let keys = [
            key("s", "http", "a", "/p", None),
            key("t", "http", "a", "/p", None),
            key("s", "https", "a", "/p", None),
            key("s", "http", "b", "/p", None),
            key("s", "http", "a:8080", "/p", None),
            key("s", "http", "a", "/P", None),
            key("s", "http", "a", "/p", Some("")),
            key("s", "http", "a", "/p", Some("q")),
            key("s", "http", "a", "/p", Some("Q")),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        let upper = key("s", "http", "A", "/p", None);
        assert_eq!(upper, keys[0]);
    }

    #[test]
    fn an_answer_can_only_name_what_is_on_its_own_host() {
        let place = Place {
            scheme: "http",
            authority: "a.example:80".to_owned(),
            path: "/dir/page".to_owned(),
        };
        let key = |path, query| Some(Key::new("s", "http", "a.example:80", path, query));
        for (reference, expected) in [
            ("/x", key("/x", None)),
            ("/y/../x?q#part", key("/x", Some("q"))),
            ("x", key("/dir/x", None)),
            ("../x", key("/x", None)),
            ("?q", key("/dir/page", Some("q"))),
            ("http://A.example:80/x", key("/x", None)),
            ("//a.example:80/x", key("/x", None)),
            ("https://a.example:80/x", None),
            ("http://b.example/x", None),
            ("//b.example/x", None),
            ("", None),
            ("http://[", None),
        ] {
            assert_eq!(place.key_of("s", reference), expected, "{reference}");
        }
    }

    #[test]
    fn a_variant_fits_requests_whose_fields_mean_the_same() {
        let vary = headers(&[("vary", "Foo, bar"), ("vary", "baz")]);
        let first = headers(&[("foo", "1, 2"), ("baz", " x "), ("other", "1")]);
        let variant = Variant::of(&vary, &first);
        for (request, fits) in [
            (&[("foo", "1,2"), ("baz", "x")][..], true),
            (
                &[("foo", "1"), ("foo", "2"), ("baz", "x"), ("other", "2")],
                true,
            ),
            (&[("foo", "2, 1"), ("baz", "x")], false),
            (&[("foo", "1, 2")], false),
            (&[("foo", "1, 2"), ("baz", "x"), ("bar", "")], false),
        ] {
            assert_eq!(variant.fits(&headers(request)), fits, "{request:?}");
        }
        assert!(Variant::of(&HeaderMap::new(), &first).fits(&HeaderMap::new()));
    }
}
