//! The access log.

use std::{fs, path::PathBuf, time::Duration};

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    super::{
        GET, OK,
        http2::{backend, client, full, grpc, with_trailers},
        rig::{Rig, Scripted, within},
    },
    desk, to_file, until,
};
use crate::{admit::refusal::RefusalReason, sight::desk::Desk};

/// A rig that writes a log.
struct Logged {
    rig: Rig,
    desk: Desk,
    dir: TempDir,
}

impl Logged {
    fn new(rig: Rig, sample: f64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut desk = desk(&rig.sight);
        desk.apply(Some(&to_file(&dir.path().join("access.log"), sample)), None);
        Self { rig, desk, dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("access.log")
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.file()).unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let line = |line| serde_json::from_str(line).expect("a JSON object");
        whole.lines().map(line).collect()
    }

    /// The one line, once it is there.
    async fn line(&self) -> Value {
        until(|| !self.lines().is_empty()).await;
        let mut lines = self.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }
}

#[tokio::test]
async fn a_served_request_is_a_line_with_everything_about_it() {
    let endpoint = Scripted::start().await;
    let address = endpoint.address;
    let logged = Logged::new(Rig::in_front_of(address, ""), 1.0);
    let asked = tokio::spawn(async move {
        let mut upstream = endpoint.accept().await;
        upstream.head().await;
        upstream.until("question").await;
        upstream.write(OK).await;
        upstream
    });
    let mut client = logged.rig.client().await;
    client
        .write(
            "POST /a%20b?token=secret HTTP/1.1\r\nhost: a.example:8080\r\n\
             user-agent: \"quoted\" \\ \u{e9}\r\ncontent-length: 8\r\n\r\nquestion",
        )
        .await;
    client.until("ok").await;
    let _upstream = within(asked).await.expect("no panic");
    let line = logged.line().await;
    for (key, expected) in [
        ("method", Value::from("POST")),
        ("host", "a.example:8080".into()),
        ("path", "/a%20b".into()),
        ("status", 200.into()),
        ("protocol", "HTTP/1.1".into()),
        ("client", "127.0.0.1".into()),
        ("service", "s".into()),
        ("backend", "s/r".into()),
        ("endpoint", format!("http://{address}").into()),
        ("attempts", 1.into()),
        ("request_bytes", 8.into()),
        ("response_bytes", 2.into()),
        ("user_agent", "\"quoted\" \\ \u{e9}".into()),
    ] {
        assert_eq!(line[key], expected, "{key} of {line}");
    }
    for key in ["reason", "broken", "suppressed", "trace_id", "grpc_status"] {
        assert!(line.get(key).is_none(), "{key} of {line}");
    }
    let (first, whole) = (line["ttfb_ms"].as_f64(), line["duration_ms"].as_f64());
    assert!(first > Some(0.0) && first <= whole, "{line}");
    let time = line["time"].as_str().expect("text");
    let (date, of_day) = time.split_once('T').expect("RFC 3339");
    assert_eq!(
        (date.len(), of_day.len()),
        ("2026-11-25".len(), "10:00:00.000Z".len())
    );
    assert!(!line.to_string().contains("secret"), "{line}");
}

#[tokio::test]
async fn a_refusal_says_why_and_whose_whatever_the_sample() {
    let endpoint = Scripted::start().await;
    let logged = Logged::new(Rig::in_front_of(endpoint.address, ""), 0.0);
    let in_an_hour = Duration::from_secs(3600 * 24 * 3);
    logged.rig.refuse("r", RefusalReason::Open, in_an_hour);
    let mut client = logged.rig.client().await;
    client.write(GET).await;
    client.head().await;
    let line = logged.line().await;
    for (key, expected) in [
        ("status", Value::from(503)),
        ("reason", "open".into()),
        ("backend", "s/r".into()),
        ("decision", "3.42".into()),
        ("service", "s".into()),
        ("attempts", 0.into()),
    ] {
        assert_eq!(line[key], expected, "{key} of {line}");
    }
    assert!(line["response_bytes"].as_u64() > Some(0), "{line}");
}

#[tokio::test]
async fn a_request_without_a_route_and_one_that_is_nonsense_are_told() {
    for (request, reason, status) in [
        (
            "GET /?q HTTP/1.1\r\nhost: nobody.example\r\n\r\n",
            "no_route",
            404,
        ),
        ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n", "bad_request", 400),
    ] {
        let logged = Logged::new(Rig::unconfigured(), 0.0);
        let mut client = logged.rig.client().await;
        client.write(request).await;
        client.head().await;
        let line = logged.line().await;
        assert_eq!(line["reason"], reason, "{line}");
        assert_eq!(
            (&line["status"], &line["path"]),
            (&status.into(), &"/".into())
        );
        assert!(line.get("service").is_none(), "{line}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_told_as_that() {
    let endpoint = Scripted::start().await;
    let logged = Logged::new(Rig::in_front_of(endpoint.address, ""), 1.0);
    // Before there is an answer.
    let mut client = logged.rig.client().await;
    client.write(GET).await;
    let mut upstream = endpoint.accept().await;
    upstream.head().await;
    drop(client);
    let line = logged.line().await;
    assert_eq!(
        (&line["status"], &line["broken"]),
        (&Value::Null, &"client_gone".into())
    );
    assert_eq!(line["attempts"], 1, "{line}");

    // In the middle of one.
    let mut client = logged.rig.client().await;
    client.write(GET).await;
    let mut upstream = endpoint.accept().await;
    upstream.head().await;
    upstream
        .write("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\nhalf")
        .await;
    client.until("half").await;
    drop(client);
    until(|| logged.lines().len() == 2).await;
    let line = &logged.lines()[1];
    assert_eq!(
        (&line["status"], &line["broken"]),
        (&200.into(), &"client_gone".into())
    );
    assert_eq!(line["response_bytes"], 4, "{line}");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_a_failure_that_is_told() {
    let endpoint = Scripted::start().await;
    let logged = Logged::new(Rig::in_front_of(endpoint.address, ""), 0.0);
    let mut client = logged.rig.client().await;
    client.write(GET).await;
    let mut upstream = endpoint.accept().await;
    upstream.head().await;
    upstream
        .write("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\nhalf")
        .await;
    drop(upstream);
    client.rest().await;
    let line = logged.line().await;
    assert_eq!(
        (&line["status"], &line["broken"]),
        (&200.into(), &"reset".into())
    );
}

#[tokio::test]
async fn an_answer_to_head_is_complete() {
    let endpoint = Scripted::start().await;
    let logged = Logged::new(Rig::in_front_of(endpoint.address, ""), 1.0);
    let mut client = logged.rig.client().await;
    client.write(&GET.replace("GET", "HEAD")).await;
    let mut upstream = endpoint.accept().await;
    upstream.head().await;
    upstream
        .write("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")
        .await;
    client.head().await;
    let line = logged.line().await;
    assert_eq!(
        (&line["method"], &line["status"]),
        (&"HEAD".into(), &200.into())
    );
    assert!(line.get("broken").is_none(), "{line}");
}

#[tokio::test]
async fn grpc_is_told_by_the_status_in_its_trailers() {
    let address = backend(async |request| {
        let body = request.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "question");
        http::Response::builder()
            .header("content-type", "application/grpc")
            .body(with_trailers("answer", &[("grpc-status", "14")]))
            .expect("a response")
    })
    .await;
    // A failing status is told whatever the sample.
    let logged = Logged::new(Rig::in_front_of(address, ""), 0.0);
    let mut client = client(logged.rig.address).await;
    let response = within(client.send_request(grpc(full("question")))).await;
    let body = response.expect("an answer").into_body();
    within(body.collect()).await.expect("a body");
    let line = logged.line().await;
    for (key, expected) in [
        ("protocol", Value::from("HTTP/2")),
        ("status", 200.into()),
        ("grpc_status", 14.into()),
        ("host", "grpc.example".into()),
        ("path", "/pkg.Service/Call".into()),
        ("request_bytes", 8.into()),
        ("response_bytes", 6.into()),
    ] {
        assert_eq!(line[key], expected, "{key} of {line}");
    }
    assert!(line.get("broken").is_none(), "{line}");
}

#[tokio::test]
async fn http_2_is_told_stream_by_stream() {
    let endpoint = Scripted::start().await;
    let logged = Logged::new(Rig::in_front_of(endpoint.address, ""), 1.0);
    let mut client = client(logged.rig.address).await;
    for number in 1..=2 {
        let request = Request::get(format!("http://a.example/{number}"));
        let answer = client.send_request(request.body(full("")).expect("a request"));
        let answer = tokio::spawn(answer);
        if number == 1 {
            let mut upstream = endpoint.accept().await;
            upstream.head().await;
            upstream
                .write(&OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"))
                .await;
        } else {
            let mut upstream = endpoint.accept().await;
            upstream.head().await;
            upstream.write(OK).await;
        }
        let response = within(answer).await.expect("no panic").expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        within(response.into_body().collect())
            .await
            .expect("a body");
    }
    until(|| logged.lines().len() == 2).await;
    for (line, path) in logged.lines().iter().zip(["/1", "/2"]) {
        assert_eq!(
            (&line["path"], &line["protocol"]),
            (&path.into(), &"HTTP/2".into())
        );
    }
}

/// Refused requests, each on its way at once.
async fn refusals(logged: &Logged, count: usize) {
    let mut client = logged.rig.client().await;
    for _ in 0..count {
        client.write(GET).await;
        client.until("}\n").await;
    }
}

#[tokio::test]
async fn a_sample_is_drawn_of_what_went_well() {
    let endpoint = Scripted::start().await;
    let logged = Logged::new(Rig::in_front_of(endpoint.address, ""), 0.5);
    let mut client = logged.rig.client().await;
    client.write(GET).await;
    let mut upstream = endpoint.accept().await;
    for _ in 0..200 {
        upstream.head().await;
        upstream.write(OK).await;
        client.until("ok").await;
        client.write(GET).await;
    }
    upstream.head().await;
    upstream
        .write("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
        .await;
    client.head().await;
    until(|| logged.lines().iter().any(|line| line["status"] == 500)).await;
    let lines = logged.lines().len();
    assert!((50..150).contains(&lines), "{lines}");
}

#[tokio::test]
async fn a_flood_of_refusals_does_not_flood_the_log() {
    let logged = Logged::new(Rig::unconfigured(), 1.0);
    let counts = logged.rig.sight.counts.clone();
    let mut client = logged.rig.client().await;
    let mut asked = 0;
    let told = || counts.lines_written.get() + counts.lines_suppressed.get();
    within(async {
        while counts.lines_suppressed.get() == 0 {
            client.write(&GET.repeat(100)).await;
            for _ in 0..100 {
                client.until("}\n").await;
            }
            asked += 100;
        }
    })
    .await;
    until(|| told() == asked).await;
    assert_eq!(counts.lines_dropped.get(), 0);
    // In the next second, one says how many it stands for.
    let suppressed = || -> u64 {
        let lines = logged.lines();
        lines
            .iter()
            .filter_map(|line| line["suppressed"].as_u64())
            .sum()
    };
    within(async {
        while suppressed() == 0 {
            refusals(&logged, 1).await;
            asked += 1;
            until(|| told() == asked).await;
        }
    })
    .await;
    assert_eq!(suppressed(), counts.lines_suppressed.get());
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_opened_anew_when_told() {
    let logged = Logged::new(Rig::unconfigured(), 1.0);
    refusals(&logged, 1).await;
    logged.line().await;
    let moved = logged.dir.path().join("access.log.1");
    fs::rename(logged.file(), &moved).expect("it is there");
    refusals(&logged, 1).await;
    let lines_of = |file| fs::read_to_string(file).map_or(0, |text| text.lines().count());
    until(|| lines_of(&moved) == 2).await;
    assert!(!logged.file().exists());

    logged.rig.sight.reopen();
    until(|| logged.file().exists()).await;
    refusals(&logged, 1).await;
    logged.line().await;
    assert_eq!(lines_of(&moved), 2);
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_costs_lines_until_it_can() {
    let mut logged = Logged::new(Rig::unconfigured(), 1.0);
    let folder = logged.dir.path().join("folder");
    let file = folder.join("access.log");
    logged.desk.apply(Some(&to_file(&file, 1.0)), None);
    refusals(&logged, 3).await;
    let counts = logged.rig.sight.counts.clone();
    until(|| counts.lines_dropped.get() == 3).await;
    fs::create_dir(folder).expect("a directory");
    logged.rig.sight.reopen();
    until(|| file.exists()).await;
    refusals(&logged, 1).await;
    until(|| counts.lines_written.get() == 1).await;
}

#[tokio::test]
async fn what_is_told_changes_from_one_request_to_the_next() {
    let mut logged = Logged::new(Rig::unconfigured(), 1.0);
    refusals(&logged, 1).await;
    logged.line().await;
    let second = logged.dir.path().join("second.log");
    logged.desk.apply(Some(&to_file(&second, 1.0)), None);
    refusals(&logged, 1).await;
    until(|| fs::read_to_string(&second).is_ok_and(|text| text.lines().count() == 1)).await;
    logged.desk.apply(None, None);
    refusals(&logged, 1).await;
    logged.rig.drain();
    logged.rig.ended().await;
    // Closing waits for what is still to be written.
    logged.desk.close();
    let text = |file| fs::read_to_string(file).expect("it is there");
    assert_eq!(
        text(logged.dir.path().join("access.log")).lines().count(),
        1
    );
    assert_eq!(text(second).lines().count(), 1);
}

#[tokio::test]
async fn a_switch_of_protocols_is_a_line_as_soon_as_it_is_made() {
    let endpoint = Scripted::start().await;
    let logged = Logged::new(Rig::in_front_of(endpoint.address, "upgrades: [chat]"), 1.0);
    let mut client = logged.rig.client().await;
    client
        .write("GET /c HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n")
        .await;
    let mut upstream = endpoint.accept().await;
    upstream.head().await;
    upstream
        .write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n")
        .await;
    client.head().await;
    let line = logged.line().await;
    assert_eq!(
        (&line["status"], &line["attempts"], &line["path"]),
        (&101.into(), &1.into(), &"/c".into())
    );
    assert!(line.get("broken").is_none(), "{line}");
    client.write("it goes on").await;
    assert_eq!(upstream.until("on").await, "it goes on");
}
