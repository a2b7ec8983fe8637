//! The wire: generated types and services, and the descriptor set for
//! reflection.

/// `rampmeter.v1`: what agents, operators and readers speak.
#[allow(clippy::all, missing_docs, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("rampmeter.v1");
}

/// `rampmeter.store.v1`: what replicas keep in their store.
#[allow(clippy::all, missing_docs, unreachable_pub)]
pub mod store {
    tonic::include_proto!("rampmeter.store.v1");
}

pub mod convert;

/// Encoded `FileDescriptorSet` of everything here.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rampmeter.bin"));
