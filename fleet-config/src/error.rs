//! What is wrong with a fleet file, all of it at once.

use std::{cell::RefCell, fmt};

/// Most errors that are kept. A file of another kind given by mistake can have
/// one on every line; nobody reads past this.
const MAX_ERRORS: usize = 1000;

/// Everything that is wrong with a file; it displays one error a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    source: String,
    errors: Vec<ConfigError>,
    left_out: usize,
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Line in the file, from 1; 0 if it is about the file as a whole.
    pub line: u64,
    /// The key, `services.payments.breaker.open_duration`; empty if it is not
    /// about one.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl ConfigErrors {
    /// One error about the file as a whole, or about its syntax.
    pub(crate) fn single(source: &str, line: u64, message: String) -> Self {
        Self {
            source: source.to_owned(),
            errors: vec![ConfigError {
                line,
                key: String::new(),
                message,
            }],
            left_out: 0,
        }
    }

    /// The errors by line; at least one.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.source)?;
            if error.line > 0 {
                write!(f, ":{}", error.line)?;
            }
            if !error.key.is_empty() {
                write!(f, ": {}", error.key)?;
            }
            write!(f, ": {}", error.message)?;
        }
        match self.left_out {
            0 => Ok(()),
            more => write!(f, "\n{}: {more} more errors are not shown", self.source),
        }
    }
}

/// Collects while a file is read.
#[derive(Debug)]
pub(crate) struct Report {
    source: String,
    /// Unknown keys are warnings.
    pub(crate) lenient: bool,
    errors: RefCell<Vec<ConfigError>>,
    left_out: RefCell<usize>,
    warnings: RefCell<Vec<String>>,
}

impl Report {
    pub(crate) fn new(source: &str, lenient: bool) -> Self {
        Self {
            source: source.to_owned(),
            lenient,
            errors: RefCell::default(),
            left_out: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    pub(crate) fn error(&self, line: u64, key: &str, message: String) {
        let mut errors = self.errors.borrow_mut();
        if errors.len() == MAX_ERRORS {
            *self.left_out.borrow_mut() += 1;
            return;
        }
        errors.push(ConfigError {
            line,
            key: key.to_owned(),
            message,
        });
    }

    /// How many errors there are so far.
    pub(crate) fn count(&self) -> usize {
        self.errors.borrow().len() + *self.left_out.borrow()
    }

    pub(crate) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < MAX_ERRORS {
            warnings.push(warning);
        }
    }

    /// The warnings, or the errors if there were any.
    pub(crate) fn finish(self) -> Result<Vec<String>, ConfigErrors> {
        let mut errors = self.errors.into_inner();
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.line);
            return Err(ConfigErrors {
                source: self.source,
                errors,
                left_out: self.left_out.into_inner(),
            });
        }
        Ok(self.warnings.into_inner())
    }
}
