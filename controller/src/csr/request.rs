//! What a signing request asks for.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_COMMON_NAME, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_ORGANIZATION_NAME,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use crate::cache::MAX_BYTES;
pub use crate::cache::{NODE_USER, StoredRequest, is_decided};

/// The group of all nodes, which is the organization of their certificates.
pub const NODES: &str = "system:nodes";
/// The longest life that may be asked for, in seconds: what kube-controller-manager gives by default, a year.
const LONGEST: i32 = 365 * 24 * 60 * 60;

/// The request with its approval, to be put to the `approval` subresource.
pub fn approval(
    request: &CertificateSigningRequest,
    reason: &str,
    message: String,
) -> CertificateSigningRequest {
    let mut approved = request.clone();
    let status = approved
        .status
        .get_or_insert_with(CertificateSigningRequestStatus::default);
    status
        .conditions
        .get_or_insert_default()
        .push(CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            ..CertificateSigningRequestCondition::default()
        });
    approved
}

/// `digital signature` and `purpose`, with `key encipherment` or without: kubelets leave it out for keys other than RSA.
pub fn check_usages(usages: &[String], purpose: &str, whose: &str) -> Result<(), String> {
    let mut set: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    set.remove("key encipherment");
    if set == BTreeSet::from([purpose, "digital signature"]) {
        Ok(())
    } else {
        Err(format!("its usages are {usages:?} and not those of {whose}"))
    }
}

/// A certificate that outlives its node is of use to the one that finds it.
pub fn check_expiration(seconds: Option<i32>) -> Result<(), String> {
    match seconds {
        Some(seconds) if seconds > LONGEST => Err(format!(
            "it asks for {seconds} s, longer than a year ({LONGEST} s)"
        )),
        _ => Ok(()),
    }
}

/// What a sound request asks for: the certificate of one node, with these names and nothing more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requested {
    /// The node's name, from the common name.
    pub node: String,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses; one that is IPv4 inside IPv6 as IPv4.
    pub addresses: Vec<IpAddr>,
    /// Extensions by which other names were asked for.
    pub has_names: bool,
}

/// Reads the PKCS #10 request. Fails for anything but a sound request for a node's certificate.
pub fn read(request: &CertificateSigningRequest) -> Result<Requested, String> {
    // The API server takes no empty one: it was too large to be kept.
    if request.spec.request.0.is_empty() {
        return Err(format!("it is larger than {} KiB", MAX_BYTES / 1024));
    }
    let der = der(&request.spec.request.0)?;
    let parsed = X509CertificationRequest::from_der(&der);
    let (rest, parsed) = parsed.map_err(|_| "its request is not PKCS #10".to_owned())?;
    if !rest.is_empty() {
        return Err("its request has bytes after its end".to_owned());
    }
    parsed
        .verify_signature()
        .map_err(|_| "its request is not signed with its own key".to_owned())?;
    let info = &parsed.certification_request_info;
    let mut wanted = Requested::default();
    for attribute in info.iter_attributes() {
        // Whatever else is asked for (CA rights, further usages) a kubelet does not ask for.
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else {
            return Err(format!("its request has the attribute {}", attribute.oid));
        };
        for extension in &asked.extensions {
            match extension.parsed_extension() {
                _ if extension.oid == OID_X509_EXT_KEY_USAGE => {}
                ParsedExtension::SubjectAlternativeName(names)
                    if extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME =>
                {
                    wanted.has_names = true;
                    for name in &names.general_names {
                        add(&mut wanted, name)?;
                    }
                }
                _ => return Err(format!("its request has the extension {}", extension.oid)),
            }
        }
    }
    wanted.node = node_of(&info.subject)?;
    Ok(wanted)
}

/// Adds a name that a node may have.
fn add(wanted: &mut Requested, name: &GeneralName<'_>) -> Result<(), String> {
    match name {
        GeneralName::DNSName(name) => wanted.dns.push((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = address(bytes).ok_or("it asks for an IP address of a strange length")?;
            wanted.addresses.push(address);
        }
        GeneralName::RFC822Name(name) => {
            return Err(format!("it asks for the e-mail address {}", shown(name)));
        }
        GeneralName::URI(uri) => return Err(format!("it asks for the URI {}", shown(uri))),
        _ => {
            return Err("it asks for a name that is neither a DNS name nor an IP address".to_owned());
        }
    }
    Ok(())
}

/// A text of the one that asks, quoted, and no longer than a person wants to read.
pub fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(100).collect::<String>())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    let sixteen = <[u8; 16]>::try_from(bytes).ok()?;
    Some(IpAddr::from(Ipv6Addr::from(sixteen)).to_canonical())
}

/// The node's name in a subject of exactly one organization, `system:nodes`, and one common name.
pub(super) fn node_of(subject: &X509Name<'_>) -> Result<String, String> {
    let (mut organization, mut common_name) = (None, None);
    for attribute in subject.iter_attributes() {
        let slot = match attribute.attr_type() {
            oid if *oid == OID_X509_ORGANIZATION_NAME => &mut organization,
            oid if *oid == OID_X509_COMMON_NAME => &mut common_name,
            oid => return Err(format!("its subject has the attribute {oid}")),
        };
        let text = attribute
            .as_str()
            .map_err(|_| "its subject is not text".to_owned())?;
        if slot.replace(text).is_some() {
            return Err("its subject has two organizations or two common names".to_owned());
        }
    }
    if organization != Some(NODES) {
        return Err(format!(
            "its organization is {} and not {NODES}",
            shown(organization.unwrap_or_default())
        ));
    }
    let common_name = common_name.unwrap_or_default();
    match common_name.strip_prefix(NODE_USER) {
        Some(node) if !node.is_empty() => Ok(node.to_owned()),
        _ => Err(format!(
            "its common name is {} and not that of a node",
            shown(common_name)
        )),
    }
}

/// The content of exactly one PEM block. PEM's readers differ in what they skip before, inside and after a block; where
/// there is nothing to skip, the signer reads what we read.
pub(super) fn der(pem: &[u8]) -> Result<Vec<u8>, String> {
    const WHAT: &str = "its request is not one PEM block CERTIFICATE REQUEST and nothing else";
    let text = std::str::from_utf8(pem).map_err(|_| WHAT.to_owned())?;
    let body = text
        .strip_prefix("-----BEGIN CERTIFICATE REQUEST-----\n")
        .and_then(|rest| {
            rest.strip_suffix('\n')
                .unwrap_or(rest)
                .strip_suffix("\n-----END CERTIFICATE REQUEST-----")
        })
        .ok_or(WHAT)?;
    // Any line that is not base64 (a header, a second block) fails to decode.
    STANDARD
        .decode(body.replace('\n', ""))
        .map_err(|_| WHAT.to_owned())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rstest::rstest;

    use super::*;

    fn stored(change: impl FnOnce(&mut CertificateSigningRequest)) -> StoredRequest {
        let mut object = CertificateSigningRequest::default();
        object.spec.username = Some("system:bootstrap:abcdef".to_owned());
        object.spec.signer_name = "kubernetes.io/kube-apiserver-client-kubelet".to_owned();
        object.spec.request = ByteString(vec![b'a'; 3_000]);
        object.metadata.name = Some("csr-1".to_owned());
        change(&mut object);
        StoredRequest::from(object)
    }

    #[test]
    fn a_pending_request_of_a_kubelet_is_kept_whole() {
        let request = stored(|_| {});
        assert_eq!(request.object.spec.request.0.len(), 3_000);
    }

    #[rstest]
    #[case::by_the_request_itself(|object: &mut CertificateSigningRequest| object.spec.request.0.resize(17_000, b'a'))]
    #[case::by_an_annotation(|object: &mut CertificateSigningRequest| {
        object.metadata.annotations = Some([("a".to_owned(), "x".repeat(17_000))].into());
    })]
    #[case::by_its_usages(|object: &mut CertificateSigningRequest| object.spec.usages = Some(vec!["x".repeat(100); 200]))]
    fn of_a_pending_request_that_is_too_large_only_whose_it_is_is_kept(
        #[case] enlarge: fn(&mut CertificateSigningRequest),
    ) {
        let request = stored(enlarge);
        assert!(!request.decided);
        assert_eq!(
            (request.name(), request.username()),
            ("csr-1", "system:bootstrap:abcdef")
        );
        assert!(serde_json::to_string(&request.object).unwrap().len() < 500);
        assert_eq!(read(&request.object).unwrap_err(), "it is larger than 16 KiB");
    }
}
