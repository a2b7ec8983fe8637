//! What a request wants of the kept answers, read once before it goes on.

use http::{HeaderMap, Method, header};
use http_body::Body as _;

use crate::{
    cache::{
        directives::Directives,
        freshness::Terms,
        key::{Key, Place},
    },
    request::{attempts::Asked, headers::FORWARDED_PROTO, proxy::Client},
};

/// What a request is to kept answers.
#[derive(Debug)]
pub(crate) enum Question {
    /// One of them may be its answer.
    Get(Box<Get>),
    /// Its success makes some of them wrong.
    Change(Box<Place>),
    /// Nothing.
    Other,
}

/// A request that a kept answer may answer.
#[derive(Debug)]
pub(crate) struct Get {
    pub(crate) key: Key,
    /// Its fields, which the request takes along when it goes on.
    pub(crate) headers: HeaderMap,
    pub(crate) said: Directives,
    /// It wants the header only.
    pub(crate) head: bool,
}

impl Question {
    /// Of a request to a service.
    pub(crate) fn of(service: &str, client: &Client, asked: &Asked) -> Self {
        let scheme = scheme(client, &asked.parts.headers);
        let (parts, authority) = (&asked.parts, &*asked.authority);
        let get = parts.method == Method::GET || parts.method == Method::HEAD;
        if authority.is_empty() || asked.grpc {
            return Self::Other;
        }
        if !parts.method.is_safe() {
            return Self::Change(Box::new(Place {
                scheme,
                authority: authority.to_owned(),
                path: asked.path.clone(),
            }));
        }
        // A body may say what a GET is about, to its backend and to nobody else; so
        // none is answered from here, and none left unread (CVE-2025-4366).
        if !get || !asked.body.is_end_stream() || is_not_for_caches(&parts.headers) {
            return Self::Other;
        }
        let said = said(&parts.headers);
        if said.no_store {
            return Self::Other;
        }
        let query = parts.uri.query();
        Self::Get(Box::new(Get {
            key: Key::new(service, scheme, authority, &asked.path, query),
            headers: parts.headers.clone(),
            said,
            head: parts.method == Method::HEAD,
        }))
    }
}

/// What clients speak to us, not what they claim to; or what they speak to a proxy
/// that is trusted.
fn scheme(client: &Client, headers: &HeaderMap) -> &'static str {
    let told = headers.get(FORWARDED_PROTO).filter(|_| client.trusted);
    let scheme = told.unwrap_or(&client.scheme).as_bytes();
    match scheme.eq_ignore_ascii_case(b"https") {
        true => "https",
        false => "http",
    }
}

/// It wants a connection, or the state of the resource and nobody's memory of it.
fn is_not_for_caches(headers: &HeaderMap) -> bool {
    let names = [
        header::UPGRADE,
        header::IF_MATCH,
        header::IF_UNMODIFIED_SINCE,
    ];
    names.iter().any(|name| headers.contains_key(name))
}

fn said(headers: &HeaderMap) -> Directives {
    if let Some(said) = Directives::of(headers, &header::CACHE_CONTROL) {
        return said;
    }
    let pragma = headers.get(header::PRAGMA);
    let pragma = pragma.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"no-cache"));
    Directives {
        no_cache: pragma,
        ..Directives::default()
    }
}

impl Get {
    /// Whether its sender may have an answer with these terms: who shows
    /// credentials gets only what its backend calls everybody's.
    pub(crate) fn may_have(&self, terms: &Terms) -> bool {
        terms.everybodys || !self.headers.contains_key(header::AUTHORIZATION)
    }

    /// Whether a whole new answer is what it wants, so that others may wait for it.
    pub(crate) fn is_plain(&self) -> bool {
        let names = [
            header::AUTHORIZATION,
            header::RANGE,
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
        ];
        !self.head && !names.iter().any(|name| self.headers.contains_key(name))
    }

    /// Whether its answer may be asked for with validators of ours.
    pub(crate) fn may_validate(&self) -> bool {
        !self.head && !self.headers.contains_key(header::RANGE)
    }
}
