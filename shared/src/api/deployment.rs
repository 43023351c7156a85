//! MachineDeployment: rolling updates of MachineSets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube_core::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lenient::{null_default, without_nulls};
use super::{MachineDeploymentCondition, MachineTemplate};

/// A MachineDeployment maintains a number of Machines and replaces them when the template changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineDeployment {
    /// Standard object metadata.
    #[serde(default, deserialize_with = "null_default")]
    #[schemars(skip)]
    pub metadata: ObjectMeta,
    /// The number of Machines, their template, and how rollouts replace them.
    #[serde(default, deserialize_with = "null_default")]
    pub spec: MachineDeploymentSpec,
    /// Observed state of the Machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<MachineDeploymentStatus>,
}
super::resource!(MachineDeployment, "machinedeployments");

/// The number of Machines, their template, and how rollouts replace them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineDeploymentSpec {
    /// How many Machines. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
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
    /// How Machines are replaced when the template changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<MachineDeploymentStrategy>,
    /// Seconds that a Node must be Ready before its Machine counts as available. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ready_seconds: Option<i32>,
    /// How many old MachineSets to keep. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_history_limit: Option<i32>,
    /// While true, the rollout does not progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Seconds without progress after which a rollout counts as failed. Default 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline_seconds: Option<i32>,
}

/// How Machines are replaced when the template changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineDeploymentStrategy {
    /// `RollingUpdate`, the default, replaces Machines step by step; `OnDelete` replaces a Machine of an older template
    /// when a user deletes it.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// Limits of a rolling update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_update: Option<RollingUpdate>,
}

/// Limits of a rolling update.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollingUpdate {
    /// Machines that may be unavailable during the update, a number or a percentage. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
    /// Machines that may be created above `replicas` during the update, a number or a percentage. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<IntOrString>,
}

/// Observed state of a MachineDeployment's Machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineDeploymentStatus {
    /// The generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Machines that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Machines of the current template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_replicas: Option<i32>,
    /// Machines whose Node is Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Machines whose Node has been Ready for `minReadySeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_replicas: Option<i32>,
    /// Machines still missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable_replicas: Option<i32>,
    /// The selector as text, for `/scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    /// `Available`: enough Machines are available. `Progressing`: the rollout progresses or is complete; `False` with
    /// the cause if it is stuck. `Ready`: the rollout is complete and all Machines are available; `Reconciling`: not yet;
    /// `Stalled`: not until a person changes something.
    #[serde(
        default,
        deserialize_with = "without_nulls",
        skip_serializing_if = "Option::is_none"
    )]
    pub conditions: Option<Vec<MachineDeploymentCondition>>,
    /// How far the rollout has come, for the controller's next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
}

/// How far a rollout has come. Absent fields are written as null, so that a merge patch takes them away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// When it last made progress; absent while it is paused, halted or cannot go on.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub last_progress_time: Option<Time>,
    /// The generation of the spec whose rollout was completed.
    #[serde(default)]
    pub completed_generation: Option<i64>,
}
