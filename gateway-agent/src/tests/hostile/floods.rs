//! HTTP/2 floods and bombs. Each ends its connection within [`raw_h2::PATIENCE`],
//! and other connections are served meanwhile.

use tokio::time::Instant;

use super::{
    super::{
        GET,
        rig::{Rig, Wire, within},
    },
    raw_h2::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PATIENCE, PING, PRIORITY,
        RST_STREAM, RawH2, SETTINGS, WINDOW_UPDATE, frame, literals, remembered,
    },
    recorder::Recorder,
};

/// Frames in one write of an attack.
const AT_ONCE: usize = 100;

/// SETTINGS_INITIAL_WINDOW_SIZE.
const NO_WINDOW: (u16, u32) = (4, 0);

/// Runs an attack to its end, while another client is served on a connection of
/// its own.
async fn survives(settings: &[(u16, u32)], attack: impl FnMut(&mut RawH2) -> Vec<u8>) {
    let backend = Recorder::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let attacker = RawH2::connect(rig.address, settings).await;
    let mut client = rig.client().await;
    let mut served = 0;
    let (_, sent) = tokio::select! {
        attacked = attacker.flood(attack) => attacked,
        () = keep_asking(&mut client, &mut served) => unreachable!("it asks for ever"),
    };
    assert!(sent > 0);
    client.write(GET).await;
    assert!(client.head().await.starts_with("http/1.1 200"));
    client.until("ok").await;
}

async fn keep_asking(client: &mut Wire, served: &mut u32) {
    loop {
        client.write(GET).await;
        let head = client.head().await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        client.until("ok").await;
        *served += 1;
    }
}

fn many(one: impl FnMut(usize) -> Vec<u8>) -> Vec<u8> {
    (0..AT_ONCE).flat_map(one).collect()
}

fn get(stream: u32) -> Vec<u8> {
    let block = raw_h2::request("GET", "/");
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

fn post(stream: u32) -> Vec<u8> {
    let block = raw_h2::request("POST", "/");
    frame(HEADERS, END_HEADERS, stream, &block)
}

#[tokio::test]
async fn rapid_reset_cve_2023_44487() {
    survives(&[], |client| {
        many(|_| {
            let stream = client.stream();
            let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            [get(stream), reset].concat()
        })
    })
    .await;
}

/// Resets that come in reads of their own, when the request has begun.
#[tokio::test]
async fn rapid_reset_one_by_one() {
    survives(&[], |client| {
        let stream = client.stream();
        let before = stream.checked_sub(2);
        let reset = before.map(|stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        [reset.unwrap_or_default(), get(stream)].concat()
    })
    .await;
}

#[tokio::test]
async fn made_you_reset_cve_2025_8671_with_a_window_update_of_zero() {
    survives(&[], |client| {
        many(|_| {
            let stream = client.stream();
            let update = frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
            [post(stream), update].concat()
        })
    })
    .await;
}

#[tokio::test]
async fn made_you_reset_cve_2025_8671_with_a_window_that_overflows() {
    survives(&[], |client| {
        many(|_| {
            let stream = client.stream();
            let most = 0x7fff_ffff_u32.to_be_bytes();
            let update = frame(WINDOW_UPDATE, 0, stream, &most);
            [post(stream), update].concat()
        })
    })
    .await;
}

#[tokio::test]
async fn made_you_reset_cve_2025_8671_with_data_behind_the_end() {
    survives(&[], |client| {
        many(|_| {
            let stream = client.stream();
            let data = frame(DATA, END_STREAM, stream, b"more");
            [get(stream), data].concat()
        })
    })
    .await;
}

#[tokio::test]
async fn made_you_reset_cve_2025_8671_with_a_priority_of_the_wrong_length() {
    survives(&[], |client| {
        many(|_| {
            let stream = client.stream();
            let priority = frame(PRIORITY, 0, stream, &[0; 4]);
            [get(stream), priority].concat()
        })
    })
    .await;
}

#[tokio::test]
async fn streams_beyond_the_limit_again_and_again() {
    let backend = super::super::rig::Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let attacker = RawH2::connect(rig.address, &[]).await;
    // Nobody answers, so that all but the first hundred are refused.
    attacker
        .flood(|client| many(|_| get(client.stream())))
        .await;
}

#[tokio::test]
async fn a_continuation_flood_rustsec_2024_0332() {
    let mut begun = false;
    survives(&[], |client| {
        let field = literals(&[("x", "y")]);
        let more = many(|_| frame(CONTINUATION, 0, 1, &field));
        match std::mem::replace(&mut begun, true) {
            true => more,
            false => {
                let block = raw_h2::request("GET", "/");
                [frame(HEADERS, 0, client.stream(), &block), more].concat()
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_empty_data_flood_rustsec_2026_0258() {
    let mut begun = false;
    survives(&[], |client| {
        let more = many(|_| frame(DATA, 0, 1, &[]));
        match std::mem::replace(&mut begun, true) {
            true => more,
            false => [post(client.stream()), more].concat(),
        }
    })
    .await;
}

/// Padding is all that its frames have.
#[tokio::test]
async fn a_flood_of_padded_empty_data() {
    const PADDED: u8 = 8;
    let mut begun = false;
    survives(&[], |client| {
        let more = many(|_| frame(DATA, PADDED, 1, &[0]));
        match std::mem::replace(&mut begun, true) {
            true => more,
            false => [post(client.stream()), more].concat(),
        }
    })
    .await;
}

#[tokio::test]
async fn a_ping_flood() {
    survives(&[], |_| many(|_| frame(PING, 0, 0, &[7; 8]))).await;
}

#[tokio::test]
async fn a_settings_flood() {
    survives(&[], |_| many(|_| frame(SETTINGS, 0, 0, &[]))).await;
}

#[tokio::test]
async fn a_priority_flood() {
    survives(&[], |_| {
        many(|n| frame(PRIORITY, 0, 2 * n as u32 + 3, &[0, 0, 0, 0, 16]))
    })
    .await;
}

#[tokio::test]
async fn a_window_update_flood() {
    survives(&[], |_| {
        many(|_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()))
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_frames_that_nobody_knows() {
    survives(&[], |_| many(|_| frame(0xfa, 0, 0, b"?"))).await;
}

/// One byte each recalls a field of 4 KiB.
#[tokio::test]
async fn an_hpack_reference_bomb_cve_2026_47774() {
    survives(&[NO_WINDOW], |client| {
        let mut block = raw_h2::request("GET", "/");
        block.extend(remembered("x", &"y".repeat(4000)));
        block.extend([0xbe; 10_000]);
        frame(HEADERS, END_HEADERS | END_STREAM, client.stream(), &block)
    })
    .await;
}

#[tokio::test]
async fn a_cookie_crumb_bomb_with_no_window_cve_2026_47774() {
    survives(&[NO_WINDOW], |client| {
        let mut block = raw_h2::request("GET", "/");
        block.extend(remembered("cookie", ""));
        block.extend([0xbe; 16_000]);
        frame(HEADERS, END_HEADERS | END_STREAM, client.stream(), &block)
    })
    .await;
}

#[tokio::test]
async fn data_after_a_reset_in_one_read_cve_2026_26311() {
    let backend = Recorder::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = RawH2::connect(rig.address, &[]).await;
    let stream = client.stream();
    let one_read = [
        post(stream),
        frame(DATA, 0, stream, b"hello"),
        frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
        frame(DATA, END_STREAM, stream, b"more"),
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            &literals(&[("x", "y")]),
        ),
    ]
    .concat();
    client.send(&one_read).await;
    // Whatever becomes of its connection, the agent lives, and others with it.
    let mut other = rig.client().await;
    other.write(GET).await;
    assert!(other.head().await.starts_with("http/1.1 200"));
    for record in backend.take() {
        assert!(!record.text().contains("more"), "{}", record.text());
    }
}

#[tokio::test]
async fn a_hundred_requests_without_a_window_hold_what_they_may_and_no_more() {
    let backend = Recorder::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = RawH2::connect(rig.address, &[NO_WINDOW]).await;
    let field = "y".repeat(3800);
    for n in 0..100 {
        let mut block = raw_h2::request("GET", "/");
        match n {
            0 => block.extend(remembered("x", &field)),
            _ => block.push(0xbe),
        }
        block.extend([0xbe; 3]);
        client.get(&block).await;
    }
    let started = Instant::now();
    let answered = async {
        let mut all = 0;
        while all < 100 {
            all += backend.requests();
            tokio::task::yield_now().await;
        }
    };
    within(answered).await;
    assert!(started.elapsed() < PATIENCE, "they are served like any");
    let mut other = rig.client().await;
    other.write(GET).await;
    assert!(other.head().await.starts_with("http/1.1 200"));
}
