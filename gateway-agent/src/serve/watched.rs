//! A client's socket, as hyper sees it: what comes in is looked at before it is
//! passed on, and what goes out is noted.
//!
//! Bytes are read into one buffer of the core's, so that a connection holds
//! memory of its own only while a header of it is half there.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Instant,
};

use crate::{
    config::host::Host,
    serve::{
        framing::{Framing, Next},
        meter::Meter,
        pulse::Pulse,
    },
    stream::Stream,
};

/// What is read at once, at most: as much as hyper asks for.
const READ_BYTES: usize = 64 << 10;

/// What may wait behind a request for another protocol.
const MAX_WAITING: usize = 64 << 10;

/// Reads behind a refused request that are thrown away, so that its answer is not
/// lost in a reset: enough for what was on its way.
const MAX_THROWN_AWAY: u32 = 16;

/// What hyper gets in place of a refused request, so that its answer comes after
/// those of the requests before it.
pub(crate) const REFUSED: &str = "REFUSED";
const REFUSED_REQUEST: &[u8] = b"REFUSED * HTTP/1.1\r\n\r\n";

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Who looks at what comes in.
#[derive(Debug)]
enum Guard {
    Http1(Framing),
    Http2(Meter),
}

/// A socket that keeps its [`Pulse`].
#[derive(Debug)]
pub(crate) struct Watched {
    inner: TokioIo<Stream>,
    /// For hyper to take.
    passed: BytesMut,
    /// Not yet to be passed.
    waiting: BytesMut,
    guard: Guard,
    thrown_away: u32,
    host: Arc<Host>,
    pulse: Rc<Pulse>,
}

impl Watched {
    /// Of a socket of which these bytes were read already.
    pub(crate) fn new(
        inner: Stream,
        first: BytesMut,
        http2: bool,
        host: Arc<Host>,
        pulse: Rc<Pulse>,
    ) -> Self {
        Self {
            inner: TokioIo::new(inner),
            passed: BytesMut::new(),
            waiting: first,
            guard: match http2 {
                true => Guard::Http2(Meter::new(Instant::now())),
                false => Guard::Http1(Framing::new()),
            },
            thrown_away: 0,
            host,
            pulse,
        }
    }

    /// The socket, to say a last word on.
    pub(crate) fn socket(&mut self) -> &mut Stream {
        self.inner.inner_mut()
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.pulse.wrote(None),
            Poll::Ready(Ok(count)) => self.pulse.wrote(Some(*count)),
            // The connection ends.
            Poll::Ready(Err(_)) => {}
        }
    }

    /// Gives hyper what it has room for; the rest is for later.
    fn give(&mut self, bytes: &[u8], buffer: &mut ReadBufCursor<'_>) {
        let now = match self.passed.is_empty() {
            true => bytes.len().min(buffer.remaining()),
            false => 0,
        };
        buffer.put_slice(&bytes[..now]);
        self.passed.extend_from_slice(&bytes[now..]);
    }

    /// Passes on what may pass, and says how many bytes are done with.
    fn sort(&mut self, bytes: &[u8], buffer: &mut ReadBufCursor<'_>) -> io::Result<usize> {
        let framing = match &mut self.guard {
            Guard::Http2(meter) => {
                meter.read(bytes, Instant::now(), self.pulse.take_progress())?;
                self.give(bytes, buffer);
                return Ok(bytes.len());
            }
            Guard::Http1(framing) => framing,
        };
        if self.pulse.has_switched() {
            framing.switch();
        }
        let mut done = 0;
        while done < bytes.len() {
            let Guard::Http1(framing) = &mut self.guard else {
                break;
            };
            let rest = &bytes[done..];
            let next = framing.next(rest, self.pulse.answered(), &self.host.limits);
            if framing.asked_with_body() {
                self.pulse.close_after_answer();
            }
            match next {
                Next::Pass(count) => {
                    self.give(&rest[..count], buffer);
                    done += count;
                }
                Next::Replace(count, instead) => {
                    self.give(&instead, buffer);
                    done += count;
                }
                Next::Wait => break,
                Next::Refuse(unfit) => {
                    self.pulse.refuse(unfit);
                    self.give(REFUSED_REQUEST, buffer);
                    return Ok(bytes.len());
                }
                Next::End => {
                    self.pulse.end();
                    return Ok(bytes.len());
                }
            }
        }
        if let Guard::Http1(framing) = &self.guard {
            self.pulse.in_half_a_header(framing.in_head());
            self.pulse.in_small_body(framing.in_small_body());
        }
        Ok(done)
    }

    /// Sorts what has waited again, with what came now.
    fn sort_with_waiting(&mut self, more: &[u8], buffer: &mut ReadBufCursor<'_>) -> io::Result<()> {
        if self.waiting.is_empty() {
            let done = self.sort(more, buffer)?;
            self.waiting.extend_from_slice(&more[done..]);
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.waiting);
        all.extend_from_slice(more);
        let done = self.sort(&all, buffer)?;
        all.advance(done);
        if !all.is_empty() {
            self.waiting = all;
        }
        Ok(())
    }

    /// Reads once; `false`: there is nothing more to come.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<bool>> {
        READ.with_borrow_mut(|into| {
            let room = buffer.remaining().min(READ_BYTES);
            let mut read = ReadBuf::new(&mut into[..room]);
            ready!(Pin::new(self.inner.inner_mut()).poll_read(cx, &mut read))?;
            let read = read.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(false));
            }
            self.pulse.read_something();
            if self.pulse.has_refused() {
                self.thrown_away += 1;
                return Poll::Ready(Ok(true));
            }
            self.sort_with_waiting(read, buffer)?;
            Poll::Ready(Ok(true))
        })
    }
}

impl Drop for Watched {
    /// Closed as usual, a socket would go on to offer what nobody takes, from
    /// megabytes of the kernel's memory.
    fn drop(&mut self) {
        if self.pulse.is_dead() {
            let socket = SockRef::from(self.inner.inner().socket());
            // Where it cannot be told, it lasts as long as the kernel likes.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let room = buffer.remaining();
        if !this.waiting.is_empty() {
            this.sort_with_waiting(&[], &mut buffer)?;
        }
        loop {
            if !this.passed.is_empty() {
                let count = this.passed.len().min(buffer.remaining());
                buffer.put_slice(&this.passed[..count]);
                this.passed.advance(count);
                if this.passed.is_empty() {
                    // Even empty, it would hold the memory of its bytes.
                    this.passed = BytesMut::new();
                }
            }
            if buffer.remaining() < room || this.pulse.has_ended() {
                return Poll::Ready(Ok(()));
            }
            if this.waiting.is_empty()
                && matches!(&this.guard, Guard::Http1(framing) if framing.is_open())
            {
                return Pin::new(&mut this.inner).poll_read(cx, buffer);
            }
            let enough = this.waiting.len() >= MAX_WAITING && !this.pulse.waits_for_more();
            if enough || this.thrown_away >= MAX_THROWN_AWAY {
                // hyper comes back when it has answered.
                return Poll::Pending;
            }
            if !ready!(this.poll_more(cx, &mut buffer))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS takes what it is given, and may be stuck with it here.
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.pulse.flushed(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
