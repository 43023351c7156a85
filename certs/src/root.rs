//! Certificates of authorities, as in a `caBundle`, and validation of server certificates against them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Error};

/// The certificate of an authority.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Root {
    der: Vec<u8>,
    validity: Validity,
}

/// The validity period of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Validity {
    pub(crate) begins: SystemTime,
    pub(crate) ends: SystemTime,
}

/// Why a certificate cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// It is not PEM.
    #[error("it contains no certificate")]
    Pem,
    /// It is not X.509.
    #[error("it contains no X.509 certificate: {0}")]
    Certificate(String),
}

impl From<x509_parser::nom::Err<X509Error>> for RootError {
    fn from(error: x509_parser::nom::Err<X509Error>) -> Self {
        Self::Certificate(error.to_string())
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

impl Validity {
    pub(crate) fn of(der: &[u8]) -> Result<Self, RootError> {
        let (_, parsed) = X509Certificate::from_der(der)?;
        let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Ok(Self {
            begins: time(parsed.validity().not_before.timestamp()),
            ends: time(parsed.validity().not_after.timestamp()),
        })
    }

    pub(crate) fn covers(self, now: SystemTime) -> bool {
        self.begins <= now && now <= self.ends
    }
}

impl Root {
    /// The first certificate of a PEM text.
    pub fn from_pem(text: &[u8]) -> Result<Self, RootError> {
        let der = CertificateDer::from_pem_slice(text).map_err(|_| RootError::Pem)?;
        Self::from_der(&der)
    }

    fn from_der(der: &[u8]) -> Result<Self, RootError> {
        Ok(Self {
            der: der.to_vec(),
            validity: Validity::of(der)?,
        })
    }

    /// The certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate as PEM.
    pub fn pem(&self) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(&self.der);
        let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
        for line in text.as_bytes().chunks(64) {
            // Base64 is ASCII.
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        pem
    }

    /// Its common name.
    pub fn name(&self) -> String {
        let parsed = X509Certificate::from_der(&self.der);
        let name = parsed.ok().and_then(|(_, parsed)| {
            let name = parsed.subject().iter_common_name().next()?;
            name.as_str().ok().map(str::to_owned)
        });
        name.unwrap_or_else(|| "without a name".to_owned())
    }

    /// Its expiry time.
    pub fn ends(&self) -> SystemTime {
        self.validity.ends
    }

    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }

    /// Whether a client that trusts this root alone accepts a server of that name with this certificate.
    pub fn accepts(&self, leaf: &[u8], name: &str, now: SystemTime) -> bool {
        accepts(std::iter::once(self), leaf, name, now)
    }
}

/// Whether a client that trusts these roots accepts a server of that name with this certificate. Like Go clients, it
/// checks the validity of the roots themselves, too.
pub fn accepts<'a>(
    roots: impl IntoIterator<Item = &'a Root>,
    leaf: &[u8],
    name: &str,
    now: SystemTime,
) -> bool {
    let mut store = RootCertStore::empty();
    for root in roots {
        if root.validity.covers(now) {
            let _ = store.add(CertificateDer::from(root.der.as_slice()).into_owned());
        }
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (Ok(verifier), Ok(name)) = (
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build(),
        ServerName::try_from(name),
    ) else {
        return false;
    };
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    verifier
        .verify_server_cert(&CertificateDer::from(leaf), &[], &name, &[], now)
        .is_ok()
}

/// The content of a `caBundle`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bundle {
    /// Its certificates.
    pub roots: BTreeSet<Root>,
    /// Whether it contains anything other than certificates.
    pub has_invalid: bool,
}

impl Bundle {
    /// Parses PEM; invalid parts are skipped and reported by [`Bundle::has_invalid`].
    pub fn from_pem(text: &[u8]) -> Self {
        let mut bundle = Self::default();
        for der in CertificateDer::pem_slice_iter(text) {
            match der
                .map_err(|_| RootError::Pem)
                .and_then(|der| Root::from_der(&der))
            {
                Ok(root) => {
                    bundle.roots.insert(root);
                }
                Err(_) => bundle.has_invalid = true,
            }
        }
        bundle.has_invalid |= bundle.roots.is_empty() && !text.trim_ascii().is_empty();
        bundle
    }
}

/// These roots as a `caBundle`, the newest first.
pub fn bundle_pem(roots: &BTreeSet<Root>) -> String {
    let mut sorted: Vec<&Root> = roots.iter().collect();
    sorted.sort_by_key(|root| std::cmp::Reverse(root.validity.begins));
    sorted.into_iter().map(Root::pem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn a_bundle_is_read_as_it_was_written() {
        let now = SystemTime::now();
        let root = |name| Authority::new(name, now, DAY).unwrap().root().clone();
        let roots = BTreeSet::from([root("a"), root("b")]);
        let read = Bundle::from_pem(bundle_pem(&roots).as_bytes());
        assert_eq!((read.roots, read.has_invalid), (roots, false));
        assert_eq!(Bundle::from_pem(b""), Bundle::default());
        assert_eq!(Bundle::from_pem(b"\n"), Bundle::default());
        assert!(Bundle::from_pem(b"sesame").has_invalid);
    }

    #[test]
    fn who_trusts_an_expired_root_accepts_nothing_of_it() {
        let now = SystemTime::now();
        let authority = Authority::new("a", now, 2 * DAY).unwrap();
        let leaf = authority.issue(&["a"], now, 2 * DAY).unwrap();
        let der = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        assert!(authority.root().accepts(&der, "a", now + DAY));
        assert!(!authority.root().accepts(&der, "a", now + 3 * DAY));
    }
}
