//! HTTP/2 streams whose client takes nothing. Its window is a stream's own, so
//! the connection's pulse does not show it: a stream whose body has something
//! that cannot be sent for a body's idle time is reset, alone.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll, time::Duration};

use hyper::rt::Executor;

use crate::{backend::watchdog::Watchdog, serve::pulse::Pulse};

/// Runs one connection's streams on the current core.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    pulse: Rc<Pulse>,
    /// How long a stream may have something to send and nothing taken.
    idle: Duration,
}

impl Streams {
    pub(crate) fn new(pulse: Rc<Pulse>, idle: Duration) -> Self {
        Self { pulse, idle }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, stream: F) {
        let (pulse, idle) = (self.pulse.clone(), self.idle);
        tokio::task::spawn_local(async move {
            let mut stream = pin!(stream);
            let mut watchdog = Watchdog::new(idle, None);
            let mut clients_turn = false;
            // While polled, a stream polls its own body and no other's.
            poll_fn(|cx| {
                let ended = stream.as_mut().poll(cx);
                if let Some(turn) = pulse.take_turn() {
                    watchdog.fed();
                    clients_turn = turn;
                }
                match ended {
                    Poll::Ready(()) => Poll::Ready(()),
                    Poll::Pending if clients_turn => watchdog.poll_bite(cx),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await;
        });
    }
}
