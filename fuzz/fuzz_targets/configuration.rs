//! Both configuration files: whatever is in them, reading ends with a
//! configuration or with reasons, and reading the same again gives the same.

#![no_main]

use fleet_config::{FleetConfig, HostConfig, diff};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match FleetConfig::parse(text, "f") {
        Ok(config) => {
            let again = FleetConfig::parse(text, "f").expect("it was right before");
            assert_eq!(diff(&config, &again), [""; 0]);
        }
        Err(errors) => assert!(!errors.errors().is_empty()),
    }
    match HostConfig::parse(text, "f") {
        Ok(config) => assert_eq!(HostConfig::parse(text, "f").as_ref(), Ok(&config)),
        Err(errors) => assert!(!errors.errors().is_empty()),
    }
});
