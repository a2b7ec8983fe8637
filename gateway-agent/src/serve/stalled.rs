//! HTTP/2 streams whose client takes nothing. Its window is a stream's own, so
//! the connection's pulse does not show it: a stream whose body has something
//! that cannot be sent for a body's idle time is reset, alone.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::Executor;
use pin_project_lite::pin_project;

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
        tokio::task::spawn_local(Watched {
            stream,
            pulse: self.pulse.clone(),
            watchdog: Watchdog::new(self.idle, None),
            clients_turn: false,
        });
    }
}

pin_project! {
    /// One stream. Its future is large, and an `async` block would move it.
    struct Watched<F> {
        #[pin]
        stream: F,
        pulse: Rc<Pulse>,
        watchdog: Watchdog,
        clients_turn: bool,
    }
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        // While polled, a stream polls its own body and no other's.
        let ended = this.stream.poll(cx);
        if let Some(turn) = this.pulse.take_turn() {
            this.watchdog.fed();
            *this.clients_turn = turn;
        }
        match ended {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending if *this.clients_turn => this.watchdog.poll_bite(cx),
            Poll::Pending => Poll::Pending,
        }
    }
}
