//! Programs that are started wrongly: each ends with a message that names what
//! is wrong and what is allowed.

use std::{net::TcpListener, process::Command, time::Duration};

use e2e::{Process, binary};
use rampmeter_demo::backend::ScriptedBackend;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);

/// The smallest fleet file.
const GOOD: &str = r#"{"pops":{"pop0":{"region_order":["us-east"]}},
    "services":{"pay":{"routes":[{"path_prefix":"/"}],
    "backends":{"us-east":{"endpoints":["http://127.0.0.1:8080"]}}}}}"#;

/// The good file with one thing replaced.
fn with(good: &str, bad: &str) -> String {
    assert!(GOOD.contains(good), "{good:?} is part of the file");
    GOOD.replace(good, bad)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_fleet_file_is_refused_with_the_sentence_that_says_why() {
    let cases = [
        (
            "malformed YAML",
            "pops: [unclosed".to_owned(),
            vec!["fleet.yaml:"],
        ),
        (
            "an unknown key",
            with(r#""region_order""#, r#""region_ordr""#),
            vec!["pops.pop0", "region_ordr", "unknown key", "region_order"],
        ),
        (
            "a bad duration",
            with(
                r#""routes""#,
                r#""breaker":{"open_duration":"5 parsecs"},"routes""#,
            ),
            vec!["services.pay.breaker.open_duration", "5 parsecs", "30s"],
        ),
        (
            "a duplicate route",
            with(
                r#"[{"path_prefix":"/"}]"#,
                r#"[{"path_prefix":"/"},{"path_prefix":"/"}]"#,
            ),
            vec!["services.pay.routes", "already"],
        ),
        (
            "a missing region",
            with(r#"["us-east"]"#, r#"["us-west"]"#),
            vec!["pop0", "us-west", "us-east"],
        ),
        (
            "no backends",
            with(r#""us-east":{"endpoints":["http://127.0.0.1:8080"]}"#, ""),
            vec!["backends"],
        ),
    ];
    let dir = TempDir::with_prefix("rampmeter-bad-").expect("a directory");
    let file = dir.path().join("fleet.yaml");
    for (what, text, sentences) in cases {
        std::fs::write(&file, &text).expect("a file");
        let path = file.display().to_string();
        let said = refused(
            "control-plane",
            &[
                "--config",
                &path,
                "--listen",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
            ],
        )
        .await;
        for sentence in &sentences {
            assert!(
                said.contains(sentence),
                "{what}: {sentence:?} is missing in:\n{said}"
            );
        }
        let alone = [
            "--config",
            &path,
            "--pop",
            "pop0",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ];
        let said = refused("gateway-agent", &alone).await;
        for sentence in &sentences {
            assert!(
                said.contains(sentence),
                "{what}, agent alone: {sentence:?} is missing in:\n{said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_flags_are_refused_with_what_is_allowed() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let taken = taken.local_addr().expect("an address").to_string();
    let file = good_file();
    let config = file.path().join("fleet.yaml").display().to_string();
    let config = config.as_str();
    let any = "127.0.0.1:0";
    let cases: [(&str, &[&str], &[&str]); 10] = [
        (
            "control-plane",
            &["--store", "bogus://x", "--listen", any, "--http", any],
            &["bogus://x", "memory", "redis://"],
        ),
        (
            "control-plane",
            &["--listen", "nonsense"],
            &["--listen", "nonsense"],
        ),
        ("control-plane", &["--colour", "red"], &["--colour"]),
        (
            "control-plane",
            &[
                "--config",
                "/does/not/exist.yaml",
                "--listen",
                any,
                "--http",
                any,
            ],
            &["/does/not/exist.yaml"],
        ),
        (
            "control-plane",
            &["--config", config, "--listen", &taken, "--http", any],
            &[&taken, "in use"],
        ),
        (
            "control-plane",
            &["--config", config, "--listen", any, "--http", &taken],
            &[&taken, "in use"],
        ),
        (
            "gateway-agent",
            &["--control-plane", "http://127.0.0.1:1", "--listen", any],
            &["--pop"],
        ),
        (
            "gateway-agent",
            &["--pop", "pop0", "--listen", any],
            &["--control-plane", "--config"],
        ),
        (
            "gateway-agent",
            &[
                "--control-plane",
                "not a url",
                "--pop",
                "pop0",
                "--listen",
                any,
            ],
            &["not a url"],
        ),
        (
            "gateway-agent",
            &[
                "--config", config, "--pop", "pop0", "--listen", &taken, "--admin", any,
            ],
            &[&taken, "in use"],
        ),
    ];
    for (program, flags, sentences) in cases {
        let said = refused(program, flags).await;
        for sentence in sentences {
            assert!(
                said.contains(sentence),
                "{program} {flags:?}: {sentence:?} is missing in:\n{said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_an_unknown_pop_is_told_which_there_are() {
    let file = good_file();
    let config = file.path().join("fleet.yaml").display().to_string();
    let any = "127.0.0.1:0";
    let said = refused(
        "gateway-agent",
        &[
            "--config", &config, "--pop", "pop7", "--listen", any, "--admin", any,
        ],
    )
    .await;
    assert!(said.contains("pop7") && said.contains("pop0"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_or_not_redis_is_named() {
    let file = good_file();
    let config = file.path().join("fleet.yaml");
    let backend = ScriptedBackend::local("not Redis")
        .await
        .expect("a free port");
    let nobody = {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.local_addr().expect("an address")
    };
    for address in [nobody, backend.address()] {
        let store = format!("redis://:s3cret@{address}/0");
        let mut command = Command::new(binary("control-plane").expect("built"));
        command
            .arg("--config")
            .arg(&config)
            .args(["--store", &store]);
        command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        let mut process = Process::start("control-plane", &mut command).expect("it starts");
        process
            .line(&address.to_string())
            .await
            .expect("a message that names the store's address");
        assert!(
            !process.output().contains("s3cret"),
            "the password is not for the log:\n{}",
            process.output()
        );
    }
}

fn good_file() -> TempDir {
    let dir = TempDir::with_prefix("rampmeter-good-").expect("a directory");
    std::fs::write(dir.path().join("fleet.yaml"), GOOD).expect("a file");
    dir
}

/// Runs a program that must end by itself, not well; returns what it said.
async fn refused(program: &str, flags: &[&str]) -> String {
    let mut command = Command::new(binary(program).expect("built"));
    let mut process = Process::start(program, command.args(flags)).expect("it starts");
    let status = process
        .exit(SOON)
        .await
        .unwrap_or_else(|error| panic!("{flags:?}: {error}"));
    let said = process.last_words();
    assert!(!status.success(), "{program} {flags:?} succeeded:\n{said}");
    assert!(
        !said.contains("panicked"),
        "{program} {flags:?} panicked:\n{said}"
    );
    said
}
