//! W3C Trace Context, level 2 (<https://www.w3.org/TR/trace-context-2/>): who
//! called, and whether the call is being watched. Read strictly: what the
//! specification calls invalid counts as absent.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-` trace id `-` span id `-` flags.
const LENGTH: usize = 55;

/// Members of a `tracestate`, empty ones aside (§3.3.1.1).
const MAX_MEMBERS: usize = 32;

/// A trace's 16 bytes, not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceId(pub(crate) u128);

/// A span's 8 bytes, not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanId(pub(crate) u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The flags that this version knows; the others are sent as zero (§3.2.2.5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    const SAMPLED: u8 = 0b01;
    /// The right half of the trace id is random.
    const RANDOM: u8 = 0b10;

    /// Of a trace that begins here, whose id is random.
    pub(crate) fn fresh(sampled: bool) -> Self {
        Self(Self::RANDOM | if sampled { Self::SAMPLED } else { 0 })
    }

    /// Callers may be keeping the trace.
    pub(crate) fn sampled(self) -> bool {
        self.0 & Self::SAMPLED != 0
    }

    /// As OTLP has them.
    pub(crate) fn bits(self) -> u8 {
        self.0
    }
}

/// Who called: a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    pub(crate) flags: Flags,
}

impl Parent {
    /// Whom a header names; `None` also if there is more than one `traceparent`.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        match values.next() {
            None => Self::parse(value.as_bytes()),
            Some(_) => None,
        }
    }

    /// Reads a value. A later version may say more after a dash; what this one
    /// knows is read all the same, and the rest is nobody's business here.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let (known, more) = value.split_at_checked(LENGTH)?;
        let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let version = hex(&known[..2])?;
        let fits = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => matches!(more.first(), None | Some(b'-')),
        };
        if !(dashes && fits) {
            return None;
        }
        let trace = hex(&known[3..35]).filter(|id| *id != 0)?;
        let span = hex(&known[36..52]).filter(|id| *id != 0)?;
        let flags = hex(&known[53..])?;
        Some(Self {
            trace: TraceId(trace),
            span: SpanId(span as u64),
            flags: Flags(flags as u8 & (Flags::SAMPLED | Flags::RANDOM)),
        })
    }

    /// As a header's value, in the one version that we write.
    pub(crate) fn value(&self) -> HeaderValue {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; LENGTH];
        let mut put = |at: usize, digits: usize, number: u128| {
            for (place, byte) in text[at..at + digits].iter_mut().rev().enumerate() {
                *byte = DIGITS[(number >> (4 * place)) as usize & 15];
            }
        };
        put(0, 2, 0);
        put(3, 32, self.trace.0);
        put(36, 16, self.span.0.into());
        put(53, 2, self.flags.0.into());
        // Digits and dashes always make one.
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("00"))
    }
}

/// A number of at most 32 digits, in lower case.
fn hex(digits: &[u8]) -> Option<u128> {
    let mut number = 0;
    for byte in digits {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        number = number << 4 | u128::from(digit);
    }
    Some(number)
}

/// Whether the header's `tracestate` can be passed on; one that cannot is dropped
/// whole, and the `traceparent` beside it still counts (§3.3.1.3).
pub(crate) fn is_valid_state(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TRACESTATE).iter();
    let members = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let members = members.map(<[u8]>::trim_ascii);
    let mut keys: Vec<&[u8]> = Vec::new();
    for member in members.filter(|member| !member.is_empty()) {
        let Some(at) = member.iter().position(|byte| *byte == b'=') else {
            return false;
        };
        let (key, value) = (&member[..at], &member[at + 1..]);
        let fresh = keys.len() < MAX_MEMBERS && !keys.contains(&key);
        if !(fresh && is_key(key) && is_value(value)) {
            return false;
        }
        keys.push(key);
    }
    true
}

/// 1 to 256 characters, a letter or a digit first.
fn is_key(key: &[u8]) -> bool {
    let starts = |part: &[u8]| matches!(part.first(), Some(b'a'..=b'z' | b'0'..=b'9'));
    let rest = |byte: &u8| {
        matches!(
            byte,
            b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@'
        )
    };
    starts(key) && key.len() <= 256 && key.iter().all(rest)
}

/// 1 to 256 printable characters without `,` and `=`; the spaces around a member
/// are not part of it.
fn is_value(value: &[u8]) -> bool {
    let printable = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    (1..=256).contains(&value.len()) && value.iter().all(printable)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn sampled(value: &str) -> Option<bool> {
        Parent::parse(value.as_bytes()).map(|parent| parent.flags.sampled())
    }

    #[test]
    fn a_parent_is_read_strictly() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let span = "00f067aa0ba902b7";
        for (value, expected) in [
            (GOOD.to_owned(), Some(true)),
            (format!("00-{trace}-{span}-00"), Some(false)),
            (format!("00-{trace}-{span}-ff"), Some(true)),
            (format!("00-{trace}-{span}-fe"), Some(false)),
            // A later version.
            (format!("01-{trace}-{span}-01"), Some(true)),
            (format!("cc-{trace}-{span}-01-what-ever"), Some(true)),
            (format!("cc-{trace}-{span}-01-"), Some(true)),
            (format!("cc-{trace}-{span}-01.what"), None),
            (format!("cc-{trace}-{span}-011"), None),
            (format!("cc-{trace}-{span}-0"), None),
            // None of any version.
            (String::new(), None),
            (format!("ff-{trace}-{span}-01"), None),
            (format!("00-{trace}-{span}-01-"), None),
            (format!("00-{trace}-{span}-0"), None),
            (format!("00-{trace}-{span}-0g"), None),
            (format!("0-{trace}-{span}-01x"), None),
            (format!("00_{trace}-{span}-01"), None),
            (format!("00-{trace}_{span}-01"), None),
            (GOOD.to_uppercase(), None),
            (format!(" {GOOD}"), None),
            (format!("00-{}-{span}-01", "0".repeat(32)), None),
            (format!("00-{trace}-{}-01", "0".repeat(16)), None),
            (format!("00-{trace}0-{span}-1"), None),
        ] {
            assert_eq!(sampled(&value), expected, "{value}");
        }
    }

    #[test]
    fn two_parents_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(Parent::of(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(Parent::of(&headers), None);
    }

    fn valid(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACESTATE, HeaderValue::from_str(value).expect("a value"));
        }
        is_valid_state(&headers)
    }

    #[test]
    fn a_state_is_valid_whole_or_not_at_all() {
        let many = |count: usize| {
            let members: Vec<_> = (0..count).map(|n| format!("k{n}=v")).collect();
            members.join(",")
        };
        for (values, expected) in [
            (vec![], true),
            (vec![""], true),
            (vec!["a=1"], true),
            (vec!["a=1 , b=2,, \tc=x y"], true),
            (vec!["a=1", "b=2"], true),
            (vec!["1a@b-c_d*e/f=~"], true),
            (vec!["a=1", "a=2"], false),
            (vec!["a=1,a=2"], false),
            (vec!["a"], false),
            (vec!["=1"], false),
            (vec!["a="], false),
            (vec!["a=1=2"], false),
            (vec!["A=1"], false),
            (vec!["a =1"], false),
            (vec!["@a=1"], false),
            (vec!["a=1,b"], false),
            (vec![&many(32)], true),
            (vec![&many(33)], false),
            (vec![&format!("{}=1", "a".repeat(256))], true),
            (vec![&format!("{}=1", "a".repeat(257))], false),
            (vec![&format!("a={}", "1".repeat(256))], true),
            (vec![&format!("a={}", "1".repeat(257))], false),
        ] {
            assert_eq!(valid(&values), expected, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Parent::parse(&value);
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let _ = is_valid_state(&HeaderMap::from_iter([(TRACESTATE, value)]));
            }
        }

        #[test]
        fn what_is_almost_right_is_read_or_refused(
            at in 0..55usize, byte in any::<u8>(), more in "[-0-9a-f]{0,8}",
        ) {
            let mut value = format!("{GOOD}{more}").into_bytes();
            value[at] = byte;
            if let Some(parent) = Parent::parse(&value) {
                prop_assert_eq!(Parent::parse(parent.value().as_bytes()), Some(parent));
            }
        }

        #[test]
        fn what_is_written_is_read(trace in 1..=u128::MAX, span in 1..=u64::MAX, sampled: bool) {
            let flags = Flags::fresh(sampled);
            let parent = Parent { trace: TraceId(trace), span: SpanId(span), flags };
            let value = parent.value();
            prop_assert_eq!(Parent::parse(value.as_bytes()), Some(parent));
            let bits = flags.bits();
            prop_assert_eq!(
                value.to_str().expect("text"),
                format!("00-{}-{}-{bits:02x}", parent.trace, parent.span)
            );
        }
    }
}
