//! The Secret on the infra cluster that holds a VM's user data, owned by the VM.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;
use machinist_shared::names::label;

/// What the Secret is made from.
#[derive(Clone, Copy)]
pub struct UserDataSecret<'a> {
    /// Its name.
    pub name: &'a str,
    /// UID of the Machine.
    pub machine_uid: &'a str,
    /// UID of the user cluster.
    pub cluster_uid: &'a str,
    /// Name of the VM that owns it.
    pub vm_name: &'a str,
    /// UID of that VM.
    pub vm_uid: &'a str,
    /// The user data.
    pub user_data: &'a [u8],
}

/// The Secret. It goes with its VM, by the API server's garbage collection.
pub fn user_data_secret(from: &UserDataSecret<'_>) -> Secret {
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
                name: from.vm_name.to_owned(),
                uid: from.vm_uid.to_owned(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(
            "userdata".to_owned(),
            ByteString(from.user_data.to_vec()),
        )])),
        ..Secret::default()
    }
}
