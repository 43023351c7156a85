//! The Secret that holds a VM's user data, owned by the VM.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;
use machinist_shared::api::names::label;

use crate::provider::BootstrapData;

/// The Secret. The API server's garbage collection deletes it with its VM.
pub(crate) fn secret(from: BootstrapData<'_>) -> Secret {
    let labels = [
        (label::MACHINE_UID, from.machine_uid),
        (label::CLUSTER_UID, from.cluster_uid),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(from.name.to_owned()),
            labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "kubevirt.io/v1".to_owned(),
                kind: "VirtualMachine".to_owned(),
                name: from.instance.to_owned(),
                uid: from.uid.to_owned(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(
            "userdata".to_owned(),
            ByteString(from.data.to_vec()),
        )])),
        ..Secret::default()
    }
}
