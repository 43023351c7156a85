//! The initial objects of an infra cluster: storage, instance types, and Machinist's ServiceAccount with its rights.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta},
};
use serde_json::{Value, json};

use crate::{ControlPlane, paths};

/// Namespace of the VMs.
pub const INFRA_NAMESPACE: &str = "machinist-infra";
/// ServiceAccount in [`INFRA_NAMESPACE`] of the Machines' kubeconfig.
pub const INFRA_ACCOUNT: &str = "machinist";
/// Its ClusterRole.
pub const INFRA_CLUSTER_ROLE: &str = "machinist:machinist-infra";
/// Secret in `kube-system` of the user cluster that the examples take the infra kubeconfig from.
pub const INFRA_SECRET: &str = "machinist-infra-kubeconfig";

/// Creates the objects of an infra cluster.
pub async fn infra(plane: &ControlPlane) -> Result<()> {
    let rbac = infra_rbac();
    let rbac = std::fs::read_to_string(&rbac).with_context(|| format!("reading {}", rbac.display()))?;
    // The same commands as in the documentation.
    plane
        .kubectl_ok(&["apply", "--server-side", "-f", "-"], &rbac)
        .await?;
    objects(plane).await
}

/// The manifest of Machinist's ServiceAccount and its rights.
pub(crate) fn infra_rbac() -> PathBuf {
    paths::examples().join("infra-rbac.yaml")
}

/// Storage and instance types only.
pub async fn objects(plane: &ControlPlane) -> Result<()> {
    plane.ensure_namespace(INFRA_NAMESPACE).await?;
    for object in [
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "standard"},
            "provisioner": "simulated.csi.kubevirt.io", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
        }),
        json!({
            "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "StorageProfile", "metadata": {"name": "standard"},
            // The part of the admin: CDI does not know the provisioner. CDI writes the status.
            "spec": {"claimPropertySets": [
                {"accessModes": ["ReadWriteMany"], "volumeMode": "Block"},
                {"accessModes": ["ReadWriteOnce"], "volumeMode": "Block"},
                {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem"},
            ]},
        }),
        json!({
            "apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineClusterInstancetype",
            "metadata": {"name": "standard-2"}, "spec": {"cpu": {"guest": 2}, "memory": {"guest": "4Gi"}},
        }),
        json!({
            "apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineClusterPreference",
            "metadata": {"name": "sockets-advantage"}, "spec": {"cpu": {"preferredCPUTopology": "sockets"}},
        }),
    ] {
        apply(plane, &object).await?;
    }
    // CDI writes this status: the capabilities of the class's storage.
    let status = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "StorageProfile", "metadata": {"name": "standard"},
        "status": {
            "provisioner": "simulated.csi.kubevirt.io", "storageClass": "standard",
            "claimPropertySets": [
                {"accessModes": ["ReadWriteMany"], "volumeMode": "Block"},
                {"accessModes": ["ReadWriteOnce"], "volumeMode": "Block"},
                {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem"},
            ],
        },
    });
    let api = cluster_api(plane, &status)?;
    api.patch_status("standard", &params(), &Patch::Apply(status))
        .await?;
    Ok(())
}

/// Stores the infra kubeconfig in the Secret that the examples name.
pub async fn infra_secret(user: &ControlPlane, kubeconfig: &str) -> Result<()> {
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(INFRA_SECRET.into()),
            ..ObjectMeta::default()
        },
        data: Some([("kubeconfig".to_owned(), ByteString(kubeconfig.into()))].into()),
        ..Secret::default()
    };
    let api: Api<Secret> = Api::namespaced(user.client(), "kube-system");
    api.patch(INFRA_SECRET, &params(), &Patch::Apply(secret)).await?;
    Ok(())
}

async fn apply(plane: &ControlPlane, object: &Value) -> Result<()> {
    let api = cluster_api(plane, object)?;
    let name = object["metadata"]["name"]
        .as_str()
        .context("an object without a name")?;
    api.patch(name, &params(), &Patch::Apply(object))
        .await
        .with_context(|| format!("applying {name}"))?;
    Ok(())
}

fn cluster_api(plane: &ControlPlane, object: &Value) -> Result<Api<DynamicObject>> {
    let field = |name: &str| {
        object[name]
            .as_str()
            .with_context(|| format!("an object without {name}"))
    };
    let (group, version) = field("apiVersion")?
        .split_once('/')
        .context("a group is needed")?;
    let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, field("kind")?));
    if resource.kind == "StorageClass" {
        resource.plural = "storageclasses".into();
    }
    Ok(Api::all_with(plane.client(), &resource))
}

fn params() -> PatchParams {
    PatchParams::apply("testbed").force()
}
