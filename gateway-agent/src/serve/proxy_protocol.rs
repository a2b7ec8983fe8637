//! PROXY protocol, version 2: what a load balancer says about a connection before
//! the client's first byte.
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>
//!
//! It is ours because the crates there are take more than a gateway should:
//! datagrams, Unix sockets and extensions that do not add up. Version 1 is a line
//! of text that could pass for HTTP, and is refused.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Signature, command, family and length.
pub const FIXED_BYTES: usize = 16;

/// A whole header, at most: what nginx takes. Addresses need 52 bytes; a load
/// balancer's extensions, with a client certificate's subject among them, a few
/// hundred.
pub const MAX_BYTES: usize = 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Whose a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A client's, who is there.
    Client(SocketAddr),
    /// The load balancer's own (its health check), or one of which it does not
    /// know more: the other end of the socket is who sends.
    Peer,
}

/// Why a header is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Something else comes first; version 1 as well.
    #[error("the connection does not begin with a PROXY protocol v2 header")]
    NoHeader,
    /// Longer than [`MAX_BYTES`].
    #[error("the PROXY protocol header is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Its length is not what it says.
    #[error("the PROXY protocol header is shorter or longer than it says")]
    Cut,
    /// Another version, command, family or transport than we know.
    #[error("the PROXY protocol header is not of a TCP connection over IPv4 or IPv6")]
    Unknown,
    /// Extensions that run over the header's end.
    #[error("an extension of the PROXY protocol header runs over its end")]
    Extension,
}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, malformed)
    }
}

/// How many bytes follow the first [`FIXED_BYTES`], which `fixed` begins with: at
/// most [`MAX_BYTES`] in all.
///
/// # Errors
/// When it is clear already that this is no header to read on for.
pub fn rest(fixed: &[u8]) -> Result<usize, Malformed> {
    let Some((fixed, _)) = fixed.split_first_chunk::<FIXED_BYTES>() else {
        return Err(Malformed::Cut);
    };
    if !fixed.starts_with(SIGNATURE) {
        return Err(Malformed::NoHeader);
    }
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    match FIXED_BYTES + length > MAX_BYTES {
        true => Err(Malformed::TooLong),
        false => Ok(length),
    }
}

/// Reads a whole header, no less and no more.
///
/// # Errors
/// When it is anything else. The connection cannot be made sense of then.
pub fn parse(header: &[u8]) -> Result<Sender, Malformed> {
    let length = rest(header)?;
    let (fixed, body) = header.split_at(FIXED_BYTES);
    if body.len() != length {
        return Err(Malformed::Cut);
    }
    match (fixed[12], fixed[13]) {
        // LOCAL: family and addresses have no meaning.
        (0x20, _) => Ok(Sender::Peer),
        // PROXY, of an unknown family.
        (0x21, 0x00) => Ok(Sender::Peer),
        // PROXY, TCP over IPv4: both addresses, then both ports.
        (0x21, 0x11) => {
            let (addresses, extensions) = body.split_first_chunk::<12>().ok_or(Malformed::Cut)?;
            skip(extensions)?;
            let [a, b, c, d, .., p, q, _, _] = *addresses;
            let source = Ipv4Addr::new(a, b, c, d);
            Ok(client((source, u16::from_be_bytes([p, q]))))
        }
        // PROXY, TCP over IPv6.
        (0x21, 0x21) => {
            let (addresses, extensions) = body.split_first_chunk::<36>().ok_or(Malformed::Cut)?;
            skip(extensions)?;
            let (source, _) = addresses.split_first_chunk::<16>().ok_or(Malformed::Cut)?;
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            Ok(client((Ipv6Addr::from(*source), port)))
        }
        _ => Err(Malformed::Unknown),
    }
}

fn client(address: impl Into<SocketAddr>) -> Sender {
    Sender::Client(address.into())
}

/// Extensions are skipped, but must fill the header's rest exactly.
fn skip(mut extensions: &[u8]) -> Result<(), Malformed> {
    while !extensions.is_empty() {
        let ([_, high, low], rest) = extensions
            .split_first_chunk::<3>()
            .ok_or(Malformed::Extension)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        extensions = rest.get(length..).ok_or(Malformed::Extension)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("it fits");
        let fixed = [command, family];
        [SIGNATURE, &fixed[..], &length.to_be_bytes(), body].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 1, 187];

    fn v6() -> Vec<u8> {
        let address = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        [&address(7)[..], &address(1), &[0x12, 0x34, 1, 187]].concat()
    }

    fn with(address: &[u8], extensions: &[u8]) -> Vec<u8> {
        [address, extensions].concat()
    }

    #[test]
    fn the_source_is_the_client_and_extensions_are_skipped() {
        let client = |text: &str| Sender::Client(text.parse().expect("an address"));
        let long = [&[4, 0x01, 0x00][..], &[0; 256]].concat();
        for (read, expected) in [
            (header(0x21, 0x11, &V4), client("192.0.2.7:4660")),
            (header(0x21, 0x21, &v6()), client("[2001:db8::7]:4660")),
            (
                header(0x21, 0x11, &with(&V4, &[4, 0, 0])),
                client("192.0.2.7:4660"),
            ),
            (
                header(0x21, 0x11, &with(&V4, &[1, 0, 2, b'h', b'2', 5, 0, 1, 9])),
                client("192.0.2.7:4660"),
            ),
            (
                header(0x21, 0x21, &with(&v6(), &long)),
                client("[2001:db8::7]:4660"),
            ),
            (header(0x20, 0x00, &[]), Sender::Peer),
            (header(0x20, 0x11, &V4), Sender::Peer),
            (header(0x20, 0xff, b"anything"), Sender::Peer),
            (header(0x21, 0x00, &[]), Sender::Peer),
            (header(0x21, 0x00, b"anything"), Sender::Peer),
        ] {
            assert_eq!(parse(&read), Ok(expected), "{}", read.escape_ascii());
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let cut = |length: usize| header(0x21, 0x11, &V4)[..length].to_vec();
        for (read, expected) in [
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n".to_vec(),
                Malformed::NoHeader,
            ),
            (
                b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
                Malformed::NoHeader,
            ),
            (b"".to_vec(), Malformed::Cut),
            (cut(15), Malformed::Cut),
            (cut(16), Malformed::Cut),
            (cut(27), Malformed::Cut),
            (with(&header(0x21, 0x11, &V4), b"G"), Malformed::Cut),
            (header(0x21, 0x11, &V4[..11]), Malformed::Cut),
            (header(0x21, 0x21, &V4), Malformed::Cut),
            // Version 1 and 3; command 2; UDP, Unix, unknown families.
            (header(0x11, 0x11, &V4), Malformed::Unknown),
            (header(0x31, 0x11, &V4), Malformed::Unknown),
            (header(0x22, 0x11, &V4), Malformed::Unknown),
            (header(0x21, 0x12, &V4), Malformed::Unknown),
            (header(0x21, 0x10, &V4), Malformed::Unknown),
            (header(0x21, 0x31, &[0; 216]), Malformed::Unknown),
            (header(0x21, 0x41, &V4), Malformed::Unknown),
            (header(0x21, 0x11, &with(&V4, &[4])), Malformed::Extension),
            (
                header(0x21, 0x11, &with(&V4, &[4, 0])),
                Malformed::Extension,
            ),
            (
                header(0x21, 0x11, &with(&V4, &[4, 0, 1])),
                Malformed::Extension,
            ),
            (
                header(0x21, 0x11, &with(&V4, &[4, 0, 1, 9, 9])),
                Malformed::Extension,
            ),
        ] {
            assert_eq!(parse(&read), Err(expected), "{}", read.escape_ascii());
        }
    }

    #[test]
    fn a_header_has_so_many_bytes_and_no_more() {
        let most = header(0x20, 0x00, &vec![0; MAX_BYTES - FIXED_BYTES]);
        assert_eq!(parse(&most), Ok(Sender::Peer));
        let more = header(0x20, 0x00, &vec![0; MAX_BYTES - FIXED_BYTES + 1]);
        assert_eq!(rest(&more[..FIXED_BYTES]), Err(Malformed::TooLong));
        assert_eq!(parse(&more), Err(Malformed::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(command: u8, family: u8, body: Vec<u8>, cut in 0usize..64) {
            let read = header(command, family, &body);
            let _ = parse(&read);
            let _ = parse(&read[..cut.min(read.len())]);
            let _ = parse(&body);
        }
    }
}
