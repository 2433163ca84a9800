//! TLS from files: for listeners, with certificates that are reloaded in place, and for upstreams.
//!
//! One provider (aws-lc-rs), named each time. A listener's `ServerConfig` is made once and shared by all workers, so that
//! session tickets outlive a reload and are good on every worker; only the certificates within are swapped. A reload that
//! fails keeps what there is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, NoClientAuth, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_cert::der::Decode;

use crate::access::time::Timestamp;
use crate::config::{CertificateFiles, ListenerTls, Upstream, UpstreamProtocol};

/// What is wrong with TLS as configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("{path} holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("the certificate {certificate} and the private key {private_key} do not belong together or are of no use")]
    Pair {
        certificate: PathBuf,
        private_key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("the certificate {path} cannot be read as X.509")]
    Malformed { path: PathBuf },
    #[error("the certificate {path} expired at {expired}")]
    Expired { path: PathBuf, expired: Timestamp },
    #[error("the authorities in {path} cannot be used to verify client certificates")]
    ClientVerifier {
        path: PathBuf,
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    #[error("none of the machine's certificate authorities could be read: name a file with `ca`")]
    NoRoots,
    #[error("`{name}` is no name that a certificate could be for")]
    ServerName { name: String },
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
}

/// One listener's TLS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ListenerCertificates {
    pub config: Arc<ServerConfig>,
    resolver: Arc<Certificates>,
    files: Vec<CertificateFiles>,
}

impl ListenerCertificates {
    /// # Errors
    /// What is missing, does not fit, or has expired by `now`.
    pub fn load(tls: &ListenerTls, now: Timestamp) -> Result<Self, TlsError> {
        let provider = Arc::new(default_provider());
        let resolver = Arc::new(Certificates(ArcSwap::from_pointee(load_all(&tls.certificates, &provider, now)?)));
        let verifier = match &tls.client {
            None => Arc::new(NoClientAuth),
            Some(client) => {
                let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots_of(&client.ca)?), Arc::clone(&provider));
                let builder = if client.required { builder } else { builder.allow_unauthenticated() };
                builder.build().map_err(|source| TlsError::ClientVerifier { path: client.ca.clone(), source })?
            }
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&resolver) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if tls.client.is_some() {
            // A resumed session would vouch for a client certificate that may have expired since it was looked at.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer = Ticketer::new().map_err(TlsError::Setup)?;
        }
        Ok(Self { config: Arc::new(config), resolver, files: tls.certificates.clone() })
    }

    /// Reads all files anew and puts them into service together.
    ///
    /// # Errors
    /// As [`ListenerCertificates::load`]; the certificates in service stay.
    pub fn reload(&self, now: Timestamp) -> Result<(), TlsError> {
        let fresh = load_all(&self.files, self.config.crypto_provider(), now)?;
        self.resolver.0.store(Arc::new(fresh));
        Ok(())
    }

    /// Each certificate's file name, for people, and when it ends.
    pub fn expiries(&self) -> Vec<(String, Timestamp)> {
        self.resolver.0.load().iter().map(|certificate| (certificate.name.clone(), certificate.expires)).collect()
    }
}

/// Checks what a configuration names, without keeping it.
///
/// # Errors
/// As for listeners and upstreams.
pub fn check(listeners: &[crate::config::Listener], upstreams: &[Upstream], now: Timestamp) -> Vec<TlsError> {
    let listeners =
        listeners.iter().filter_map(|listener| listener.tls.as_ref()).filter_map(|tls| ListenerCertificates::load(tls, now).err());
    let upstreams = upstreams.iter().filter_map(|upstream| UpstreamTls::load(upstream).err());
    listeners.chain(upstreams).collect()
}

#[derive(Debug)]
struct Certificates(ArcSwap<Vec<Certificate>>);

#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    /// The leaf again, to ask which names it is for.
    leaf: CertificateDer<'static>,
    name: String,
    expires: Timestamp,
}

impl ResolvesServerCert for Certificates {
    /// The first certificate that is for the name that the client asks for; the first of all if none is, or it asks for none.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.0.load();
        let asked = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |certificate: &&Certificate| {
            let Some(name) = &asked else { return true };
            ParsedCertificate::try_from(&certificate.leaf).is_ok_and(|leaf| verify_server_name(&leaf, name).is_ok())
        };
        // With one certificate there is nothing to choose.
        let chosen = if certificates.len() == 1 { None } else { certificates.iter().find(fits) };
        chosen.or_else(|| certificates.first()).map(|certificate| Arc::clone(&certificate.key))
    }
}

fn load_all(files: &[CertificateFiles], provider: &CryptoProvider, now: Timestamp) -> Result<Vec<Certificate>, TlsError> {
    files.iter().map(|pair| load_pair(pair, provider, now)).collect()
}

fn load_pair(files: &CertificateFiles, provider: &CryptoProvider, now: Timestamp) -> Result<Certificate, TlsError> {
    let chain = certificates_in(&files.certificate)?;
    let Some(leaf) = chain.first().cloned() else { return Err(TlsError::NoCertificate { path: files.certificate.clone() }) };
    let expires = expiry(&leaf).ok_or_else(|| TlsError::Malformed { path: files.certificate.clone() })?;
    if expires <= now {
        return Err(TlsError::Expired { path: files.certificate.clone(), expired: expires });
    }
    let private = private_key_in(&files.private_key)?;
    // Fails also if the key is not that of the certificate.
    let key = CertifiedKey::from_der(chain, private, provider).map_err(|source| TlsError::Pair {
        certificate: files.certificate.clone(),
        private_key: files.private_key.clone(),
        source,
    })?;
    let name = files.certificate.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Certificate { key: Arc::new(key), leaf, name, expires })
}

fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |source| TlsError::Read { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<_, _>>().map_err(read)
}

fn private_key_in(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn expiry(leaf: &CertificateDer<'_>) -> Option<Timestamp> {
    let certificate = x509_cert::Certificate::from_der(leaf).ok()?;
    let end = certificate.tbs_certificate.validity.not_after.to_unix_duration();
    i64::try_from(end.as_millis()).ok().map(Timestamp::from_millis)
}

fn roots_of(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates_in(path)?);
    if added == 0 { Err(TlsError::NoCertificate { path: path.to_owned() }) } else { Ok(roots) }
}

/// TLS towards one upstream: whom to believe, and what to show.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    pub config: Arc<ClientConfig>,
    /// The name to verify where it is not the server's own.
    pub server_name: Option<ServerName<'static>>,
}

impl UpstreamTls {
    /// None if no server of the upstream speaks TLS.
    ///
    /// # Errors
    /// What is missing or of no use.
    pub fn load(upstream: &Upstream) -> Result<Option<Self>, TlsError> {
        if !upstream.servers.iter().any(|server| server.tls) {
            return Ok(None);
        }
        let roots = match &upstream.ca {
            Some(path) => roots_of(path)?,
            None => machine_roots()?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_root_certificates(roots);
        let mut config = match &upstream.client_certificate {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = (certificates_in(&files.certificate)?, private_key_in(&files.private_key)?);
                builder.with_client_auth_cert(chain, key).map_err(|source| TlsError::Pair {
                    certificate: files.certificate.clone(),
                    private_key: files.private_key.clone(),
                    source,
                })?
            }
        };
        config.alpn_protocols = match upstream.protocol {
            UpstreamProtocol::Http1 => vec![b"http/1.1".to_vec()],
            UpstreamProtocol::Http2 => vec![b"h2".to_vec()],
        };
        let server_name = upstream.server_name.clone().map(server_name).transpose()?;
        Ok(Some(Self { config: Arc::new(config), server_name }))
    }
}

/// The name of a server as certificates have it.
///
/// # Errors
/// If no certificate could be for it.
pub fn server_name(name: String) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).map_err(|_| TlsError::ServerName { name })
}

fn machine_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 { Err(TlsError::NoRoots) } else { Ok(roots) }
}
