//! What the store keeps records of. Backends and services differ in what is kept
//! of them, and in nothing else: stores are written once, for any [`Subject`].

use std::fmt;

use breaker_core::{
    BackendName, Steering, Version,
    ids::{NameError, ServiceName},
};

use super::{
    Record, ReplicaView, ServiceView,
    codec::{self, Unreadable},
};

/// What a record, an event or a hint is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// The fleet as a whole, which has events and no record.
    Fleet,
    /// A backend.
    Backend(BackendName),
    /// A service.
    Service(ServiceName),
}

impl About {
    /// The name; empty for the fleet. No two are the same: a backend's has a
    /// slash, and a service's has none.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Fleet => "",
            Self::Backend(name) => name.as_str(),
            Self::Service(name) => name.as_str(),
        }
    }

    /// From [`About::as_str`].
    pub fn parse(name: &str) -> Result<Self, NameError> {
        Ok(match name {
            "" => Self::Fleet,
            _ if name.contains('/') => Self::Backend(BackendName::parse(name)?),
            _ => Self::Service(ServiceName::new(name)?),
        })
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<BackendName> for About {
    fn from(name: BackendName) -> Self {
        Self::Backend(name)
    }
}

impl From<ServiceName> for About {
    fn from(name: ServiceName) -> Self {
        Self::Service(name)
    }
}

/// The name of something that has a record and views.
pub(super) trait Subject: Clone + Ord + Into<About> + Send {
    /// What is committed.
    type Record: Clone + PartialEq + Send;
    /// What one replica knows of it.
    type View: Clone + Send;

    fn version(record: &Self::Record) -> Version;
    fn set_version(record: &mut Self::Record, version: Version);

    /// Without its version.
    fn encode(record: &Self::Record) -> Vec<u8>;
    fn decode(bytes: &[u8], version: Version) -> Result<Self::Record, Unreadable>;

    fn encode_view(view: &Self::View) -> Vec<u8>;
    fn decode_view(bytes: &[u8]) -> Result<Self::View, Unreadable>;
}

impl Subject for BackendName {
    type Record = Record;
    type View = ReplicaView;

    fn version(record: &Record) -> Version {
        record.breaker.version
    }

    fn set_version(record: &mut Record, version: Version) {
        record.breaker.version = version;
    }

    fn encode(record: &Record) -> Vec<u8> {
        codec::encode_record(record)
    }

    fn decode(bytes: &[u8], version: Version) -> Result<Record, Unreadable> {
        codec::decode_record(bytes, version)
    }

    fn encode_view(view: &ReplicaView) -> Vec<u8> {
        codec::encode_view(view)
    }

    fn decode_view(bytes: &[u8]) -> Result<ReplicaView, Unreadable> {
        codec::decode_view(bytes)
    }
}

impl Subject for ServiceName {
    type Record = Steering;
    type View = ServiceView;

    fn version(record: &Steering) -> Version {
        record.version
    }

    fn set_version(record: &mut Steering, version: Version) {
        record.version = version;
    }

    fn encode(record: &Steering) -> Vec<u8> {
        codec::encode_steering(record)
    }

    fn decode(bytes: &[u8], version: Version) -> Result<Steering, Unreadable> {
        codec::decode_steering(bytes, version)
    }

    fn encode_view(view: &ServiceView) -> Vec<u8> {
        codec::encode_service_view(view)
    }

    fn decode_view(bytes: &[u8]) -> Result<ServiceView, Unreadable> {
        codec::decode_service_view(bytes)
    }
}
