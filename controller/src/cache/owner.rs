//! Who controls an object, and what of its metadata is not kept.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;
use machinist_shared::api::names::annotation;

/// The reference to the controller of it: there is at most one.
pub fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

/// Without who manages which field, and without kubectl's copy of the whole manifest, which may hold a credential and doubles
/// what is kept.
pub(super) fn reduced(mut metadata: ObjectMeta) -> ObjectMeta {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(annotation::LAST_APPLIED);
    }
    metadata
}
