//! YAML as written, with the line of every key and value.
//!
//! The file is read into this tree first, and not straight into types, because
//! a typed reader stops at the first mistake.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{
    DuplicateKeyPolicy, Error, NonFiniteFloatPolicy, Spanned, UserMessageFormatter,
};

use crate::error::ConfigErrors;

/// Largest file, in bytes: what one gRPC message carries to an agent.
pub const MAX_FILE_BYTES: usize = 4 << 20;
/// Most keys and values: 10,000 services with 40 each, and some.
const MAX_NODES: usize = 500_000;
/// Deepest nesting; the deepest setting is at 6.
const MAX_DEPTH: usize = 32;
/// Most parser events that aliases may stand for, so that a small file cannot
/// unfold into a huge one.
const MAX_ALIAS_EVENTS: usize = 200_000;

/// A value and where it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: u64,
    pub(crate) value: Value,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// As written: keys may repeat.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Of the key.
    pub(crate) line: u64,
    pub(crate) node: Node,
}

impl fmt::Display for Value {
    /// For messages: short, and on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(text) if text.chars().count() > 80 => {
                let start: String = text.chars().take(80).collect();
                write!(f, "{start:?}…")
            }
            Self::Text(text) => write!(f, "{text:?}"),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a mapping"),
        }
    }
}

/// Reads a file's only document.
pub(crate) fn read(text: &str, source: &str) -> Result<Node, ConfigErrors> {
    if text.len() > MAX_FILE_BYTES {
        let message = format!(
            "the file has {} bytes: at most {MAX_FILE_BYTES} (4 MiB) are allowed",
            text.len()
        );
        return Err(ConfigErrors::single(source, 0, message));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
            max_recorded_anchor_events: MAX_ALIAS_EVENTS,
            // One anchor used by every service is what anchors are for; the
            // limit on events is the one that protects.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIAS_EVENTS,
        },
        // Repeated keys are reported together with every other mistake.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| syntax_error(&error, source))
}

fn syntax_error(error: &serde_saphyr::Error, source: &str) -> ConfigErrors {
    let place = error.location().map(|at| (at.line(), at.column()));
    let text = match root_cause(error) {
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => format!(
            "the file is too large once its aliases are unfolded: at most {MAX_NODES} values, \
             {MAX_DEPTH} levels deep, {MAX_ALIAS_EVENTS} of them through aliases"
        ),
        _ => error.render_with_formatter(&UserMessageFormatter),
    };
    let Some((line, column)) = place else {
        return ConfigErrors::single(source, 0, text.replace('\n', " "));
    };
    let suffix = format!(" at line {line}, column {column}");
    let text = text
        .strip_suffix(&suffix)
        .unwrap_or(&text)
        .replace('\n', " ");
    ConfigErrors::single(source, line, format!("column {column}: {text}"))
}

fn root_cause(error: &Error) -> &Error {
    match error {
        Error::AliasError { error, .. } => root_cause(error),
        error => error,
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.defined.line(),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, node)) = entries.next_entry::<Spanned<String>, Node>()? {
            map.push(Entry {
                line: key.defined.line(),
                key: key.value,
                node,
            });
        }
        Ok(Value::Map(map))
    }
}
