//! The snapshot that a decision is made from: one MachineDeployment, its MachineSets, and what their Machines say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_shared::api::names::{API_VERSION, annotation};
use machinist_shared::api::{MachineDeploymentCondition, RolloutStatus};

use super::super::rollout::Rollout;
use crate::cache::{Decoded, Template};
use crate::runtime::creation_limit::Allowance;
pub use crate::runtime::failure::Failure;

/// Labels or annotations.
pub type Texts = BTreeMap<String, String>;

/// Everything known of one MachineDeployment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The deployment.
    pub deployment: Deployment,
    /// Sets that it controls, and sets without a controller and that match its selector.
    pub sets: Vec<Set>,
    /// Names of all sets in its namespace.
    pub names: BTreeSet<String>,
    /// Names and UIDs of sets of its making that are not as they were sent.
    pub rejected: Vec<(String, String)>,
    /// What it may create.
    pub creations: Allowance,
    /// The last write that failed, until it may be tried again.
    pub failure: Option<Failure>,
    /// What the API server said to the rollback that the deployment asks for, if it was refused for good.
    pub rollback_refused: Option<String>,
    /// When this process wrote the status last.
    pub status_written: Option<Timestamp>,
    /// Names of other deployments that select its Machines, or whose Machines it selects.
    pub overlaps: Vec<String>,
    /// `spec` of the instancetype of its template, if it is a node group of the cluster-autoscaler, and as far as is known.
    pub instancetype: Option<serde_json::Value>,
    /// How long that is believed.
    pub instancetype_again: Option<Duration>,
}

/// A MachineDeployment, with the defaults of admission.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Generation of the spec.
    pub generation: i64,
    /// It is being deleted.
    pub deleting: bool,
    /// Annotations.
    pub annotations: Texts,
    /// Finalizers.
    pub finalizers: Vec<String>,
    /// `spec.replicas`.
    pub replicas: i32,
    /// `spec.template` as stored.
    pub template: Template,
    /// `spec.selector` as stored.
    pub selector: serde_json::Value,
    /// The selector as `/scale` shows it.
    pub selector_text: Option<String>,
    /// How Machines are replaced.
    pub strategy: Strategy,
    /// Machines that may be made beyond `replicas`.
    pub max_surge: IntOrString,
    /// Machines that may be missing.
    pub max_unavailable: IntOrString,
    /// `spec.minReadySeconds`.
    pub min_ready_seconds: i32,
    /// How many old sets to keep.
    pub revision_history_limit: i32,
    /// How long a rollout may go without progress.
    pub progress_deadline: SignedDuration,
    /// `spec.paused`.
    pub paused: bool,
    /// What needs no other virtual machine is changed in the Machines that are there.
    pub in_place: bool,
    /// The annotation that makes the controller leave it alone.
    pub held_by: Option<&'static str>,
    /// Why nothing can be decided from its spec.
    pub fault: Option<String>,
    /// How far its rollout has come.
    pub rollout: Rollout,
    /// The status as stored.
    pub status: Status,
    /// How much of it could be decoded.
    pub status_decoded: Decoded,
}

/// How Machines are replaced when the template changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Step by step, within the limits.
    RollingUpdate,
    /// When a person deletes them.
    OnDelete,
}

/// Status of a MachineDeployment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    /// The generation that it describes.
    pub observed_generation: i64,
    /// Machines that exist.
    pub replicas: i32,
    /// Machines of the current template.
    pub updated: i32,
    /// Machines whose Node is Ready.
    pub ready: i32,
    /// Machines whose Node has been Ready for `minReadySeconds`.
    pub available: i32,
    /// Machines that are missing.
    pub unavailable: i32,
    /// The selector as text.
    pub label_selector: Option<String>,
    /// Conditions.
    pub conditions: Vec<MachineDeploymentCondition>,
    /// How far the rollout has come.
    pub rollout: Option<RolloutStatus>,
}

/// A MachineSet.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Generation of the spec.
    pub generation: i64,
    /// It is being deleted.
    pub deleting: bool,
    /// Who owns it.
    pub owners: Vec<OwnerReference>,
    /// Its own labels match the deployment's selector.
    pub matches: bool,
    /// How its template compares with the deployment's.
    pub likeness: Likeness,
    /// `spec.template` as stored.
    pub template: Template,
    /// `spec.replicas`.
    pub replicas: i32,
    /// `spec.minReadySeconds`.
    pub min_ready_seconds: i32,
    /// Its own labels.
    pub labels: Texts,
    /// Its own annotations.
    pub annotations: Texts,
    /// `status.replicas`.
    pub existing: i32,
    /// `status.readyReplicas`.
    pub ready: i32,
    /// `status.availableReplicas`.
    pub available: i32,
    /// `status.observedGeneration`.
    pub observed_generation: i64,
    /// `status.errorMessage`.
    pub error: Option<String>,
    /// What its Machines say.
    pub machines: Machines,
}

/// How a set's template compares with the deployment's, the hash label aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Likeness {
    /// Another one.
    Different,
    /// Another one, of which the same virtual machines can be made: if the deployment may be changed in place.
    InPlace,
    /// The same, written differently.
    Equal,
    /// The same, byte for byte.
    Identical,
}

/// What the Machines of a set say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machines {
    /// How many are not being deleted.
    pub alive: i32,
    /// How many of them wait for another in their place, because their hosts are being drained.
    pub surging: i32,
    /// One that cannot heal.
    pub failed: Option<Trouble>,
    /// The one that has not been available for the longest, if it says why.
    pub blocking: Option<Trouble>,
}

/// What keeps Machines from becoming available.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Kind and name of the one that says so.
    pub whose: String,
    /// What its conditions say.
    pub message: String,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.whose, self.message)
    }
}

impl Deployment {
    /// The reference that makes it the controller of a set.
    pub fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: "MachineDeployment".to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// An annotation's text.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

impl Set {
    /// Whether it belongs to the deployment.
    pub fn belongs_to(&self, deployment: &Deployment) -> bool {
        self.matches && self.controller() == Some(&deployment.uid)
    }

    /// An annotation's text.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    /// The annotation that makes the controller leave it alone.
    pub fn held_by(&self) -> Option<&'static str> {
        held_by(|key| self.annotation(key))
    }

    /// Available Machines that stay when the set is scaled to its size: a status may report more than were asked for.
    pub fn available(&self) -> i32 {
        self.available.clamp(0, self.replicas.max(0))
    }

    /// The same, if the status is about the size that is asked for now; else none are sure: between two sizes, any may
    /// have gone.
    pub fn surely_available(&self) -> i32 {
        if self.observed_generation >= self.generation {
            self.available()
        } else {
            0
        }
    }

    /// Older than another: by age, then by name.
    pub fn age_order(&self) -> (Option<Timestamp>, &str) {
        (self.created, &self.name)
    }

    /// UID of its controller.
    pub fn controller(&self) -> Option<&str> {
        let controller = self.owners.iter().find(|owner| owner.controller == Some(true));
        controller.map(|owner| owner.uid.as_str())
    }
}

/// The annotation, of these, that makes the controller leave an object alone.
pub fn held_by<'a>(annotations: impl Fn(&str) -> Option<&'a str>) -> Option<&'static str> {
    if annotations(annotation::PAUSED).is_some() {
        return Some(annotation::PAUSED);
    }
    let initializers = annotations(annotation::INITIALIZERS)?;
    (!initializers.is_empty()).then_some(annotation::INITIALIZERS)
}
