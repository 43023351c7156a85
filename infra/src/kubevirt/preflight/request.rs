//! What is asked of an infra cluster before a VM is made.

use std::collections::BTreeMap;

use machinist_shared::api::field::FieldPath;
use machinist_shared::kubevirt::resolved::ResolvedSpec;

use crate::kube::kubeconfig::InfraKubeconfig;

/// A VM that is to be.
#[derive(Debug, Clone)]
pub struct PreflightRequest<'a> {
    /// Where it is to be.
    pub kubeconfig: &'a InfraKubeconfig,
    /// In which namespace.
    pub namespace: &'a str,
    /// Name of the Machine, or of what makes many of them.
    pub name: &'a str,
    /// Labels of the Machine.
    pub labels: &'a BTreeMap<String, String>,
    /// Annotations of the Machine.
    pub annotations: &'a BTreeMap<String, String>,
    /// Name of the MachineDeployment above the Machine.
    pub machine_deployment: Option<&'a str>,
    /// What is asked for.
    pub spec: &'a ResolvedSpec,
    /// How many there will be at once, besides those that there are.
    pub replicas: u64,
    /// Where the operating system is written whose user data Ignition reads, if that is so.
    pub ignition: Option<FieldPath>,
    /// Whether the author may know which SecretDisclosure there are.
    pub secrets: SecretDisclosure,
    /// Where that is written: `….cloudProviderSpec`.
    pub path: FieldPath,
    /// Where the Machine's labels and annotations are written: `metadata`, or that of a template.
    pub metadata: FieldPath,
}

impl PreflightRequest<'_> {
    /// Where the credential is written.
    pub(super) fn kubeconfig_path(&self) -> FieldPath {
        self.path.child("auth").child("kubeconfig")
    }
}

/// Whether it is told that a Secret of the infra cluster does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretDisclosure {
    /// The author holds the very credential that is asked with, or may read it.
    Allowed,
    /// Nobody knows what the author may see.
    Hidden,
}
