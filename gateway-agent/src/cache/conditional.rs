//! Requests for an answer only if it changed, or for a part of it, answered from
//! one that is kept: RFC 9110 §13 and §14.

use std::ops::Range;

use http::{HeaderMap, header};

use crate::cache::{directives::members, freshness::date};

/// The answer can be asked about later.
pub(crate) fn has_validator(response: &HeaderMap) -> bool {
    response.contains_key(header::ETAG) || response.contains_key(header::LAST_MODIFIED)
}

/// Whether the client has this answer already.
pub(crate) fn is_known(request: &HeaderMap, response: &HeaderMap) -> bool {
    let asked = request.get_all(header::IF_NONE_MATCH);
    if asked.iter().next().is_some() {
        let kept = response.get(header::ETAG).map(|tag| opaque(tag.as_bytes()));
        let mut tags = asked.iter().flat_map(|line| members(line.as_bytes()));
        return tags.any(|tag| tag == b"*" || Some(opaque(tag)) == kept);
    }
    let since = date(request, &header::IF_MODIFIED_SINCE);
    let changed = date(response, &header::LAST_MODIFIED);
    let changed = changed.or_else(|| date(response, &header::DATE));
    matches!((since, changed), (Some(since), Some(changed)) if changed <= since)
}

/// A tag without its mark of weakness, which does not matter to readers.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Puts the answer's validators in place of the client's own.
pub(crate) fn ask_about(response: &HeaderMap, request: &mut HeaderMap) {
    request.remove(header::IF_NONE_MATCH);
    request.remove(header::IF_MODIFIED_SINCE);
    for (theirs, ours) in [
        (header::ETAG, header::IF_NONE_MATCH),
        (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE),
    ] {
        if let Some(value) = response.get(theirs) {
            request.insert(ours, value.clone());
        }
    }
}

/// A 304 that came for the client's own question tells about the kept answer, too:
/// it has the same strong tag.
pub(crate) fn confirms(unchanged: &HeaderMap, kept: &HeaderMap) -> bool {
    let tag = unchanged.get(header::ETAG);
    let strong = tag.is_some_and(|tag| tag.as_bytes().starts_with(b"\""));
    strong && tag == kept.get(header::ETAG)
}

/// Which bytes of a kept answer a request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// All.
    Whole,
    /// These.
    Bytes(Range<usize>),
    /// Some that it does not have.
    Beyond,
}

/// Which of `length` bytes a request wants. Several ranges at once get the whole:
/// they cost more to answer than they save (CVE-2011-3192).
pub(crate) fn part(request: &HeaderMap, response: &HeaderMap, length: usize) -> Part {
    let mut ranges = request.get_all(header::RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else {
        return Part::Whole;
    };
    if !is_the_one_it_has_parts_of(request, response) {
        return Part::Whole;
    }
    read(range.as_bytes(), length).unwrap_or(Part::Whole)
}

fn is_the_one_it_has_parts_of(request: &HeaderMap, response: &HeaderMap) -> bool {
    let Some(has) = request.get(header::IF_RANGE) else {
        return true;
    };
    let tag = response.get(header::ETAG);
    let strong = has.as_bytes().starts_with(b"\"");
    (strong && tag == Some(has)) || response.get(header::LAST_MODIFIED) == Some(has)
}

/// `None`: it is nothing that we understand.
fn read(range: &[u8], length: usize) -> Option<Part> {
    let range = str::from_utf8(range).ok()?;
    let (first, last) = range.strip_prefix("bytes=")?.trim().split_once('-')?;
    // A plus sign would pass for a number.
    let number = |digits: &str| {
        let digits_only = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits_only.then(|| digits.parse::<usize>().unwrap_or(usize::MAX))
    };
    let bytes = match (first, last) {
        ("", "") => return None,
        ("", suffix) => length.saturating_sub(number(suffix)?)..length,
        (first, "") => number(first)?..length,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(length)
        }
    };
    Some(match bytes.start < bytes.end {
        true => Part::Bytes(bytes),
        false => Part::Beyond,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn a_client_has_it_already_by_tag_or_else_by_date() {
        const EARLY: &str = "Mon, 23 Nov 2026 09:00:00 GMT";
        const LATE: &str = "Mon, 23 Nov 2026 10:00:00 GMT";
        for (request, response, expected) in [
            (
                &[("if-none-match", "\"a\"")][..],
                &[("etag", "\"a\"")][..],
                true,
            ),
            (&[("if-none-match", "W/\"a\"")], &[("etag", "\"a\"")], true),
            (
                &[("if-none-match", "\"b\", \"a\"")],
                &[("etag", "W/\"a\"")],
                true,
            ),
            (&[("if-none-match", "\"b\"")], &[("etag", "\"a\"")], false),
            (&[("if-none-match", "*")], &[], true),
            (
                &[("if-none-match", "\"a,b\"")],
                &[("etag", "\"a,b\"")],
                true,
            ),
            (
                &[("if-none-match", "\"b\""), ("if-modified-since", LATE)],
                &[("etag", "\"a\""), ("last-modified", EARLY)],
                false,
            ),
            (
                &[("if-modified-since", LATE)],
                &[("last-modified", EARLY)],
                true,
            ),
            (
                &[("if-modified-since", EARLY)],
                &[("last-modified", LATE)],
                false,
            ),
            (&[("if-modified-since", LATE)], &[("date", LATE)], true),
            (
                &[("if-modified-since", "soon")],
                &[("last-modified", EARLY)],
                false,
            ),
            (&[], &[("etag", "\"a\"")], false),
        ] {
            let found = is_known(&headers(request), &headers(response));
            assert_eq!(found, expected, "{request:?} {response:?}");
        }
    }

    #[test]
    fn a_part_is_one_range_of_what_the_client_has() {
        for (range, expected) in [
            ("bytes=0-1", Part::Bytes(0..2)),
            ("bytes=4-", Part::Bytes(4..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-30", Part::Bytes(0..10)),
            ("bytes=5-99999999999999999999999", Part::Bytes(5..10)),
            ("bytes=10-", Part::Beyond),
            ("bytes=-0", Part::Beyond),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=5-4", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("lines=1-2", Part::Whole),
        ] {
            let request = headers(&[("range", range)]);
            assert_eq!(part(&request, &HeaderMap::new(), 10), expected, "{range}");
        }
        for (has, expected) in [
            ("\"a\"", Part::Bytes(0..2)),
            ("\"b\"", Part::Whole),
            ("W/\"a\"", Part::Whole),
        ] {
            let request = headers(&[("range", "bytes=0-1"), ("if-range", has)]);
            let response = headers(&[("etag", "\"a\"")]);
            assert_eq!(part(&request, &response, 10), expected, "{has}");
        }
    }

    proptest! {
        #[test]
        fn no_range_reaches_beyond_its_body(range in "bytes=[0-9-]{0,24}", length in 0_usize..100) {
            if let Some(Part::Bytes(bytes)) = read(range.as_bytes(), length) {
                prop_assert!(bytes.start < bytes.end && bytes.end <= length);
            }
        }
    }
}
