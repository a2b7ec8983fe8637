//! Which answers are kept: RFC 9111 §3, and stricter where an answer could be one
//! user's.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode, header};

use crate::cache::{
    conditional,
    directives::{Directives, members},
    freshness::{Terms, understood_as_lasting},
};

/// Fields of requests that we write or add to, without those that every key has:
/// scheme and host.
const OURS: [HeaderName; 6] = [
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
];

/// What is known of the request when it is asked whether to keep its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    /// It had an `Authorization` field.
    pub(crate) authorized: bool,
    /// It had a `Cookie` field.
    pub(crate) cookies: bool,
}

/// How a service keeps answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Purpose {
    /// Fresh ones are served without asking.
    pub(crate) serve_fresh: bool,
    /// How stale one may be in an emergency, unless it says less itself.
    pub(crate) stale_if_error: Duration,
}

/// Whether a complete answer to a GET is kept. `age` is how old it was when it came.
pub(crate) fn keeps(
    asker: Asker,
    purpose: Purpose,
    (status, headers): (StatusCode, &HeaderMap),
    said: &Directives,
    terms: &Terms,
    age: Duration,
) -> bool {
    let whole = !status.is_informational()
        && status != StatusCode::PARTIAL_CONTENT
        && status != StatusCode::NOT_MODIFIED;
    let known = understood_as_lasting(status) || known(status);
    let forbidden = match said.must_understand {
        true => !known,
        false => said.no_store,
    };
    let allowed = understood_as_lasting(status) || terms.explicit;
    let every_variant = varies_without_end(headers);
    let mine_alone = said.private
        || (asker.authorized && !terms.everybodys)
        || (is_personal(asker, purpose, headers) && !is_marked(said));
    let good = purpose.serve_fresh || status.as_u16() < 500;
    let whole = whole && allowed && good && !forbidden;
    whole && !every_variant && !mine_alone && is_of_use(purpose, headers, terms, age)
}

/// An answer that may be somebody's though nothing says so. A service that serves
/// fresh answers says for how long, and RFC 9111 lets cookies pass; where we keep
/// answers unasked, cookies either way make them personal.
fn is_personal(asker: Asker, purpose: Purpose, headers: &HeaderMap) -> bool {
    let cookies = asker.cookies || headers.contains_key(header::SET_COOKIE);
    cookies && !purpose.serve_fresh
}

/// Its backend says that it is everybody's.
fn is_marked(said: &Directives) -> bool {
    said.public || said.s_maxage.is_some()
}

/// There is a moment, and a purpose, for which it can be used.
fn is_of_use(purpose: Purpose, headers: &HeaderMap, terms: &Terms, age: Duration) -> bool {
    let validates = purpose.serve_fresh && conditional::has_validator(headers);
    let helps = terms.helps(&Directives::default(), age, purpose.stale_if_error);
    validates || helps
}

/// Statuses whose meaning for caches is known beyond those that last.
fn known(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        201 | 202 | 302 | 303 | 307 | 400..=403 | 406..=409 | 411..=413 | 415..=417 | 421 | 422
            | 426 | 429 | 500 | 502..=505
    )
}

/// `Vary: *`, alone or in a list, or a name that is none: no other request gets it.
/// Nor where it names a field that we write: what the client sent there does not
/// tell what its backend saw, such as the client's address.
fn varies_without_end(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::VARY).iter();
    let mut names = values.flat_map(|value| members(value.as_bytes()));
    names.any(|name| {
        let name = HeaderName::from_bytes(name);
        name.is_err() || name.is_ok_and(|name| name == "*" || OURS.contains(&name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::freshness;
    use std::time::SystemTime;

    const NOBODY: Asker = Asker {
        authorized: false,
        cookies: false,
    };
    const WITH_COOKIES: Asker = Asker {
        cookies: true,
        ..NOBODY
    };
    const WITH_PASSWORD: Asker = Asker {
        authorized: true,
        ..NOBODY
    };

    fn kept(serve_fresh: bool, asker: Asker, status: u16, fields: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("a value"));
        }
        let status = StatusCode::from_u16(status).expect("a status");
        let said = freshness::directives(&headers);
        let terms = freshness::terms(status, &headers, &said, SystemTime::now());
        let purpose = Purpose {
            serve_fresh,
            stale_if_error: Duration::from_secs(300),
        };
        keeps(
            asker,
            purpose,
            (status, &headers),
            &said,
            &terms,
            Duration::ZERO,
        )
    }

    #[test]
    fn for_an_emergency_good_answers_are_kept_unless_they_may_be_one_user_s() {
        const CC: &str = "cache-control";
        for (asker, status, fields, expected) in [
            (NOBODY, 200, &[][..], true),
            (NOBODY, 404, &[], true),
            (NOBODY, 201, &[], false),
            (NOBODY, 201, &[(CC, "max-age=1")], true),
            (NOBODY, 206, &[(CC, "max-age=1")], false),
            (NOBODY, 304, &[(CC, "max-age=1")], false),
            (NOBODY, 500, &[(CC, "max-age=1")], false),
            (NOBODY, 200, &[(CC, "no-store")], false),
            (NOBODY, 200, &[(CC, "private")], false),
            (NOBODY, 200, &[(CC, "no-cache")], false),
            (NOBODY, 200, &[(CC, "max-age=0, must-revalidate")], false),
            (NOBODY, 200, &[(CC, "stale-if-error=0")], false),
            (NOBODY, 200, &[("vary", "a"), ("vary", ", *")], false),
            (NOBODY, 200, &[("vary", "a b")], false),
            (NOBODY, 200, &[("vary", "X-Forwarded-For")], false),
            (NOBODY, 200, &[("vary", "accept, x-forwarded-proto")], true),
            (NOBODY, 200, &[("set-cookie", "id=1")], false),
            (NOBODY, 200, &[("set-cookie", "id=1"), (CC, "public")], true),
            (WITH_COOKIES, 200, &[], false),
            (WITH_COOKIES, 200, &[(CC, "max-age=9")], false),
            (WITH_COOKIES, 200, &[(CC, "public")], true),
            (WITH_COOKIES, 200, &[(CC, "s-maxage=9")], true),
            (WITH_PASSWORD, 200, &[(CC, "max-age=9")], false),
            (WITH_PASSWORD, 200, &[(CC, "public")], true),
        ] {
            assert_eq!(
                kept(false, asker, status, fields),
                expected,
                "{asker:?} {status} {fields:?}"
            );
        }
    }

    #[test]
    fn to_serve_it_fresh_an_answer_is_kept_as_the_rfc_has_it() {
        const CC: &str = "cache-control";
        for (asker, status, fields, expected) in [
            (NOBODY, 503, &[(CC, "max-age=9")][..], true),
            (NOBODY, 599, &[(CC, "max-age=9")], true),
            (NOBODY, 599, &[(CC, "max-age=9, must-understand")], false),
            (
                NOBODY,
                200,
                &[(CC, "max-age=9, must-understand, no-store")],
                true,
            ),
            (NOBODY, 200, &[(CC, "no-cache"), ("etag", "\"1\"")], true),
            (NOBODY, 200, &[(CC, "no-cache")], false),
            (
                NOBODY,
                200,
                &[(CC, "max-age=9"), ("set-cookie", "id=1")],
                true,
            ),
            (WITH_COOKIES, 200, &[(CC, "max-age=9")], true),
            (WITH_PASSWORD, 200, &[(CC, "max-age=9")], false),
            (
                WITH_PASSWORD,
                200,
                &[(CC, "max-age=9, must-revalidate")],
                true,
            ),
        ] {
            assert_eq!(
                kept(true, asker, status, fields),
                expected,
                "{asker:?} {status} {fields:?}"
            );
        }
    }
}
