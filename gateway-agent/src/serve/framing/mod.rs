//! Where each request of an HTTP/1 connection begins and ends. It stands between
//! the socket and hyper, which gets a header only when it is whole and can be
//! read in one way only: what is refused here never reaches a parser that might
//! forgive it, and what a client sends behind an `Upgrade` waits until that is
//! answered (CVE-2026-2833).

mod chunks;
mod codings;
mod head;

use fleet_config::HostLimits;

pub(crate) use codings::CHUNKED;

use crate::request::intake::Unfit;
use chunks::Chunks;
use head::{Head, Payload, Whole};

/// A body that is waited for: what its header and a write of most clients have.
pub(crate) const SMALL_BODY: u64 = 64 << 10;

/// What the next bytes of a connection are.
#[derive(Debug)]
pub(crate) struct Framing {
    at: At,
    /// Requests that were passed on.
    requests: u64,
    /// The request being read would like another protocol.
    upgrade: bool,
}

#[derive(Debug)]
enum At {
    Head(Head),
    /// In a small body whose header waits for it.
    Small(Whole, u64),
    Body(u64),
    Chunks(Chunks),
    /// Behind a request that asked for another protocol.
    Asked,
    /// Another protocol, or none that has to be looked at.
    Open,
    /// Behind something that is no body.
    Broken,
}

/// What to do with the bytes that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// So many may pass.
    Pass(usize),
    /// So many are replaced by these.
    Replace(usize, Vec<u8>),
    /// The first of them must wait for more, or for an answer.
    Wait,
    /// This request is refused; nothing behind it is read.
    Refuse(Unfit),
    /// This is no body: the connection is over.
    End,
}

impl Framing {
    pub(crate) fn new() -> Self {
        Self {
            at: At::Head(Head::default()),
            requests: 0,
            upgrade: false,
        }
    }

    /// Whether nothing has to be looked at any more.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.at, At::Open)
    }

    /// A header waits for its small body.
    pub(crate) fn in_small_body(&self) -> bool {
        matches!(self.at, At::Small(..))
    }

    /// Part of a header has come, and its end has not.
    pub(crate) fn in_head(&self) -> bool {
        matches!(&self.at, At::Head(head) if head.has_begun())
    }

    /// A request that asked for another protocol was passed on and had a body:
    /// nothing on its connection is to be trusted after it (CVE-2026-58055).
    pub(crate) fn asked_with_body(&self) -> bool {
        self.upgrade && matches!(self.at, At::Body(_) | At::Chunks(_))
    }

    /// The other side was asked for another protocol and said yes.
    pub(crate) fn switch(&mut self) {
        self.at = At::Open;
    }

    /// What to do with `bytes`, which are not empty and begin with all that was
    /// told to wait. `answered` requests have their whole answer.
    pub(crate) fn next(&mut self, bytes: &[u8], answered: u64, limits: &HostLimits) -> Next {
        match &mut self.at {
            At::Open => Next::Pass(bytes.len()),
            At::Broken => Next::End,
            At::Asked if answered < self.requests => Next::Wait,
            At::Asked => {
                self.upgrade = false;
                self.at = At::Head(Head::default());
                self.next(bytes, answered, limits)
            }
            At::Head(head) => match head.read(bytes, limits) {
                Ok(Some(whole)) => self.begin_with(whole, bytes),
                Ok(None) => Next::Wait,
                Err(unfit) => {
                    self.at = At::Broken;
                    Next::Refuse(unfit)
                }
            },
            At::Small(..) => self.next_of_small(bytes),
            At::Body(left) => {
                let here = (*left).min(bytes.len() as u64);
                *left -= here;
                if *left == 0 {
                    self.end();
                }
                Next::Pass(here as usize)
            }
            At::Chunks(chunks) => match chunks.read(bytes) {
                Ok((read, ended)) => {
                    if ended {
                        self.end();
                    }
                    Next::Pass(read)
                }
                Err(chunks::Broken) => {
                    self.at = At::Broken;
                    Next::End
                }
            },
        }
    }

    /// A header whose body is small waits for it: who sends that slowly holds no
    /// place at a backend meanwhile.
    fn begin_with(&mut self, head: Whole, bytes: &[u8]) -> Next {
        match head.payload {
            Payload::Length(length @ 1..=SMALL_BODY) if !head.expect => {
                self.at = At::Small(head, length);
                // It may be there already.
                self.next_of_small(bytes)
            }
            _ => self.begin(head),
        }
    }

    fn next_of_small(&mut self, bytes: &[u8]) -> Next {
        match std::mem::replace(&mut self.at, At::Broken) {
            At::Small(head, length) if bytes.len() as u64 >= head.size as u64 + length => {
                self.begin(head)
            }
            other => {
                self.at = other;
                Next::Wait
            }
        }
    }

    fn begin(&mut self, head: Whole) -> Next {
        self.requests += 1;
        self.upgrade = head.upgrade;
        match head.payload {
            Payload::Length(0) => self.end(),
            Payload::Length(length) => self.at = At::Body(length),
            Payload::Chunked => self.at = At::Chunks(Chunks::new()),
        }
        match head.instead {
            Some(instead) => Next::Replace(head.size, instead),
            None => Next::Pass(head.size),
        }
    }

    fn end(&mut self) {
        self.at = match self.upgrade {
            true => At::Asked,
            false => At::Head(Head::default()),
        };
    }
}

#[cfg(test)]
mod tests;
