//! A plan in the making: the status as it should be, and the steps so far.

use k8s_openapi::api::core::v1::{NodeAddress, NodeCondition, ObjectReference};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_shared::api::VersionsStatus;
use machinist_shared::names::{condition, finalizer};
use serde_json::{Map, Value, json};

use super::super::conditions::{self, Change, Condition, Reason, Status, Urgency};
use super::super::observed::{Concern, Failure, Infra, Observed};
use super::super::phase::Phase;
use super::super::plan::{Event, Plan, Step};
use super::super::record::{CredentialSource, FormerVm, Infrastructure, Record};
use crate::csr::serving::NodeState;
use crate::user::owner;

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

    /// The finished plan.
    pub(super) fn finish(mut self) -> Plan {
        if let Some(failure) = &self.observed.failure {
            let wait = self.until(failure.until);
            self.plan.look_again(wait);
            match failure.concerns {
                Concern::Certificate => return self.without_approvals(&failure.message),
                Concern::Node if !self.observed.machine.is_deleting() => {
                    return self.without_decoration(&failure.message);
                }
                Concern::Machine => return self.without_patch(failure),
                // It is told, and held back, where the host is asked about; everything else goes on.
                Concern::Evacuation => return self.complete(),
                Concern::NodeDeletion if self.gave_up_node => return self.complete(),
                _ => {}
            }
            self.plan.steps.clear();
            self.patched = false;
            // The record must not run ahead of the writes that it describes.
            self.record.clone_from(&self.observed.machine.record);
            self.finalizers = None;
            self.after_patch.clear();
            self.node_ref = Field::Keep;
            let (kind, reason) = match failure.concerns {
                Concern::Replacement => {
                    self.error("DeleteError", failure.message.clone());
                    return self.complete();
                }
                // They are dealt with above.
                Concern::Machine | Concern::Certificate | Concern::Evacuation => return self.plan,
                Concern::Infrastructure | Concern::Node | Concern::NodeDeletion
                    if self.observed.machine.is_deleting() =>
                {
                    (condition::DELETING, Reason::DeleteFailed)
                }
                Concern::Infrastructure => (condition::INFRASTRUCTURE_READY, Reason::CreateFailed),
                Concern::Bootstrap => (condition::BOOTSTRAP_READY, Reason::BootstrapFailed),
                Concern::Node | Concern::NodeDeletion => (condition::NODE_READY, Reason::DecorationFailed),
            };
            let status = if kind == condition::DELETING {
                Status::True
            } else {
                Status::False
            };
            self.conditions.retain(|c| c.kind != kind);
            self.condition(Condition::new(kind, status, reason, failure.message.clone()));
        }
        self.complete()
    }

    /// An approval has failed: everything else goes on.
    fn without_approvals(mut self, why: &str) -> Plan {
        let is_approval = |step: &Step| matches!(step, Step::ApproveServing { .. });
        if self.on_requests.iter().any(is_approval) {
            self.on_requests.retain(|step| !is_approval(step));
            self.conditions
                .retain(|c| c.kind != condition::SERVING_CERTIFICATE);
            self.condition(Condition::new(
                condition::SERVING_CERTIFICATE,
                Status::False,
                Reason::ApprovalFailed,
                why,
            ));
        }
        self.complete()
    }

    /// The Node does not take what the Machine asks for: that is held back and told, and everything else goes on.
    fn without_decoration(mut self, why: &str) -> Plan {
        let is_decoration = |step: &Step| matches!(step, Step::PatchNode { .. });
        if self.plan.steps.iter().any(is_decoration) {
            self.plan.steps.retain(|step| !is_decoration(step));
            if let (Some(record), Some(stored)) = (&mut self.record, &self.observed.machine.record) {
                record.retired.clone_from(&stored.retired);
            }
            self.conditions.retain(|c| c.kind != condition::NODE_READY);
            self.condition(Condition::new(
                condition::NODE_READY,
                Status::False,
                Reason::DecorationFailed,
                why,
            ));
        }
        self.complete()
    }

    /// The Machine itself cannot be written, so nothing can that its record must tell of. An Event can be, and what does not
    /// change the Machine.
    fn without_patch(mut self, failure: &Failure) -> Plan {
        self.plan.steps.clear();
        if failure.is_news {
            self.plan.push(Step::Event(Event {
                warning: true,
                reason: "ReconcilingError",
                message: failure.message.clone(),
            }));
        }
        self.with_requests()
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

    fn machine_patch(&mut self) -> Option<Value> {
        let machine = &self.observed.machine;
        let stored = &machine.status;
        let mut status = Map::new();
        let mut differs = |key: &str, old: Value, new: Value| {
            if old != new {
                status.insert(key.to_owned(), new);
            }
        };
        if let Some(addresses) = &self.addresses {
            let mut sorted = addresses.clone();
            sorted.sort();
            let new: Vec<NodeAddress> = sorted
                .into_iter()
                .map(|address| NodeAddress {
                    type_: "InternalIP".to_owned(),
                    address,
                })
                .collect();
            differs(
                "addresses",
                json!(stored.addresses.clone().unwrap_or_default()),
                json!(new),
            );
        }
        let node_ref = match &self.node_ref {
            Field::Keep => None,
            Field::Remove => Some(None),
            Field::Set(node_ref) => Some(Some(node_ref)),
        };
        if let Some(node_ref) = node_ref {
            let uid = |of: Option<&ObjectReference>| of.and_then(|of| of.uid.clone());
            if uid(stored.node_ref.as_ref()) != uid(node_ref) {
                differs("nodeRef", json!(stored.node_ref), json!(node_ref));
            }
        }
        if let Some(kubelet) = &self.kubelet_version {
            let new = VersionsStatus {
                kubelet: Some(kubelet.clone()),
                control_plane: None,
            };
            differs("versions", json!(stored.versions), json!(new));
        }
        let old = stored.conditions.clone().unwrap_or_default();
        let wanted = self.wanted(&old);
        if self.error.is_some() || !self.unsaid {
            let (reason, message) = self.error.clone().unzip();
            differs("errorReason", json!(stored.error_reason), json!(reason));
            differs("errorMessage", json!(stored.error_message), json!(message));
            let failure = message.filter(|_| self.failed);
            differs("failureMessage", json!(stored.failure_message), json!(failure));
        }
        let phase = self.phase(&wanted).text();
        // That nothing has begun is worth no write of its own: in a moment there is more to say.
        let nothing_begun = stored.phase.is_none() && phase == "Pending";
        if !nothing_begun && (stored.phase.is_none() || !self.unsaid) {
            differs("phase", json!(stored.phase), json!(phase));
        }
        if self.record != machine.record {
            differs(
                "providerStatus",
                json!(machine.record),
                with_removals(machine.record.as_ref(), self.record.as_ref()),
            );
        }

        let born = machine.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let listed = match conditions::change(&old, &wanted, self.now, born) {
            Change::None => None,
            Change::Now(list) => Some(list),
            Change::Later(list, due) => {
                let due_now = !status.is_empty() || self.finalizers.is_some();
                if !due_now {
                    let wait = self.until(due);
                    self.plan.look_again(wait);
                }
                due_now.then_some(list)
            }
        };
        if let Some(list) = listed {
            self.tell_of_trouble(&old, &wanted);
            status.insert("conditions".to_owned(), json!(list));
        }
        if nothing_begun && (!status.is_empty() || self.finalizers.is_some()) {
            status.insert("phase".to_owned(), json!(phase));
        }

        let mut patch = Map::new();
        if !status.is_empty() {
            patch.insert("status".to_owned(), Value::Object(status));
        }
        if let Some(finalizers) = &self.finalizers {
            patch.insert("metadata".to_owned(), json!({"finalizers": finalizers}));
        }
        if let Some(provider_id) = &self.provider_id {
            patch.insert("spec".to_owned(), json!({"providerID": provider_id}));
        }
        (!patch.is_empty()).then_some(Value::Object(patch))
    }

    /// The conditions to write: those answered this time, the kept ones, and the summary.
    fn wanted(&self, stored: &[NodeCondition]) -> Vec<Condition> {
        let mut wanted = self.conditions.clone();
        if self.kept {
            for kind in [
                condition::INFRASTRUCTURE_READY,
                condition::BOOTSTRAP_READY,
                condition::NODE_READY,
                condition::EVACUATING,
                condition::DRAINED,
                condition::VOLUMES_DETACHED,
            ] {
                if let Some(old) = stored.iter().find(|c| c.type_ == kind)
                    && !wanted.iter().any(|c| c.kind == kind)
                {
                    wanted.push(kept(kind, old));
                }
            }
        }
        conditions::with_summary(wanted)
    }

    /// An Event for a cause that a person should look at, when it is new.
    fn tell_of_trouble(&mut self, stored: &[NodeCondition], wanted: &[Condition]) {
        for want in wanted {
            // It works, but somebody should mend it.
            let imperfect = want.reason == Reason::WatchForbidden.text();
            let trouble = (want.status == Status::False || imperfect)
                && want.urgency == Urgency::Now
                && want.kind != condition::READY;
            let known = stored
                .iter()
                .any(|c| c.type_ == want.kind && c.reason.as_deref() == Some(&want.reason));
            // All Machines on it have the condition, and an alert has the cluster: thousands of Events more help nobody.
            let is_outage = want.kind == condition::INFRASTRUCTURE_REACHABLE
                && matches!(self.observed.infra, Infra::Unreachable(_));
            if trouble && !known && !is_outage && is_cause(&want.reason) {
                let message = format!("{}: {}", want.reason, want.message);
                self.after_patch.push(Event {
                    warning: true,
                    reason: "ReconcilingError",
                    message,
                });
            }
        }
    }

    fn phase(&self, wanted: &[Condition]) -> Phase {
        let running = |c: &Condition| c.kind == condition::NODE_READY && c.status == Status::True;
        if self.observed.machine.is_deleting() {
            Phase::Deleting
        } else if self.failed {
            Phase::Failed
        } else if self.node_is_ready || wanted.iter().any(running) {
            Phase::Running
        } else if self.record.as_ref().is_some_and(|record| record.vm_uid.is_some()) {
            Phase::Provisioning
        } else {
            Phase::Pending
        }
    }
}

/// Whether a reason names a cause, not a stage that every Machine passes.
fn is_cause(reason: &str) -> bool {
    let stages = [
        Reason::Creating,
        Reason::WaitingForNode,
        Reason::WaitingForVM,
        Reason::WaitingForReference,
        Reason::WaitingForInfrastructure,
        Reason::WaitingForDisks,
        Reason::WaitingForBootstrapSecret,
        Reason::BootstrapSecretRevision,
        Reason::NodeNotReady,
        Reason::VMVanished,
        Reason::Draining,
        Reason::VolumesAttached,
        Reason::VolumeDetachSkipped,
        // Told by Events of their own.
        Reason::CertificatePending,
        Reason::CertificateRefused,
        Reason::DrainSkipped,
    ];
    !stages.iter().any(|stage| stage.text() == reason)
}

fn kept(kind: &'static str, old: &NodeCondition) -> Condition {
    let status = match old.status.as_str() {
        "True" => Status::True,
        "False" => Status::False,
        _ => Status::Unknown,
    };
    Condition {
        kind,
        status,
        reason: old.reason.clone().unwrap_or_default(),
        message: old.message.clone().unwrap_or_default(),
        urgency: Urgency::Lazy,
    }
}

/// The new record as a merge patch of the old one: what is gone is null.
fn with_removals(old: Option<&Record>, new: Option<&Record>) -> Value {
    let Some(new) = new else { return Value::Null };
    let mut patch = json!(new);
    if let (Value::Object(old), Value::Object(patch)) = (json!(old), &mut patch) {
        for key in old.keys() {
            patch.entry(key.clone()).or_insert(Value::Null);
        }
    }
    patch
}
