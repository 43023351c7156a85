//! A certificate signing request as it is stored.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::named::named;

/// What the user of a node begins with.
pub const NODE_USER: &str = "system:node:";

/// The API server prepends this to a bootstrap token's ID.
pub const TOKEN_USER: &str = "system:bootstrap:";

/// The signer of kubelets' client certificates.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

/// Bytes of a pending request that are kept: kubelets' have 1 to 3 KiB. A holder of a bootstrap token can send as many as the
/// API server takes.
pub const MAX_BYTES: usize = 16 * 1024;

/// A signing request. Of one that is decided only the metadata is kept, for nothing else of it is read again, and every
/// node that joins leaves two with their certificates for an hour. Of one that is too large, only whose it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "CertificateSigningRequest")]
pub struct StoredRequest {
    /// The object; without spec and status if it is decided.
    pub object: CertificateSigningRequest,
    /// Whether it is approved, denied, failed or issued.
    pub decided: bool,
    /// Whether it is approved and has not failed.
    pub approved: bool,
    /// The node whose first client certificate it asks for, if it is pending. That is only shown: nothing is verified.
    pub joins_as: Option<String>,
}

impl From<CertificateSigningRequest> for StoredRequest {
    fn from(mut object: CertificateSigningRequest) -> Self {
        object.metadata.managed_fields = None;
        let decided = is_decided(&object);
        let approved = is_approved(&object);
        let oversized = bytes(&object) > MAX_BYTES;
        let joins_as = (!decided && !oversized).then(|| joins_as(&object)).flatten();
        if oversized {
            object.metadata.labels = None;
            object.metadata.annotations = None;
        }
        if decided || oversized {
            object.spec = k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec {
                username: object.spec.username.take(),
                signer_name: std::mem::take(&mut object.spec.signer_name),
                ..Default::default()
            };
            object.status = None;
        }
        Self {
            object,
            decided,
            approved,
            joins_as,
        }
    }
}

/// The node in the subject of a request for a client certificate that came with a bootstrap token.
fn joins_as(object: &CertificateSigningRequest) -> Option<String> {
    let spec = &object.spec;
    let came_with_token = spec.username.as_deref()?.starts_with(TOKEN_USER);
    if !came_with_token || spec.signer_name != CLIENT_SIGNER {
        return None;
    }
    let (_, pem) = x509_parser::pem::parse_x509_pem(&spec.request.0).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let subject = &request.certification_request_info.subject;
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    name.strip_prefix(NODE_USER).map(str::to_owned)
}

/// How much of a request its author chose.
fn bytes(object: &CertificateSigningRequest) -> usize {
    let maps = [&object.metadata.labels, &object.metadata.annotations];
    let pairs = maps.into_iter().flatten().flatten();
    let pairs: usize = pairs.map(|(key, value)| key.len() + value.len()).sum();
    let spec = &object.spec;
    let extra = spec.extra.iter().flatten();
    let extra: usize = extra
        .map(|(key, values)| key.len() + values.iter().map(String::len).sum::<usize>())
        .sum();
    let texts = spec.groups.iter().flatten().chain(spec.usages.iter().flatten());
    pairs + extra + texts.map(String::len).sum::<usize>() + spec.request.0.len()
}

named!(StoredRequest, object.metadata);

impl StoredRequest {
    /// How young it is: creation times are whole seconds; within one, the version tells.
    pub fn age(&self) -> (Option<Timestamp>, Option<u64>) {
        let metadata = &self.object.metadata;
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        let version = metadata.resource_version.as_ref();
        (created, version.and_then(|version| version.parse().ok()))
    }

    /// Who asked.
    pub fn username(&self) -> &str {
        self.object.spec.username.as_deref().unwrap_or_default()
    }
}

machinist_infra::projected!(
    StoredRequest,
    ClusterResourceScope,
    "CertificateSigningRequest",
    "certificates.k8s.io",
    "v1",
    "certificatesigningrequests",
    object.metadata
);

/// Whether anybody has decided it, or the signer has done its part already.
pub fn is_decided(request: &CertificateSigningRequest) -> bool {
    let Some(status) = &request.status else {
        return false;
    };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    status
        .certificate
        .as_ref()
        .is_some_and(|certificate| !certificate.0.is_empty())
        || conditions
            .iter()
            .any(|c| matches!(c.type_.as_str(), "Approved" | "Denied" | "Failed"))
}

/// Whether another client has approved it, and the signer has not failed.
fn is_approved(request: &CertificateSigningRequest) -> bool {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let has = |kind: &str| conditions.unwrap_or_default().iter().any(|c| c.type_ == kind);
    has("Approved") && !has("Failed")
}
