//! The input of the checks before a VM is created.

use std::collections::BTreeMap;

use machinist_shared::api::field::FieldPath;
use machinist_shared::kubevirt::resolved::ResolvedSpec;

use crate::kube::kubeconfig::InfraKubeconfig;

/// A VM to check.
#[derive(Debug, Clone)]
pub struct PreflightRequest<'a> {
    /// The infra cluster.
    pub kubeconfig: &'a InfraKubeconfig,
    /// The namespace of the VM.
    pub namespace: &'a str,
    /// Name of the Machine, or of its owner.
    pub name: &'a str,
    /// Labels of the Machine.
    pub labels: &'a BTreeMap<String, String>,
    /// Annotations of the Machine.
    pub annotations: &'a BTreeMap<String, String>,
    /// Name of the MachineDeployment above the Machine.
    pub machine_deployment: Option<&'a str>,
    /// The resolved spec.
    pub spec: &'a ResolvedSpec,
    /// Number of additional VMs at the same time.
    pub replicas: u64,
    /// The field of the operating system, if Ignition reads its user data.
    pub ignition: Option<FieldPath>,
    /// Whether the author may learn which Secrets exist.
    pub secrets: SecretDisclosure,
    /// Path of the spec: `….cloudProviderSpec`.
    pub path: FieldPath,
    /// Path of the Machine's labels and annotations: `metadata`, or that of a template.
    pub metadata: FieldPath,
}

impl PreflightRequest<'_> {
    /// Path of the credential.
    pub(super) fn kubeconfig_path(&self) -> FieldPath {
        self.path.child("auth").child("kubeconfig")
    }
}

/// Whether errors may reveal that a Secret of the infra cluster does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretDisclosure {
    /// The author has the credential of the checks, or can read it.
    Allowed,
    /// The permissions of the author are unknown.
    Hidden,
}

#[cfg(test)]
pub(super) mod fixture {
    use std::sync::LazyLock;

    use super::*;
    use crate::kube::kubeconfig::AddressPolicy;

    static KUBECONFIG: LazyLock<InfraKubeconfig> = LazyLock::new(|| {
        let text = "{current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], \
             clusters: [{name: c, cluster: {server: 'https://infra.example'}}], users: [{name: u, user: {token: t}}]}";
        InfraKubeconfig::parse(text, AddressPolicy::default()).unwrap()
    });
    static NONE: BTreeMap<String, String> = BTreeMap::new();

    /// A Machine of that spec, without labels and annotations.
    pub(in super::super) fn request(spec: &ResolvedSpec) -> PreflightRequest<'_> {
        PreflightRequest {
            kubeconfig: &KUBECONFIG,
            namespace: "vms",
            name: "m",
            labels: &NONE,
            annotations: &NONE,
            machine_deployment: None,
            spec,
            replicas: 1,
            ignition: None,
            secrets: SecretDisclosure::Hidden,
            path: FieldPath::new("c"),
            metadata: FieldPath::new("metadata"),
        }
    }
}
