//! Switching protocols (RFC 9110 §7.8): only to what the service allows, and only
//! once the backend has said 101. Until then the client's bytes wait, unread by
//! anyone: a proxy that joins the two sides earlier lets a request through that
//! it never saw (CVE-2026-2833). An attempt with a body is refused, because its
//! end is where the two sides disagree (CVE-2026-58055), and after an attempt that
//! failed nothing more is read from its connection.
//!
//! WebSocket over HTTP/2 (RFC 8441) is translated to the same at the way in.

use std::rc::Rc;

use breaker_core::OutcomeClass;
use fleet_config::Timeouts;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
    request::Parts,
};
use hyper::{body::Incoming, ext::Protocol, upgrade::OnUpgrade};
use tokio::time::{Duration, Instant};

use crate::{
    admit::permit::Permit,
    backend::{
        exchange::Exchange,
        failure::Failure,
        forward::{Attempt, Call, Failed, deliver},
        lent::Connection,
        patience::{header_limit, header_within},
        pool::{Pool, Switched},
        upload::{Progress, Upload},
    },
    dice::random,
    request::{answer::Fault, body::Body, headers, intake::Unfit, rejection::Rejection},
    serve::tunnel::Tunnel,
    sight::telling::Telling,
};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const SWITCH: HeaderValue = HeaderValue::from_static("upgrade");
const KEY: HeaderName = header::SEC_WEBSOCKET_KEY;

/// Makes an HTTP/2 client's WebSocket the `GET` that it would be over HTTP/1.1; the
/// fields of that are only for the backend. Other uses of `CONNECT` stay what they
/// are, and are refused.
pub(crate) fn translate(parts: &mut Parts) {
    if parts.method == Method::CONNECT && is_websocket_stream(parts) {
        parts.method = Method::GET;
    }
}

/// It is an extended CONNECT of HTTP/2 for WebSocket.
fn is_websocket_stream(parts: &Parts) -> bool {
    let websocket = |protocol: &Protocol| protocol.as_str().eq_ignore_ascii_case("websocket");
    parts.version == Version::HTTP_2 && parts.extensions.get().is_some_and(websocket)
}

/// 16 bytes in base64.
fn key(high: u64, low: u64) -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let number = u128::from(high) << 64 | u128::from(low);
    // 21 digits of six bits, one of the last two, and padding.
    let digit = |at: u32| match at {
        0..=20 => DIGITS[(number >> (122 - 6 * at)) as usize & 63],
        21 => DIGITS[(number << 4) as usize & 63],
        _ => b'=',
    };
    let text: Vec<u8> = (0..24).map(digit).collect();
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or(SWITCH)
}

/// What a request says about switching protocols.
#[derive(Debug)]
pub(crate) enum Offer {
    /// Nothing, or nothing that the service allows: what it says stays here.
    None,
    /// The same, on a request with a body.
    WithBody,
    /// It may switch.
    Accepted(Box<Upgrade>),
}

impl Offer {
    /// The offer of a request to a service that allows these protocols.
    pub(crate) fn of(parts: &Parts, empty: bool, allowed: &[String]) -> Result<Self, Fault> {
        // hyper puts it there, for an HTTP/1.1 request with `Upgrade` and for
        // `CONNECT`, so other requests pay one look at an empty map.
        let Some(client) = parts.extensions.get::<OnUpgrade>() else {
            return Ok(Self::None);
        };
        let extended = is_websocket_stream(parts);
        let mut wanted = match extended {
            true => vec!["websocket".to_owned()],
            false => tokens(&parts.headers, header::UPGRADE).collect(),
        };
        let means_it =
            || tokens(&parts.headers, header::CONNECTION).any(|token| token == "upgrade");
        if !extended && !means_it() {
            return Ok(Self::None);
        }
        wanted.retain(|token| allowed.contains(token));
        match (wanted.is_empty(), empty) {
            (true, _) if extended => Err(Fault::Unfit(Unfit::Connect)),
            (true, true) => Ok(Self::None),
            (true, false) => Ok(Self::WithBody),
            (false, false) => {
                let why = "a request that switches protocols must not have a body";
                Err(Fault::Unfit(Unfit::Ambiguous(why)))
            }
            (false, true) => Ok(Self::Accepted(Box::new(Upgrade {
                wanted,
                client: client.clone(),
                extended,
            }))),
        }
    }

    /// Nothing that follows the request on its connection is to be read as a
    /// request: it may be of the protocol that was hoped for, or of the body.
    pub(crate) fn is_last_on_its_connection(&self) -> bool {
        !matches!(self, Self::None)
    }

    pub(crate) fn accepted(self) -> Option<Box<Upgrade>> {
        match self {
            Self::Accepted(upgrade) => Some(upgrade),
            Self::None | Self::WithBody => None,
        }
    }
}

/// The tokens of a list field, in lower case.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = String> {
    let values = headers.get_all(name).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let tokens = texts.flat_map(|text| text.split(','));
    tokens.map(|token| token.trim().to_ascii_lowercase())
}

/// The answer, after which the connection is closed if it goes on in HTTP.
pub(crate) fn close_after(
    answered: Result<Response<Body>, Rejection>,
    grpc: bool,
    telling: &mut Telling,
) -> Response<Body> {
    let mut response = answered.unwrap_or_else(|rejection| {
        telling.ours();
        rejection.answer(grpc)
    });
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// A request that may switch protocols.
#[derive(Debug)]
pub(crate) struct Upgrade {
    /// To one of these, in lower case; at least one.
    wanted: Vec<String>,
    client: OnUpgrade,
    /// It came as an extended CONNECT of HTTP/2.
    extended: bool,
}

impl Upgrade {
    /// Sends it, on a connection of its own: what is on one that tried to switch is
    /// known to nobody.
    pub(crate) async fn forward(
        self: Box<Self>,
        mut permit: Permit,
        pool: &Rc<Pool>,
        timeouts: &Timeouts,
        request: Request<Upload>,
        call: Call<'_>,
    ) -> Attempt {
        let load = pool.enter();
        // It never ends, so the connection is not given back.
        let progress = Rc::new(Progress::new(false));
        let request = self.outgoing(request.map(|_| Upload::none(progress.clone())));
        let started = Instant::now();
        let answered = self.attempt(pool, timeouts, request, &progress).await;
        let waited = started.elapsed();
        let Answered {
            response,
            connecting,
            then,
        } = match answered {
            Ok(answered) => answered,
            Err(why) => {
                tracing::debug!(endpoint = %pool.endpoint(), ?why, "no response");
                return Failed { why, again: None }.conclude(permit, &load, waited, call);
            }
        };
        permit.answered(waited);
        if response.status().as_u16() < 400 {
            load.observe(waited.saturating_sub(connecting));
        }
        let (switched, protocol) = match then {
            Then::Http(connection) => {
                let exchange = Exchange::new(permit, connection, progress, load);
                let left = timeouts.total.saturating_sub(waited);
                return deliver((response, None), exchange, (waited, left), call);
            }
            Then::Switched(switched, protocol) => (switched, protocol),
        };
        load.judge(OutcomeClass::Success);
        let Switched {
            backend,
            early,
            open,
        } = switched;
        let extended = self.extended;
        let tunnel = Tunnel {
            backend: Box::new(backend),
            early,
            websocket: protocol == WEBSOCKET,
            client: self.client,
            held: (permit.switched(), load, open),
        };
        let body = Body::Tunnel(Box::new(tunnel));
        Attempt {
            answer: Ok(switching(response.map(|_| body), protocol, extended)),
            waited,
            again: None,
        }
    }

    fn outgoing(&self, mut request: Request<Upload>) -> Request<Upload> {
        let wanted = HeaderValue::try_from(self.wanted.join(", "));
        let headers = request.headers_mut();
        // Tokens joined by commas are a value.
        headers.insert(header::UPGRADE, wanted.unwrap_or(WEBSOCKET));
        headers.insert(header::CONNECTION, SWITCH);
        if self.extended {
            // HTTP/2 has none; a server of HTTP/1.1 must see one.
            headers.insert(KEY, key(random(), random()));
        }
        request
    }

    async fn attempt(
        &self,
        pool: &Rc<Pool>,
        timeouts: &Timeouts,
        request: Request<Upload>,
        progress: &Progress,
    ) -> Result<Answered, Failure> {
        let started = Instant::now();
        let limit = header_limit(timeouts, Duration::ZERO).time;
        let connected = pool.connect_to_switch(timeouts.connect.min(limit)).await;
        let (mut connection, switched) = connected.map_err(Failure::Connect)?;
        let connecting = started.elapsed();
        let limit = header_limit(timeouts, connecting);
        let sent = std::pin::pin!(connection.send(request));
        let answered = header_within(limit.time, sent, progress).await;
        let response = answered.ok_or(Failure::Timeout {
            per_try: limit.per_try,
        })?;
        let response = response.map_err(|error| Failure::Reset(error.into_error()))?;
        let then = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                let protocol = self.chosen(response.headers()).ok_or(Failure::Upgraded)?;
                let switched = switched.await.map_err(|_| Failure::Upgraded)?;
                Then::Switched(switched, protocol)
            }
            _ => Then::Http(connection),
        };
        Ok(Answered {
            response,
            connecting,
            then,
        })
    }

    /// The one protocol of ours that the backend switched to.
    fn chosen(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut named = tokens(headers, header::UPGRADE);
        let protocol = named.next().filter(|token| self.wanted.contains(token))?;
        named.next().is_none().then_some(())?;
        HeaderValue::try_from(protocol).ok()
    }
}

/// A response's header, and what follows it.
struct Answered {
    response: Response<Incoming>,
    /// How long making the connection took.
    connecting: Duration,
    then: Then,
}

/// What follows a response's header.
enum Then {
    /// Its body.
    Http(Connection),
    /// Another protocol.
    Switched(Switched, HeaderValue),
}

/// The answer that joins the client to the backend.
fn switching(
    mut response: Response<Body>,
    protocol: HeaderValue,
    extended: bool,
) -> Response<Body> {
    let fields = response.headers_mut();
    headers::strip_hop_by_hop(fields);
    // It has no body, whatever it says (RFC 9110 §8.6).
    fields.remove(header::CONTENT_LENGTH);
    if extended {
        fields.remove(header::SEC_WEBSOCKET_ACCEPT);
        *response.status_mut() = StatusCode::OK;
    } else {
        fields.insert(header::UPGRADE, protocol);
        fields.insert(header::CONNECTION, SWITCH);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        // RFC 6455 §1.3, and the ends of the alphabet.
        let nonce = u128::from_be_bytes(*b"the sample nonce");
        for (bytes, expected) in [
            (nonce, "dGhlIHNhbXBsZSBub25jZQ=="),
            (0, "AAAAAAAAAAAAAAAAAAAAAA=="),
            (u128::MAX, "/////////////////////w=="),
        ] {
            assert_eq!(key((bytes >> 64) as u64, bytes as u64), expected);
        }
    }

    #[test]
    fn tokens_are_read_from_every_field_and_in_any_case() {
        let mut headers = HeaderMap::new();
        headers.append("upgrade", HeaderValue::from_static("h2c, WebSocket"));
        headers.append("upgrade", HeaderValue::from_static("x"));
        let found: Vec<_> = tokens(&headers, header::UPGRADE).collect();
        assert_eq!(found, ["h2c", "websocket", "x"]);
    }
}
