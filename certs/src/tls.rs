//! The TLS settings of the servers.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The minimum TLS version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MinimumTls {
    /// TLS 1.2 with forward secrecy and authenticated encryption, and 1.3.
    Tls12,
    /// TLS 1.3 only.
    #[default]
    Tls13,
}

/// The allowed clients.
#[derive(Debug, Clone, Default)]
pub enum Clients {
    /// All clients.
    #[default]
    Any,
    /// Clients with a certificate of one of these authorities for one of these names: its common name, or a DNS name of
    /// it. An authority may have issued certificates to many others, for example a cluster's to every kubelet.
    Of(Arc<RootCertStore>, Arc<[String]>),
}

/// Why client certificates cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// The file cannot be read, or contains no certificates.
    #[error("cannot read the CAs of clients in {path}: {reason}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

impl Clients {
    /// Clients with a certificate for one of these names, of one of the authorities in this file (PEM).
    pub fn of_file(path: &Path, names: &[String]) -> Result<Self, ClientsError> {
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
            return Err(failed("it contains no certificate".to_owned()));
        }
        Ok(Self::Of(Arc::new(roots), names.into()))
    }
}

/// HTTP/2 and HTTP/1.1 over TLS, with the certificate from `certificate`, for these clients.
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
        Clients::Of(roots, names) => {
            let of_authority = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            builder.with_client_cert_verifier(Arc::new(NamedClients { of_authority, names }))
        }
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts clients with a certificate of an authority for one of the names.
#[derive(Debug)]
struct NamedClients {
    of_authority: Arc<dyn ClientCertVerifier>,
    names: Arc<[String]>,
}

impl ClientCertVerifier for NamedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.of_authority.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .of_authority
            .verify_client_cert(end_entity, intermediates, now)?;
        if has_name(end_entity, &self.names) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.of_authority.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.of_authority.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.of_authority.supported_verify_schemes()
    }
}

/// Whether a certificate has one of the names: as its only common name, or as a DNS name.
fn has_name(certificate: &CertificateDer<'_>, names: &[String]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let is_one = |name: &str| names.iter().any(|allowed| allowed == name);
    let mut common_names = certificate.subject().iter_common_name();
    if let (Some(name), None) = (common_names.next(), common_names.next())
        && name.as_str().is_ok_and(is_one)
    {
        return true;
    }
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    let mut names = names.value.general_names.iter();
    names.any(|name| matches!(name, GeneralName::DNSName(name) if is_one(name)))
}
