//! What a replica serves with, as a client sees it: a TLS handshake, of which nothing but the certificate is wanted.

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

/// What a replica serves with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// With this certificate (DER).
    Certificate(Vec<u8>),
    /// It answers, and has no certificate yet.
    Nothing,
    /// It does not answer.
    Unknown,
}

/// Asks the replica at that address by a handshake for `name`, which ends within `patience`. Its key is proven, its
/// certificate trusted by nobody here: who judges is the caller.
pub async fn served(address: SocketAddr, name: &str, patience: Duration) -> Served {
    let seen = Arc::new(Seen {
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
    let Ok(Some(result)) = tokio::time::timeout(patience, handshake).await else {
        return Served::Unknown;
    };
    let leaf = seen.leaf.lock().take();
    match (result, leaf) {
        // Where clients need certificates of their own, the server ends it after it has shown its own.
        (_, Some(leaf)) => Served::Certificate(leaf),
        (Err(error), None) if is_alert(&error) => Served::Nothing,
        _ => Served::Unknown,
    }
}

/// Whether the other side speaks TLS and refuses.
fn is_alert(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .and_then(|error| error.downcast_ref::<rustls::Error>())
        .is_some_and(|error| matches!(error, rustls::Error::AlertReceived(_)))
}

/// Takes note of the certificate once the server has proven that it has its key.
#[derive(Debug)]
struct Seen {
    provider: Arc<CryptoProvider>,
    leaf: Mutex<Option<Vec<u8>>>,
}

impl Seen {
    fn note(&self, certificate: &CertificateDer<'_>) {
        *self.leaf.lock() = Some(certificate.to_vec());
    }
}

impl ServerCertVerifier for Seen {
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
