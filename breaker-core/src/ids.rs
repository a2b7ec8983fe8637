//! Names. Each is 1 to 63 of `[A-Za-z0-9._-]`, so that a resource name
//! `service/region` splits in one way and a metric label needs no escaping.

use std::{fmt, sync::Arc};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty or too long.
    #[error("{what} {name:?} must have 1 to 63 characters")]
    Length {
        /// What is named.
        what: &'static str,
        /// As given, cut to 80 characters.
        name: String,
    },
    /// A character outside the allowed ones.
    #[error(
        "{what} {name:?} has the character {found:?}: allowed are letters, digits, '.', '_' and '-'"
    )]
    Character {
        /// What is named.
        what: &'static str,
        /// As given.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// A backend's name without exactly one slash.
    #[error("backend {name:?} must be SERVICE/REGION, for example \"payments/us-east\"")]
    Shape {
        /// As given, cut to 80 characters.
        name: String,
    },
}

fn check(what: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > 63 {
        let name = name.chars().take(80).collect();
        return Err(NameError::Length { what, name });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.chars().find(|c| !allowed(*c)) {
        None => Ok(()),
        Some(found) => Err(NameError::Character {
            what,
            name: name.to_owned(),
            found,
        }),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and keeps a name.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check($what, name)?;
                Ok(Self(name.into()))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// One gateway instance.
    AgentId,
    "agent"
);
name!(
    /// An edge location: the unit of vantage.
    PopId,
    "POP"
);
name!(
    /// What clients call and operators think in.
    ServiceName,
    "service"
);
name!(
    /// Where a copy of a service runs.
    RegionName,
    "region"
);

/// One service in one region, `payments/us-east`: the unit that has a breaker.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendName {
    name: Arc<str>,
    /// Length of the service's name, which ends at the slash.
    slash: usize,
}

impl BackendName {
    /// From its two parts.
    pub fn of(service: &ServiceName, region: &RegionName) -> Self {
        Self {
            name: format!("{service}/{region}").into(),
            slash: service.as_str().len(),
        }
    }

    /// From a resource name, `service/region`.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let (service, region) = name.split_once('/').ok_or_else(|| NameError::Shape {
            name: name.chars().take(80).collect(),
        })?;
        check("service", service)?;
        check("region", region)?;
        Ok(Self {
            name: name.into(),
            slash: service.len(),
        })
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The part before the slash.
    pub fn service(&self) -> &str {
        &self.name[..self.slash]
    }

    /// The part after the slash.
    pub fn region(&self) -> &str {
        &self.name[self.slash + 1..]
    }
}

impl fmt::Debug for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl std::borrow::Borrow<str> for BackendName {
    fn borrow(&self) -> &str {
        &self.name
    }
}
