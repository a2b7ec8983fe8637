//! `Cache-Control`, of requests and of responses.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| gateway_agent::fuzzing::directives(bytes));
