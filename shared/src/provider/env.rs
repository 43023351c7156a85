//! Environment variables that serve as defaults or overrides of specs.

use std::fmt;

/// Environment variables that serve as defaults or overrides of specs. Webhook and controller must agree on it.
#[derive(Clone, Default)]
pub struct Env {
    /// `CLUSTER_ID`: wins over `clusterName` when not empty.
    pub cluster_id: String,
    /// `PROJECT_ID`: wins over `projectID` when not empty.
    pub project_id: String,
    /// `KUBEVIRT_KUBECONFIG`: used when the spec has no kubeconfig.
    pub kubeconfig: String,
    /// `POD_NAMESPACE`: namespace of the VMs on the infra cluster.
    pub infra_namespace: String,
}

/// Fields that the environment sets, overriding specs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overridden {
    /// `clusterName`.
    pub cluster_name: bool,
    /// `projectID`.
    pub project_id: bool,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env")
            .field("cluster_id", &self.cluster_id)
            .field("project_id", &self.project_id)
            .field("infra_namespace", &self.infra_namespace)
            .finish_non_exhaustive()
    }
}

impl Env {
    /// The fields that the environment overrides.
    pub fn overridden(&self) -> Overridden {
        Overridden {
            cluster_name: !self.cluster_id.is_empty(),
            project_id: !self.project_id.is_empty(),
        }
    }

    /// Reads the environment through `variable`, a lookup by name such as `|name| std::env::var(name).ok()`.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| variable(name).unwrap_or_default();
        let namespace = text("POD_NAMESPACE");
        Self {
            cluster_id: text("CLUSTER_ID"),
            project_id: text("PROJECT_ID"),
            kubeconfig: text("KUBEVIRT_KUBECONFIG"),
            infra_namespace: if namespace.is_empty() {
                "kube-system".to_owned()
            } else {
                namespace
            },
        }
    }
}
