//! MachineSet: a number of Machines of one template.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube_core::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::explain::TemplateMetadata;
use super::lenient::{null_default, without_nulls};
use super::{MachineDeploymentCondition, MachineSpec};

/// A MachineSet maintains a number of Machines of one template.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineSet {
    /// Standard object metadata.
    #[serde(default, deserialize_with = "null_default")]
    #[schemars(skip)]
    pub metadata: ObjectMeta,
    /// The number of Machines, and their template.
    #[serde(default, deserialize_with = "null_default")]
    pub spec: MachineSetSpec,
    /// Observed state of the Machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<MachineSetStatus>,
}
super::resource!(MachineSet, "machinesets");

/// The number of Machines, and their template.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineSetSpec {
    /// How many Machines. Required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Seconds that a Node must be Ready before its Machine counts as available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ready_seconds: Option<i32>,
    /// Which Machines are deleted first when scaling down: `Random` (default), `Newest` or `Oldest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_policy: Option<String>,
    /// Selects its Machines; must match the template's labels.
    #[serde(
        default,
        deserialize_with = "without_nulls",
        skip_serializing_if = "Option::is_none"
    )]
    pub selector: Option<LabelSelector>,
    /// The Machine to create.
    #[serde(default, deserialize_with = "null_default")]
    pub template: MachineTemplate,
}

/// A Machine to create.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineTemplate {
    /// Metadata of the Machines (not of their Nodes, which is `spec.metadata`).
    #[serde(
        default,
        deserialize_with = "without_nulls",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "TemplateMetadata")]
    pub metadata: Option<ObjectMeta>,
    /// Spec of the Machines.
    #[serde(default, deserialize_with = "null_default")]
    pub spec: MachineSpec,
}

/// Observed state of a MachineSet's Machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineSetStatus {
    /// Machines that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Machines that carry every label of the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fully_labeled_replicas: Option<i32>,
    /// Machines whose Node is Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Machines whose Node has been Ready for `minReadySeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_replicas: Option<i32>,
    /// The generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The selector as text, for `/scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    /// Kind of error: `InvalidConfiguration`, `CreateError`, `UpdateError`, `DeleteError`, `MachineChangedAtAdmission`
    /// or `TooManyCreations`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_reason: Option<String>,
    /// The error, with the response of the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// `Ready`: as many Machines as asked for are available. `Reconciling`: not yet. `Stalled`: not until a person changes
    /// something.
    #[serde(
        default,
        deserialize_with = "without_nulls",
        skip_serializing_if = "Option::is_none"
    )]
    pub conditions: Option<Vec<MachineDeploymentCondition>>,
}
