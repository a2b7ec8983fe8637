//! `Cache-Control` and its like, read into what they say.
//!
//! What is written wrongly counts as its strictest reading: an age that is no
//! number is zero, so that the answer is stale, as RFC 9111 §4.2.1 wants it. Of a
//! directive that comes twice, the first counts.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

/// Longer times count as this long, in seconds: RFC 9111 §1.2.2.
const FOREVER: u32 = 1 << 31;

/// What a request or a response says about caching. Times are whole seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    /// How long a response is fresh; how old it may be for a request.
    pub max_age: Option<Duration>,
    /// How long a response is fresh in a shared cache.
    pub s_maxage: Option<Duration>,
    /// How long it must still be fresh for a request.
    pub min_fresh: Option<Duration>,
    /// How stale it may be for a request.
    pub max_stale: Option<Duration>,
    /// How stale it may be while someone asks for a newer one.
    pub stale_while_revalidate: Option<Duration>,
    /// How stale it may be when nothing newer can be had.
    pub stale_if_error: Option<Duration>,
    /// It is not to be kept.
    pub no_store: bool,
    /// It is not to be used without asking.
    pub no_cache: bool,
    /// It is one user's.
    pub private: bool,
    /// It is everybody's.
    pub public: bool,
    /// It is not to be used stale, whatever happens.
    pub must_revalidate: bool,
    /// The same, for shared caches.
    pub proxy_revalidate: bool,
    /// It is to be kept only by who knows its status.
    pub must_understand: bool,
    /// Nobody is to be asked.
    pub only_if_cached: bool,
    /// Fields that are not to be used without asking, or are one user's.
    pub unshared: Vec<HeaderName>,
}

impl Directives {
    /// Reads all lines of a field. Never fails, whatever the bytes.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut read = Self::default();
        for member in lines.into_iter().flat_map(members) {
            read.take(member);
        }
        read
    }

    /// Of a field; `None` if it is not there.
    pub(crate) fn of(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let values = headers.get_all(name);
        let present = values.iter().next().is_some();
        present.then(|| Self::parse(values.iter().map(|value| value.as_bytes())))
    }

    fn take(&mut self, member: &[u8]) {
        let mut parts = member.splitn(2, |byte| *byte == b'=');
        let name = parts.next().unwrap_or_default();
        let value = parts.next();
        let clean = name.trim_ascii_end();
        // A blank before the equals sign makes the value wrong, not the name.
        let value = value.map(|value| if clean == name { value } else { b"?" });
        let is = |word: &str| clean.eq_ignore_ascii_case(word.as_bytes());
        let times = [
            ("max-age", &mut self.max_age),
            ("s-maxage", &mut self.s_maxage),
            ("min-fresh", &mut self.min_fresh),
            ("stale-while-revalidate", &mut self.stale_while_revalidate),
            ("stale-if-error", &mut self.stale_if_error),
        ];
        for (word, time) in times {
            if is(word) {
                time.get_or_insert(seconds(value.unwrap_or_default()));
            }
        }
        if is("max-stale") {
            let any = Duration::from_secs(FOREVER.into());
            self.max_stale.get_or_insert(value.map_or(any, seconds));
        }
        let words = [
            ("no-store", &mut self.no_store),
            ("public", &mut self.public),
            ("must-revalidate", &mut self.must_revalidate),
            ("proxy-revalidate", &mut self.proxy_revalidate),
            ("must-understand", &mut self.must_understand),
            ("only-if-cached", &mut self.only_if_cached),
        ];
        for (word, said) in words {
            *said |= is(word);
        }
        for (word, said) in [
            ("no-cache", &mut self.no_cache),
            ("private", &mut self.private),
        ] {
            if is(word) {
                match value.and_then(fields) {
                    Some(fields) => self.unshared.extend(fields),
                    None => *said = true,
                }
            }
        }
    }
}

/// The members of a comma-separated list, without the blanks around them and
/// without empty ones. A comma in quotes does not separate.
pub(crate) fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let mut escaped = false;
    let parts = line.split(move |byte| {
        let separates = *byte == b',' && !quoted;
        let escapes = quoted && !escaped && *byte == b'\\';
        quoted ^= *byte == b'"' && !escaped;
        escaped = escapes;
        separates
    });
    parts
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// What is in quotes, or all of it; escapes stay, as nothing here has any.
fn unquoted(value: &[u8]) -> &[u8] {
    let inner = value.strip_prefix(b"\"");
    inner
        .and_then(|inner| inner.strip_suffix(b"\""))
        .unwrap_or(value)
}

fn seconds(value: &[u8]) -> Duration {
    Duration::from_secs(number(unquoted(value)).unwrap_or(0).into())
}

/// A whole number of digits only; a large one counts as [`FOREVER`].
pub(crate) fn number(digits: &[u8]) -> Option<u32> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let fold = |sum: u32, digit: &u8| {
        let digit = u32::from(digit - b'0');
        sum.saturating_mul(10).saturating_add(digit).min(FOREVER)
    };
    all.then(|| digits.iter().fold(0, fold))
}

/// Names of fields; `None` if one is no name, or there is none: then the
/// directive is about the whole answer.
fn fields(value: &[u8]) -> Option<Vec<HeaderName>> {
    let names = members(unquoted(value)).map(HeaderName::from_bytes);
    let names: Vec<_> = names.collect::<Result<_, _>>().ok()?;
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(lines: &[&str]) -> Directives {
        Directives::parse(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn ages_are_whole_seconds_and_anything_else_is_stale() {
        for (line, expected) in [
            ("max-age=3600", 3600),
            ("MAX-Age=3600", 3600),
            ("max-age=003600", 3600),
            ("max-age=\"3600\"", 3600),
            ("max-age=99999999999", FOREVER),
            ("max-age=1, max-age=3600", 1),
            ("max-age='3600'", 0),
            ("max-age=3600.0", 0),
            ("max-age=-1", 0),
            ("max-age= 3600", 0),
            ("max-age =3600", 0),
            ("max-age=a100", 0),
            ("max-age", 0),
            ("x=\"max-age=3600\", max-age=1", 1),
            ("x=\"\\\", max-age=3600\", max-age=1", 1),
            ("max-age=1, x=\"max-age=3600\"", 1),
        ] {
            let found = read(&[line]).max_age;
            assert_eq!(found, Some(Duration::from_secs(expected.into())), "{line}");
        }
        assert_eq!(
            read(&["max-age=1", "max-age=2"])
                .max_age
                .map(|d| d.as_secs()),
            Some(1)
        );
        assert_eq!(read(&["smax-age=1", ""]), Directives::default());
    }

    #[test]
    fn max_stale_without_a_time_takes_any() {
        let any = read(&["max-stale"]).max_stale;
        assert_eq!(any, Some(Duration::from_secs(FOREVER.into())));
        assert_eq!(read(&["max-stale=x"]).max_stale, Some(Duration::ZERO));
    }

    #[test]
    fn some_directives_are_about_all_of_it_or_about_fields() {
        let plain = read(&["no-cache, Private"]);
        assert!(plain.no_cache && plain.private && plain.unshared.is_empty());
        let some = read(&["no-cache=\"a, B\"", "private=c"]);
        assert!(!some.no_cache && !some.private);
        assert_eq!(some.unshared, ["a", "b", "c"]);
        // What cannot be read is about all of it.
        assert!(read(&["no-cache=\"\""]).no_cache && read(&["private=\"a b\""]).private);
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_parser(lines: Vec<Vec<u8>>) {
            Directives::parse(lines.iter().map(Vec::as_slice));
        }

        #[test]
        fn what_is_forbidden_stays_forbidden_whatever_else_is_said(extra in "[a-z=,; ]{0,40}") {
            let line = format!("no-store, {extra}");
            prop_assert!(Directives::parse([line.as_bytes()]).no_store);
        }
    }
}
