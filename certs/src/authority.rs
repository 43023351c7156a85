//! A certificate authority with its key, and the serving certificates that it signs. The current time is an argument.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::root::{Root, RootError};

/// How far certificates are backdated, because clocks differ.
pub(crate) const BACKDATE: Duration = Duration::from_hours(1);

/// A certificate authority that can sign (ECDSA P-256).
pub struct Authority {
    root: Root,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct ServingCertificate {
    /// The certificate.
    pub certificate: String,
    /// Its private key (PKCS#8).
    pub key: String,
}

impl std::fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServingCertificate")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// Errors of an authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its certificate cannot be read.
    #[error("the certificate of the CA: {0}")]
    Certificate(#[from] RootError),
    /// Its certificate is not that of a CA.
    #[error("the certificate of the CA is not that of a CA")]
    NotAnAuthority,
    /// Its key cannot be read.
    #[error("the key of the CA is not a private key: {0}")]
    Key(rcgen::Error),
    /// Its key does not match the certificate.
    #[error("the key of the CA does not match its certificate")]
    Mismatch,
    /// A certificate cannot be created.
    #[error("cannot create a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

impl Authority {
    /// A new authority with that common name, valid from shortly before `now` until `lifetime` after it.
    pub fn new(common_name: &str, now: SystemTime, lifetime: Duration) -> Result<Self, AuthorityError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        params.distinguished_name.push(DnType::CommonName, common_name);
        valid(&mut params, now, later(now, lifetime));
        let made = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Self::from_pem(made.pem().as_bytes(), made.key().serialize_pem().as_bytes())
    }

    /// Loads an existing authority.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, AuthorityError> {
        let root = Root::from_pem(certificate)?;
        let key =
            std::str::from_utf8(key).map_err(|_| AuthorityError::Key(rcgen::Error::CouldNotParseKeyPair))?;
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Key)?;
        {
            let (_, parsed) = X509Certificate::from_der(root.der()).map_err(RootError::from)?;
            if !parsed.is_ca() {
                return Err(AuthorityError::NotAnAuthority);
            }
            if parsed.public_key().raw != key.subject_public_key_info() {
                return Err(AuthorityError::Mismatch);
            }
        }
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(root.der()), key)?;
        Ok(Self { root, issuer })
    }

    /// Its certificate.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Its private key (PKCS#8), PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A serving certificate for these DNS names and IP addresses, valid from shortly before `now` until `lifetime`
    /// after it, but no longer than the authority itself.
    pub fn issue(
        &self,
        names: &[&str],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<ServingCertificate, AuthorityError> {
        let mut params = CertificateParams::default();
        for name in names {
            let name = match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into()?),
            };
            params.subject_alt_names.push(name);
        }
        params
            .distinguished_name
            .push(DnType::CommonName, names.first().copied().unwrap_or("serving"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, now, later(now, lifetime).min(self.root.ends()));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ServingCertificate {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn valid(params: &mut CertificateParams, now: SystemTime, until: SystemTime) {
    params.not_before = OffsetDateTime::from(now.checked_sub(BACKDATE).unwrap_or(now));
    params.not_after = OffsetDateTime::from(until);
}

/// Limited to the four-digit years of certificates.
fn later(now: SystemTime, lifetime: Duration) -> SystemTime {
    const LONGEST: Duration = Duration::from_hours(24 * 365 * 100);
    now + lifetime.min(LONGEST)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn authority(now: SystemTime) -> Authority {
        Authority::new("test", now, 365 * DAY).unwrap()
    }

    #[test]
    fn one_that_was_stored_signs_as_the_one_that_was_made() {
        let now = SystemTime::now();
        let made = authority(now);
        let read = Authority::from_pem(made.root().pem().as_bytes(), made.key().as_bytes()).unwrap();
        assert_eq!(read.root(), made.root());
        let leaf = read.issue(&["a.b.svc", "10.0.0.1"], now, DAY).unwrap();
        let der = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        for name in ["a.b.svc", "10.0.0.1"] {
            assert!(made.root().accepts(&der, name, now), "{name}");
        }
        assert!(!made.root().accepts(&der, "c.b.svc", now));
    }

    #[test]
    fn a_certificate_does_not_outlive_its_authority() {
        let now = SystemTime::now();
        let authority = Authority::new("test", now, 10 * DAY).unwrap();
        let leaf = authority.issue(&["a"], now, 90 * DAY).unwrap();
        let der = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap();
        let want = authority
            .root()
            .ends()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        assert_eq!(ends, want.as_secs());
    }

    #[rstest]
    #[case::no_certificate("", "own", "the certificate of the CA: it contains no certificate")]
    #[case::a_leaf("leaf", "own", "the certificate of the CA is not that of a CA")]
    #[case::no_key("own", "", "the key of the CA is not a private key")]
    #[case::of_another("own", "other", "the key of the CA does not match its certificate")]
    fn what_cannot_sign_is_refused(#[case] certificate: &str, #[case] key: &str, #[case] want: &str) {
        let now = SystemTime::now();
        let (own, other) = (authority(now), authority(now));
        let certificate = match certificate {
            "own" => own.root().pem(),
            "leaf" => own.issue(&["a"], now, DAY).unwrap().certificate,
            text => text.to_owned(),
        };
        let key = match key {
            "own" => own.key(),
            "other" => other.key(),
            text => text.to_owned(),
        };
        let error = Authority::from_pem(certificate.as_bytes(), key.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(want), "{error}");
    }

    #[test]
    fn keys_are_not_shown() {
        let authority = authority(SystemTime::now());
        let line = authority.key().lines().nth(1).unwrap().to_owned();
        assert!(!format!("{authority:?}").contains(&line));
    }
}
