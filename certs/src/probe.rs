//! Reads the certificate that a replica serves, by a TLS handshake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The certificate that a replica serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// This certificate (DER).
    Certificate(Vec<u8>),
    /// It responds, but has no certificate yet.
    Nothing,
    /// It does not respond.
    Unknown,
}

/// Connects to the replica at that address with a handshake for `name` and a timeout. The handshake proves that the
/// replica has the key, but does not verify the certificate: that is up to the caller.
pub async fn served(address: SocketAddr, name: &str, timeout: Duration) -> Served {
    let seen = Arc::new(CertificateRecorder {
        provider: Arc::new(aws_lc_rs::default_provider()),
        leaf: Mutex::default(),
    });
    let handshake = async {
        let tcp = TcpStream::connect(address).await.ok()?;
        let name = ServerName::try_from(name.to_owned()).ok()?;
        let config = ClientConfig::builder_with_provider(Arc::clone(&seen.provider))
            .with_safe_default_protocol_versions()
            .ok()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&seen) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        Some(TlsConnector::from(Arc::new(config)).connect(name, tcp).await)
    };
    let Ok(Some(result)) = tokio::time::timeout(timeout, handshake).await else {
        return Served::Unknown;
    };
    let leaf = seen.leaf.lock().take();
    match (result, leaf) {
        // If clients need certificates, the server aborts the handshake after sending its own.
        (_, Some(leaf)) => Served::Certificate(leaf),
        (Err(error), None) if is_alert(&error) => Served::Nothing,
        _ => Served::Unknown,
    }
}

/// Whether the server sent a TLS alert.
fn is_alert(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .and_then(|error| error.downcast_ref::<rustls::Error>())
        .is_some_and(|error| matches!(error, rustls::Error::AlertReceived(_)))
}

/// Records the certificate after the server has proven that it has the key.
#[derive(Debug)]
struct CertificateRecorder {
    provider: Arc<CryptoProvider>,
    leaf: Mutex<Option<Vec<u8>>>,
}

impl CertificateRecorder {
    fn note(&self, certificate: &CertificateDer<'_>) {
        *self.leaf.lock() = Some(certificate.to_vec());
    }
}

impl ServerCertVerifier for CertificateRecorder {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let valid = verify_tls12_signature(message, certificate, signed, algorithms)?;
        self.note(certificate);
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let valid = verify_tls13_signature(message, certificate, signed, algorithms)?;
        self.note(certificate);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
