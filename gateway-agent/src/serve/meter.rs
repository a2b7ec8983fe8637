//! Counts what an HTTP/2 client has us do for nothing. h2 bounds what a frame
//! may make it keep; it answers pings, settings and resets for as long as they
//! come, and they cost us more than their sender. A connection has points, which
//! such frames cost and answers earn; without points it is closed.

use std::io;

use tokio::time::Instant;

/// Points that a connection may have: enough for what clients do when they start,
/// and when they all at once give up on what they asked for.
pub(crate) const MAX_POINTS: u32 = 4_000;

/// Points for each second.
pub(crate) const POINTS_PER_SECOND: u32 = 400;

/// Points for each frame of an answer: more than what is sent to get and to take
/// one, and less than what a reset costs, so that nobody lives on resets.
const POINTS_PER_ANSWER: u32 = 4;

/// Bytes of a frame's header.
const FRAME_HEADER: usize = 9;

/// Bytes before the first frame.
const PREFACE: u32 = 24;

/// What one connection has done.
#[derive(Debug)]
pub(crate) struct Meter {
    points: u32,
    /// Up to when time was paid.
    paid: Instant,
    /// Bytes of the current frame, or of the preface, that need not be looked at.
    skip: u32,
    /// A frame's header of which only a part was there.
    header: [u8; FRAME_HEADER],
    have: usize,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            points: MAX_POINTS,
            paid: now,
            skip: PREFACE,
            header: [0; FRAME_HEADER],
            have: 0,
        }
    }

    /// Looks at what came. `answers` frames of answers went out since the last call.
    ///
    /// # Errors
    /// When there are no points left: the connection must end.
    pub(crate) fn read(&mut self, mut bytes: &[u8], now: Instant, answers: u32) -> io::Result<()> {
        self.earn(now, answers);
        while !bytes.is_empty() {
            if self.skip > 0 {
                let here = bytes.len().min(self.skip as usize);
                self.skip -= here as u32;
                bytes = &bytes[here..];
                continue;
            }
            let here = bytes.len().min(FRAME_HEADER - self.have);
            self.header[self.have..self.have + here].copy_from_slice(&bytes[..here]);
            self.have += here;
            bytes = &bytes[here..];
            if self.have == FRAME_HEADER {
                self.have = 0;
                self.frame()?;
            }
        }
        Ok(())
    }

    fn earn(&mut self, now: Instant, answers: u32) {
        let waited = now.saturating_duration_since(self.paid).as_millis();
        let by_time = u32::try_from(waited * u128::from(POINTS_PER_SECOND) / 1000);
        let by_time = by_time.unwrap_or(MAX_POINTS);
        if by_time > 0 {
            self.paid = now;
        }
        let by_answers = answers.saturating_mul(POINTS_PER_ANSWER);
        let all = self
            .points
            .saturating_add(by_time)
            .saturating_add(by_answers);
        self.points = all.min(MAX_POINTS);
    }

    fn frame(&mut self) -> io::Result<()> {
        let [a, b, c, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = length;
        let left = self.points.checked_sub(cost(kind, flags, length));
        self.points = left.ok_or_else(|| io::Error::other("a flood of frames"))?;
        Ok(())
    }
}

/// What a frame costs, by the types of RFC 9113 §6.
fn cost(kind: u8, flags: u8, length: u32) -> u32 {
    const END_STREAM: u8 = 1;
    const ACK: u8 = 1;
    match kind {
        // DATA: only what carries nothing and ends nothing.
        0 if length == 0 && flags & END_STREAM == 0 => 4,
        0 => 0,
        // HEADERS: an answer earns it back.
        1 => 2,
        // PRIORITY.
        2 => 4,
        // RST_STREAM: what was done for the stream was for nothing.
        3 => 8,
        // SETTINGS and PING, unless they answer ours.
        4 | 6 if flags & ACK != 0 => 1,
        4 | 6 => 4,
        // WINDOW_UPDATE: one or two come for each frame of an answer.
        8 => 1,
        // PUSH_PROMISE, GOAWAY, CONTINUATION, and what is unknown.
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head, payload].concat()
    }

    fn started(now: Instant) -> Meter {
        let mut meter = Meter::new(now);
        meter.read(&[0; PREFACE as usize], now, 0).expect("a start");
        meter
    }

    /// How many of a frame may come at once.
    fn burst(frame: &[u8]) -> u32 {
        let now = Instant::now();
        let mut meter = started(now);
        let mut count = 0;
        while meter.read(frame, now, 0).is_ok() {
            count += 1;
            assert!(count <= MAX_POINTS, "there is a limit");
        }
        count
    }

    #[test]
    fn each_frame_that_asks_for_nothing_is_limited() {
        for (name, kind, flags, payload, allowed) in [
            ("empty DATA", 0, 0, &[][..], 1_000),
            ("HEADERS", 1, 5, &[0x82], 2_000),
            ("PRIORITY", 2, 0, &[0; 5], 1_000),
            ("RST_STREAM", 3, 0, &[0; 4], 500),
            ("SETTINGS", 4, 0, &[], 1_000),
            ("PING", 6, 0, &[0; 8], 1_000),
            ("WINDOW_UPDATE", 8, 0, &[0, 0, 0, 1], 4_000),
            ("CONTINUATION", 9, 0, &[], 1_000),
            ("unknown", 0xfa, 0, &[1, 2, 3], 1_000),
        ] {
            assert_eq!(burst(&frame(kind, flags, payload)), allowed, "{name}");
        }
    }

    #[test]
    fn data_is_free_and_frames_are_found_wherever_a_read_ends() {
        let now = Instant::now();
        let mut meter = started(now);
        let data = frame(0, 0, &[6; 1000]);
        let ping = frame(6, 0, &[6; 8]);
        let stream = [data, ping].concat().repeat(999);
        for piece in stream.chunks(7) {
            meter.read(piece, now, 0).expect("it is no flood");
        }
        assert_eq!(meter.points, 4);
    }

    #[test]
    fn time_and_answers_earn_points() {
        let now = Instant::now();
        let mut meter = started(now);
        let reset = frame(3, 0, &[0; 4]);
        for _ in 0..500 {
            meter.read(&reset, now, 0).expect("points");
        }
        for _ in 0..10_000 {
            meter.read(&reset, now, 2).expect("each has an answer");
        }
        meter.points = 0;
        let later = now + Duration::from_secs(1);
        for _ in 0..50 {
            meter.read(&reset, later, 0).expect("points of a second");
        }
        meter.read(&reset, later, 0).expect_err("no more");
    }
}
