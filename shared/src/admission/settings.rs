//! Settings of admission from flags and environment.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::admission::kubelet_version::VersionConstraint;
use crate::api::bootstrap_mode::BootstrapMode;
use crate::api::names::annotation;
use crate::provider::Overridden;

/// Settings of admission. The controller must have the same.
#[derive(Debug, Clone)]
pub struct AdmissionSettings {
    /// Namespace of the VMs on the infra cluster (`POD_NAMESPACE`, default `kube-system`).
    pub infra_namespace: String,
    /// What the environment sets, whatever specs say (`CLUSTER_ID`, `PROJECT_ID`).
    pub overridden: Overridden,
    /// Kubelet feature gates to note on every Machine (`--node-kubelet-feature-gates`).
    pub feature_gates: BTreeMap<String, bool>,
    /// Whether an external cloud controller manager runs (`--node-external-cloud-provider`).
    pub external_cloud_provider: bool,
    /// Which kubelet versions are allowed (`--kubernetes-version-constraints`).
    pub version_constraint: VersionConstraint,
    /// Where user data comes from (`--bootstrap`).
    pub bootstrap: BootstrapMode,
    /// User names of Machinist's MachineSet controller (`--controller-user`).
    pub controller_users: Vec<String>,
}

impl Default for AdmissionSettings {
    /// The defaults of the flags, without any controller user.
    fn default() -> Self {
        Self {
            infra_namespace: "kube-system".to_owned(),
            overridden: Overridden::default(),
            feature_gates: BTreeMap::from([(ROTATE_SERVER_CERTIFICATE.to_owned(), true)]),
            external_cloud_provider: false,
            version_constraint: VersionConstraint::default(),
            bootstrap: BootstrapMode::Auto,
            controller_users: Vec::new(),
        }
    }
}

/// The feature gate that every Machine gets: without it a kubelet requests no serving certificate.
const ROTATE_SERVER_CERTIFICATE: &str = "RotateKubeletServerCertificate";

/// A malformed value of `--node-kubelet-feature-gates`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a feature gate; write them like Gate=true,OtherGate=false")]
pub struct FeatureGateError(String);

/// Reads `Gate=true,OtherGate=false`; adds `RotateKubeletServerCertificate=true` if it is missing.
pub fn parse_feature_gates(text: &str) -> Result<BTreeMap<String, bool>, FeatureGateError> {
    let mut gates = BTreeMap::new();
    for item in text.split(',') {
        let parsed = item.split_once('=').and_then(|(name, value)| {
            let name = Some(name.trim()).filter(|name| !name.is_empty())?;
            Some((
                name.to_owned(),
                <bool as crate::api::config_var::ConfigValue>::of_text(value.trim().to_owned())?,
            ))
        });
        gates.extend([parsed.ok_or_else(|| FeatureGateError(item.to_owned()))?]);
    }
    gates.entry(ROTATE_SERVER_CERTIFICATE.to_owned()).or_insert(true);
    Ok(gates)
}

/// Who wrote an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// A user, or a program on behalf of one.
    Person,
    /// Machinist's MachineSet controller: its Machines are refused only for specs that cannot be rendered, or an
    /// adopted pool could not recover.
    SetController,
}

impl AdmissionSettings {
    /// Whether Machinist itself makes the user data of a Machine, or of those of a MachineDeployment or MachineSet.
    pub(crate) fn is_builtin(&self, object: &Value) -> bool {
        let text = |pointer: &str, key: &str| {
            let annotations = object.pointer(pointer)?;
            annotations.get(key)?.as_str().filter(|text| !text.is_empty())
        };
        let template = "/spec/template/metadata/annotations";
        let own = if object.pointer("/spec/template").is_some() {
            template
        } else {
            "/metadata/annotations"
        };
        let mode = text(own, annotation::BOOTSTRAP).and_then(|mode| mode.parse().ok());
        match mode.unwrap_or(self.bootstrap) {
            BootstrapMode::Builtin => true,
            BootstrapMode::Osm => false,
            BootstrapMode::Auto => {
                own != template
                    || text("/metadata/annotations", annotation::OPERATING_SYSTEM_PROFILE).is_none()
            }
        }
    }

    /// The kind of author of a request. The authenticated user determines it, never an ownerReference, which anyone can
    /// write.
    pub fn author(&self, username: &str) -> Author {
        if self.controller_users.iter().any(|user| user == username) {
            Author::SetController
        } else {
            Author::Person
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rotation_gate_is_always_there() {
        let gates = parse_feature_gates("A=true, B=false").unwrap();
        assert_eq!(
            gates,
            BTreeMap::from(
                [("A", true), ("B", false), (ROTATE_SERVER_CERTIFICATE, true)]
                    .map(|(k, v)| (k.to_owned(), v))
            )
        );
        assert!(
            !parse_feature_gates("RotateKubeletServerCertificate=false").unwrap()[ROTATE_SERVER_CERTIFICATE]
        );
    }

    #[test]
    fn malformed_gates_are_refused() {
        for text in ["", "A", "A=yes", "=true", "A=true,"] {
            assert!(parse_feature_gates(text).is_err(), "{text:?}");
        }
    }
}
