//! The published schema allows the keys that the reader knows, and no others.

use std::collections::BTreeSet;

use fleet_config::FleetConfig;
use serde_json::Value;

/// No key is so near to this one that the reader would suggest it instead of
/// listing what it knows.
const NO_KEY: &str = "zzzzzzzzzzzzzzzzzzzzzzzz";

fn schema() -> Value {
    let text = include_str!("../../docs/fleet.schema.json");
    serde_json::from_str(text).expect("the schema is JSON")
}

fn in_schema(pointer: &str) -> BTreeSet<String> {
    let schema = schema();
    let object = schema.pointer(pointer).expect("the schema has it");
    assert_eq!(object["additionalProperties"], false, "{pointer}");
    let properties = object["properties"].as_object().expect("it has keys");
    properties.keys().cloned().collect()
}

fn known_to_reader(file: &str) -> BTreeSet<String> {
    let text = file.replace("HERE", &format!("{NO_KEY}: 1"));
    let errors = FleetConfig::parse(&text, "f")
        .expect_err("the key is unknown")
        .to_string();
    let line = errors
        .lines()
        .find(|line| line.contains(NO_KEY))
        .expect("it is named");
    let (_, keys) = line.split_once("allowed are ").expect("keys are listed");
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_schema_and_the_reader_know_the_same_keys() {
    for (pointer, file) in [
        ("", "{HERE}"),
        ("/$defs/pop", "pops: {p: {HERE}}"),
        ("/$defs/service", "services: {s: {HERE}}"),
        ("/$defs/route", "services: {s: {routes: [{HERE}]}}"),
        ("/$defs/backend", "services: {s: {backends: {r: {HERE}}}}"),
    ] {
        assert_eq!(in_schema(pointer), known_to_reader(file), "{pointer}");
    }
    let settings = in_schema("/$defs/defaults");
    let schema = schema();
    let is_section = |name: &&String| schema["$defs"][name]["properties"].is_object();
    for section in settings.iter().filter(is_section) {
        let file = format!("defaults: {{{section}: {{HERE}}}}");
        assert_eq!(
            in_schema(&format!("/$defs/{section}")),
            known_to_reader(&file),
            "{section}"
        );
    }
    assert_eq!(settings, known_to_reader("defaults: {HERE}"));
}
