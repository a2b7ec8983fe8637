//! Services, plans, drills and candidates.

use rampmeter_api::v1::*;

use super::{at, eye, lasting, open};
use crate::view::{backends, candidate, drills, explain, plans, services};

fn closed_west() -> Backend {
    Backend {
        name: "payments/us-west".into(),
        state: BreakerState::Closed.into(),
        mode: Mode::Enforce.into(),
        admission: Some(1.0),
        throttle: Some(0.625),
        shedding: "LOW wholly, NORMAL 40 %".into(),
        mix: Some(mix()),
        endpoint_status: vec![
            EndpointStatus {
                endpoint: "http://10.1.0.10:8080".into(),
                healthy: true,
                unhealthy_pops: vec!["sin1".into()],
                probers: vec!["fra1-a".into(), "iad1-b".into()],
                probes_per_second: 0.4,
                ..EndpointStatus::default()
            },
            EndpointStatus {
                endpoint: "http://10.1.0.11:8080".into(),
                error: "connection refused".into(),
                ..EndpointStatus::default()
            },
        ],
        capacity_per_second: Some(400.0),
        ..Backend::default()
    }
}

fn mix() -> ByPriority {
    ByPriority {
        critical: 40.0,
        normal: 300.0,
        low: 60.0,
        high: 0.0,
    }
}

fn plan(revision: u64, created: i64, west: f64) -> Plan {
    let region = |name: &str, share: f64, headroom: f64| RegionShare {
        region: name.into(),
        share,
        headroom,
    };
    let figures = |name: &str, capacity: f64, planned: f64| RegionFigures {
        region: name.into(),
        capacity_per_second: Some(capacity),
        capacity_configured: name == "us-west",
        admission: f64::from(u8::from(planned > 0.0)),
        drained: name == "us-east",
        planned_per_second: planned,
    };
    Plan {
        version: Some(Version { epoch: 1, revision }),
        origins: vec![OriginPlan {
            region_order: vec!["us-east".into(), "us-west".into()],
            regions: vec![region("us-east", 0.0, 0.0), region("us-west", west, 0.05)],
            demand_per_second: 400.0,
            mix: None,
        }],
        regions: vec![
            figures("us-east", 500.0, 0.0),
            figures("us-west", 400.0, 400.0 * west),
        ],
        shed_per_second: 400.0 * (1.0 - west),
        summary: "us-east is OPEN: what fits goes to us-west".into(),
        create_time: at(created),
    }
}

fn drill() -> Drill {
    let rate = |region: &str, per_second: f64| RegionRate {
        region: region.into(),
        per_second,
    };
    Drill {
        id: "d1".into(),
        backend: "payments/us-east".into(),
        fault: DrillFault::Delay.into(),
        share: 0.2,
        delay: lasting(2000),
        pops: vec!["fra1".into()],
        guard: Some(DrillGuard {
            min_success_rate: 0.5,
            max_latency_p99: lasting(1000),
            grace: lasting(3000),
        }),
        state: DrillState::GuardTripped.into(),
        actor: "ana".into(),
        reason: "game day".into(),
        start_time: at(-60_000),
        end_time: at(-55_500),
        report: Some(DrillReport {
            detected: true,
            detected_after: lasting(310),
            requests: 1800,
            succeeded: 1701,
            failed: 90,
            shed: 9,
            worst_latency_p99: lasting(2100),
            before: vec![rate("us-east", 400.0)],
            at_end: vec![rate("us-east", 80.0), rate("us-west", 320.0)],
            summary: "The guard ended it: p99 was 2.1 s.".into(),
            ..DrillReport::default()
        }),
    }
}

fn service() -> GetServiceResponse {
    GetServiceResponse {
        service: Some(Service {
            name: "payments".into(),
            backends: vec!["payments/us-east".into(), "payments/us-west".into()],
            routes: vec!["path_prefix /payments; hosts pay.example.com".into()],
        }),
        backends: vec![open(), closed_west()],
        plan: Some(plan(7, -11_400, 0.8)),
        proposed_plan: Some(plan(8, -1_000, 1.0)),
        drains: vec![Drain {
            region: "us-east".into(),
            actor: "ana".into(),
            reason: "CHG-7".into(),
            create_time: at(-60_000),
            expire_time: at(540_000),
            break_glass: true,
        }],
        drill: Some(drill()),
        quotas: vec![
            QuotaStatus {
                rate: 500.0,
                wanted_per_second: 620.0,
                admitted_per_second: 498.0,
                agents: 8,
                ..QuotaStatus::default()
            },
            QuotaStatus {
                key: "9e3779b97f4a7c15".into(),
                rate: 5.0,
                wanted_per_second: 1.2,
                admitted_per_second: 1.2,
                agents: 2,
            },
        ],
        traffic: Some(ServiceTraffic {
            demand: Some(mix()),
            succeeded_per_second: 318.0,
            failed_per_second: 2.0,
            refused_per_second: 80.0,
            shed_per_second: 79.5,
            shadowed_per_second: 3.0,
        }),
        summary: "us-east is OPEN; us-west takes 320 of 400 requests a second.".into(),
    }
}

#[test]
fn a_service_shows_where_its_traffic_goes_and_why() {
    insta::assert_snapshot!(services::render(&service(), eye()), @r"
    us-east is OPEN; us-west takes 320 of 400 requests a second.

    service      payments
    routes       path_prefix /payments; hosts pay.example.com
    demand       400/s (CRITICAL 40, NORMAL 300, LOW 60)
    callers got  318/s served, 2.0/s failed, 80/s refused, 80/s of them shed; SHADOW: would have refused 3.0/s
    plan         1.7: us-east is OPEN: what fits goes to us-west
                 1.8 waits for approval: us-east is OPEN: what fits goes to us-west

    Regions
      REGION   STATE   ADMISSION  REQ/S  PLANNED/S  CAPACITY/S     NOTE
      us-east  OPEN    0%         1.1    0          500 (learned)  trial in 18s
      us-west  CLOSED  100%       0      320        400            throttled to 63%; sheds LOW wholly, NORMAL 40 %; 1 of 2 endpoints unhealthy

    Where it goes
      FROM POPS THAT PREFER  DEMAND/S  GOES TO                                     SHED
      us-east, us-west       400       us-east 0%, us-west 80% (room for 5% more)  20%

    Drains
      REGION   BY   ENDS   REASON
      us-east  ana  in 9m  CHG-7 (break glass)

    Quotas
      KEY               RATE/S  WANTED/S  ADMITTED/S  AGENTS
      (all)             500     620       498         8
      9e3779b97f4a7c15  5.0     1.2       1.2         2

    Drill
      DRILL  WHAT                                        STATE          STARTED (UTC)            BY   REASON
      d1     20% of payments/us-east is 2s late at fra1  GUARD_TRIPPED  2026-11-23 14:01:11.500  ana  game day
    ");
}

#[test]
fn a_service_of_which_little_is_known_shows_that() {
    let answer = GetServiceResponse {
        service: Some(Service {
            name: "search".into(),
            ..Service::default()
        }),
        ..GetServiceResponse::default()
    };
    insta::assert_snapshot!(services::render(&answer, eye()), @r"
    service  search
    routes

    Regions
      REGION  STATE  ADMISSION  REQ/S  PLANNED/S  CAPACITY/S  NOTE
    ");
}

#[test]
fn plans_show_shares_room_and_what_they_were_made_from() {
    insta::assert_snapshot!(plans::render(&service(), eye()), @r"
    in force: plan 1.7, made 2026-11-23 14:02:00.100 UTC
      us-east is OPEN: what fits goes to us-west
      FROM POPS THAT PREFER  DEMAND/S  GOES TO                                     SHED
      us-east, us-west       400       us-east 0%, us-west 80% (room for 5% more)  20%
      REGION   PLANNED/S  CAPACITY/S     ADMISSION  NOTE
      us-east  0          500 (learned)  0%         drained
      us-west  320        400            100%

    waits for approval: plan 1.8, made 2026-11-23 14:02:10.500 UTC
      us-east is OPEN: what fits goes to us-west
      FROM POPS THAT PREFER  DEMAND/S  GOES TO                                      SHED
      us-east, us-west       400       us-east 0%, us-west 100% (room for 5% more)  -
      REGION   PLANNED/S  CAPACITY/S     ADMISSION  NOTE
      us-east  0          500 (learned)  0%         drained
      us-west  400        400            100%

    rampctl plan approve payments --version 1.8 --reason … puts it in force
    ");
    let none = GetServiceResponse {
        plan: None,
        proposed_plan: None,
        ..service()
    };
    insta::assert_snapshot!(plans::render(&none, eye()), @"no plan of payments is in force: its regions are tried in the order of each POP");
}

#[test]
fn services_are_a_line_each() {
    let services = [
        service().service.unwrap_or_default(),
        Service {
            name: "search".into(),
            ..Service::default()
        },
    ];
    let text = services::list(&services, &[open(), closed_west()], eye());
    insta::assert_snapshot!(text, @r"
    SERVICE   REQ/S  REFUSED/S  REGIONS                       ROUTES
    payments  1.1    203        us-east OPEN, us-west CLOSED  path_prefix /payments; hosts pay.example.com
    search    0      0
    ");
}

#[test]
fn a_drill_reports_what_it_did_and_what_users_saw() {
    let answer = GetDrillResponse {
        drill: Some(drill()),
    };
    insta::assert_snapshot!(drills::started(&drill()), @"drill d1: 20% of payments/us-east is 2s late at fra1, until 2026-11-23 14:01:16.000 UTC at the latest; Ctrl-C ends it");
    insta::assert_snapshot!(drills::render(&answer, eye()), @r"
    The guard ended it: p99 was 2.1 s.

    drill        d1
    what         20% of payments/us-east is 2s late at fra1
    result       its guard ended it after 4.5s
    reason       game day, by ana
    detected     after 310ms
    moved        no
    callers got  1701 of 1800 requests served (95%), 90 failed, 9 shed
    worst p99    2.1s
    guard        at least 50% of requests succeed, p99 at most 1s, after 3s of grace

    Traffic
      REGION   BEFORE/S  AT END/S
      us-east  400       80
      us-west  0         320
    ");
}

#[test]
fn a_candidate_tells_what_it_would_have_done() {
    let backend = CandidateBackend {
        name: "payments/us-east".into(),
        live_state: BreakerState::Closed.into(),
        candidate_state: BreakerState::Open.into(),
        episodes: vec![
            CandidateEpisode {
                open_time: at(-600_000),
                close_time: at(-360_000),
                reason: TripReason::FailureRate.into(),
                would_have_rejected: 31_000,
                would_have_moved_per_second: 8000.0,
            },
            CandidateEpisode {
                open_time: at(-4_000),
                reason: TripReason::SlowCallRate.into(),
                would_have_rejected: 500,
                ..CandidateEpisode::default()
            },
        ],
        would_have_rejected: 31_500,
        summary: "would have opened 13:52–13:56".into(),
    };
    let answer = GetCandidateResponse {
        source: "ana from 10.0.0.9:51324".into(),
        apply_time: at(-900_000),
        changes: vec!["~ services.payments.breaker.failure_rate_threshold: 50% → 20%".into()],
        backends: vec![backend],
        summary: "1 of 4 backends would have been open".into(),
    };
    insta::assert_snapshot!(candidate::render(&answer, eye()), @r"
    1 of 4 backends would have been open
    set 2026-11-23 13:47:11.500 UTC, 15m ago, from ana from 10.0.0.9:51324

    What differs
      ~ services.payments.breaker.failure_rate_threshold: 50% → 20%

    On the same samples
      BACKEND           LIVE    CANDIDATE  SUMMARY
      payments/us-east  CLOSED  OPEN       would have opened 13:52–13:56

    When it would have been open
      BACKEND           OPENED (UTC)             CLOSED (UTC)             REASON          REJECTED  MOVED/S
      payments/us-east  2026-11-23 13:52:11.500  2026-11-23 13:56:11.500  failure rate    31000     8000
      payments/us-east  2026-11-23 14:02:07.500  still open               slow call rate  500       0
    ");
}

#[test]
fn a_backend_that_is_metered_says_so_in_its_note_and_its_explanation() {
    let table = backends::render(&[closed_west()], eye());
    insta::assert_snapshot!(table, @r"
    BACKEND           STATE   MODE     ADMISSION  FOR  REQ/S  FAILING  REFUSED/S  P99  NOTE
    payments/us-west  CLOSED  ENFORCE  100%       -    0      -        0          -    throttled to 63%; sheds LOW wholly, NORMAL 40 %; 1 of 2 endpoints unhealthy
    ");
    let answer = ExplainBackendResponse {
        summary: "payments/us-west is CLOSED.".into(),
        backend: Some(closed_west()),
        ..ExplainBackendResponse::default()
    };
    let text = explain::with_plan(&answer, service().plan.as_ref(), eye());
    insta::assert_snapshot!(text, @r"
    payments/us-west is CLOSED.

    state      CLOSED
    since      - UTC, - ago
    mode       ENFORCE
    admission  100%
    throttle   it takes less than is wanted: 63% of the requests are let through
    mix        CRITICAL 40, NORMAL 300, LOW 60 a second; shed: LOW wholly, NORMAL 40 %
    plan       1.7 sends 320/s here; capacity 400
    decision   -
    note       throttled to 63%; sheds LOW wholly, NORMAL 40 %; 1 of 2 endpoints unhealthy

    Endpoints
      ENDPOINT               HEALTH             PROBED BY       PROBES/S  ERROR
      http://10.1.0.10:8080  unhealthy at sin1  fra1-a, iad1-b  0.4
      http://10.1.0.11:8080  unhealthy                          0         connection refused
    ");
}
