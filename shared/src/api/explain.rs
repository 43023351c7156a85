//! Types for `kubectl explain` of fields that are raw JSON or far larger in Rust. Only their schemas are used.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_core::ObjectMeta;
use schemars::JsonSchema;
use serde_json::Value;

use super::schema;

/// Labels and annotations for the Node.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-shape" = schema::of::<ObjectMeta>()))]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct NodeMetadata {
    /// The Machine's own name, which is also the Node's. Optional.
    name: Option<String>,
    /// Labels of the Node, added where the Node lacks the key.
    labels: Option<BTreeMap<String, String>>,
    /// Annotations of the Node, added where the Node lacks the key.
    annotations: Option<BTreeMap<String, String>>,
}

/// Metadata of the Machines.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-shape" = schema::of::<ObjectMeta>()))]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct TemplateMetadata {
    /// Labels of the Machines; the selector must match them.
    labels: Option<BTreeMap<String, String>>,
    /// Annotations of the Machines.
    annotations: Option<BTreeMap<String, String>>,
}

/// Provider, operating system, SSH keys and the provider's own part. The schema has no types: admission validates all
/// of it at once, and reports more than a schema could.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-shape" = true))]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct ProviderSpecValue {
    /// SSH public keys that may log in to the machine, each as a line of `authorized_keys`.
    ssh_public_keys: Value,
    /// Public key of an SSH certificate authority. Only the generator of user data reads it.
    ca_public_key: Value,
    /// Provider that creates the machine: `kubevirt`. Required.
    cloud_provider: Value,
    /// The provider's own part. For `kubevirt`: `auth.kubeconfig` (of the infra cluster; base64, or a `secretKeyRef`),
    /// `clusterName`, `virtualMachine` (`instancetype`, `preference`, `template` with `cpus`, `memory` and
    /// `primaryDisk`), `affinity`, `topologySpreadConstraints`, and `machinist` for additional settings of the built-in
    /// bootstrap. Most strings can come from a Secret or ConfigMap: `{secretKeyRef: {namespace, name, key}}`,
    /// `{configMapKeyRef: …}`.
    cloud_provider_spec: Value,
    /// Operating system: `ubuntu`, `rhel`, `flatcar` or `rockylinux`. Required.
    operating_system: Value,
    /// Settings of the operating system, such as `distUpgradeOnBoot`. Defaulted by operating system.
    operating_system_spec: Value,
    /// Network settings of the guest (`cidr`, `gateway`, `dns.servers`, `ipFamily`), for the built-in bootstrap.
    network: Value,
    /// Cloud config for the kubelet. Only the generator of user data reads it.
    overwrite_cloud_config: Value,
}

/// `providerSpec.valueFrom` of older versions of the API.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct ValueFrom {
    machine_class: Option<MachineClass>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct MachineClass {
    #[serde(flatten)]
    reference: ObjectReference,
    provider: Option<String>,
}

/// `status.lastOperation` of older versions of the API.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct LastOperation {
    description: Option<String>,
    last_updated: Option<Time>,
    state: Option<String>,
    #[serde(rename = "type")]
    type_: Option<String>,
}
