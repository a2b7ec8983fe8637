//! Reading the tree key by key, so that every mistake is reported and not only
//! the first.

use std::{collections::HashSet, fmt};

use crate::{
    error::Report,
    tree::{Entry, Node, Value},
};

/// A value at a place in the file.
#[derive(Clone)]
pub(crate) struct At<'a> {
    /// `services.payments.breaker`.
    pub(crate) path: String,
    /// Where the value is; the key's line for a mapping or list.
    pub(crate) line: u64,
    pub(crate) value: &'a Value,
    pub(crate) report: &'a Report,
}

impl<'a> At<'a> {
    pub(crate) fn root(node: &'a Node, report: &'a Report) -> Self {
        Self {
            path: String::new(),
            line: node.line,
            value: &node.value,
            report,
        }
    }

    /// Reports an error here.
    pub(crate) fn error(&self, message: impl fmt::Display) {
        self.report
            .error(self.line, &self.path, message.to_string());
    }

    /// Reports that the value is not `what`; `allowed` says what is.
    pub(crate) fn refuse<T>(
        &self,
        what: impl fmt::Display,
        allowed: impl fmt::Display,
    ) -> Option<T> {
        self.error(format_args!("{} is not {what}: {allowed}", self.value));
        None
    }

    /// The mapping here; nothing at all counts as an empty one.
    pub(crate) fn fields(&self) -> Option<Fields<'a>> {
        match self.value {
            Value::Map(entries) => Some(Fields::new(self.clone(), entries)),
            Value::Null => Some(Fields::new(self.clone(), &[])),
            _ => self.refuse("a mapping", "use keys with values, one a line"),
        }
    }

    /// The list here.
    pub(crate) fn items(&self) -> Option<Vec<At<'a>>> {
        let Value::List(items) = self.value else {
            return self.refuse("a list", "use [..., ...], or one item a line after a dash");
        };
        let item = |(index, node): (usize, &'a Node)| At {
            path: format!("{}[{index}]", self.path),
            line: node.line,
            value: &node.value,
            report: self.report,
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// Nothing is in the list or mapping here.
    pub(crate) fn is_empty(&self) -> bool {
        match self.value {
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
            _ => false,
        }
    }

    /// The text here.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match self.value {
            Value::Text(text) => Some(text),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
                self.refuse("text", "put it in quotation marks")
            }
            Value::Null | Value::List(_) | Value::Map(_) => self.refuse("text", "use one word"),
        }
    }
}

/// The keys of a mapping that are still to be read.
pub(crate) struct Fields<'a> {
    pub(crate) at: At<'a>,
    entries: Vec<&'a Entry>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    fn new(at: At<'a>, all: &'a [Entry]) -> Self {
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        for entry in all {
            if seen.insert(entry.key.as_str()) {
                entries.push(entry);
            } else {
                let at = child(&at, entry);
                at.report
                    .error(entry.line, &at.path, "the key is given twice".to_owned());
            }
        }
        Self {
            at,
            entries,
            known: Vec::new(),
        }
    }

    /// The value of a key that this version knows.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<At<'a>> {
        self.known.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let given = entry.node.value != Value::Null;
        given.then(|| child(&self.at, entry))
    }

    /// Reads a key into `into`, which keeps its value if the key is absent or
    /// wrong. Whether the key was there.
    pub(crate) fn read<T>(
        &mut self,
        key: &'static str,
        into: &mut T,
        parse: impl FnOnce(&At<'a>) -> Option<T>,
    ) -> bool {
        let Some(at) = self.get(key) else {
            return false;
        };
        if let Some(value) = parse(&at) {
            *into = value;
        }
        true
    }

    /// Refuses a key that is known elsewhere.
    pub(crate) fn forbid(&mut self, key: &str, why: &str) {
        let Some(index) = self.entries.iter().position(|entry| entry.key == key) else {
            return;
        };
        let entry = self.entries.remove(index);
        let at = child(&self.at, entry);
        at.report.error(entry.line, &at.path, why.to_owned());
    }

    /// Every key with its value, where the keys are names.
    pub(crate) fn named(self) -> impl Iterator<Item = (&'a str, At<'a>)> {
        let Self { at, entries, .. } = self;
        entries
            .into_iter()
            .map(move |entry| (entry.key.as_str(), child(&at, entry)))
    }

    /// Reports the keys nobody asked for.
    pub(crate) fn finish(self) {
        for entry in &self.entries {
            if !self.known.contains(&entry.key.as_str()) {
                self.unknown(entry);
            }
        }
    }

    fn unknown(&self, entry: &Entry) {
        let at = child(&self.at, entry);
        let message = match nearest(&entry.key, &self.known) {
            Some(known) => format!("unknown key: did you mean {known:?}?"),
            None => format!("unknown key: allowed are {}", self.known.join(", ")),
        };
        match at.report.lenient {
            true => at.report.warn(format!("{}: {message}", at.path)),
            false => at.report.error(entry.line, &at.path, message),
        }
    }
}

fn child<'a>(parent: &At<'a>, entry: &'a Entry) -> At<'a> {
    let key: String = entry.key.chars().take(80).collect();
    let path = match parent.path.is_empty() {
        true => key,
        false => format!("{}.{key}", parent.path),
    };
    let line = match entry.node.value {
        Value::List(_) | Value::Map(_) | Value::Null => entry.line,
        _ => entry.node.line,
    };
    At {
        path,
        line,
        value: &entry.node.value,
        report: parent.report,
    }
}

/// The known key that `key` was probably meant to be.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    // A third of the letters may be wrong; a key of a novel's length is none.
    let limit = (key.len() / 3).clamp(1, 4);
    let close = |known: &&'k str| Some((distance(key, known, limit)?, *known));
    known.iter().filter_map(close).min().map(|(_, known)| known)
}

/// Levenshtein distance, if it is at most `limit`.
fn distance(a: &str, b: &str, limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().filter(|found| *found <= limit)
}
