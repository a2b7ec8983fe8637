//! TLS to endpoints: whom we believe, and who we are. Files are read when a
//! configuration comes and again when they change, never on a request's way; a
//! file that cannot be read leaves in force what was read before.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use fleet_config::{Endpoint, KeyPair, UpstreamTls};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How to speak TLS to one backend's endpoints.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) settings: UpstreamTls,
    /// Or why there is no way.
    loaded: Result<Loaded, String>,
    /// When each file was last changed.
    stamps: Vec<Option<SystemTime>>,
}

/// One for each protocol that ALPN offers: what an endpoint chooses must be what
/// the request is for.
#[derive(Debug)]
struct Loaded {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

/// Why there is no TLS connection.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum TlsError {
    /// Our own files.
    #[error("{0}")]
    Files(String),
    /// The endpoint's certificate is not good, or it does not like ours, or it
    /// speaks no TLS.
    #[error("TLS: {0}")]
    Handshake(String),
    /// It speaks TLS, but not the protocol that is wanted.
    #[error("TLS: the endpoint does not offer HTTP/2 (ALPN h2)")]
    Alpn,
}

impl Tls {
    /// Reads the files.
    pub(crate) fn load(settings: &UpstreamTls) -> Self {
        Self {
            stamps: stamps(settings),
            loaded: load(settings),
            settings: settings.clone(),
        }
    }

    /// Reads the files again if they changed; `None`: they did not, or what they are
    /// now is of no use.
    pub(crate) fn reload(&self) -> Option<Self> {
        if stamps(&self.settings) == self.stamps {
            return None;
        }
        let next = Self::load(&self.settings);
        match (&next.loaded, &self.loaded) {
            (Err(why), Ok(_)) => {
                tracing::warn!("TLS files changed, but what was read before stays: {why}");
                None
            }
            _ => Some(next),
        }
    }

    /// Why no connection can be made, if that is known.
    pub(crate) fn error(&self) -> Option<&str> {
        self.loaded.as_ref().err().map(String::as_str)
    }

    /// Speaks TLS on a new connection. No connection without a good certificate.
    pub(crate) async fn handshake(
        &self,
        endpoint: &Endpoint,
        stream: TcpStream,
        http2: bool,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let loaded = self.loaded.as_ref();
        let loaded = loaded.map_err(|why| TlsError::Files(why.clone()))?;
        let config = match http2 {
            true => &loaded.http2,
            false => &loaded.http1,
        };
        let name = self.settings.server_name.as_deref();
        let name = ServerName::try_from(name.unwrap_or(&endpoint.host).to_owned());
        let name = name.map_err(|error| TlsError::Handshake(error.to_string()))?;
        let connector = TlsConnector::from(config.clone());
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|error| TlsError::Handshake(error.to_string()))?;
        let chosen = stream.get_ref().1.alpn_protocol();
        match http2 && chosen != Some(b"h2") {
            true => Err(TlsError::Alpn),
            false => Ok(stream),
        }
    }
}

fn files(settings: &UpstreamTls) -> impl Iterator<Item = &PathBuf> {
    let pair = settings.client.iter();
    let pair = pair.flat_map(|pair| [&pair.cert_file, &pair.key_file]);
    settings.ca_file.iter().chain(pair)
}

fn stamps(settings: &UpstreamTls) -> Vec<Option<SystemTime>> {
    let stamp = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
    files(settings).map(stamp).collect()
}

fn load(settings: &UpstreamTls) -> Result<Loaded, String> {
    let roots = match &settings.ca_file {
        Some(path) => Arc::new(authorities(path)?),
        None => own_authorities()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match &settings.client {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let (chain, key) = key_pair(pair)?;
            let config = builder.with_client_auth_cert(chain, key);
            let path = pair.cert_file.display();
            config.map_err(|error| format!("{path}: {error}"))?
        }
    };
    let mut with = |protocol: &[u8]| {
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config.clone())
    };
    Ok(Loaded {
        http1: with(b"http/1.1"),
        http2: with(b"h2"),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<_> = read.map_err(|error| format!("{}: {error}", path.display()))?;
    match found.is_empty() {
        true => Err(format!("{}: there is no certificate in it", path.display())),
        false => Ok(found),
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(roots)
}

/// The host's own, read once: there are many, and they change with the system.
fn own_authorities() -> Result<Arc<RootCertStore>, String> {
    static OWN: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = OWN.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    });
    match roots.is_empty() {
        true => Err("this host trusts no authority: set tls.ca_file".to_owned()),
        false => Ok(roots.clone()),
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn key_pair(pair: &KeyPair) -> Result<Identity, String> {
    let chain = certificates(&pair.cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&pair.key_file);
    let key = key.map_err(|error| format!("{}: {error}", pair.key_file.display()))?;
    Ok((chain, key))
}
