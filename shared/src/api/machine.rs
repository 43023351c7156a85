//! Machine: one node-to-be.

use k8s_openapi::api::core::v1::{NodeAddress, NodeCondition, NodeConfigSource, ObjectReference, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_core::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::explain::{LastOperation, NodeMetadata, ProviderSpecValue, ValueFrom};
use super::lenient::{null_default, without_nulls};
use super::schema;

/// A Machine is one node of the cluster: a virtual machine whose kubelet joins as a Node of the same name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Standard object metadata.
    #[serde(default, deserialize_with = "null_default")]
    #[schemars(skip)]
    pub metadata: ObjectMeta,
    /// Desired state of the Machine. Immutable once admitted.
    #[serde(default, deserialize_with = "null_default")]
    pub spec: MachineSpec,
    /// Observed state of the Machine. Written by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<MachineStatus>,
}
super::resource!(Machine, "machines");

/// Desired state of a Machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineSpec {
    /// Labels and annotations for the Node, added where the Node lacks the key. `name` is always the Machine's own
    /// name.
    #[serde(
        default,
        deserialize_with = "without_nulls",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "NodeMetadata")]
    pub metadata: Option<ObjectMeta>,
    /// Taints of the Node, set before any pod can be scheduled to it.
    #[serde(
        default,
        deserialize_with = "without_nulls",
        skip_serializing_if = "Option::is_none"
    )]
    pub taints: Option<Vec<Taint>>,
    /// The provider that creates the machine, and its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_spec: Option<ProviderSpec>,
    /// Versions to install.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<MachineVersions>,
    /// Not supported by any kubelet since 1.24; must be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-shape" = schema::of::<NodeConfigSource>()))]
    pub config_source: Option<Value>,
    /// Identity of the machine, equal to the Node's `spec.providerID`. Written by the controller unless an external
    /// cloud controller manager runs.
    #[serde(default, rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
}

/// The provider that creates the machine, and its settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderSpec {
    /// Provider, operating system, SSH keys and the provider's own part, decoded strictly at admission. Stored as
    /// written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ProviderSpecValue")]
    pub value: Option<Value>,
    /// Never read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-shape" = schema::of::<ValueFrom>()))]
    pub value_from: Option<Value>,
}

/// Versions to install.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineVersions {
    /// Version of the kubelet, like `1.33.4`. Required.
    // No type is given: admission tells more of `1.30`, which YAML reads as a number, than a schema could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Value", extend("x-shape" = schema::of::<String>()))]
    pub kubelet: Option<String>,
    /// Never read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<String>,
}

/// Observed state of a Machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineStatus {
    /// The Node that this Machine became. Absent until it has joined.
    #[serde(
        default,
        deserialize_with = "without_nulls",
        skip_serializing_if = "Option::is_none"
    )]
    pub node_ref: Option<ObjectReference>,
    /// Versions that the Node reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<VersionsStatus>,
    /// Addresses of the machine's own interfaces.
    #[serde(
        default,
        deserialize_with = "without_nulls",
        skip_serializing_if = "Option::is_none"
    )]
    pub addresses: Option<Vec<NodeAddress>>,
    /// Conditions, each with a reason from a closed list and a human-readable message. `Ready` summarizes the others.
    #[serde(
        default,
        deserialize_with = "without_nulls",
        skip_serializing_if = "Option::is_none"
    )]
    pub conditions: Option<Vec<NodeCondition>>,
    /// Reason of the error that keeps the Machine from becoming a Node, until it is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_reason: Option<String>,
    /// Human-readable message of that error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// That error again, in the field that the cluster-autoscaler reads. Set only with phase `Failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_message: Option<String>,
    /// When the status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-shape" = schema::of::<Time>()))]
    pub last_updated: Option<Value>,
    /// The controller's record of the VM and its location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_status: Option<Value>,
    /// Never written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-shape" = schema::of::<LastOperation>()))]
    pub last_operation: Option<Value>,
    /// `Pending`, `Provisioning`, `Running`, `Deleting` or `Failed` (cannot recover).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
}

/// Versions that the Node reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionsStatus {
    /// Version of the kubelet, with a leading `v`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<String>,
    /// Never written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<String>,
}
