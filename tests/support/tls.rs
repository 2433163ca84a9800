//! Certificates for tests, made as they are needed, and clients and servers that use them.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::wait::within;

/// Somebody who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: KeyPair,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Signs a certificate for these names.
    pub fn sign(&self, names: &[&str]) -> Identity {
        self.sign_until(names, 4096)
    }

    /// The same, for one that ends with the beginning of a year.
    pub fn sign_until(&self, names: &[&str], year: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity { certificate: certificate.der().clone(), certificate_pem: certificate.pem(), key }
    }

    /// Writes its certificate into a file.
    pub fn write(&self, path: &Path) -> PathBuf {
        std::fs::write(path, self.0.pem()).unwrap();
        path.to_owned()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }
}

impl Identity {
    /// Writes `NAME.pem` and `NAME.key` and says so in TOML.
    pub fn write(&self, folder: &Path, name: &str) -> String {
        let certificate = folder.join(format!("{name}.pem"));
        std::fs::write(&certificate, &self.certificate_pem).unwrap();
        let key = self.write_key(folder, name);
        format!("{{ certificate = {certificate:?}, private_key = {key:?} }}")
    }

    /// Writes `NAME.key` alone.
    pub fn write_key(&self, folder: &Path, name: &str) -> PathBuf {
        let key = folder.join(format!("{name}.key"));
        std::fs::write(&key, self.key.serialize_pem()).unwrap();
        key
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }

    /// A server that shows it.
    pub fn acceptor(&self, protocols: &[&str]) -> TlsAcceptor {
        self.acceptor_with(Arc::new(NoClientAuth), protocols)
    }

    /// The same, for clients with certificates of `authority` alone.
    pub fn acceptor_for_clients_of(&self, authority: &Authority) -> TlsAcceptor {
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider).build().unwrap();
        self.acceptor_with(verifier, &[])
    }

    fn acceptor_with(&self, clients: Arc<dyn ClientCertVerifier>, protocols: &[&str]) -> TlsAcceptor {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_client_cert_verifier(clients);
        let mut config = builder.with_single_cert(vec![self.certificate.clone()], self.private_key()).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// How a client of TLS is set up.
pub struct TlsClient<'a> {
    pub trusts: &'a Authority,
    pub offers: &'a [&'a str],
    pub shows: Option<&'a Identity>,
}

impl<'a> TlsClient<'a> {
    pub fn trusting(trusts: &'a Authority) -> Self {
        Self { trusts, offers: &[], shows: None }
    }

    /// Connects, and asks for a name.
    pub async fn connect(&self, address: SocketAddr, name: &str) -> io::Result<TlsStream<TcpStream>> {
        self.connect_as(rustls::DEFAULT_VERSIONS, b"", address, name).await
    }

    /// The same with one version of TLS.
    pub async fn connect_by(
        &self,
        version: &'static SupportedProtocolVersion,
        address: SocketAddr,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        self.connect_as(&[version], b"", address, name).await
    }

    /// The same with bytes before the handshake.
    pub async fn connect_behind(&self, before: &[u8], address: SocketAddr, name: &str) -> io::Result<TlsStream<TcpStream>> {
        self.connect_as(rustls::DEFAULT_VERSIONS, before, address, name).await
    }

    async fn connect_as(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        before: &[u8],
        address: SocketAddr,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(self.trusts.roots());
        let mut config = match self.shows {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_auth_cert(vec![identity.certificate.clone()], identity.private_key()).unwrap(),
        };
        config.alpn_protocols = self.offers.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let mut stream = within(TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        stream.write_all(before).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }
}
