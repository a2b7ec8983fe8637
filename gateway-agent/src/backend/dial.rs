//! Making a connection to an endpoint, in plain text or with TLS.

use std::{io, net::SocketAddr, rc::Rc};

use fleet_config::{Endpoint, Scheme};
use tokio::net::TcpStream;

use crate::{
    backend::tls::{Tls, TlsError},
    stream::Stream,
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
        (Scheme::Http, _) => Ok(Stream::Plain(stream)),
        (Scheme::Https, Some(tls)) => {
            let stream = tls.handshake(endpoint, stream, http2).await?;
            Ok(Stream::Tls(Box::new(stream.into())))
        }
        (Scheme::Https, None) => {
            let why = "its TLS settings are not there yet".to_owned();
            Err(TlsError::Files(why).into())
        }
    }
}
