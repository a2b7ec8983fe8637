//! What sends probes: one task for each endpoint that this agent probes, at a
//! phase of its own, so that probes are spread over the interval.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use breaker_core::BackendName;
use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use super::{
    ask::ask,
    findings::{Job, Target},
};
use crate::{
    backend::tls::Tls,
    dice::uniform,
    fleet::drive::{Shared, stopped},
};

/// Probes at a time: what an agent alone sends to a thousand endpoints that do
/// not answer must leave it its descriptors.
const AT_A_TIME: usize = 128;

/// How often it is looked at whether this agent is alone.
const LOOK: Duration = Duration::from_millis(100);

/// Intervals vary by this share to either side, so that probers that once were in
/// step do not stay so.
const JITTER: f64 = 0.1;

/// Probes until stopped.
pub async fn run(control: Shared, mut stop: watch::Receiver<bool>) {
    let changed = control.lock().probing.changed.clone();
    let places = Rc::new(Semaphore::new(AT_A_TIME));
    let mut tasks = JoinSet::new();
    let mut running = BTreeMap::new();
    loop {
        tokio::select! {
            () = sleep(LOOK) => {
                let mut control = control.lock();
                let now = control.clock.now();
                control.look_at_probes(now);
                continue;
            }
            () = changed.notified() => {}
            Some(_) = tasks.join_next() => continue,
            () = stopped(&mut stop) => return,
        }
        let jobs = control.lock().probing.jobs();
        running.retain(|target, (job, task): &mut (Job, AbortHandle)| {
            let same = jobs.get(target) == Some(job);
            if !same {
                task.abort();
            }
            same
        });
        for (target, job) in jobs {
            if let Entry::Vacant(place) = running.entry(target) {
                let (target, places) = (place.key().clone(), places.clone());
                let work = watch(control.clone(), target, job.clone(), places);
                place.insert((job, tasks.spawn_local(work)));
            }
        }
    }
}

/// How requests speak TLS to a backend is how probes do.
fn tls(control: &Shared, backend: &BackendName) -> Option<Arc<Tls>> {
    let control = control.lock();
    let watched = control.backends.get(backend)?;
    watched.backend.live.tls.load_full()
}

/// Probes one endpoint for ever.
async fn watch(control: Shared, target: Target, job: Job, places: Rc<Semaphore>) {
    let interval = job.check.interval;
    sleep(interval.mul_f64(uniform())).await;
    loop {
        // Never closed.
        let place = places.acquire().await;
        let next = Instant::now() + interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * uniform());
        let tls = tls(&control, &target.backend);
        let answer = ask(&job.endpoint, &job.check, tls.as_deref()).await;
        drop(place);
        {
            let mut control = control.lock();
            let now = control.clock.now();
            control.probed(&target, job.check.rise_fall(), answer, now);
        }
        sleep_until(next).await;
    }
}
