//! One request header of HTTP/1, line by line, before hyper sees any of it.
//!
//! hyper forgives what others read differently: a line that ends in LF alone, a
//! length beside a transfer coding, which it drops, and a length given twice.
//! Each of these is how one request becomes two behind a gateway, and none is
//! left to see once it was parsed. Characters are left to hyper, which refuses
//! all that RFC 9110 does.

use fleet_config::HostLimits;
use memchr::memchr;

use crate::{
    request::intake::Unfit,
    serve::framing::codings::{Codings, is_like},
};

/// Empty lines before a request that are skipped (RFC 9112 §2.2).
const EMPTY_LINES: u32 = 2;

/// What a header says about what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// A header of which so much was read.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Where the line begins that has not ended.
    line: usize,
    /// Up to here there is no other end of a line.
    seen: usize,
    /// Empty lines before the request line.
    empty: u32,
    /// Bytes of the request line; `None`: it has not ended.
    request_line: Option<RequestLine>,
    fields: u32,
    /// Names and values in bytes.
    size: usize,
    length: Option<u64>,
    codings: Codings,
    upgrade: bool,
    expect: bool,
}

#[derive(Debug, Clone, Copy)]
struct RequestLine {
    http10: bool,
    /// Where a target is missing that means the root.
    no_target_at: Option<usize>,
}

/// A header whose end was read, and which can be read in one way only.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// Its bytes.
    pub(super) size: usize,
    pub(super) payload: Payload,
    /// The client would like to speak another protocol.
    pub(super) upgrade: bool,
    /// The client waits for a word before it sends its body.
    pub(super) expect: bool,
    /// What hyper gets in its place, as it would not take it as it is.
    pub(super) instead: Option<Vec<u8>>,
}

impl Head {
    /// Reads on. `bytes` begins with the header, and has all that was there at the
    /// last call. `None`: its end has not come.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        limits: &HostLimits,
    ) -> Result<Option<Whole>, Unfit> {
        while let Some(at) = memchr(b'\n', &bytes[self.seen..]) {
            let end = self.seen + at;
            let line = &bytes[self.line..end];
            let line = line
                .strip_suffix(b"\r")
                .ok_or(Unfit::Ambiguous("a line must end in CR LF"))?;
            let begin = std::mem::replace(&mut self.line, end + 1);
            self.seen = end + 1;
            match (&self.request_line, line) {
                (None, []) if self.empty < EMPTY_LINES => self.empty += 1,
                (None, line) => {
                    self.request_line = Some(request_line(line, begin, limits)?);
                }
                (Some(_), []) => return self.whole(bytes).map(Some),
                (Some(_), line) => self.field(line, limits)?,
            }
        }
        self.seen = bytes.len();
        self.check_unfinished(&bytes[self.line..], limits)?;
        Ok(None)
    }

    /// Something of it has come.
    pub(super) fn has_begun(&self) -> bool {
        self.seen > 0
    }

    /// What is not even a header, or too long already, need not be waited for.
    fn check_unfinished(&self, line: &[u8], limits: &HostLimits) -> Result<(), Unfit> {
        let Some(_) = self.request_line else {
            let begins_well = |byte: &u8| byte.is_ascii_graphic() || *byte == b'\r';
            return match line.first().is_none_or(begins_well) {
                true => check_target(line.len().saturating_sub(REST_OF_LINE), limits),
                false => Err(Unfit::Ambiguous("this is no request line")),
            };
        };
        // Its colon, its space and CR are not counted.
        self.check_size(line.len().saturating_sub(3), limits)
    }

    fn check_size(&self, field: usize, limits: &HostLimits) -> Result<(), Unfit> {
        let too_long = field > limits.max_field_bytes as usize;
        let too_many = self.size + field > limits.max_header_bytes as usize;
        match too_long || too_many {
            true => Err(Unfit::FieldsTooLarge),
            false => Ok(()),
        }
    }

    fn field(&mut self, line: &[u8], limits: &HostLimits) -> Result<(), Unfit> {
        let colon = memchr(b':', line).ok_or(Unfit::Ambiguous("a field has no colon"))?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        self.fields += 1;
        if self.fields > limits.max_headers {
            return Err(Unfit::FieldsTooLarge);
        }
        self.check_size(name.len() + value.len(), limits)?;
        self.size += name.len() + value.len();
        if matches!(name, [] | [b' ' | b'\t', ..] | [.., b' ' | b'\t']) {
            return Err(Unfit::Ambiguous(
                "a field's name must not be empty or have spaces around it, nor a value go on in the next line",
            ));
        }
        match name.len() {
            6 if is_like(name, b"expect") => self.expect = true,
            7 if is_like(name, b"upgrade") => self.upgrade = true,
            14 if is_like(name, b"content-length") => {
                let length = length(name, value.trim_ascii())?;
                if self.length.replace(length).is_some() {
                    return Err(Unfit::Ambiguous("there is more than one content-length"));
                }
            }
            17 if is_like(name, b"transfer-encoding") => self.codings.add(name, value)?,
            _ => {}
        }
        Ok(())
    }

    fn whole(&mut self, bytes: &[u8]) -> Result<Whole, Unfit> {
        let head = std::mem::take(self);
        let Some(line) = head.request_line else {
            return Err(Unfit::Ambiguous("there is no request line"));
        };
        let coded = head.codings.are_given();
        let payload = match (coded, head.length) {
            (false, length) => Payload::Length(length.unwrap_or(0)),
            (true, Some(_)) => {
                let why = "content-length and transfer-encoding exclude each other";
                return Err(Unfit::Ambiguous(why));
            }
            (true, None) if line.http10 => {
                return Err(Unfit::Ambiguous("HTTP/1.0 has no transfer-encoding"));
            }
            (true, None) => Payload::Chunked,
        };
        let codings = head.codings.checked()?;
        let bytes = &bytes[..head.line];
        let as_it_is = codings.is_none() && line.no_target_at.is_none();
        Ok(Whole {
            size: bytes.len(),
            payload,
            upgrade: head.upgrade,
            expect: head.expect,
            instead: (!as_it_is).then(|| rewritten(bytes, line.no_target_at, codings)),
        })
    }
}

/// Bytes of a request line beside its target: a method, two spaces, the version.
const REST_OF_LINE: usize = 64;

fn check_target(length: usize, limits: &HostLimits) -> Result<(), Unfit> {
    match length > limits.max_target_bytes as usize {
        true => Err(Unfit::TargetTooLong),
        false => Ok(()),
    }
}

fn request_line(line: &[u8], begin: usize, limits: &HostLimits) -> Result<RequestLine, Unfit> {
    const WRONG: Unfit =
        Unfit::Ambiguous("the request line must be a method, a target and HTTP/1.1");
    let method = memchr(b' ', line).ok_or(WRONG)?;
    if !line.first().is_some_and(u8::is_ascii_graphic) {
        return Err(WRONG);
    }
    let target = line.len().checked_sub(b" HTTP/1.1".len()).ok_or(WRONG)?;
    if method > REST_OF_LINE / 2 {
        return Err(WRONG);
    }
    check_target(target.saturating_sub(method + 1), limits)?;
    let no_target = target == method + 1;
    Ok(RequestLine {
        http10: line.ends_with(b" HTTP/1.0"),
        no_target_at: no_target.then_some(begin + target),
    })
}

/// Digits only, and one number: hyper and backends read the same.
fn length(name: &[u8], value: &[u8]) -> Result<u64, Unfit> {
    const WRONG: Unfit = Unfit::Ambiguous("content-length must be one number");
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().filter(|_| digits);
    let number = number.and_then(|text| text.parse().ok()).ok_or(WRONG)?;
    match name.contains(&b'_') {
        // Servers that read names as CGI does take it for the other.
        true => Err(Unfit::Ambiguous(
            "content_length is too like content-length",
        )),
        false => Ok(number),
    }
}

/// The same header with the root for a missing target, and its codings in one
/// field of one form.
fn rewritten(head: &[u8], no_target_at: Option<usize>, codings: Option<String>) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.len() + 64);
    let (start, rest) = head.split_at(no_target_at.unwrap_or(0));
    out.extend(start);
    if no_target_at.is_some() {
        out.push(b'/');
    }
    let Some(codings) = codings else {
        out.extend(rest);
        return out;
    };
    for line in rest.split_inclusive(|byte| *byte == b'\n') {
        let name = memchr(b':', line).map_or(line, |colon| &line[..colon]);
        match line {
            b"\r\n" => {}
            _ if name.eq_ignore_ascii_case(b"transfer-encoding") => {}
            _ => out.extend(line),
        }
    }
    out.extend(b"transfer-encoding: ");
    out.extend(codings.as_bytes());
    out.extend(b"\r\n\r\n");
    out
}
