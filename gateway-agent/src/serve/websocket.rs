//! Where WebSocket frames begin and end in a stream of bytes (RFC 6455 §5.2),
//! known without keeping any of it: a close frame may only go between two frames,
//! and the data around it must stay whole.

/// A close frame that says "going away" (1001), as a server sends it.
pub(crate) const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

/// The same as a client sends it: with a mask.
pub(crate) fn going_away_masked(mask: [u8; 4]) -> [u8; 8] {
    let [a, b, c, d] = mask;
    [0x88, 0x82, a, b, c, d, 0x03 ^ a, 0xe9 ^ b]
}

/// Follows one direction of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Frames {
    at: At,
    /// A fragment of a message has gone by and its last one has not.
    in_message: bool,
    /// A close frame has begun: nothing may follow it.
    closing: bool,
}

/// Where in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In its header, of which this much is known.
    Header(Header),
    /// In its payload, of which so many bytes are left; never zero.
    Payload(u64),
    /// No longer in WebSocket: a length that there cannot be.
    Lost,
}

impl Default for At {
    fn default() -> Self {
        Self::Header(Header::default())
    }
}

/// The part of a header that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Header {
    /// Bytes of it, 0 to 13.
    seen: u8,
    /// FIN, reserved bits and opcode.
    first: u8,
    /// Mask bit and short length.
    second: u8,
    /// The longer length, as far as it came.
    long: u64,
}

impl Header {
    /// Bytes of the longer length: 0, 2 or 8.
    const fn long_bytes(self) -> u8 {
        match self.second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }

    /// Bytes of the whole header, 2 to 14; known from the second one on.
    const fn bytes(self) -> u8 {
        let mask = if self.second & 0x80 == 0 { 0 } else { 4 };
        2 + self.long_bytes() + mask
    }

    fn add(&mut self, byte: u8) {
        match self.seen {
            0 => self.first = byte,
            1 => self.second = byte,
            at if at < 2 + self.long_bytes() => self.long = self.long << 8 | u64::from(byte),
            _mask => {}
        }
        self.seen += 1;
    }

    const fn is_whole(self) -> bool {
        self.seen >= 2 && self.seen == self.bytes()
    }

    fn payload(self) -> At {
        let length = match self.long_bytes() {
            0 => u64::from(self.second & 0x7f),
            _ => self.long,
        };
        match length {
            0 => At::default(),
            // The most significant bit must be 0.
            length if length > u64::MAX >> 1 => At::Lost,
            length => At::Payload(length),
        }
    }
}

impl Frames {
    /// Goes on to the end of `bytes`, or to the end of the frame if that is
    /// earlier; returns how many bytes that were, at least 1 unless there are none.
    pub(crate) fn step(&mut self, bytes: &[u8]) -> usize {
        match self.at {
            At::Lost => bytes.len(),
            At::Payload(left) => {
                let step = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.at = match left - step as u64 {
                    0 => At::default(),
                    left => At::Payload(left),
                };
                step
            }
            At::Header(mut header) => {
                for (at, byte) in bytes.iter().enumerate() {
                    header.add(*byte);
                    if header.is_whole() {
                        self.begin(header);
                        // A frame without payload ends here.
                        return match self.at {
                            At::Header(_) => at + 1,
                            _ => at + 1 + self.step(&bytes[at + 1..]),
                        };
                    }
                }
                self.at = At::Header(header);
                bytes.len()
            }
        }
    }

    /// Goes on to the end of `bytes`.
    pub(crate) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.step(bytes)..];
        }
    }

    /// A header is whole: its payload begins.
    fn begin(&mut self, header: Header) {
        const CLOSE: u8 = 8;
        let last = header.first & 0x80 != 0;
        match header.first & 0x0f {
            CLOSE => self.closing = true,
            // Other control frames go between a message's fragments.
            opcode if opcode > CLOSE => {}
            _data => self.in_message = !last,
        }
        self.at = header.payload();
    }

    /// No frame has begun that has not ended.
    pub(crate) fn between_frames(&self) -> bool {
        self.at == At::default()
    }

    /// No message has begun that has not ended.
    pub(crate) fn between_messages(&self) -> bool {
        self.between_frames() && !self.in_message
    }

    /// A close frame went by whole: this side has said its last word.
    pub(crate) fn closed(&self) -> bool {
        self.closing && self.between_frames()
    }

    /// A close frame has begun, so that another one would be one too many.
    pub(crate) fn closing(&self) -> bool {
        self.closing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One frame, as RFC 6455 draws it.
    #[derive(Debug, Clone)]
    struct Frame {
        last: bool,
        opcode: u8,
        masked: bool,
        length: usize,
    }

    impl Frame {
        fn write(&self, out: &mut Vec<u8>) {
            out.push(u8::from(self.last) << 7 | self.opcode);
            let mask = u8::from(self.masked) << 7;
            match self.length {
                0..=125 => out.push(mask | self.length as u8),
                126..=0xffff => {
                    out.push(mask | 126);
                    out.extend((self.length as u16).to_be_bytes());
                }
                _ => {
                    out.push(mask | 127);
                    out.extend((self.length as u64).to_be_bytes());
                }
            }
            if self.masked {
                out.extend([0xff; 4]);
            }
            // Payload that looks like close frames.
            out.extend(std::iter::repeat_n(0x88, self.length));
        }
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let length = prop_oneof![
            Just(0),
            1..=125usize,
            Just(126),
            127..=300usize,
            0xfffe..=0x1_0001usize
        ];
        let opcode = prop_oneof![Just(0), Just(1), Just(2), Just(9), Just(10)];
        (any::<bool>(), opcode, any::<bool>(), length).prop_map(|(last, opcode, masked, length)| {
            Frame {
                last,
                opcode,
                masked,
                length,
            }
        })
    }

    proptest! {
        #[test]
        fn frames_are_found_however_the_stream_is_split(
            frames in prop::collection::vec(frame(), 1..8),
            splits in prop::collection::vec(1..5000usize, 1..20),
        ) {
            let mut stream = Vec::new();
            let mut ends = vec![(0, true)];
            let mut between = true;
            for frame in &frames {
                frame.write(&mut stream);
                if frame.opcode < 8 {
                    between = frame.last;
                }
                ends.push((stream.len(), between));
            }
            let mut seen = Frames::default();
            let mut at = 0;
            let mut splits = splits.iter().cycle();
            while at < stream.len() {
                let split = splits.next().expect("it cycles");
                let mut chunk = &stream[at..stream.len().min(at + split)];
                while !chunk.is_empty() {
                    let step = seen.step(chunk);
                    prop_assert!(step > 0);
                    at += step;
                    chunk = &chunk[step..];
                    let end = ends.iter().find(|(end, _)| *end == at);
                    prop_assert_eq!(seen.between_frames(), end.is_some(), "at {}", at);
                    let whole = end.is_some_and(|(_, between)| *between);
                    prop_assert_eq!(seen.between_messages(), whole, "at {}", at);
                    // No step goes past the end of a frame.
                    let begun = ends.iter().filter(|(end, _)| (at - step + 1..at).contains(end));
                    prop_assert_eq!(begun.count(), 0);
                }
            }
            prop_assert!(!seen.closing() && !seen.closed());
            let mut again = Frames::default();
            again.follow(&stream);
            prop_assert_eq!(again, seen);
        }

        #[test]
        fn any_bytes_at_all_are_followed(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            Frames::default().follow(&bytes);
        }
    }

    #[test]
    fn a_close_frame_is_the_last_word_once_it_is_whole() {
        for close in [&GOING_AWAY[..], &going_away_masked([1, 2, 3, 4])] {
            let mut frames = Frames::default();
            frames.follow(&[0x01, 1, b'x']);
            assert!(frames.between_frames() && !frames.between_messages());
            let (last, most) = close.split_last().expect("bytes");
            frames.follow(most);
            assert!(frames.closing() && !frames.closed());
            frames.follow(&[*last]);
            assert!(frames.closed());
        }
    }

    #[test]
    fn a_masked_close_frame_says_1001_as_well() {
        let [head, length, a, b, _, _, high, low] = going_away_masked([0xaa, 0xbb, 1, 2]);
        assert_eq!((head, length), (0x88, 0x80 | 2));
        assert_eq!(u16::from_be_bytes([high ^ a, low ^ b]), 1001);
    }

    #[test]
    fn after_a_length_that_cannot_be_there_are_no_frames() {
        let mut frames = Frames::default();
        frames.follow(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        frames.follow(&[0; 100]);
        assert!(!frames.between_frames());
    }
}
