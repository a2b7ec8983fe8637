//! Commands against a control plane in this process: what they ask, what they
//! print, and the exit code a script sees.

mod drill;
mod fake;
mod steer;

use std::{io::Write, net::SocketAddr, time::Duration};

use clap::{CommandFactory, Parser};
use fake::Fake;
use rampctl::{Cli, Failure, Interrupt, Io, run};
use rampmeter_api::v1::{BreakerState, Mode};
use tokio::{io::AsyncWriteExt, net::TcpListener};

/// What a run printed, and how it ended.
struct Outcome {
    out: String,
    notes: String,
    result: Result<(), Failure>,
}

impl Outcome {
    fn exit_code(&self) -> u8 {
        self.result.as_ref().err().map_or(0, Failure::exit_code)
    }

    fn message(&self) -> String {
        self.result
            .as_ref()
            .err()
            .map(Failure::to_string)
            .unwrap_or_default()
    }
}

async fn rampctl(address: SocketAddr, args: &[&str]) -> Outcome {
    until(address, args, Box::pin(std::future::pending())).await
}

/// Until Ctrl-C is pressed.
async fn until(address: SocketAddr, args: &[&str], interrupt: Interrupt) -> Outcome {
    let url = format!("http://{address}");
    let all = ["rampctl", "--control-plane", &url]
        .into_iter()
        .chain(args.iter().copied());
    let cli = Cli::try_parse_from(all).unwrap_or_else(|error| panic!("{error}"));
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let mut io = Io {
        out: &mut out,
        notes: &mut notes,
        colour: false,
        interrupt,
    };
    let result = run(cli, &mut io).await;
    Outcome {
        out: String::from_utf8(out).expect("text"),
        notes: String::from_utf8(notes).expect("text"),
        result,
    }
}

fn file_with(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("it is written");
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("a plain path")
}

#[tokio::test]
async fn every_page_is_asked_for() {
    let (fake, address) = Fake::start().await;
    let outcome = rampctl(
        address,
        &["backends", "--service", "pay", "--state", "open,half-open"],
    )
    .await;
    assert_eq!(outcome.exit_code(), 0, "{}", outcome.message());
    assert!(outcome.out.contains("pay/first") && outcome.out.contains("pay/second"));
    let asked = &fake.asked.lock().expect("unpoisoned").backends;
    let tokens: Vec<_> = asked
        .iter()
        .map(|request| request.page_token.as_str())
        .collect();
    assert_eq!(tokens, ["", "more"]);
    let wanted: [i32; 2] = [BreakerState::Open.into(), BreakerState::HalfOpen.into()];
    assert_eq!(asked[1].states, wanted);
}

#[tokio::test]
async fn json_is_the_apis_own_with_every_field() {
    let (_, address) = Fake::start().await;
    let outcome = rampctl(address, &["status", "-o", "json"]).await;
    insta::assert_snapshot!(outcome.out, @r#"
    {
      "backends": 0,
      "backendsOpen": 0,
      "backendsHalfOpen": 0,
      "backendsRamping": 0,
      "agents": 0,
      "agentsInSync": 0,
      "replicas": [],
      "pops": [],
      "configRevision": "7",
      "store": "memory",
      "storeAvailable": false,
      "version": ""
    }
    "#);
}

#[tokio::test]
async fn an_unknown_backend_is_exit_code_4_with_the_servers_hint() {
    let (_, address) = Fake::start().await;
    let outcome = rampctl(address, &["explain", "pay/moon"]).await;
    assert_eq!(outcome.exit_code(), 4);
    insta::assert_snapshot!(outcome.message(), @r#"no backend "pay/moon": there are pay/first, pay/second"#);
}

#[tokio::test]
async fn a_server_that_fails_is_exit_code_1() {
    let (_, address) = Fake::start().await;
    let outcome = rampctl(address, &["explain", "broken/one"]).await;
    assert_eq!(outcome.exit_code(), 1);
    insta::assert_snapshot!(outcome.message(), @"the control plane failed (Internal): the disk is on fire");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_exit_code_3() {
    let (_, address) = Fake::start().await;
    let outcome = rampctl(address, &["--timeout", "200ms", "explain", "slow/one"]).await;
    assert_eq!(outcome.exit_code(), 3);
    let message = outcome.message().replace(&address.to_string(), "ADDRESS");
    insta::assert_snapshot!(message, @r"
    cannot reach a control plane at http://ADDRESS: no answer within --timeout
    check that it runs there, or give another with --control-plane URL (or RAMPMETER_CONTROL_PLANE)
    ");
}

#[tokio::test]
async fn nobody_there_is_exit_code_3_with_the_address_tried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let outcome = rampctl(address, &["status"]).await;
    assert_eq!(outcome.exit_code(), 3);
    let message = outcome.message().replace(&address.to_string(), "ADDRESS");
    insta::assert_snapshot!(message, @r"
    cannot reach a control plane at http://ADDRESS: Connection refused (os error 111)
    check that it runs there, or give another with --control-plane URL (or RAMPMETER_CONTROL_PLANE)
    ");
}

#[tokio::test]
async fn something_else_there_is_exit_code_3() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    });
    let run = rampctl(address, &["status"]);
    let outcome = tokio::time::timeout(Duration::from_secs(20), run)
        .await
        .expect("it ends");
    assert_eq!(outcome.exit_code(), 3, "{}", outcome.message());
    assert!(
        outcome.message().contains(&address.to_string()),
        "{}",
        outcome.message()
    );
}

#[tokio::test]
async fn a_file_is_applied_or_only_checked() {
    let (fake, address) = Fake::start().await;
    let file = file_with("pops: {}\n");
    let checked = rampctl(address, &["apply", "-f", path(&file), "--dry-run"]).await;
    insta::assert_snapshot!(checked.out, @r"
    ~ services.pay.breaker.open_duration: 30s → 2s
    not applied (dry run): revision 7 stays in force
    ");
    let applied = rampctl(
        address,
        &["apply", "-f", path(&file), "--expected-revision", "6"],
    )
    .await;
    insta::assert_snapshot!(applied.out, @r"
    ~ services.pay.breaker.open_duration: 30s → 2s
    applied: revision 7 is in force
    ");
    let asked = &fake.asked.lock().expect("unpoisoned").applied;
    assert_eq!(asked[0].yaml, "pops: {}\n");
    assert_eq!(
        (asked[0].validate_only, asked[0].expected_revision),
        (true, 0)
    );
    assert_eq!(
        (asked[1].validate_only, asked[1].expected_revision),
        (false, 6)
    );
}

const RIGHT: &str = r#"{"pops":{"p":{"region_order":["r"]}},"services":{"pay":{
    "routes":[{"path_prefix":"/teleport"}],
    "backends":{"r":{"endpoints":["http://a"]}}}}}"#;

#[tokio::test]
async fn a_refused_file_is_exit_code_5_with_every_field() {
    let (_, address) = Fake::start().await;
    let file = file_with(RIGHT);
    let outcome = rampctl(address, &["apply", "-f", path(&file)]).await;
    assert_eq!(outcome.exit_code(), 5);
    insta::assert_snapshot!(outcome.message(), @r"
    refused: the fleet file is wrong
      yaml: line 1: there are no teleporters
    ");
}

#[tokio::test]
async fn errors_name_the_file_where_rampctl_sees_them_too() {
    let (_, address) = Fake::start().await;
    let file = file_with(&RIGHT.replace("path_prefix", "path_perfix"));
    let outcome = rampctl(address, &["apply", "-f", path(&file)]).await;
    assert_eq!(outcome.exit_code(), 5);
    insta::assert_snapshot!(outcome.message().replace(path(&file), "FILE"), @r#"
    refused: the file is wrong
    FILE:2: services.pay.routes[0]: path_prefix is missing: use path_prefix or path, for example path_prefix: /
    FILE:2: services.pay.routes[0].path_perfix: unknown key: did you mean "path_prefix"?
    "#);
}

#[tokio::test]
async fn what_has_no_effect_is_said_beside_the_answer() {
    let (_, address) = Fake::start().await;
    let idle = "\"breaker\":{\"slow_call_rate_threshold\":\"50%\"},\"routes\"";
    let with_it = RIGHT.replace("/teleport", "/").replace("\"routes\"", idle);
    let file = file_with(&with_it);
    let outcome = rampctl(address, &["apply", "-f", path(&file)]).await;
    assert_eq!(outcome.exit_code(), 0, "{}", outcome.message());
    insta::assert_snapshot!(outcome.notes, @"warning: services.pay.breaker.slow_call_rate_threshold has no effect without slow_call_duration");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_never_reaches_the_server() {
    let (fake, address) = Fake::start().await;
    let missing = rampctl(address, &["apply", "-f", "/nowhere/fleet.yaml"]).await;
    let large = file_with(&"#".repeat(fleet_config::MAX_FILE_BYTES + 1));
    let large = rampctl(address, &["apply", "-f", path(&large)]).await;
    assert_eq!((missing.exit_code(), large.exit_code()), (1, 1));
    assert!(
        missing
            .message()
            .starts_with("cannot read /nowhere/fleet.yaml: No such file")
    );
    assert!(
        large
            .message()
            .ends_with("it is larger than the 4 MiB a fleet file may have")
    );
    assert!(fake.asked.lock().expect("unpoisoned").applied.is_empty());
}

#[tokio::test]
async fn the_config_goes_to_the_pipe_and_remarks_do_not() {
    let (_, address) = Fake::start().await;
    let outcome = rampctl(address, &["config"]).await;
    assert_eq!(outcome.out, "pops: {}\n");
    assert!(
        outcome.notes.starts_with("revision 7, applied"),
        "{}",
        outcome.notes
    );
}

#[tokio::test]
async fn an_override_says_what_why_who_and_for_how_long() {
    let (fake, address) = Fake::start().await;
    let outcome = rampctl(
        address,
        &[
            "override",
            "pay/first",
            "--mode",
            "FORCED_OPEN",
            "--for",
            "10m",
            "--reason",
            "INC-42",
            "--actor",
            "ana",
            "--break-glass",
        ],
    )
    .await;
    insta::assert_snapshot!(outcome.out, @"pay/first is FORCED_OPEN until - UTC (decision 1.2)");
    let asked = fake.asked.lock().expect("unpoisoned");
    let request = asked.overrides.first().expect("it was asked");
    assert_eq!(request.mode(), Mode::ForcedOpen);
    assert_eq!(request.expires_in.map(|d| d.seconds), Some(600));
    assert_eq!(
        (request.reason.as_str(), request.actor.as_str()),
        ("INC-42", "ana")
    );
    assert!(request.break_glass);
}

#[tokio::test]
async fn clearing_what_is_not_there_is_refused_with_exit_code_5() {
    let (fake, address) = Fake::start().await;
    let outcome = rampctl(
        address,
        &["override", "pay/first", "--clear", "--reason", "over"],
    )
    .await;
    assert_eq!(outcome.exit_code(), 5);
    assert_eq!(outcome.message(), "refused: pay/first has no override");
    assert_eq!(fake.asked.lock().expect("unpoisoned").cleared.len(), 1);
}

#[tokio::test]
async fn followed_events_come_once_each_and_a_stream_that_ends_is_exit_code_3() {
    let (_, address) = Fake::start().await;
    let outcome = rampctl(address, &["events", "--follow", "-o", "json"]).await;
    let summaries: Vec<_> = outcome
        .out
        .lines()
        .map(|line| line.parse::<serde_json::Value>().expect("JSON")["id"].to_string())
        .collect();
    assert_eq!(summaries, ["\"1\"", "\"2\"", "\"3\""]);
    assert_eq!(outcome.exit_code(), 3);
}

#[tokio::test]
async fn watching_shows_changes_until_the_stream_ends() {
    let (_, address) = Fake::start().await;
    let outcome = rampctl(address, &["watch"]).await;
    assert!(outcome.out.contains("pay/first"), "{}", outcome.out);
    assert_eq!(outcome.exit_code(), 3);
}

#[test]
fn a_wrong_command_line_is_exit_code_2_and_says_what_is_allowed() {
    for (args, expected) in [
        (&["overide"][..], "'override'"),
        (&["override", "a/b", "--reason", "x"], "--mode <MODE>"),
        (
            &["override", "a/b", "--mode", "open", "--for", "10m"],
            "--reason <REASON>",
        ),
        (
            &[
                "override", "a/b", "--mode", "open", "--for", "ten", "--reason", "x",
            ],
            "for example 10m",
        ),
        (
            &[
                "override", "a/b", "--mode", "open", "--clear", "--reason", "x",
            ],
            "cannot be used with",
        ),
        (
            &["--control-plane", "ftp://x", "status"],
            "for example http://127.0.0.1:7700",
        ),
        (
            &["--control-plane", "https://x:1", "status"],
            "does not speak TLS",
        ),
        (
            &["--control-plane", "http://x", "status"],
            "for example http://127.0.0.1:7700",
        ),
        (&["events", "--limit", "0"], "1..=1000"),
        (
            &["events", "--service", "a", "--backend", "a/b"],
            "cannot be used with",
        ),
        (&["drain", "us-east", "--for", "10m"], "--reason <REASON>"),
        (
            &["drain", "us-east", "--for", "10m", "--reason", ""],
            "a value is required for '--reason <REASON>'",
        ),
        (&["drain", "us-east", "--reason", "x"], "--for <DURATION>"),
        (&["undrain", "us-east"], "--reason <REASON>"),
        (&["plan"], "<SERVICE>"),
        (&["plan", "approve", "pay"], "--reason <REASON>"),
        (
            &["plan", "approve", "pay", "--reason", "x", "--version", "7"],
            "EPOCH.REVISION",
        ),
        (
            &["drill", "failover", "pay", "--for", "10s", "--reason", "x"],
            "--region <REGION>",
        ),
        (
            &[
                "drill", "failover", "pay", "--region", "r", "--for", "10s", "--reason", "x",
                "--fault", "delay",
            ],
            "--delay <DURATION>",
        ),
        (
            &[
                "drill", "failover", "pay", "--region", "r", "--for", "10s", "--reason", "x",
                "--share", "0%",
            ],
            "more than 0%",
        ),
        (&["candidate", "set"], "--file <FILE>"),
        (&["candidate", "drop"], "--reason <REASON>"),
        (
            &["backends", "--state", "ajar"],
            "possible values: closed, open, half-open",
        ),
    ] {
        let error = Cli::try_parse_from(["rampctl"].iter().chain(args)).expect_err("wrong");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(expected), "{args:?}: {error}");
    }
}

#[test]
fn every_flag_has_an_environment_variable() {
    let mut command = Cli::command();
    command.build();
    let mut commands = vec![&command];
    let mut next = 0;
    while let Some(command) = commands.get(next).copied() {
        commands.extend(command.get_subcommands());
        next += 1;
    }
    for arg in commands.into_iter().flat_map(clap::Command::get_arguments) {
        let ours = arg
            .get_long()
            .is_some_and(|long| !matches!(long, "help" | "version"));
        let env = arg
            .get_env()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        assert!(
            !ours || env.starts_with("RAMPMETER_"),
            "--{:?}",
            arg.get_long()
        );
    }
}

#[tokio::test]
async fn completions_need_no_control_plane() {
    let nowhere: SocketAddr = ([127, 0, 0, 1], 1).into();
    for shell in ["bash", "zsh", "fish"] {
        let outcome = rampctl(nowhere, &["completions", shell]).await;
        assert_eq!(outcome.exit_code(), 0);
        assert!(outcome.out.contains("explain"), "{shell}");
    }
}
