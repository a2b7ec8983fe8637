//! What a connection of a load balancer begins with.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| gateway_agent::fuzzing::proxy_protocol(bytes));
