//! The TLS settings of our servers.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// The oldest TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MinimumTls {
    /// TLS 1.2 with forward secrecy and authenticated encryption, and 1.3.
    Tls12,
    /// TLS 1.3 only.
    #[default]
    Tls13,
}

/// Who may connect.
#[derive(Debug, Clone, Default)]
pub enum Clients {
    /// Everybody.
    #[default]
    Any,
    /// Who has a certificate of one of these authorities.
    Of(Arc<RootCertStore>),
}

/// Why certificates of clients cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// The file cannot be read, or holds no certificates.
    #[error("cannot read the CAs of clients in {path}: {reason}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

impl Clients {
    /// Who has a certificate of one of the authorities in this file (PEM).
    pub fn of_file(path: &Path) -> Result<Self, ClientsError> {
        let failed = |reason: String| ClientsError::Read {
            path: path.display().to_string(),
            reason,
        };
        let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(&text) {
            let der = der.map_err(|error| failed(error.to_string()))?;
            roots.add(der).map_err(|error| failed(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(failed("it holds no certificate".to_owned()));
        }
        Ok(Self::Of(Arc::new(roots)))
    }
}

/// HTTP/2 and HTTP/1.1 over TLS, served with what `certificate` resolves to, for these clients.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    minimum: MinimumTls,
    clients: Clients,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = match minimum {
        MinimumTls::Tls12 => &[&TLS13, &TLS12][..],
        MinimumTls::Tls13 => &[&TLS13],
    };
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
    let builder = match clients {
        Clients::Any => builder.with_no_client_auth(),
        Clients::Of(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
