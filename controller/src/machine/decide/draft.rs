//! A plan in the making: the status as it should be, and the steps so far.

mod failure;
mod status;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_shared::names::{condition, finalizer};

use self::status::kept;
use super::super::conditions::{Condition, Reason, Status};
use super::super::observed::Observed;
use super::super::plan::{Event, Plan, Step};
use super::super::record::{CredentialSource, FormerVm, Infrastructure, Record};
use crate::cache::owner;
use crate::csr::serving::NodeState;

/// A plan in the making.
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(super) struct Draft<'a> {
    pub(super) observed: &'a Observed,
    pub(super) now: Timestamp,
    pub(super) plan: Plan,
    conditions: Vec<Condition>,
    kept: bool,
    unsaid: bool,
    error: Option<(&'static str, String)>,
    failed: bool,
    finalizers: Option<Vec<String>>,
    pub(super) provider_id: Option<String>,
    pub(super) addresses: Option<Vec<String>>,
    pub(super) node_ref: Field<ObjectReference>,
    pub(super) kubelet_version: Option<String>,
    pub(super) record: Option<Record>,
    /// The Node of the Machine's name, if the VM was found to be the Machine's own.
    pub(super) own_node: Option<NodeState>,
    /// The Machine's Node is Ready, whatever else is wrong with it.
    pub(super) node_is_ready: bool,
    /// The time to join is over: the token lives on no longer than it does anyway.
    pub(super) gave_up: bool,
    /// The Node cannot be deleted, and nobody waits for that any more.
    pub(super) gave_up_node: bool,
    /// What is done about signing requests: after everything else.
    pub(super) on_requests: Vec<Step>,
    after_patch: Vec<Event>,
    patched: bool,
}

/// What becomes of a field of the status.
#[derive(Debug)]
pub(super) enum Field<T> {
    /// It stays as it is.
    Keep,
    /// It goes.
    Remove,
    /// It becomes this.
    Set(T),
}

impl<'a> Draft<'a> {
    pub(super) fn new(observed: &'a Observed, now: Timestamp) -> Self {
        Self {
            observed,
            now,
            plan: Plan::default(),
            conditions: Vec::new(),
            kept: false,
            unsaid: false,
            error: None,
            failed: false,
            finalizers: None,
            provider_id: None,
            addresses: None,
            node_ref: Field::Keep,
            kubelet_version: None,
            record: observed.machine.record.clone(),
            own_node: None,
            node_is_ready: false,
            gave_up: false,
            gave_up_node: false,
            on_requests: Vec::new(),
            after_patch: Vec::new(),
            patched: false,
        }
    }

    /// Answers one question of the status; the first answer to a question stays.
    pub(super) fn condition(&mut self, condition: Condition) {
        if !self.conditions.iter().any(|c| c.kind == condition.kind) {
            self.conditions.push(condition);
        }
    }

    /// Answers `InfrastructureReady`.
    pub(super) fn infrastructure(&mut self, status: Status, reason: Reason, message: impl Into<String>) {
        self.condition(Condition::new(
            condition::INFRASTRUCTURE_READY,
            status,
            reason,
            message,
        ));
    }

    /// Answers a question as it is stored, if it is.
    pub(super) fn keep_condition(&mut self, kind: &'static str) -> bool {
        let stored = self.observed.machine.status.conditions.iter().flatten();
        let old = stored
            .filter(|c| c.type_ == kind)
            .map(|old| kept(kind, old))
            .next();
        let known = old.is_some();
        if let Some(old) = old {
            self.condition(old);
        }
        known
    }

    /// Questions not answered this time keep their stored answers.
    pub(super) fn keep_conditions(&mut self) {
        self.kept = true;
    }

    /// Nothing new is known: conditions not answered this time, errors and phase stay as they are stored.
    pub(super) fn keep_status(&mut self) {
        self.kept = true;
        self.unsaid = true;
    }

    /// Sets `errorReason` and `errorMessage`.
    pub(super) fn error(&mut self, reason: &'static str, message: impl Into<String>) {
        self.error = Some((reason, message.into()));
    }

    /// Sets them, and phase `Failed`: it cannot heal.
    pub(super) fn fail(&mut self, reason: &'static str, message: impl Into<String>) {
        self.error(reason, message);
        self.failed = true;
    }

    /// An Event, recorded once the status is written.
    pub(super) fn tell_after_patch(
        &mut self,
        warning: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.after_patch.push(Event {
            warning,
            reason,
            message: message.into(),
        });
    }

    /// Adds our finalizers.
    pub(super) fn finalizers(&mut self, add: &[&str]) {
        let stored = self
            .observed
            .machine
            .metadata
            .finalizers
            .clone()
            .unwrap_or_default();
        let mut list = stored.clone();
        list.extend(
            add.iter()
                .filter(|f| !stored.iter().any(|s| s == *f))
                .map(|f| (*f).to_owned()),
        );
        if list != stored {
            self.finalizers = Some(list);
        }
    }

    /// Removes our finalizers: the Machine may go.
    pub(super) fn release(&mut self) {
        let stored = self
            .observed
            .machine
            .metadata
            .finalizers
            .clone()
            .unwrap_or_default();
        self.finalizers = Some(
            stored
                .into_iter()
                .filter(|f| {
                    ![finalizer::VM, finalizer::NODE, finalizer::RED_HAT_SUBSCRIPTION].contains(&f.as_str())
                })
                .collect(),
        );
    }

    /// Removes one finalizer.
    pub(super) fn drop_finalizer(&mut self, finalizer: &str) {
        let stored = || {
            self.observed
                .machine
                .metadata
                .finalizers
                .clone()
                .unwrap_or_default()
        };
        let mut list = self.finalizers.take().unwrap_or_else(stored);
        list.retain(|f| f != finalizer);
        self.finalizers = Some(list);
    }

    /// Records facets of the infra cluster that were not known before.
    pub(super) fn learn(&mut self, seen: &Infrastructure) {
        if let Some(record) = &mut self.record {
            let namespace_uid = seen
                .namespace_uid
                .clone()
                .or(record.infrastructure.namespace_uid.take());
            record.infrastructure = Infrastructure {
                namespace_uid,
                ..seen.clone()
            };
        }
    }

    /// Records that the Machine lives on another infra cluster from now on.
    pub(super) fn move_to(&mut self, infrastructure: &Infrastructure) {
        if let Some(record) = &mut self.record {
            *record = Record {
                infrastructure: infrastructure.clone(),
                credential: record.credential.clone(),
                failure_domain: record.failure_domain.clone(),
                joined: record.has_joined(),
                has_been_ready: record.has_been_ready,
                ..Record::default()
            };
        }
    }

    /// Records a VM that we did not make as this Machine's.
    pub(super) fn adopt(
        &mut self,
        credential: Option<CredentialSource>,
        infra: &Infrastructure,
        vm_uid: &str,
    ) {
        let former = self.record.take().unwrap_or_default();
        let has_node_ref = self.observed.machine.status.node_ref.is_some();
        // A nodeRef proves nothing, but it is reason enough to be patient.
        let joined = former.has_joined() || has_node_ref;
        self.record = Some(Record {
            infrastructure: infra.clone(),
            credential: credential.or(former.credential),
            failure_domain: former.failure_domain,
            vm_uid: Some(vm_uid.to_owned()),
            joined,
            has_been_ready: former.has_been_ready,
            node_uid: former.node_uid,
            retired: former.retired,
            ..Record::default()
        });
    }

    /// Records that the VM has to be made anew under the same Machine.
    pub(super) fn replace_vm(&mut self, uid: &str, why: &str) {
        if let Some(record) = &mut self.record {
            record.joined = record.has_joined();
            record.vm_uid = None;
            record.vm_seen = None;
            record.token_id = None;
            record.bootstrap_secret = None;
            record.node_uid = None;
            record.former = Some(FormerVm {
                uid: uid.to_owned(),
                why: why.to_owned(),
            });
        }
        self.node_ref = Field::Remove;
    }

    /// Writes the Machine at this point of the plan instead of at its end.
    pub(super) fn patch_now(&mut self) {
        if let Some(patch) = self.machine_patch() {
            self.plan.push(Step::PatchMachine(patch));
        }
        self.patched = true;
    }

    /// Does not write the Machine this time.
    pub(super) fn say_nothing(&mut self) {
        self.patched = true;
    }

    /// The same, where there is nothing to write but a status that will be another in a moment.
    pub(super) fn say_nothing_yet(&mut self) {
        let nothing_else = self.finalizers.is_none()
            && self.after_patch.is_empty()
            && self.record == self.observed.machine.record;
        self.patched |= nothing_else;
    }

    /// Since when a condition has said that, if it does.
    pub(super) fn said_since(&self, kind: &str, reason: Reason) -> Option<Timestamp> {
        let mut conditions = self.observed.machine.status.conditions.iter().flatten();
        let said = conditions.find(|stored| stored.type_ == kind && stored.reason == Some(reason.text()))?;
        said.last_transition_time.as_ref().map(|since| since.0)
    }

    /// Whether the Machine's node has ever joined, maybe as a former VM's.
    pub(super) fn has_joined_once(&self) -> bool {
        self.record.as_ref().is_some_and(Record::has_joined)
    }

    /// Has the Machine's MachineSet replace it, if it has one; whether it has.
    pub(super) fn replaced_by_set(&mut self, reason: &'static str, message: &str) -> bool {
        if self.observed.machine.machine_set().is_none() {
            return false;
        }
        self.tell_after_patch(
            true,
            reason,
            format!("{message}; the MachineSet replaces the Machine"),
        );
        self.patch_now();
        self.note_failure(message);
        self.plan.push(Step::DeleteMachine);
        true
    }

    /// Notes on the MachineSet what became of the Machine: its MachineDeployment stops a rollout by that.
    fn note_failure(&mut self, message: &str) {
        let machine = self.observed.machine.clone();
        let owner = owner::controller(&machine.metadata).filter(|owner| owner.kind == "MachineSet");
        if let Some(owner) = owner {
            self.plan.push(Step::NoteFailure {
                set: owner.name.clone(),
                uid: owner.uid.clone(),
                message: format!("Machine {}: {message}", machine.name()),
            });
        }
    }

    /// The plan as it is, with the answers to signing requests.
    fn with_requests(mut self) -> Plan {
        self.plan.steps.append(&mut self.on_requests);
        if !self.plan.steps.is_empty() {
            self.plan.why = self.why();
        }
        self.plan
    }

    /// A plan that answers signing requests and does nothing else.
    pub(super) fn only_requests(mut self) -> Plan {
        self.plan.steps.clear();
        self.with_requests()
    }

    fn complete(mut self) -> Plan {
        if !self.patched {
            self.patch_now();
        }
        for event in std::mem::take(&mut self.after_patch) {
            self.plan.push(Step::Event(event));
        }
        self.with_requests()
    }

    /// What is said of the Machine: of its end, else of the first thing that it lacks.
    fn why(&self) -> String {
        let stored = self.observed.machine.status.conditions.as_deref();
        let wanted = self.wanted(stored.unwrap_or_default());
        let of = |kind| wanted.iter().find(|condition| condition.kind == kind);
        of(condition::DELETING)
            .or_else(|| of(condition::READY))
            .map_or_else(String::new, |said| format!("{}: {}", said.reason, said.message))
    }

    /// How long until `instant`; at least 10 ms, so that a plan never looks again without end.
    pub(super) fn until(&self, instant: Timestamp) -> std::time::Duration {
        let wait = instant
            .duration_since(self.now)
            .max(SignedDuration::from_millis(10));
        wait.try_into().unwrap_or_default()
    }
}
