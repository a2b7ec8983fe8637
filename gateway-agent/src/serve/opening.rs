//! From an accepted connection to one that speaks HTTP: what a load balancer says
//! about it, the TLS handshake, and which HTTP it is.

use std::{io, net::IpAddr, sync::Arc};

use bytes::BytesMut;
use http::HeaderValue;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    config::host::Host,
    request::proxy::Client,
    serve::{
        places::{Places, Seat},
        proxy_protocol::{self, Sender},
        tls::{self, ServerTls},
    },
    stream::Stream,
};

/// What an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection as it was accepted.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) stream: TcpStream,
    /// The other end of it; IPv4 addresses mapped into IPv6 are IPv4 ones.
    pub(crate) peer: IpAddr,
    /// Its listener's place in the list of listeners.
    pub(crate) listener: usize,
    /// The host that was in force.
    pub(crate) host: Arc<Host>,
    pub(crate) places: Places,
    /// `None`: who it is for is not known before its first bytes.
    pub(crate) seat: Option<Seat>,
}

/// A connection of which the first bytes of HTTP are there.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stream: Stream,
    pub(crate) first: BytesMut,
    pub(crate) http2: bool,
    pub(crate) client: Client,
    /// One of its client's connections.
    pub(crate) seat: Seat,
}

/// Opens a connection. It takes as long as the client does; the caller has the
/// clock.
///
/// # Errors
/// When the client says something wrong, or leaves: it is told by closing.
pub(crate) async fn open(arrived: Arrived) -> io::Result<Opened> {
    let Arrived {
        mut stream,
        mut peer,
        listener,
        host,
        places,
        seat,
    } = arrived;
    let listener = host.listener(listener);
    // What most connections do not need is boxed, so that they need not carry it.
    if listener.proxy_protocol
        && let Sender::Client(address) = Box::pin(proxied(&mut stream)).await?
    {
        peer = address.ip().to_canonical();
    }
    let most = host.limits.max_connections_per_address;
    let seat = seat.or_else(|| places.seat(peer, most));
    let too_many = || io::Error::other("too many connections of its client");
    let seat = seat.ok_or_else(too_many)?;
    let scheme = if listener.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let mut stream = match listener.tls {
        None => Stream::Plain(stream),
        Some(tls) => Box::pin(handshake(tls, stream)).await?,
    };
    let first = first_bytes(&mut stream).await?;
    let http2 = match stream.protocol() {
        Some(agreed) => agreed == tls::H2,
        None => first.starts_with(PREFACE),
    };
    Ok(Opened {
        stream,
        first,
        http2,
        client: client(peer, scheme, host)?,
        seat,
    })
}

fn client(peer: IpAddr, scheme: &'static str, host: Arc<Host>) -> io::Result<Client> {
    let address = HeaderValue::try_from(peer.to_string()).map_err(io::Error::other)?;
    Ok(Client {
        address,
        scheme: HeaderValue::from_static(scheme),
        trusted: host.trusts(peer),
        host,
    })
}

/// What the load balancer says. Nothing is read past it.
async fn proxied(stream: &mut TcpStream) -> io::Result<Sender> {
    let mut header = [0; proxy_protocol::MAX_BYTES];
    let (fixed, rest) = header.split_at_mut(proxy_protocol::FIXED_BYTES);
    stream.read_exact(fixed).await?;
    let length = proxy_protocol::rest(fixed)?;
    stream.read_exact(&mut rest[..length]).await?;
    let header = &header[..proxy_protocol::FIXED_BYTES + length];
    Ok(proxy_protocol::parse(header)?)
}

async fn handshake(tls: ServerTls, stream: TcpStream) -> io::Result<Stream> {
    let stream = TlsAcceptor::from(tls).accept(stream).await?;
    Ok(Stream::Tls(Box::new(stream.into())))
}

/// Enough to know the protocol.
async fn first_bytes(stream: &mut Stream) -> io::Result<BytesMut> {
    let mut seen = BytesMut::with_capacity(4096);
    loop {
        let ended = stream.read_buf(&mut seen).await? == 0;
        let compared = seen.len().min(PREFACE.len());
        if ended || compared == PREFACE.len() || seen[..compared] != PREFACE[..compared] {
            return Ok(seen);
        }
    }
}
