//! Requests the kubelet's certificates, as the kubelet's certificate manager does.

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::api::PostParams;
use kube::runtime::watcher;
use kube::{Api, Client};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// How long the kubelet waits for an answer before it gives up.
const TIMEOUT: Duration = Duration::from_mins(15);

/// Which certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The client certificate for the API server.
    Client,
    /// The serving certificate for the API server's requests.
    Serving,
}

impl Purpose {
    fn signer(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    /// Usages of an ECDSA key.
    fn usages(self) -> Vec<String> {
        let usage = match self {
            Self::Client => "client auth",
            Self::Serving => "server auth",
        };
        vec!["digital signature".to_owned(), usage.to_owned()]
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Client => "node-csr-",
            Self::Serving => "csr-",
        }
    }
}

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The request could not be made.
    #[error("cannot make the certificate request: {0}")]
    Request(#[from] rcgen::Error),
    /// The API server did not accept the request.
    #[error("cannot create certificate signing request: {0}")]
    Create(#[source] kube::Error),
    /// The answer cannot be read.
    #[error("cannot wait for certificate signing request {name}: {why}")]
    Watch {
        /// Name of the request.
        name: String,
        /// What the API server said.
        why: String,
    },
    /// An approver refused it, or the signer did.
    #[error("certificate signing request {name} is {condition}, reason: {reason}, message: {message}")]
    Refused {
        /// Name of the request.
        name: String,
        /// `Denied` or `Failed`.
        condition: String,
        /// Reason of the condition.
        reason: String,
        /// Message of the condition.
        message: String,
    },
    /// No approver responded.
    #[error("certificate signing request {0} was neither approved nor denied in time")]
    Timeout(String),
}

/// Posts a request for `key` in the name of the node, and waits by watch until the certificate is issued.
///
/// The name of the request follows from the key, so a kubelet that starts again finds its own request.
pub async fn request(
    client: &Client,
    purpose: Purpose,
    node_name: &str,
    addresses: &[IpAddr],
    key: &KeyPair,
) -> Result<String, CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{node_name}"));
    if purpose == Purpose::Serving {
        params.subject_alt_names = vec![SanType::DnsName(node_name.try_into()?)];
        params
            .subject_alt_names
            .extend(addresses.iter().copied().map(SanType::IpAddress));
    }
    let pem = params.serialize_request(key)?.pem()?;
    let name = format!("{}{}", purpose.prefix(), digest(key));
    let mut csr = CertificateSigningRequest::default();
    csr.metadata.name = Some(name.clone());
    csr.spec = CertificateSigningRequestSpec {
        request: ByteString(pem.into_bytes()),
        signer_name: purpose.signer().to_owned(),
        usages: Some(purpose.usages()),
        ..CertificateSigningRequestSpec::default()
    };
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    match api.create(&PostParams::default(), &csr).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
        Err(error) => return Err(CertificateError::Create(error)),
    }
    let answer = tokio::time::timeout(TIMEOUT, issued(api, &name)).await;
    answer.unwrap_or(Err(CertificateError::Timeout(name)))
}

/// 43 characters that stand for the public key.
fn digest(key: &KeyPair) -> String {
    use base64::Engine as _;
    let hash = Sha256::digest(key.public_key_raw());
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .encode(hash)
        .to_lowercase();
    // Names of objects have neither `_` nor a `-` at their end.
    text.replace(['_', '-'], "0")
}

async fn issued(api: Api<CertificateSigningRequest>, name: &str) -> Result<String, CertificateError> {
    let watch_error = |why: String| CertificateError::Watch {
        name: name.to_owned(),
        why,
    };
    let mut seen = false;
    let mut changes = std::pin::pin!(watcher::watch_object(api, name));
    while let Some(change) = changes.next().await {
        let csr = match change {
            Ok(Some(csr)) => csr,
            Ok(None) if seen => return Err(watch_error("it was deleted".to_owned())),
            Ok(None) => continue,
            Err(error) => {
                if let Some(code @ (401 | 403)) = status_code(&error) {
                    return Err(watch_error(format!("HTTP {code}: {error}")));
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        seen = true;
        let status = csr.status.unwrap_or_default();
        for condition in status.conditions.unwrap_or_default() {
            if condition.type_ == "Denied" || condition.type_ == "Failed" {
                return Err(CertificateError::Refused {
                    name: name.to_owned(),
                    condition: condition.type_.to_lowercase(),
                    reason: condition.reason.unwrap_or_default(),
                    message: condition.message.unwrap_or_default(),
                });
            }
        }
        if let Some(certificate) = status.certificate.filter(|bytes| !bytes.0.is_empty()) {
            return String::from_utf8(certificate.0).map_err(|error| watch_error(error.to_string()));
        }
    }
    Err(watch_error("the watch ended".to_owned()))
}

fn status_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}
