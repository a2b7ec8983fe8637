//! fleet-config.
