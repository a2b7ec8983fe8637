use super::*;
use proptest::prelude::*;

/// What hyper would get of these bytes, if they come in pieces of these sizes and
/// every request is answered at once.
fn passed(bytes: &[u8], pieces: &[usize]) -> (Vec<u8>, Option<Next>) {
    let limits = HostLimits::default();
    let mut framing = Framing::new();
    let (mut waiting, mut out) = (Vec::new(), Vec::new());
    let mut rest = bytes;
    let mut sizes = pieces.iter().cycle();
    while !rest.is_empty() {
        let size = sizes
            .next()
            .map_or(rest.len(), |size| *size)
            .clamp(1, rest.len());
        let (piece, later) = rest.split_at(size);
        rest = later;
        waiting.extend(piece);
        while !waiting.is_empty() {
            match framing.next(&waiting, u64::MAX, &limits) {
                Next::Pass(count) => out.extend(waiting.drain(..count)),
                Next::Replace(count, instead) => {
                    waiting.drain(..count);
                    out.extend(instead);
                }
                Next::Wait => break,
                end => return (out, Some(end)),
            }
        }
    }
    (out, None)
}

const PIPELINE: &str = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n\
    POST /b HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello\
    POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
    5;x=y\r\nhello\r\n00a \r\n0123456789\r\n0\r\nt: 1\r\n\r\n\
    \r\nGET /d HTTP/1.0\r\n\r\n";

#[test]
fn what_is_clear_passes_as_it_is() {
    assert_eq!(passed(PIPELINE.as_bytes(), &[]), (PIPELINE.into(), None));
}

#[test]
fn what_hyper_would_not_take_is_put_in_a_form_that_it_does() {
    for (given, expected) in [
        (
            "GET  HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip ,\tdeflate\r\nhost: a\r\n\
             transfer-encoding:identity, CHUNKED;x\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\n\
             transfer-encoding: gzip, deflate, chunked\r\n\r\n0\r\n\r\n",
        ),
    ] {
        let (out, end) = passed(given.as_bytes(), &[]);
        assert_eq!((&*String::from_utf8_lossy(&out), end), (expected, None));
    }
}

#[test]
fn nothing_of_a_refused_header_passes() {
    for header in [
        "GET / HTTP/1.1\nhost: a\n\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: 1\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n x: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx : 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\ncontent_length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\ntransfer_encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 18446744073709551616\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 0x5\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length:\r\n\r\n",
        "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
        "\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        for pieces in [&[][..], &[1], &[3, 2]] {
            let (out, end) = passed(header.as_bytes(), pieces);
            assert_eq!(String::from_utf8_lossy(&out), "", "{header:?}");
            assert!(matches!(end, Some(Next::Refuse(_))), "{header:?}: {end:?}");
        }
    }
}

#[test]
fn a_body_that_is_none_ends_the_connection() {
    let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
    for body in [
        "\n",
        "g\r\n",
        "1\r\nxx",
        "1\nx",
        "1\r\nx\n",
        "0\r\nx\n",
        "1;x\n",
        "11111111111111111",
    ] {
        let bytes = [head, body].concat();
        let (_, end) = passed(bytes.as_bytes(), &[]);
        assert_eq!(end, Some(Next::End), "{body:?}");
    }
}

proptest! {
    /// Where a read ends changes nothing.
    #[test]
    fn pieces_are_read_as_the_whole(pieces in prop::collection::vec(1..40_usize, 1..9)) {
        prop_assert_eq!(passed(PIPELINE.as_bytes(), &pieces), (PIPELINE.into(), None));
    }

    /// Whatever comes, the same passes however it comes, and nothing panics.
    #[test]
    fn anything_is_read_the_same_in_pieces(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "GET / HTTP/1.1\r\n", "POST", " ", "/", "HTTP/1.0", "\r", "\n", "\r\n", "\r\n\r\n",
                "content-length: 3\r\n", "transfer-encoding: chunked\r\n", "upgrade: x\r\n",
                "5\r\nhello\r\n", "0\r\n\r\n", ":", "x: y\r\n", ";", "a", "\0",
            ]),
            0..24,
        ),
        pieces in prop::collection::vec(1..9_usize, 1..9),
    ) {
        let bytes = parts.concat();
        let whole = passed(bytes.as_bytes(), &[]);
        let in_pieces = passed(bytes.as_bytes(), &pieces);
        prop_assert_eq!(whole.0, in_pieces.0);
    }
}
