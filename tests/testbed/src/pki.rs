//! The certificate authority of one control plane, and its certificates.

use std::path::Path;

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// A CA whose key never leaves the testbed.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate chain and its key, both PEM.
pub struct CertifiedKey {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key (PKCS#8).
    pub key_pem: String,
}

impl Ca {
    /// A new CA of that common name.
    pub fn new(common_name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        params.distinguished_name.push(DnType::CommonName, common_name);
        Ok(Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
        })
    }

    /// The CA's certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// The CA's certificate as `caBundle` and `certificate-authority-data` want it.
    pub fn base64(&self) -> String {
        STANDARD.encode(self.pem())
    }

    /// The CA's certificate for a rustls root store.
    pub fn der(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A serving certificate for loopback and these DNS names and addresses.
    pub fn serving(&self, common_name: &str, names: &[&str]) -> Result<CertifiedKey> {
        let all = ["localhost", "127.0.0.1"]
            .iter()
            .chain(names)
            .map(ToString::to_string);
        let mut params = CertificateParams::new(all.collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    /// A client certificate for this user in this group.
    pub fn client(&self, user: &str, group: &str) -> Result<CertifiedKey> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Result<CertifiedKey> {
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(CertifiedKey {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Writes `ca.crt` and `ca.key`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        CertifiedKey {
            cert_pem: self.pem(),
            key_pem: self.issuer.key().serialize_pem(),
        }
        .write(dir, "ca")
    }
}

impl CertifiedKey {
    /// Writes `NAME.crt` and `NAME.key`.
    pub fn write(&self, dir: &Path, name: &str) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join(format!("{name}.key")), &self.key_pem)?;
        std::fs::write(dir.join(format!("{name}.crt")), &self.cert_pem)?;
        Ok(())
    }
}

/// Writes a key pair for ServiceAccount tokens: `NAME.key` signs them, `NAME.pub` checks them.
pub fn write_signing_key(dir: &Path, name: &str) -> Result<()> {
    let key = KeyPair::generate()?;
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem())?;
    std::fs::write(dir.join(format!("{name}.pub")), key.public_key_pem())?;
    Ok(())
}
