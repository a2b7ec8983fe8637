//! The cases of the crate `http_desync_guardian`, read where cargo keeps them.
//!
//! A case has no host field, as its own checker looks at fields one by one; it
//! gets one here, because without it everything would be refused for that. The
//! one case with an empty target has the method and the version around it.

use std::{fs, path::PathBuf, process::Command};

use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::{
    super::rig::{Rig, Wire, within},
    recorder::Recorder,
};

const FILES: [&str; 9] = [
    "acceptable",
    "ambiguous",
    "bad-header-characters",
    "edge-cases",
    "more-compliant-tests",
    "real-life-test-cases",
    "rfc-compliant",
    "severe",
    "uri-specific-test-cases",
];

/// What a body carries that must never become a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a.example\r\nx: ";

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    uri: String,
    method: String,
    version: String,
    headers: Option<Vec<Field>>,
    expected: Expected,
}

#[derive(Debug, Deserialize)]
struct Field {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Expected {
    tier: String,
}

/// The folder of the cases.
fn folder() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    // What other platforms need is not on this machine.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let told = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline"])
        .args(["--filter-platform", &platform])
        .args(["--manifest-path", manifest])
        .output()
        .expect("cargo runs");
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let packages = told["packages"].as_array().expect("packages");
    let package = packages
        .iter()
        .find(|package| package["name"] == "http_desync_guardian");
    let manifest = package.expect("a dev-dependency")["manifest_path"].as_str();
    PathBuf::from(manifest.expect("a path")).with_file_name("tests")
}

fn cases() -> Vec<Case> {
    let folder = folder();
    let read = |file: &&str| {
        let path = folder.join(file).with_extension("yaml");
        let text = fs::read_to_string(path).expect("a file of cases");
        serde_saphyr::from_str::<Vec<Case>>(&text).expect("cases")
    };
    FILES.iter().flat_map(read).collect()
}

/// Text in which the cases' authors escaped bytes.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let escaped = (c == '\\').then(|| rest.next().expect("an escape"));
        out.push(match escaped {
            None => c,
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16).expect("hex").into()
            }
            Some(other) => other,
        });
    }
    out.into_bytes()
}

impl Case {
    fn is(&self, tier: &str) -> bool {
        self.expected.tier == tier
    }

    /// All its bytes, with a body for whoever believes in one.
    fn request(&self) -> Vec<u8> {
        let mut out = [&*bytes(&self.method), b" ", &bytes(&self.uri)].concat();
        if !self.version.is_empty() {
            out.push(b' ');
        }
        out.extend(bytes(&self.version));
        out.extend(b"\r\n");
        let fields = self.headers.as_deref().unwrap_or_default();
        if !fields.iter().any(|field| field.name == "Host") {
            out.extend(b"host: a.example\r\n");
        }
        for Field { name, value } in fields {
            out.extend(bytes(name));
            out.push(b':');
            out.extend(bytes(value));
            out.extend(b"\r\n");
        }
        out.extend(b"\r\n");
        let has = |name: &str, value: &str| {
            let has = |field: &&Field| {
                let is = field.name.to_ascii_lowercase().contains(name);
                is && field.value.to_ascii_lowercase().contains(value)
            };
            fields.iter().find(has)
        };
        match (has("transfer", "chunk"), has("length", "")) {
            (Some(_), _) => out.extend(b"5\r\nhello\r\n0\r\n\r\n"),
            (_, Some(field)) => {
                let length = field.value.trim().parse().unwrap_or(64);
                let mut body = SMUGGLED.as_bytes().to_vec();
                body.resize(length, b'x');
                out.extend(body);
            }
            _ => {}
        }
        out
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: String,
    closed: bool,
    requests: usize,
    bytes: usize,
}

async fn ask(rig: &Rig, backend: &Recorder, request: &[u8]) -> Seen {
    let mut client = Wire::connect(rig.address).await;
    // A large body may not be wanted any more.
    let _ = within(client.0.write_all(request)).await;
    let head = client.head().await;
    let status = head.get(9..12).unwrap_or_default().to_owned();
    let refused = status.starts_with('4');
    if refused {
        client.rest().await;
    }
    let records = backend.take();
    Seen {
        closed: refused,
        requests: records.iter().map(|record| record.requests()).sum(),
        bytes: records.iter().map(|record| record.bytes.len()).sum(),
        status,
    }
}

#[tokio::test]
async fn no_case_of_http_desync_guardian_becomes_two_requests() {
    let backend = Recorder::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let cases = cases();
    assert_eq!(cases.len(), 158);
    let mut wrong = Vec::new();
    for case in &cases {
        println!("{}: {}", case.expected.tier, case.name);
        let seen = ask(&rig, &backend, &case.request()).await;
        let refused = seen.closed && seen.bytes == 0;
        let forwarded = seen.status == "200" && seen.requests == 1;
        let right = match &*case.expected.tier {
            "Severe" => refused && seen.status == "400",
            "Compliant" => forwarded,
            _ => refused || forwarded,
        };
        if !right {
            wrong.push(format!("{}: {}: {seen:?}", case.expected.tier, case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(cases.iter().filter(|case| case.is("Compliant")).count(), 28);
}
