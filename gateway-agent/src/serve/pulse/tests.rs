use super::*;
use crate::limits::{BODY_IDLE, HEADER_READ_TIMEOUT, KEEP_ALIVE_IDLE};

const SECOND: Duration = Duration::from_secs(1);

fn pulse(http2: bool) -> Rc<Pulse> {
    Rc::new(Pulse::new(
        http2,
        Instant::now(),
        Arc::default(),
        Crowd::default(),
    ))
}

async fn after(pulse: &Pulse, time: Duration) -> Health {
    tokio::time::advance(time).await;
    pulse.check(Instant::now())
}

async fn is_fine(pulse: &Pulse, time: Duration) -> bool {
    matches!(after(pulse, time).await, Health::Fine(_))
}

#[tokio::test(start_paused = true)]
async fn a_first_request_must_come_in_time() {
    let pulse = pulse(false);
    assert!(is_fine(&pulse, HEADER_READ_TIMEOUT / 2).await);
    assert_eq!(after(&pulse, HEADER_READ_TIMEOUT / 2).await, Health::Late);
}

#[tokio::test(start_paused = true)]
async fn a_request_may_run_for_as_long_as_it_likes() {
    let pulse = pulse(false);
    let running = Running::new(&pulse);
    assert!(is_fine(&pulse, 10 * KEEP_ALIVE_IDLE).await);
    drop(running);
    assert!(is_fine(&pulse, KEEP_ALIVE_IDLE - SECOND).await);
    assert_eq!(after(&pulse, SECOND).await, Health::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_header_that_has_begun_must_end_in_time() {
    let pulse = pulse(false);
    drop(Running::new(&pulse));
    after(&pulse, HEADER_READ_TIMEOUT).await;
    pulse.read_something();
    assert!(is_fine(&pulse, HEADER_READ_TIMEOUT / 2).await);
    // A byte now and then does not help.
    pulse.read_something();
    assert_eq!(after(&pulse, HEADER_READ_TIMEOUT / 2).await, Health::Late);
}

#[tokio::test(start_paused = true)]
async fn http_2_may_idle_and_ping() {
    let pulse = pulse(true);
    drop(Running::new(&pulse));
    pulse.read_something();
    assert!(is_fine(&pulse, KEEP_ALIVE_IDLE - SECOND).await);
    assert_eq!(after(&pulse, SECOND).await, Health::Idle);
}

#[tokio::test(start_paused = true)]
async fn http_2_may_connect_ahead_of_need() {
    let pulse = pulse(true);
    let before = KEEP_ALIVE_IDLE - SECOND;
    assert!(is_fine(&pulse, before).await);
    assert_eq!(after(&pulse, SECOND).await, Health::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_client_must_take_what_we_write() {
    let pulse = pulse(false);
    let _running = Running::new(&pulse);
    pulse.wrote(None);
    assert!(is_fine(&pulse, BODY_IDLE - SECOND).await);
    pulse.wrote(Some(LEAST_PROGRESS));
    pulse.wrote(None);
    assert!(is_fine(&pulse, BODY_IDLE - SECOND).await);
    pulse.wrote(None);
    assert_eq!(after(&pulse, SECOND).await, Health::Dead);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_a_byte_now_and_then_has_no_more_time() {
    let pulse = pulse(false);
    let _running = Running::new(&pulse);
    for _ in 1..BODY_IDLE.as_secs() {
        pulse.wrote(None);
        assert!(is_fine(&pulse, SECOND).await);
        pulse.wrote(Some(1));
    }
    // Time in which we have nothing to write is not its fault.
    assert!(is_fine(&pulse, BODY_IDLE).await);
    pulse.wrote(None);
    assert_eq!(after(&pulse, SECOND).await, Health::Dead);
}

#[tokio::test(start_paused = true)]
async fn it_is_known_when_to_look_again() {
    let pulse = pulse(false);
    let accepted = Instant::now();
    let limit = accepted + HEADER_READ_TIMEOUT;
    assert_eq!(after(&pulse, SECOND).await, Health::Fine(limit));
    let running = Running::new(&pulse);
    let soon = Health::Fine(Instant::now() + HEADER_READ_TIMEOUT);
    assert_eq!(pulse.check(Instant::now()), soon);
    pulse.wrote(None);
    tokio::time::advance(BODY_IDLE - SECOND).await;
    let unread = Health::Fine(Instant::now() + SECOND);
    assert_eq!(pulse.check(Instant::now()), unread);
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn half_a_header_behind_a_request_has_its_time_from_the_answer_on() {
    let pulse = pulse(false);
    let running = Running::new(&pulse);
    pulse.in_half_a_header(true);
    assert!(is_fine(&pulse, KEEP_ALIVE_IDLE).await);
    drop(running);
    assert!(is_fine(&pulse, HEADER_READ_TIMEOUT - SECOND).await);
    assert_eq!(after(&pulse, SECOND).await, Health::Late);
}
