//! `Transfer-Encoding`, which ends in `chunked`, once.
//!
//! Other registered codings may come before it: then the message is chunks all
//! the same, and only its content differs. hyper, and the backend, get them all
//! in one field and one form.

use crate::request::intake::Unfit;

/// What hyper and backends call the only framing there is.
pub(crate) const CHUNKED: &str = "chunked";

/// Codings of content; the last is none, and left out.
const KNOWN: [&str; 6] = [
    "gzip",
    "x-gzip",
    "deflate",
    "compress",
    "x-compress",
    "identity",
];

const WRONG: Unfit = Unfit::Ambiguous("transfer-encoding must end in 'chunked', once");

/// Those of one header.
#[derive(Debug, Default)]
pub(super) struct Codings {
    fields: u32,
    chunked: bool,
    /// Other than one plain field `chunked`.
    odd: bool,
    before: Vec<&'static str>,
}

impl Codings {
    pub(super) fn are_given(&self) -> bool {
        self.fields > 0
    }

    /// Takes one more field.
    pub(super) fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), Unfit> {
        if name.contains(&b'_') {
            // Servers that read names as CGI does take it for the other.
            let why = "transfer_encoding is too like transfer-encoding";
            return Err(Unfit::Ambiguous(why));
        }
        self.fields += 1;
        let plain = value.eq_ignore_ascii_case(CHUNKED.as_bytes());
        self.odd |= !plain || self.fields > 1;
        value
            .split(|byte| *byte == b',')
            .try_for_each(|item| self.coding(item))
    }

    fn coding(&mut self, item: &[u8]) -> Result<(), Unfit> {
        let mut parts = item.split(|byte| *byte == b';');
        let name = parts.next().unwrap_or_default().trim_ascii();
        let is_text = |byte: &u8| matches!(byte, b' ' | b'\t' | b'!'..=b'~');
        if self.chunked || !parts.all(|parameter| parameter.iter().all(is_text)) {
            return Err(WRONG);
        }
        if name.eq_ignore_ascii_case(CHUNKED.as_bytes()) {
            self.chunked = true;
            return Ok(());
        }
        let mut known = KNOWN.iter();
        let known = known.find(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        match known {
            Some(&"identity") => {}
            Some(known) if self.before.len() < KNOWN.len() => self.before.push(known),
            _ => return Err(WRONG),
        }
        Ok(())
    }

    /// Their one form, if they are not in it.
    pub(super) fn checked(self) -> Result<Option<String>, Unfit> {
        if self.fields == 0 {
            return Ok(None);
        }
        let mut all = self.before;
        all.push(CHUNKED);
        match self.chunked {
            true => Ok(self.odd.then(|| all.join(", "))),
            false => Err(WRONG),
        }
    }
}

/// The same name to somebody: case does not count, and to servers that hand names
/// on as CGI does, `_` is `-`.
pub(super) fn is_like(name: &[u8], other: &[u8]) -> bool {
    let same = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
    name.len() == other.len() && name.iter().zip(other).all(same)
}
