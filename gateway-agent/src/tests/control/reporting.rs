//! What goes up, when, and how much.

use super::*;

#[test]
fn a_failure_is_reported_at_once_and_successes_once_a_second() {
    let mut rig = Rig::connected();
    rig.serve(5, OutcomeClass::Success);
    let first = rig.reports();
    assert_eq!(first.len(), 1, "the first is due at once");
    rig.serve(40, OutcomeClass::Success);
    assert_eq!(rig.reports().len(), 0);
    rig.serve(1, FAILED);
    let reports = rig.reports();
    assert_eq!(reports.len(), 1);
    let requests: u32 = reports[0].slots.iter().map(|slot| slot.requests).sum();
    assert_eq!(requests, 45, "with what was not yet told");
    let newest = reports[0].slots.last().expect("a slot");
    assert_eq!((newest.requests, newest.failures), (1, 1));
    assert!(newest.age_ms <= 40, "{}", newest.age_ms);
}

#[test]
fn who_is_asked_tells_at_once_and_promptly_for_a_second_also_that_there_is_nothing() {
    let mut rig = Rig::connected();
    rig.serve(1, OutcomeClass::Success);
    rig.reports();
    rig.serve(3, OutcomeClass::Success);
    assert_eq!(rig.reports().len(), 0, "successes can wait");
    let ask = v1::ReportNow {
        backends: vec![BACKEND.to_owned(), "made/up".to_owned()],
    };
    let now = rig.now();
    rig.control.report_now(&ask, now);
    let reports = rig.reports();
    let requests: u32 = reports[0].slots.iter().map(|slot| slot.requests).sum();
    assert_eq!((reports.len(), requests), (1, 3));
    for _ in 0..40 {
        rig.pass(millis(20));
    }
    let reports = rig.reports();
    assert!(reports.len() >= 35, "{} in 0.8 s", reports.len());
    assert!(reports.iter().all(|report| report.slots.is_empty()));
    rig.pass(millis(300));
    rig.reports();
    for _ in 0..50 {
        rig.pass(millis(20));
    }
    assert_eq!(rig.reports().len(), 0, "and then nothing is nothing again");
}

#[test]
fn nothing_is_reported_twice_and_nothing_is_lost() {
    let mut rig = Rig::connected();
    let mut reports = Vec::new();
    for round in 0..200 {
        let class = if round % 37 == 0 {
            FAILED
        } else {
            OutcomeClass::Success
        };
        rig.serve(1, class);
        reports.extend(rig.reports());
    }
    rig.pass(secs(2));
    reports.extend(rig.reports());
    let slots = reports.iter().flat_map(|report| &report.slots);
    let (requests, failures) = slots.fold((0, 0), |(requests, failures), slot| {
        (requests + slot.requests, failures + slot.failures)
    });
    assert_eq!((requests, failures), (200, 6));
    let demand: u64 = reports.iter().map(|report| report.demand).sum();
    assert_eq!(demand, 200);
    let latencies = reports.iter().filter_map(|report| report.latency.as_ref());
    let counted: u32 = latencies.flat_map(|latency| &latency.counts).sum();
    assert_eq!(counted, 200);
}

#[test]
fn deltas_older_than_ten_seconds_are_dropped() {
    let mut rig = Rig::new();
    rig.serve(10, OutcomeClass::Success);
    rig.pass(secs(11));
    rig.serve(3, OutcomeClass::Success);
    rig.connect();
    rig.pass(millis(20));
    let reports = rig.reports();
    let requests: u32 = reports[0].slots.iter().map(|slot| slot.requests).sum();
    assert_eq!((reports.len(), requests, reports[0].demand), (1, 3, 3));
}

#[test]
fn a_control_plane_that_does_not_read_costs_a_bounded_queue() {
    let mut rig = Rig::connected();
    for _ in 0..1000 {
        rig.ask(true)
            .expect("admitted")
            .finish(OutcomeClass::Success, None);
        rig.pass(secs(1));
    }
    assert_eq!(rig.reports().len(), QUEUE);
}

#[test]
fn a_large_fleet_is_reported_in_messages_of_bounded_size() {
    let regions: Vec<String> = (0..90).map(|i| format!("region-{i:0>50}")).collect();
    let backends: Vec<String> = regions
        .iter()
        .map(|region| format!("{region}: {{endpoints: ['http://127.0.0.1:1']}}"))
        .collect();
    let name = |i| format!("s{i}");
    let services: Vec<String> = (0..900)
        .map(|i| {
            format!(
                "{}: {{routes: [{{path_prefix: /{i}}}], backends: {{{}}}}}",
                name(i),
                backends[i % 90]
            )
        })
        .collect();
    let yaml = format!(
        "pops: {{fra1: {{region_order: [{}]}}}}\nservices: {{{}}}",
        regions.join(", "),
        services.join(", ")
    );
    let mut rig = Rig::connected();
    let text = FleetText::read(2, yaml);
    let now = rig.now();
    let installed = rig
        .control
        .install_text(ConfigSource::ControlPlane, text, now);
    installed.expect("a good configuration");
    let table = rig.control.table.load_full();
    for i in 0..900 {
        for _ in 0..100 {
            let permit = rig.wish_of(&table.services[name(i).as_str()], &Wish::default());
            permit
                .expect("admitted")
                .finish(OutcomeClass::Success, None);
        }
    }
    rig.pass(secs(1));
    let (mut backends, mut services) = (0, 0);
    let sent = rig.sent();
    for message in &sent {
        let Up::Report(report) = message else {
            continue;
        };
        assert!(prost::Message::encoded_len(report) <= 256 * 1024);
        backends += report.backends.len();
        services += report.services.len();
    }
    assert_eq!((backends, services), (900, 900));
}
