//! Kinds without Rust types in this workspace, as dynamic objects.

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use testbed::seed::INFRA_NAMESPACE;

/// KubeVirt's VirtualMachines.
pub fn virtual_machine() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachine"))
}

/// KubeVirt's VirtualMachineInstances.
pub fn virtual_machine_instance() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(
        "kubevirt.io",
        "v1",
        "VirtualMachineInstance",
    ))
}

/// CDI's DataVolumes.
pub fn data_volume() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("cdi.kubevirt.io", "v1beta1", "DataVolume"))
}

/// A kind of Machinist's API, such as `Machine`.
pub fn ours(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("cluster.k8s.io", "v1alpha1", kind))
}

/// Objects of a kind in the infra namespace.
pub fn infra(client: Client, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(client, INFRA_NAMESPACE, resource)
}
