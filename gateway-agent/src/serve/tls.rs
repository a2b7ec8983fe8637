//! TLS towards clients: certificates picked by the name that a client asks for,
//! made from files that were read before.
//!
//! A configuration is made once and never changed: when a file changes, another
//! takes its place for connections that come after. Its tickets go with it, so
//! that a client is never resumed under rules that it was not checked by.

use std::{collections::HashMap, path::Path, sync::Arc};

use fleet_config::{ClientAuth, KeyPair, ListenerTls};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

/// Of HTTP/2 in ALPN.
pub(crate) const H2: &[u8] = b"h2";

const HTTP_1_1: &[u8] = b"http/1.1";

/// How a listener speaks TLS: shared by all cores, and only read.
pub(crate) type ServerTls = Arc<ServerConfig>;

/// Makes what a listener's settings say. `bytes` gives a file's contents.
///
/// # Errors
/// In a sentence that names the file.
pub(crate) fn load<'f>(
    settings: &ListenerTls,
    bytes: impl Fn(&Path) -> Result<&'f [u8], String>,
) -> Result<ServerTls, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(settings, &provider, &bytes)?;
    let certificates = certificates(&settings.certificates, &provider, &bytes)?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    config.ticketer = ring::Ticketer::new()
        .map_err(|error| format!("keys for session tickets cannot be made: {error}"))?;
    Ok(Arc::new(config))
}

fn verifier<'f>(
    settings: &ListenerTls,
    provider: &Arc<CryptoProvider>,
    bytes: &impl Fn(&Path) -> Result<&'f [u8], String>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let (ClientAuth::Optional | ClientAuth::Required, Some(file)) =
        (settings.client_auth, &settings.client_ca_file)
    else {
        return Ok(None);
    };
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let mut roots = RootCertStore::empty();
    for authority in chain(file, bytes)? {
        roots.add(authority).map_err(|error| named(&error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let builder = match settings.client_auth {
        ClientAuth::Optional => builder.allow_unauthenticated(),
        ClientAuth::None | ClientAuth::Required => builder,
    };
    let verifier = builder.build().map_err(|error| named(&error))?;
    Ok(Some(verifier))
}

/// A listener's certificates by the names they are for.
#[derive(Debug)]
struct Certificates {
    first: Arc<CertifiedKey>,
    /// In lower case, `*.` and all; those of one name in the file's order.
    named: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
}

fn certificates<'f>(
    pairs: &[KeyPair],
    provider: &CryptoProvider,
    bytes: &impl Fn(&Path) -> Result<&'f [u8], String>,
) -> Result<Certificates, String> {
    let mut first = None;
    let mut named: HashMap<Box<str>, Vec<_>> = HashMap::new();
    for pair in pairs {
        let key = Arc::new(certified(pair, provider, bytes)?);
        for name in names(&key, pair)? {
            named.entry(name).or_default().push(key.clone());
        }
        first.get_or_insert(key);
    }
    let first = first.ok_or("there is no certificate")?;
    Ok(Certificates { first, named })
}

fn certified<'f>(
    pair: &KeyPair,
    provider: &CryptoProvider,
    bytes: &impl Fn(&Path) -> Result<&'f [u8], String>,
) -> Result<CertifiedKey, String> {
    let (cert, key) = (pair.cert_file.display(), pair.key_file.display());
    let chain = chain(&pair.cert_file, bytes)?;
    let private = PrivateKeyDer::from_pem_slice(bytes(&pair.key_file)?);
    let private = private.map_err(|error| format!("{key} has no private key in PEM: {error}"))?;
    CertifiedKey::from_der(chain, private, provider)
        .map_err(|error| format!("{cert} with {key}: {error}"))
}

/// All certificates of a PEM file: one at least.
fn chain<'f>(
    file: &Path,
    bytes: &impl Fn(&Path) -> Result<&'f [u8], String>,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes(file)?).collect();
    let file = file.display();
    let chain = chain.map_err(|error| format!("{file} is not PEM: {error}"))?;
    match chain.is_empty() {
        true => Err(format!("{file} has no certificate in PEM")),
        false => Ok(chain),
    }
}

/// The names that a certificate is for, in lower case.
fn names(key: &CertifiedKey, pair: &KeyPair) -> Result<Vec<Box<str>>, String> {
    let leaf = key.end_entity_cert().map_err(|error| error.to_string())?;
    let parsed = webpki::EndEntityCert::try_from(leaf);
    let parsed = parsed.map_err(|error| format!("{}: {error}", pair.cert_file.display()))?;
    let names = parsed.valid_dns_names();
    Ok(names.map(|name| name.to_ascii_lowercase().into()).collect())
}

impl Certificates {
    fn of(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let exact = self.named.get(name);
        let wildcard = || {
            let (_, parent) = name.split_once('.')?;
            self.named.get(format!("*.{parent}").as_str())
        };
        exact.or_else(wildcard).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Certificates {
    /// Of several certificates for a name (RSA beside ECDSA), the first that the
    /// client can check.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.of(name));
        let named = named.unwrap_or(std::slice::from_ref(&self.first));
        let schemes = hello.signature_schemes();
        let mut fit = named.iter();
        let fit = fit.find(|key| key.key.choose_scheme(schemes).is_some());
        fit.or(named.first()).cloned()
    }
}
