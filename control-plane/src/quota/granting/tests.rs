//! Parts of replicas, while demand moves between them.

use super::*;

const RATE: f64 = 500.0;

/// Two replicas with four agents each.
struct Replica {
    quota: OfQuota,
    wanted: f64,
    /// What the other one knows of it, and since when.
    told: (Timestamp, f64),
}

fn view(wanted: f64) -> QuotaView {
    QuotaView {
        wanted,
        agents: 4,
        ..QuotaView::default()
    }
}

fn part(replica: &mut Replica, other: Option<f64>, now: Timestamp) -> f64 {
    let pay = ServiceName::new("pay").expect("a valid name");
    let others = other.map(|wanted| (ReplicaId::new("other"), view(wanted)));
    let crew = Crew {
        now,
        own: BTreeMap::new(),
        known: 8,
        accompanied: true,
    };
    let pass = Pass {
        quota: (&pay, 0),
        rate: RATE,
        crew: &crew,
        others: others.as_slice(),
        asked: true,
    };
    replica.quota.part(&pass, claim(&view(replica.wanted)))
}

#[test]
fn parts_of_two_replicas_never_exceed_the_rate_while_demand_moves() {
    let start = Timestamp::from_millis(1_000_000);
    let new = |wanted| Replica {
        quota: OfQuota::default(),
        wanted,
        told: (start, wanted),
    };
    let mut pair = [new(900.0), new(100.0)];
    let mut low = RATE;
    for millis in (0..60_000).step_by(500) {
        let now = start + Duration::from_millis(millis);
        // Every ten seconds the clients move to the other replica.
        let here = usize::from(millis / 10_000 % 2 == 1);
        (pair[here].wanted, pair[1 - here].wanted) = (900.0, 100.0);
        for replica in &mut pair {
            if now.since(replica.told.0) >= Duration::from_secs(1) {
                replica.told = (now, replica.wanted);
            }
        }
        let told = [pair[0].told.1, pair[1].told.1];
        let sum: f64 = [0, 1]
            .map(|i| part(&mut pair[i], Some(told[1 - i]), now))
            .iter()
            .sum();
        assert!(sum <= RATE * 1.001, "{sum} after {millis} ms");
        if millis % 10_000 > 3_000 {
            low = low.min(sum);
        }
    }
    assert!(
        low >= RATE * 0.999,
        "and all of it is used again soon: {low}"
    );
}

#[test]
fn a_replica_whose_peer_is_gone_takes_the_whole_rate() {
    let start = Timestamp::from_millis(1_000_000);
    let mut replica = Replica {
        quota: OfQuota::default(),
        wanted: 100.0,
        told: (start, 100.0),
    };
    let first = part(&mut replica, Some(900.0), start);
    assert!(first < 0.2 * RATE, "{first}");
    assert_eq!(part(&mut replica, None, start), RATE);
}
