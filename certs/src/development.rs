//! A CA for development and tests, and the serving certificates it signs.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use crate::authority::{Authority, AuthorityError, ServingCertificate};

/// A CA with its private key in memory.
#[derive(Debug)]
pub struct DevelopmentCa(Authority);

impl DevelopmentCa {
    /// A new CA with that common name, valid for ten years.
    pub fn new(common_name: &str) -> Result<Self, AuthorityError> {
        let ten_years = Duration::from_hours(24 * 3650);
        Authority::new(common_name, SystemTime::now(), ten_years).map(Self)
    }

    /// The CA's certificate as PEM.
    pub fn pem(&self) -> String {
        self.0.root().pem()
    }

    /// The CA's certificate for a root store.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.0.root().der().to_vec())
    }

    /// A serving certificate for these DNS names and IP addresses, valid for that long from now.
    pub fn serving(&self, names: &[&str], validity: Duration) -> Result<ServingCertificate, AuthorityError> {
        self.0.issue(names, SystemTime::now(), validity)
    }
}
