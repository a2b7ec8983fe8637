//! A request's target and fields, after the HTTP library has read them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &[u8]| gateway_agent::fuzzing::request(header));
