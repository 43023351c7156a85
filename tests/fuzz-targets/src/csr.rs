//! CertificateSigningRequests from the holder of a bootstrap token: arbitrary bytes, and validly signed requests with arbitrary
//! bytes as names.

use std::sync::OnceLock;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use machinist_controller::csr::request;
use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair};

const SUBJECT_ALT_NAME: [u64; 4] = [2, 5, 29, 17];

/// Common name, organization, and the bytes of the request or, if it is to be signed, of its subject alternative names.
pub type Request<'a> = (&'a str, Option<&'a str>, Vec<u8>, bool);

/// One input.
///
/// # Panics
/// If a request for another node's name is accepted.
pub fn run(data: Request<'_>) {
    let (common_name, organization, bytes, signed) = data;
    if !signed {
        read(bytes);
        return;
    }
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization);
    }
    let names = CustomExtension::from_oid_content(&SUBJECT_ALT_NAME, bytes);
    params.custom_extensions = vec![names];
    let Ok(pem) = params.serialize_request(key()).and_then(|request| request.pem()) else {
        return;
    };
    if let Some(node) = read(pem.into_bytes()) {
        assert_eq!(common_name, format!("system:node:{node}"));
        assert_eq!(organization, Some("system:nodes"));
    }
}

/// The node that the certificate is requested for, if the request is acceptable.
fn read(bytes: Vec<u8>) -> Option<String> {
    let mut object = CertificateSigningRequest::default();
    object.spec.request = ByteString(bytes);
    request::read(&object).ok().map(|wanted| wanted.node)
}

fn key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate().unwrap_or_else(|error| panic!("no key: {error}")))
}
