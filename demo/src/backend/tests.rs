//! The backend keeps to its script.

use std::time::{Duration, Instant};

use super::*;
use crate::load::{Answered, Load, Target};

async fn ask(backend: &ScriptedBackend, count: u64, marks: &[&str]) -> Vec<Answered> {
    let targets = marks
        .iter()
        .map(|mark| Target::new(mark, backend.address()))
        .collect();
    let load = Load {
        count: Some(count),
        rate: 500.0,
        timeout: Duration::from_millis(300),
        ..Load::new(targets)
    };
    load.start()
        .finish()
        .await
        .into_iter()
        .map(|record| record.answered)
        .collect()
}

#[tokio::test]
async fn it_answers_as_told_and_keeps_receipts() {
    let backend = ScriptedBackend::local("pay").await.expect("a free port");
    let start = Instant::now();
    assert_eq!(
        ask(&backend, 3, &["a"]).await,
        vec![Answered::Status(200); 3]
    );
    backend.behave(Behaviour::status(503));
    assert_eq!(
        ask(&backend, 3, &["a"]).await,
        vec![Answered::Status(503); 3]
    );
    backend.behave(Behaviour::broken_path(["b"]));
    assert_eq!(
        ask(&backend, 3, &["a"]).await,
        vec![Answered::Status(200); 3]
    );
    assert_eq!(ask(&backend, 3, &["b"]).await, vec![Answered::Broken; 3]);
    let receipts = backend.receipts().since(start);
    assert_eq!(
        receipts
            .iter()
            .filter(|r| r.affected && r.mark.as_deref() == Some("a"))
            .count(),
        3
    );
    assert_eq!(
        receipts
            .iter()
            .filter(|r| r.affected && r.mark.as_deref() == Some("b"))
            .count(),
        3
    );
    assert_eq!(backend.receipts().count(), 12);
}

#[tokio::test]
async fn it_refuses_connections_and_comes_back_on_the_same_port() {
    let backend = ScriptedBackend::local("pay").await.expect("a free port");
    assert_eq!(
        ask(&backend, 2, &["a"]).await,
        vec![Answered::Status(200); 2]
    );
    backend.behave(Behaviour::all(Answer::Refuse));
    // The first may still meet the closing port.
    assert_eq!(
        ask(&backend, 4, &["a"]).await.pop(),
        Some(Answered::Refused)
    );
    backend.behave(Behaviour::ok());
    assert_eq!(
        ask(&backend, 4, &["a"]).await.pop(),
        Some(Answered::Status(200))
    );
}

#[tokio::test]
async fn it_hangs_until_the_client_gives_up() {
    let backend = ScriptedBackend::local("pay").await.expect("a free port");
    backend.behave(Behaviour::all(Answer::Hang));
    assert_eq!(ask(&backend, 2, &["a"]).await, vec![Answered::TimedOut; 2]);
    assert_eq!(backend.receipts().count(), 2);
}

#[tokio::test]
async fn it_serves_no_more_than_its_capacity() {
    let backend = ScriptedBackend::local("pay").await.expect("a free port");
    backend.behave(Behaviour::capacity(20));
    let start = std::time::Instant::now();
    let answers = ask(&backend, 200, &["a"]).await;
    let served = answers
        .iter()
        .filter(|answer| **answer == Answered::Status(200))
        .count();
    // One in advance, and twenty a second.
    let most = 2 + (start.elapsed().as_secs_f64() * 20.0) as usize;
    assert!((1..=most).contains(&served), "{served} of at most {most}");
}
