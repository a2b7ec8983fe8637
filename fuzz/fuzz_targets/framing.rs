//! The bytes of an HTTP/1 connection, before the HTTP library sees them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| gateway_agent::fuzzing::framing(bytes));
