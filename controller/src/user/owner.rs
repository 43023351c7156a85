//! MachineSets and MachineDeployments, of which the Machine's reconciler needs the metadata only.

use std::borrow::Cow;

use kube::core::ObjectMeta;
use machinist_shared::names;
use serde::{Deserialize, Serialize};

/// A MachineSet's metadata.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineSetMeta {
    /// Metadata.
    pub metadata: ObjectMeta,
}

impl MachineSetMeta {
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
