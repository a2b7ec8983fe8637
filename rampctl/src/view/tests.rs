//! Every view as a snapshot, at one moment.

mod steer;

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use rampmeter_api::v1::*;

use super::{Eye, agents, backends, changes, events, explain, status};

/// 2026-11-23 14:02:11.500 UTC.
const NOW_MS: i64 = 1_795_442_531_500;

fn at(ms_from_now: i64) -> Option<Timestamp> {
    let ms = NOW_MS + ms_from_now;
    Some(Timestamp {
        seconds: ms / 1000,
        nanos: (ms % 1000) as i32 * 1_000_000,
    })
}

fn lasting(ms: u64) -> Option<prost_types::Duration> {
    Duration::from_millis(ms).try_into().ok()
}

fn eye() -> Eye {
    Eye {
        now: SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS as u64),
        colour: false,
    }
}

fn open() -> Backend {
    Backend {
        name: "payments/us-east".into(),
        state: BreakerState::Open.into(),
        mode: Mode::Enforce.into(),
        version: Some(Version {
            epoch: 1,
            revision: 12,
        }),
        state_time: at(-11_500),
        retry_time: at(18_400),
        trips: 1,
        traffic: Some(Traffic {
            outcomes: Some(OutcomeCounts {
                requests: Some(11),
                failures: Some(0),
                overloads: Some(11),
                slow_calls: Some(0),
            }),
            requests_per_second: 1.1,
            demand_per_second: 204.0,
            rejected_per_second: 203.4,
            failure_rate: Some(1.0),
            latency_p50: lasting(3),
            latency_p99: lasting(12),
            in_flight: 0,
        }),
        endpoints: vec![
            "http://10.0.0.10:8080".into(),
            "http://10.0.0.11:8080".into(),
        ],
        ..Backend::default()
    }
}

fn half_open() -> Backend {
    Backend {
        name: "payments/us-west".into(),
        state: BreakerState::HalfOpen.into(),
        mode: Mode::Enforce.into(),
        version: Some(Version {
            epoch: 2,
            revision: 3,
        }),
        state_time: at(-900),
        trial_successes: 2,
        trial_leases: vec![TrialLease {
            lease_id: "l1".into(),
            agent: "fra1-a".into(),
            expires_in: lasting(31_000),
        }],
        ..Backend::default()
    }
}

fn closed() -> Backend {
    Backend {
        name: "search/eu-west".into(),
        state: BreakerState::Closed.into(),
        mode: Mode::ForcedClosed.into(),
        admission: Some(0.994),
        version: Some(Version {
            epoch: 1,
            revision: 4,
        }),
        state_time: at(-93_784_000),
        pops: vec![PopState {
            pop: "iad1".into(),
            state: BreakerState::Open.into(),
            admission: Some(0.0),
            retry_time: at(4000),
        }],
        r#override: Some(Override {
            mode: Mode::ForcedClosed.into(),
            actor: "ana".into(),
            reason: "drill \x1b[2J".into(),
            create_time: at(-60_000),
            expire_time: at(540_000),
        }),
        traffic: Some(Traffic {
            requests_per_second: 512.3,
            failure_rate: Some(0.0004),
            latency_p99: lasting(80),
            ..Traffic::default()
        }),
        ..Backend::default()
    }
}

fn opened() -> Event {
    Event {
        id: "e2".into(),
        event_time: at(-11_500),
        backend: "payments/us-east".into(),
        kind: EventKind::Transition.into(),
        scope: Scope::Fleet.into(),
        from_state: BreakerState::Closed.into(),
        to_state: BreakerState::Open.into(),
        reason: TripReason::OverloadRate.into(),
        summary: "11 of 11 requests refused since 14:01:59".into(),
        actor: "cp-1".into(),
        next_time: at(18_400),
        ..Event::default()
    }
}

fn suspect() -> Event {
    Event {
        id: "e1".into(),
        event_time: at(-3_600_000),
        backend: "search/eu-west".into(),
        kind: EventKind::SuspectVantage.into(),
        scope: Scope::Agent.into(),
        subject: "iad1-c".into(),
        summary: "only iad1-c sees failures".into(),
        ..Event::default()
    }
}

#[test]
fn the_fleet_at_a_glance() {
    let fleet = GetFleetResponse {
        backends: 12,
        backends_open: 1,
        backends_ramping: 2,
        agents: 20,
        agents_in_sync: 19,
        replicas: vec![Replica {
            name: "cp-1".into(),
            agents: 20,
            last_heard: lasting(400),
        }],
        pops: vec![
            PopSummary {
                pop: "fra1".into(),
                agents: 5,
                region_order: vec!["eu-west".into(), "us-east".into()],
            },
            PopSummary {
                pop: "iad1".into(),
                agents: 15,
                region_order: vec!["us-east".into()],
            },
        ],
        config_revision: 3,
        store: "redis://10.0.0.1:6379/0".into(),
        store_available: false,
        version: "0.1.0".into(),
        ..GetFleetResponse::default()
    };
    insta::assert_snapshot!(status::render(&fleet, eye()), @r"
    version   0.1.0
    config    revision 3
    store     redis://10.0.0.1:6379/0, NOT available: decisions stay as they are
    backends  12: 1 open, 0 half-open, 2 ramping
    agents    20: 19 in sync
    replica   cp-1, 20 agents, heard 400ms ago

    POP   AGENTS  REGION ORDER
    fra1  5       eu-west, us-east
    iad1  15      us-east
    ");
}

#[test]
fn backends_are_aligned_and_their_notes_say_the_rest() {
    let text = backends::render(&[open(), half_open(), closed()], eye());
    insta::assert_snapshot!(text, @r"
    BACKEND           STATE      MODE           ADMISSION  FOR    REQ/S  FAILING  REFUSED/S  P99   NOTE
    payments/us-east  OPEN       ENFORCE        0%         11s    1.1    100%     203        12ms  trial in 18s
    payments/us-west  HALF_OPEN  ENFORCE        0%         900ms  0      -        0          -     trial at fra1-a; 2 trials succeeded
    search/eu-west    CLOSED     FORCED_CLOSED  99.4%      1d 2h  512    0.1%     0          80ms  iad1 OPEN 0%; FORCED_CLOSED by ana, ends in 9m: drill �[2J
    ");
}

#[test]
fn nothing_to_list_is_still_a_heading() {
    insta::assert_snapshot!(backends::render(&[], eye()), @"BACKEND  STATE  MODE  ADMISSION  FOR  REQ/S  FAILING  REFUSED/S  P99  NOTE");
}

#[test]
fn colour_changes_no_alignment() {
    let coloured = backends::render(
        &[open(), closed()],
        Eye {
            colour: true,
            ..eye()
        },
    );
    assert!(coloured.contains("\x1b[1;31mOPEN\x1b[0m"), "{coloured}");
    let mut plain = coloured;
    for code in ["\x1b[1;31m", "\x1b[32m", "\x1b[33m", "\x1b[2m", "\x1b[0m"] {
        plain = plain.replace(code, "");
    }
    assert_eq!(plain, backends::render(&[open(), closed()], eye()));
}

#[test]
fn an_explanation_tells_the_whole_story() {
    let answer = ExplainBackendResponse {
        summary: "payments/us-east is OPEN: every POP saw it refuse nearly all requests.".into(),
        backend: Some(open()),
        last_transition: Some(opened()),
        evidence: Some(Evidence {
            rule: TripReason::OverloadRate.into(),
            score: 21.34,
            score_threshold: 16.0,
            tolerated_rate: 0.05,
            intolerable_rate: 0.9,
            onset_time: at(-12_000),
            requests: 11,
            bad: 11,
            pops_active: 4,
            pops_failing: 3,
            pops_needed: 2,
            pops: vec![
                PopEvidence {
                    pop: "fra1".into(),
                    score: 8.7,
                    requests: 4,
                    bad: 4,
                    agents: 5,
                    votes_failing: true,
                    left_out_agent: "fra1-a".into(),
                    ..PopEvidence::default()
                },
                PopEvidence {
                    pop: "sin1".into(),
                    requests: 1,
                    agents: 1,
                    ..PopEvidence::default()
                },
            ],
            suspects: vec![Suspect {
                agent: "iad1-c".into(),
                pop: "iad1".into(),
                score: 40.0,
                requests: 30,
                bad: 30,
            }],
            coverage: 0.95,
            ..Evidence::default()
        }),
        next: "one trial request is leased to an agent".into(),
        next_time: at(18_400),
        policy: Some(Policy {
            failure_rate_threshold: 0.5,
            overload_rate_threshold: 0.9,
            slow_call_rate_threshold: 0.8,
            slow_call_duration: lasting(2000),
            min_request_volume: 5,
            window: lasting(10_000),
            open_duration: lasting(30_000),
            max_open_duration: lasting(300_000),
            half_open_max_trials: 1,
            half_open_successes: 3,
            ramp_duration: lasting(30_000),
            ..Policy::default()
        }),
        config_revision: 3,
        history: vec![opened(), suspect()],
    };
    insta::assert_snapshot!(explain::render(&answer, eye()), @r"
    payments/us-east is OPEN: every POP saw it refuse nearly all requests.

    state        OPEN
    since        2026-11-23 14:02:00.000 UTC, 11s ago
    mode         ENFORCE
    admission    0%
    decision     1.12
    trips        1 in a row
    note         trial in 18s
    endpoints    http://10.0.0.10:8080, http://10.0.0.11:8080
    next         one trial request is leased to an agent (in 18s)
    last change  2026-11-23 14:02:00.000 UTC by cp-1: 11 of 11 requests refused since 14:01:59
    evidence     overload rate: score 21.3 of 16.0 needed; 11 of 11 requests bad since 2026-11-23 14:01:59.500 UTC (tolerated 5%, intolerable 90%)
    vantage      3 of 4 active POPs vote failing, 2 needed; 95% of the agents report
    policy       opens at 50% failures, 90% failures and overloads, 80% slower than 2s, over 10s, 5 requests at least
                 for 30s up to 5m; 3 trials close it, 1 at a time; ramp 30s (config revision 3)

    POPs
      POP   SCORE  BAD  REQUESTS  AGENTS  VOTE     LEFT OUT
      fra1  8.7    4    4         5       failing  fra1-a
      sin1  0.0    0    1         1       well

    Suspect vantages: agents whose evidence no other confirms
      AGENT   POP   SCORE  BAD  REQUESTS
      iad1-c  iad1  40.0   30   30

    History
      TIME (UTC)               ABOUT             SCOPE         WHAT             SUMMARY
      2026-11-23 13:02:11.500  search/eu-west    AGENT iad1-c  SUSPECT_VANTAGE  only iad1-c sees failures
      2026-11-23 14:02:00.000  payments/us-east  FLEET         CLOSED → OPEN    11 of 11 requests refused since 14:01:59
    ");
}

#[test]
fn a_backend_that_never_failed_is_explained_in_a_few_lines() {
    let answer = ExplainBackendResponse {
        summary: "search/eu-west is CLOSED and never was otherwise.".into(),
        backend: Some(Backend {
            admission: Some(1.0),
            pops: vec![],
            r#override: None,
            ..closed()
        }),
        ..ExplainBackendResponse::default()
    };
    insta::assert_snapshot!(explain::render(&answer, eye()), @r"
    search/eu-west is CLOSED and never was otherwise.

    state      CLOSED
    since      2026-11-22 11:59:07.500 UTC, 1d 2h ago
    mode       FORCED_CLOSED
    admission  100%
    decision   1.4
    endpoints
    ");
}

#[test]
fn agents_show_what_is_wrong_with_them() {
    let agent = |name: &str| Agent {
        name: name.into(),
        pop: "fra1".into(),
        version: "0.1.0".into(),
        address: "10.0.0.5:41234".into(),
        replica: "cp-1".into(),
        connect_time: at(-7_380_000),
        last_heard: lasting(120),
        round_trip: lasting(2),
        in_sync: true,
        config_revision: 3,
        ..Agent::default()
    };
    let behind = Agent {
        in_sync: false,
        config_revision: 2,
        config_error: "unknown scheme".into(),
        suspect_for: vec!["search/eu-west".into()],
        ..agent("fra1-agent-with-a-long-name")
    };
    insta::assert_snapshot!(agents::render(&[agent("fra1-a"), behind], eye()), @r"
    AGENT                        POP   VERSION  ADDRESS         REPLICA  CONNECTED  HEARD  RTT  CONFIG  SYNC  NOTE
    fra1-a                       fra1  0.1.0    10.0.0.5:41234  cp-1     2h 3m      120ms  2ms  3       yes
    fra1-agent-with-a-long-name  fra1  0.1.0    10.0.0.5:41234  cp-1     2h 3m      120ms  2ms  2       no    refused the config: unknown scheme; suspect vantage for search/eu-west
    ");
}

#[test]
fn events_are_listed_or_followed() {
    let listed = events::table([suspect(), opened()].iter()).render(false);
    insta::assert_snapshot!(listed, @r"
    TIME (UTC)               ABOUT             SCOPE         WHAT             SUMMARY
    2026-11-23 13:02:11.500  search/eu-west    AGENT iad1-c  SUSPECT_VANTAGE  only iad1-c sees failures
    2026-11-23 14:02:00.000  payments/us-east  FLEET         CLOSED → OPEN    11 of 11 requests refused since 14:01:59
    ");
    let followed: String = [suspect(), opened()]
        .iter()
        .map(|e| events::line(e, eye()))
        .collect();
    insta::assert_snapshot!(followed, @r"
    2026-11-23 13:02:11.500  search/eu-west            AGENT iad1-c    SUSPECT_VANTAGE         only iad1-c sees failures
    2026-11-23 14:02:00.000  payments/us-east          FLEET           CLOSED → OPEN           11 of 11 requests refused since 14:01:59
    ");
}

#[test]
fn watching_prints_a_line_when_the_breaker_does_something() {
    use watch_backends_response::Change;
    let mut shown = changes::Shown::default();
    let mut busier = open();
    busier.traffic = None;
    let changes = [
        Change::Backend(open()),
        Change::Backend(busier),
        Change::Backend(Backend {
            name: open().name,
            ..half_open()
        }),
        Change::Removed(open().name),
        Change::Backend(open()),
    ];
    let lines: Vec<String> = changes
        .into_iter()
        .map(|change| {
            let change = WatchBackendsResponse {
                change: Some(change),
            };
            shown
                .line(change, eye())
                .unwrap_or_else(|| "(nothing)\n".into())
        })
        .collect();
    insta::assert_snapshot!(changes::headings(eye()) + &lines.concat(), @r"
    TIME (UTC)               BACKEND                   STATE      ADMISSION  NOTE
    2026-11-23 14:02:11.500  payments/us-east          OPEN       0%         decision 1.12; trial in 18s
    (nothing)
    2026-11-23 14:02:11.500  payments/us-east          HALF_OPEN  0%         decision 2.3; trial at fra1-a; 2 trials succeeded
    2026-11-23 14:02:11.500  payments/us-east          REMOVED
    2026-11-23 14:02:11.500  payments/us-east          OPEN       0%         decision 1.12; trial in 18s
    ");
}
