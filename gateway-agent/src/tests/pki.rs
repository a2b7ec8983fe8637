//! Authorities and certificates that live as long as a test.

use std::{fs, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// An authority, with a folder for what it signs.
pub(crate) struct Authority {
    pub(crate) dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = Self {
            dir: tempfile::tempdir().expect("a directory"),
            issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate"),
        };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new certificate for these names, in `{file}.pem` and `{file}.key`.
    pub(crate) fn sign(&self, file: &str, names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let params = CertificateParams::new(names).expect("good names");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        self.write(&format!("{file}.pem"), &certificate.pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
        certificate.der().clone()
    }

    /// As the host file has it.
    pub(crate) fn pair(&self, file: &str) -> String {
        let path = |end| self.path(&format!("{file}.{end}")).display().to_string();
        let (cert, key) = (path("pem"), path("key"));
        format!("{{cert_file: {cert}, key_file: {key}}}")
    }

    /// A host file of one TLS listener with these certificates and more settings.
    pub(crate) fn host(&self, files: &[&str], settings: &str) -> String {
        let pairs: Vec<_> = files.iter().map(|file| self.pair(file)).collect();
        let pairs = pairs.join(", ");
        format!(
            "listeners: [{{address: \"127.0.0.1:0\", tls: {{certificates: [{pairs}]{settings}}}}}]"
        )
    }

    /// A client that believes this authority.
    pub(crate) fn client(&self, identity: Option<(&Self, &str)>) -> ClientConfig {
        self.client_of(identity, rustls::DEFAULT_VERSIONS)
    }

    /// The same, with these versions only.
    pub(crate) fn client_of(
        &self,
        identity: Option<(&Self, &str)>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("known versions")
            .with_root_certificates(roots);
        let Some((authority, file)) = identity else {
            return builder.with_no_client_auth();
        };
        let read = |end| fs::read(authority.path(&format!("{file}.{end}"))).expect("signed");
        let chain = vec![CertificateDer::from_pem_slice(&read("pem")).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(&read("key")).expect("PEM");
        builder.with_client_auth_cert(chain, key).expect("a pair")
    }
}
