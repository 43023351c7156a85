//! A certificate with its key, read from files or a Secret, and validated before use.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::root::Validity;

/// The source of a certificate or key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PemSource {
    /// A file.
    File(PathBuf),
    /// A key of a Secret, `namespace/name`.
    Secret {
        /// The Secret.
        secret: String,
        /// The key of its data.
        key: &'static str,
    },
}

impl fmt::Display for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Secret { secret, key } => write!(f, "{key} of the Secret {secret}"),
        }
    }
}

impl From<&Path> for PemSource {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

/// The files of the serving certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by its intermediates: PEM.
    pub certificate: PathBuf,
    /// Its private key: PEM.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// These two files.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
        }
    }

    /// Their directories, without duplicates.
    pub(crate) fn directories(&self) -> Vec<&Path> {
        let mut found = Vec::with_capacity(2);
        for file in [&self.certificate, &self.key] {
            let directory = match file.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            if !found.contains(&directory) {
                found.push(directory);
            }
        }
        found
    }
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file, or key of a Secret.
        path: PemSource,
        /// Why.
        source: std::io::Error,
    },
    /// A file contains no usable PEM.
    #[error("{path} contains no {what}: {source}")]
    Pem {
        /// The file, or key of a Secret.
        path: PemSource,
        /// The expected content.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// The certificate is not X.509.
    #[error("{path} contains no X.509 certificate: {reason}")]
    Certificate {
        /// The file, or key of a Secret.
        path: PemSource,
        /// Why.
        reason: String,
    },
    /// The key does not belong to the certificate, or has a type that TLS does not support.
    #[error("the key in {key} does not match the certificate in {certificate}: {source}")]
    Mismatch {
        /// The certificate's source.
        certificate: Box<PemSource>,
        /// The key's source.
        key: Box<PemSource>,
        /// Why.
        source: rustls::Error,
    },
    /// The certificate is no longer valid, or not yet.
    #[error("the certificate in {path} is valid from {from} to {until} only; renew it, or fix the clock")]
    NotValid {
        /// The file, or key of a Secret.
        path: PemSource,
        /// Start of its validity.
        from: String,
        /// End of its validity.
        until: String,
    },
    /// The directory cannot be watched.
    #[error("cannot watch {path} for changes: {source}")]
    Watch {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A certificate chain with its key, ready to serve.
#[derive(Debug, Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    validity: Validity,
}

impl Identity {
    /// Reads and validates the files; `now` must lie within the certificate's validity.
    pub fn load(files: &CertificateFiles, now: SystemTime) -> Result<Self, LoadError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| LoadError::Read {
                path: path.into(),
                source,
            })
        };
        let (certificate, key) = (read(&files.certificate)?, read(&files.key)?);
        let places = (files.certificate.as_path().into(), files.key.as_path().into());
        Self::from_pem(places, &certificate, &key, now)
    }

    /// Validates `tls.crt` and `tls.key` of a Secret (`namespace/name`); `now` must lie within the certificate's
    /// validity.
    pub fn of_secret(
        secret: &str,
        certificate: &[u8],
        key: &[u8],
        now: SystemTime,
    ) -> Result<Self, LoadError> {
        let place = |key| PemSource::Secret {
            secret: secret.to_owned(),
            key,
        };
        Self::from_pem((place("tls.crt"), place("tls.key")), certificate, key, now)
    }

    fn from_pem(
        (of_certificate, of_key): (PemSource, PemSource),
        certificate: &[u8],
        key: &[u8],
        now: SystemTime,
    ) -> Result<Self, LoadError> {
        let no_pem = |path: &PemSource, what| {
            let path = path.clone();
            move |source| LoadError::Pem { path, what, source }
        };
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .and_then(|chain| {
                if chain.is_empty() {
                    Err(pem::Error::NoItemsFound)
                } else {
                    Ok(chain)
                }
            })
            .map_err(no_pem(&of_certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(no_pem(&of_key, "private key"))?;
        let validity = check_validity(&of_certificate, chain.first(), now)?;
        let certified =
            CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|source| {
                LoadError::Mismatch {
                    certificate: Box::new(of_certificate),
                    key: Box::new(of_key),
                    source,
                }
            })?;
        Ok(Self {
            certified: Arc::new(certified),
            validity,
        })
    }

    /// Expiry time of the certificate.
    pub fn expires(&self) -> SystemTime {
        self.validity.ends
    }

    /// The first certificate of the chain.
    pub(crate) fn leaf(&self) -> &[u8] {
        // `from_pem` refuses a chain without a certificate.
        self.certified.cert.first().map(AsRef::as_ref).unwrap_or_default()
    }

    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }

    /// The certificate for rustls.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    /// Whether both have the same certificate chain.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }
}

fn check_validity(
    path: &PemSource,
    certificate: Option<&CertificateDer<'_>>,
    now: SystemTime,
) -> Result<Validity, LoadError> {
    let der = certificate.map(AsRef::as_ref).unwrap_or_default();
    let unreadable = |reason: String| LoadError::Certificate {
        path: path.clone(),
        reason,
    };
    let validity = Validity::of(der).map_err(|error| unreadable(error.to_string()))?;
    if validity.covers(now) {
        return Ok(validity);
    }
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| unreadable(error.to_string()))?;
    Err(LoadError::NotValid {
        path: path.clone(),
        from: parsed.validity().not_before.to_string(),
        until: parsed.validity().not_after.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::*;
    use crate::{DevelopmentCa, ServingCertificate};

    const DAY: Duration = Duration::from_hours(24);

    fn leaf() -> ServingCertificate {
        DevelopmentCa::new("test")
            .unwrap()
            .serving(&["localhost", "127.0.0.1", "::1"], DAY)
            .unwrap()
    }

    fn load(certificate: &str, key: &str, now: SystemTime) -> Result<Identity, LoadError> {
        let files = CertificateFiles::new("tls.crt", "tls.key");
        Identity::from_pem(
            (files.certificate.as_path().into(), files.key.as_path().into()),
            certificate.as_bytes(),
            key.as_bytes(),
            now,
        )
    }

    #[test]
    fn a_leaf_of_the_development_ca_is_served_with() {
        let leaf = leaf();
        let identity = load(&leaf.certificate, &leaf.key, SystemTime::now()).unwrap();
        let left = identity.expires().duration_since(SystemTime::now()).unwrap();
        assert!(left <= DAY && left > Duration::from_hours(23));
    }

    #[rstest]
    #[case::no_certificate("", None, "tls.crt contains no certificate")]
    #[case::no_key("own", Some(""), "tls.key contains no private key")]
    #[case::garbage(
        "-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n",
        None,
        "tls.crt contains no X.509 certificate"
    )]
    #[case::anothers_key("own", Some("other"), "the key in tls.key does not match")]
    fn what_cannot_be_served_is_refused(
        #[case] certificate: &str,
        #[case] key: Option<&str>,
        #[case] want: &str,
    ) {
        let (own, other) = (leaf(), leaf());
        let certificate = if certificate == "own" {
            &own.certificate
        } else {
            certificate
        };
        let key = match key {
            Some("other") => &other.key,
            Some(text) => text,
            None => &own.key,
        };
        let error = load(certificate, key, SystemTime::now()).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }

    #[rstest]
    #[case::expired(SystemTime::now() + 2 * DAY)]
    #[case::not_yet_valid(SystemTime::now() - DAY)]
    fn a_certificate_is_not_served_outside_its_validity(#[case] now: SystemTime) {
        let leaf = leaf();
        let error = load(&leaf.certificate, &leaf.key, now).unwrap_err();
        assert!(matches!(error, LoadError::NotValid { .. }), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Identity::load(
            &CertificateFiles::new("/no/tls.crt", "/no/tls.key"),
            SystemTime::now(),
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .starts_with("cannot read /no/tls.crt: ")
        );
    }

    #[rstest]
    #[case("/a/tls.crt", "/a/tls.key", &["/a"])]
    #[case("/a/tls.crt", "/b/tls.key", &["/a", "/b"])]
    #[case("tls.crt", "tls.key", &["."])]
    fn each_directory_is_watched_once(#[case] certificate: &str, #[case] key: &str, #[case] want: &[&str]) {
        let files = CertificateFiles::new(certificate, key);
        assert_eq!(
            files.directories(),
            want.iter().map(Path::new).collect::<Vec<_>>()
        );
    }

    #[test]
    fn the_key_is_not_shown() {
        let leaf = leaf();
        let identity = load(&leaf.certificate, &leaf.key, SystemTime::now()).unwrap();
        let line = leaf.key.lines().nth(1).unwrap();
        assert!(!format!("{leaf:?}").contains(line));
        assert!(!format!("{identity:?}").contains(line));
    }
}
