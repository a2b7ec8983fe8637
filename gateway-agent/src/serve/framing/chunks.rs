//! Where a chunked body ends, so that the next request begins there and nowhere
//! else. What is not exactly RFC 9112's form ends the connection: hyper and this
//! never differ about what is body and what is header.

/// Bytes of all chunk extensions of a body, as hyper has it.
const MAX_EXTENSIONS: u32 = 16 << 10;

/// Bytes of a trailer, as hyper has it.
const MAX_TRAILER: u32 = 16 << 10;

/// It is no chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    extensions: u32,
    trailer: u32,
}

#[derive(Debug, Clone, Copy)]
enum At {
    /// In a chunk's size: so many digits, which mean this.
    Size(u8, u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// A line of the trailer, or the end, begins.
    Line,
    InLine,
    LineLf,
    EndLf,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            at: At::Size(0, 0),
            extensions: 0,
            trailer: 0,
        }
    }

    /// How many of `bytes` are the body's, and whether that is its end.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(usize, bool), Broken> {
        let mut read = 0;
        while let Some(byte) = bytes.get(read) {
            if let At::Data(left) = self.at {
                let here = left.min((bytes.len() - read) as u64);
                read += here as usize;
                self.at = match left - here {
                    0 => At::DataCr,
                    left => At::Data(left),
                };
                continue;
            }
            match self.step(*byte) {
                Ok(Some(next)) => self.at = next,
                Ok(None) => return Ok((read + 1, true)),
                // What came before it is told first, however it came.
                Err(Broken) if read > 0 => return Ok((read, false)),
                Err(Broken) => return Err(Broken),
            }
            read += 1;
        }
        Ok((read, false))
    }

    /// `None`: this was the last byte.
    fn step(&mut self, byte: u8) -> Result<Option<At>, Broken> {
        let next = match (self.at, byte) {
            (At::Size(digits, size), _) if byte.is_ascii_hexdigit() => {
                // Sixteen digits are all that a length can have.
                let digit = char::from(byte).to_digit(16).map(u64::from);
                let longer = digit.filter(|_| digits < 16).ok_or(Broken)?;
                At::Size(digits + 1, size << 4 | longer)
            }
            (At::Size(0, _), _) => return Err(Broken),
            (At::Size(_, size), b'\r') => At::SizeLf(size),
            (At::Size(_, size), b' ' | b'\t' | b';') => At::Extension(size),
            (At::Extension(size), b'\r') => At::SizeLf(size),
            (At::Extension(size), byte) if byte != b'\n' => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSIONS {
                    return Err(Broken);
                }
                At::Extension(size)
            }
            (At::SizeLf(0), b'\n') => At::Line,
            (At::SizeLf(size), b'\n') => At::Data(size),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size(0, 0),
            (At::Line, b'\r') => At::EndLf,
            (At::InLine, b'\r') => At::LineLf,
            (At::LineLf, b'\n') => At::Line,
            (At::Line | At::InLine, byte) if byte != b'\n' => {
                self.trailer += 1;
                if self.trailer > MAX_TRAILER {
                    return Err(Broken);
                }
                At::InLine
            }
            (At::EndLf, b'\n') => return Ok(None),
            _ => return Err(Broken),
        };
        Ok(Some(next))
    }
}
