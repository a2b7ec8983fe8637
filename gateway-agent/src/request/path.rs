//! One path for each request: routing, and the backend, see the same one.
//!
//! RFC 3986 §6.2.2: escapes of unreserved characters are decoded, the others
//! written in upper case, dot segments resolved; besides, slashes in a row count
//! as one. Encoded slashes stay encoded: they are data.

use std::borrow::Cow;

/// A path with an escape that is none, or an encoded NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path has a malformed escape: '%' must be followed by two hex digits, and not 00")]
pub(crate) struct BadEscape;

/// The normal form of `path`, which starts with a slash. `*` is left alone.
pub(crate) fn normalise(path: &str) -> Result<Cow<'_, str>, BadEscape> {
    if is_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    let path = decode_unreserved(path)?;
    Ok(Cow::Owned(resolve_segments(&path)))
}

/// Enough to be sure that nothing is to be done, and true for nearly all paths.
fn is_normal(path: &str) -> bool {
    let mut previous = 0;
    path.bytes().all(|byte| {
        let suspect = byte == b'%' || (previous == b'/' && matches!(byte, b'/' | b'.'));
        previous = byte;
        !suspect
    })
}

fn decode_unreserved(path: &str) -> Result<String, BadEscape> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((plain, escaped)) = rest.split_once('%') {
        out.push_str(plain);
        let digits = escaped.get(..2).ok_or(BadEscape)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(BadEscape);
        }
        match u8::from_str_radix(digits, 16).map_err(|_| BadEscape)? {
            0 => return Err(BadEscape),
            byte if is_unreserved(byte) => out.push(byte.into()),
            _ => {
                out.push('%');
                out.push_str(&digits.to_ascii_uppercase());
            }
        }
        rest = &escaped[2..];
    }
    out.push_str(rest);
    Ok(out)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn resolve_segments(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut directory = true;
    for segment in path.split('/') {
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            name => {
                out.push('/');
                out.push_str(name);
            }
        }
    }
    if directory {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_have_one_form() {
        for (given, expected) in [
            ("/", "/"),
            ("*", "*"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/a/./b/.", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/a/%2e%2E/b", "/b"),
            ("/%61dmin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/a/..%2fb", "/a/..%2Fb"),
            ("/a/%252e%252e/b", "/a/%252e%252e/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
        ] {
            assert_eq!(normalise(given).as_deref(), Ok(expected), "{given}");
        }
    }

    #[test]
    fn escapes_that_are_none_are_refused() {
        for path in ["/%", "/%4", "/%zz", "/%+1", "/a%00", "/%é1"] {
            assert_eq!(normalise(path), Err(BadEscape), "{path}");
        }
    }

    /// What RFC 3986 §5.2.4 says, on whole segments, without shortcuts.
    fn naive(path: &str) -> String {
        let mut kept: Vec<&str> = Vec::new();
        let mut directory = false;
        for segment in path.split('/') {
            directory = segment.is_empty() || segment == "." || segment == "..";
            match segment {
                ".." => drop(kept.pop()),
                name if !directory => kept.push(name),
                _ => {}
            }
        }
        match (kept.is_empty(), directory) {
            (true, _) => "/".to_owned(),
            (false, true) => format!("/{}/", kept.join("/")),
            (false, false) => format!("/{}", kept.join("/")),
        }
    }

    proptest! {
        #[test]
        fn plain_paths_agree_with_the_naive_way(path in "/(\\.|/|a|b){0,12}") {
            prop_assert_eq!(normalise(&path).expect("no escapes"), naive(&path));
        }

        #[test]
        fn the_normal_form_is_stable_and_hides_nothing(
            path in "/(\\.|/|a|%2e|%2E|%2f|%61|%25|%C3%A9){0,12}"
        ) {
            let once = normalise(&path).expect("good escapes").into_owned();
            prop_assert_eq!(&*normalise(&once).expect("good escapes"), &once);
            prop_assert!(once.starts_with('/'));
            prop_assert!(!once.contains("//"));
            prop_assert!(!once.split('/').any(|s| s == "." || s == ".."));
            prop_assert!(!once.contains("%2E") && !once.contains("%61"));
        }
    }
}
