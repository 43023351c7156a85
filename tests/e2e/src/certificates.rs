//! CertificateSigningRequests as kubelets create them and as attackers would, and the clients that create them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
        core::v1::Secret,
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use machinist_shared::api::names::{TOKEN_SECRET_TYPE, label};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use crate::{Case, case::WAIT_TIMEOUT, manifest::NAMESPACE, wait};

/// Signer of kubelets' client certificates.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of kubelets' serving certificates.
pub const SERVING: &str = "kubernetes.io/kubelet-serving";

/// A request in the making.
pub struct Ask {
    /// Subject, names and extensions.
    pub params: CertificateParams,
    /// Signer, usages, duration; the PKCS #10 request is made of `params`.
    pub spec: CertificateSigningRequestSpec,
    /// Changes the PEM text.
    pub pem: fn(String) -> String,
}

impl Ask {
    /// The first request of the node's kubelet: a client certificate.
    pub fn client(node: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("system:nodes", &format!("system:node:{node}"));
        Self {
            params,
            spec: CertificateSigningRequestSpec {
                signer_name: CLIENT.to_owned(),
                usages: Some(vec!["digital signature".into(), "client auth".into()]),
                ..CertificateSigningRequestSpec::default()
            },
            pem: |pem| pem,
        }
    }

    /// The request of a serving certificate, which follows the registration of the Node.
    pub fn serving(node: &str, address: &str) -> Self {
        let mut ask = Self::client(node);
        ask.params.subject_alt_names = vec![dns(node), ip(address)];
        SERVING.clone_into(&mut ask.spec.signer_name);
        ask.usages(&["digital signature", "server auth"]);
        ask
    }

    /// Replaces the usages.
    pub fn usages(&mut self, usages: &[&str]) {
        self.spec.usages = Some(usages.iter().map(ToString::to_string).collect());
    }

    /// Creates it, and returns its name.
    pub async fn post(&self, client: &Client) -> Result<String, kube::Error> {
        let pem = KeyPair::generate()
            .and_then(|key| self.params.serialize_request(&key))
            .and_then(|request| request.pem())
            .map_err(|error| kube::Error::Service(error.into()))?;
        let request = CertificateSigningRequest {
            metadata: ObjectMeta {
                generate_name: Some("csr-".into()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString((self.pem)(pem).into_bytes()),
                ..self.spec.clone()
            },
            status: None,
        };
        let api = Api::<CertificateSigningRequest>::all(client.clone());
        Ok(api.create(&PostParams::default(), &request).await?.name_any())
    }
}

/// A subject of one organization and one common name.
pub fn subject(organization: &str, common_name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, organization);
    subject.push(DnType::CommonName, common_name);
    subject
}

/// A DNS name.
///
/// # Panics
/// If it is not ASCII.
pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// A URI.
///
/// # Panics
/// If it is not ASCII.
pub fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap_or_else(|error| panic!("{uri}: {error}")))
}

/// An e-mail address.
///
/// # Panics
/// If it is not ASCII.
pub fn email(address: &str) -> SanType {
    SanType::Rfc822Name(
        address
            .try_into()
            .unwrap_or_else(|error| panic!("{address}: {error}")),
    )
}

/// An address.
///
/// # Panics
/// If it is none.
pub fn ip(address: &str) -> SanType {
    SanType::IpAddress(
        address
            .parse()
            .unwrap_or_else(|error| panic!("{address}: {error}")),
    )
}

/// All requests.
pub fn requests(case: &Case) -> Api<CertificateSigningRequest> {
    Api::all(case.bed.user().client())
}

/// Whether it is approved.
pub fn is_approved(request: &CertificateSigningRequest) -> bool {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Approved")
}

/// Whether the signer has signed it.
pub fn is_issued(request: &CertificateSigningRequest) -> bool {
    let status = request.status.as_ref();
    status
        .and_then(|status| status.certificate.as_ref())
        .is_some_and(|certificate| !certificate.0.is_empty())
}

/// Waits until the signer has signed it.
pub async fn issued(case: &Case, name: &str) -> Result<CertificateSigningRequest> {
    wait::for_state(&requests(case), name, "issued", WAIT_TIMEOUT, is_issued).await
}

/// If the kubelet of that node asks for a serving certificate before `asks` is over, waits until one is issued.
pub async fn served(case: &Case, node: &str, asks: Duration) -> Result<()> {
    let user = format!("system:node:{node}");
    let of_node = |request: &CertificateSigningRequest| {
        request.spec.signer_name == SERVING && request.spec.username.as_deref() == Some(&user)
    };
    let requests = requests(case);
    if wait::any(&requests, "request", asks, of_node).await.is_err() {
        return Ok(());
    }
    let what = format!("issued serving certificate of {node}");
    wait::any(&requests, &what, WAIT_TIMEOUT, |request| {
        of_node(request) && is_issued(request)
    })
    .await
}

/// Waits for an Event about that request whose note contains `text`.
pub async fn wait_for_event(case: &Case, request: &str, text: &str) -> Result<()> {
    let events = Api::<Event>::all(case.bed.user().client());
    let what = format!("Event about {request} with {text:?}");
    wait::any(&events, &what, WAIT_TIMEOUT, |event| {
        event
            .note
            .as_ref()
            .is_some_and(|note| note.contains(&format!("{request} ")) && note.contains(text))
    })
    .await
}

/// All bootstrap tokens.
pub async fn tokens(case: &Case) -> Result<Vec<Secret>> {
    let secrets = Api::<Secret>::namespaced(case.bed.user().client(), NAMESPACE);
    let of_tokens = ListParams::default().fields(&format!("type={TOKEN_SECRET_TYPE}"));
    Ok(secrets.list(&of_tokens).await?.items)
}

/// The one bootstrap token of a Machine.
pub async fn token_of(case: &Case, machine: &str) -> Result<Secret> {
    let uid = case.machines().get(machine).await?.uid();
    let mut tokens = tokens(case).await?;
    tokens.retain(|secret| secret.labels().get(label::MACHINE_UID) == uid.as_ref());
    match tokens.pop() {
        Some(token) if tokens.is_empty() => Ok(token),
        _ => bail!("{machine} has not one token"),
    }
}

/// A client with a Machine's bootstrap token.
pub async fn holder_of_token(case: &Case, machine: &str) -> Result<Client> {
    let secret = token_of(case, machine).await?;
    let data = secret.data.as_ref().context("an empty token")?;
    let part = |key: &str| -> Result<String> {
        let part = data.get(key).context("half a token")?;
        Ok(String::from_utf8(part.0.clone())?)
    };
    let token = format!("{}.{}", part("token-id")?, part("token-secret")?);
    let user = case.bed.user();
    let mut config = Config::new(user.server().parse()?);
    config.root_cert = Some(vec![user.ca().der().to_vec()]);
    config.auth_info.token = Some(token.into());
    Ok(Client::try_from(config)?)
}

/// A client with the certificate of a Machine's kubelet, from its guest's disk.
pub async fn kubelet_of(case: &Case, machine: &str) -> Result<Client> {
    let vm = case
        .vms()
        .get(machine)
        .await?
        .uid()
        .context("a VM without a UID")?;
    let disk = case.bed.dir().join("guests/kubevirt-sim").join(vm);
    let path = find(&disk, "var/lib/kubelet/kubeconfig")
        .with_context(|| format!("no kubeconfig below {}", disk.display()))?;
    let kubeconfig = Kubeconfig::read_from(path)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn find(folder: &Path, below: &str) -> Option<PathBuf> {
    let found = folder.join(below);
    if found.exists() {
        return Some(found);
    }
    let disks = std::fs::read_dir(folder).ok()?;
    disks
        .flatten()
        .map(|disk| disk.path().join(below))
        .find(|path| path.exists())
}

/// A client of an admin who impersonates another user.
pub async fn impersonating(case: &Case, user: &str, groups: &[&str]) -> Result<Client> {
    let text = case.bed.user().admin_kubeconfig_for(case.bed.user().server());
    let kubeconfig = Kubeconfig::from_yaml(&text)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.auth_info.impersonate = Some(user.to_owned());
    config.auth_info.impersonate_groups = Some(groups.iter().map(ToString::to_string).collect());
    Ok(Client::try_from(config)?)
}
