//! A connection to an endpoint, bare or with TLS.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use fleet_config::{Endpoint, Scheme};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::{
    backend::tls::{Tls, TlsError},
    short,
};

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum DialError {
    /// The name does not resolve, or nobody listens.
    #[error("{0}")]
    Refused(Rc<io::Error>),
    /// Somebody listens, but not whom we trust.
    #[error("{0}")]
    Tls(#[from] TlsError),
}

/// Connects, to this address of the endpoint if it is known. `tls` is for https.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    address: Option<SocketAddr>,
    tls: Option<&Tls>,
    http2: bool,
) -> Result<Stream, DialError> {
    let connected = match address {
        Some(address) => TcpStream::connect(address).await,
        None => TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await,
    };
    let refused = |error| DialError::Refused(Rc::new(error));
    let stream = connected.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    match (endpoint.scheme, tls) {
        (Scheme::Http, _) => Ok(Stream::Bare(stream)),
        (Scheme::Https, Some(tls)) => {
            let stream = tls.handshake(endpoint, stream, http2).await?;
            Ok(Stream::Tls(Box::new(stream)))
        }
        (Scheme::Https, None) => {
            let why = "its TLS settings are not there yet".to_owned();
            Err(TlsError::Files(why).into())
        }
    }
}

/// Bytes to and from an endpoint.
#[derive(Debug)]
pub(crate) enum Stream {
    /// As they are.
    Bare(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Bare(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Bare(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Bare(stream) => short::write(
                (Pin::new(stream), cx),
                slices,
                |(stream, cx), whole| stream.poll_write(cx, whole),
                |(stream, cx), slices| stream.poll_write_vectored(cx, slices),
            ),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Bare(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Bare(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Bare(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
