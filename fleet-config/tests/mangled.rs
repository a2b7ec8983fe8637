//! Whatever is in the file, reading it ends with an answer.

use fleet_config::{FleetConfig, diff};
use proptest::prelude::*;

const FILE: &str = r#"
pops: {fra1: {region_order: [us-west, us-east]}}
defaults: &d {breaker: {mode: SHADOW, quorum: 50%}, timeouts: {total: 5s}}
services:
  payments:
    <<: *d
    routes: [{hosts: [pay.example.com, "*.x.test"], path_prefix: /payments, headers: {a: "b"}}]
    backends:
      us-east: {endpoints: ["http://10.0.0.10:8080", "http://[::1]:8080"], capacity_rps: 4000}
      us-west: {endpoints: ["http://10.1.0.10:8080"]}
    throttle: {rate: 500, key: "header:x-api-key"}
    fallback: {max_entry_bytes: 1MiB}
"#;

/// Text that means something somewhere.
const PIECES: [&str; 16] = [
    ": ", "{", "}", "[", "]", "\n", "  ", "- ", "&a ", "*a", "<<", "~", "-1", "1e999", "💥",
    "http://[",
];

/// Replaces some bytes by a piece.
fn mangle(edits: &[(usize, usize, usize)]) -> String {
    let mut text = FILE.to_owned();
    for (at, length, piece) in edits {
        let chars: Vec<char> = text.chars().collect();
        let at = at % chars.len();
        let end = (at + length).min(chars.len());
        text = chars[..at].iter().collect::<String>()
            + PIECES[*piece]
            + &chars[end..].iter().collect::<String>();
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_mangled_file_is_read_or_refused_with_a_message(
        edits in prop::collection::vec((0..2000_usize, 0..12_usize, 0..PIECES.len()), 0..5),
    ) {
        let text = mangle(&edits);
        match FleetConfig::parse(&text, "fleet.yaml") {
            Ok(config) => {
                prop_assert!(diff(&config, &config).is_empty());
                let (lenient, _) = FleetConfig::parse_lenient(&text, "fleet.yaml").expect("lenient");
                prop_assert_eq!(config, lenient);
            }
            Err(errors) => {
                prop_assert!(!errors.errors().is_empty());
                let named = errors.to_string().lines().all(|line| line.starts_with("fleet.yaml"));
                prop_assert!(named, "{}", errors);
            }
        }
    }

    #[test]
    fn garbage_is_refused_with_a_message(text in "\\PC{0,200}") {
        let errors = FleetConfig::parse(&text, "fleet.yaml").expect_err("garbage");
        prop_assert!(!errors.to_string().is_empty());
    }
}
