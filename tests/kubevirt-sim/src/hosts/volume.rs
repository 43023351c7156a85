//! Storage: the provisioner of a claim's class. kube-controller-manager binds claims.

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::json;

use crate::faults::Faults;
use crate::objects::{Kind, deleting, object, text};
use crate::plan::{Plan, Write};

/// The controller-manager writes it when the provisioner's turn has come.
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";

/// Creates a volume for a claim that waits for its provisioner. CDI's populators fill claims with one of their sources.
pub(crate) fn provision(claim: &DynamicObject, volume: Option<&DynamicObject>, faults: &Faults) -> Plan {
    let populated = text(claim, "/spec/dataSourceRef/apiGroup") == Some("cdi.kubevirt.io");
    let bound = text(claim, "/spec/volumeName").is_some();
    let provisioner = claim.annotations().get(PROVISIONER);
    let (Some(provisioner), None) = (provisioner, volume) else {
        return Plan::idle();
    };
    if populated || bound || deleting(claim) || faults.pvc_pending {
        return Plan::idle();
    }
    let mut volume = object(
        Kind::Volume,
        &name_for(claim),
        json!({"spec": {
            "storageClassName": text(claim, "/spec/storageClassName"),
            "accessModes": claim.data.pointer("/spec/accessModes"),
            "volumeMode": text(claim, "/spec/volumeMode").unwrap_or("Filesystem"),
            "capacity": claim.data.pointer("/spec/resources/requests"),
            "persistentVolumeReclaimPolicy": "Delete",
            "csi": {"driver": provisioner, "volumeHandle": claim.uid()},
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": claim.name_any(),
                "namespace": claim.namespace(), "uid": claim.uid(),
            },
        }}),
    );
    let provisioned_by = ("pv.kubernetes.io/provisioned-by".to_owned(), provisioner.clone());
    volume.metadata.annotations = Some([provisioned_by].into());
    Plan::one(Write::Create(Kind::Volume, volume))
}

/// Name of the volume that is created for a claim.
pub(crate) fn name_for(claim: &DynamicObject) -> String {
    format!("pvc-{}", claim.uid().unwrap_or_default())
}

/// Deletes a volume whose claim is gone.
pub(crate) fn reclaim(volume: &DynamicObject) -> Plan {
    if text(volume, "/status/phase") == Some("Released") && !deleting(volume) {
        return Plan::one(Write::Delete(Kind::Volume, volume.clone()));
    }
    Plan::idle()
}
