//! MachineSets, of which the Machine's reconciler needs to know whose they are and the credential in their template.

use std::borrow::Cow;

use kube::core::ObjectMeta;
use machinist_shared::config_var::ConfigVarString;
use machinist_shared::field::{FieldPath, Report};
use machinist_shared::names;
use machinist_shared::provider_spec::ProviderConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A MachineSet.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Raw")]
pub struct MachineSetMeta {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// `auth.kubeconfig` of its template, whatever else is wrong with that.
    #[serde(skip)]
    pub kubeconfig: ConfigVarString,
}

/// Without the credential.
impl std::fmt::Debug for MachineSetMeta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachineSetMeta")
            .field("name", &self.metadata.name)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Raw {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
}

impl From<Raw> for MachineSetMeta {
    fn from(raw: Raw) -> Self {
        let mut metadata = raw.metadata;
        metadata.managed_fields = None;
        let value = raw.spec.pointer("/template/spec/providerSpec/value");
        let config = ProviderConfig::decode(value, &FieldPath::new("spec"), &mut Report::new());
        Self {
            metadata,
            kubeconfig: config
                .cloud_provider_spec
                .map(|cloud| cloud.kubeconfig)
                .unwrap_or_default(),
        }
    }
}

impl MachineSetMeta {
    /// UID of the MachineDeployment that controls it.
    pub fn machine_deployment_uid(&self) -> Option<&str> {
        let owners = self.metadata.owner_references.iter().flatten();
        owners
            .filter(|o| o.kind == "MachineDeployment")
            .map(|o| o.uid.as_str())
            .next()
    }

    /// Name of the MachineDeployment that controls it.
    pub fn machine_deployment(&self) -> Option<&str> {
        let owners = self.metadata.owner_references.iter().flatten();
        owners
            .filter(|o| o.kind == "MachineDeployment")
            .map(|o| o.name.as_str())
            .next()
    }
}

impl kube::Resource for MachineSetMeta {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "MachineSet".into()
    }
    fn group((): &()) -> Cow<'_, str> {
        names::GROUP.into()
    }
    fn version((): &()) -> Cow<'_, str> {
        names::VERSION.into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        "machinesets".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_credential_in_a_template_is_read_and_never_shown() {
        let kubeconfig =
            json!({"cloudProviderSpec": {"auth": {"kubeconfig": "aHVzaA=="}}, "cloudProvider": "kubevirt"});
        let set: MachineSetMeta = serde_json::from_value(json!({
            "metadata": {"name": "a", "ownerReferences": [
                {"kind": "MachineDeployment", "name": "d", "uid": "u", "apiVersion": "cluster.k8s.io/v1alpha1"}]},
            "spec": {"template": {"spec": {"providerSpec": {"value": kubeconfig}}}},
        }))
        .unwrap();
        assert_eq!(set.kubeconfig.value.as_deref(), Some("aHVzaA=="));
        assert_eq!(set.machine_deployment_uid(), Some("u"));
        assert!(!format!("{set:?}").contains("aHVzaA"));
        assert_eq!(serde_json::to_value(&set).unwrap().get("kubeconfig"), None);
    }
}
