//! The Machine's status as it should be, and the patch that makes it so.

use k8s_openapi::api::core::v1::{NodeAddress, NodeCondition, ObjectReference};
use machinist_shared::api::VersionsStatus;
use machinist_shared::names::condition;
use serde_json::{Map, Value, json};

use super::super::super::conditions::{self, Change, Condition, Reason, Status, Urgency};
use super::super::super::observed::Infra;
use super::super::super::phase::Phase;
use super::super::super::plan::Event;
use super::super::super::record::Record;
use super::{Draft, Field};

impl Draft<'_> {
    pub(super) fn machine_patch(&mut self) -> Option<Value> {
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
        let phase = self.phase(&wanted);
        if let Some(record) = self.record.as_mut().filter(|_| !self.unsaid) {
            record.has_been_ready |= turns(stored.phase.as_deref(), phase);
        }
        let phase = phase.text();
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
        let listed = match conditions::change(&old, &wanted, self.now, born, self.observed.settings.progress)
        {
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
    pub(super) fn wanted(&self, stored: &[NodeCondition]) -> Vec<Condition> {
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
    pub(super) fn tell_of_trouble(&mut self, stored: &[NodeCondition], wanted: &[Condition]) {
        for want in wanted {
            // It works, but somebody should mend it.
            let imperfect = [Reason::WatchForbidden, Reason::CacheFull]
                .iter()
                .any(|reason| want.reason == reason.text());
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

    pub(super) fn phase(&self, wanted: &[Condition]) -> Phase {
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

/// Whether it is told with that phase that the Node is Ready, or is not any more. That it has been is recorded with that write,
/// and never by one of its own.
fn turns(stored: Option<&str>, phase: Phase) -> bool {
    let was_running = stored == Some(Phase::Running.text());
    phase != Phase::Deleting && was_running != (phase == Phase::Running)
}

/// Whether a reason names a cause, not a stage that every Machine passes.
fn is_cause(reason: &str) -> bool {
    let stages = [
        Reason::Creating,
        Reason::WaitingForNode,
        Reason::WaitingForVM,
        Reason::WaitingForReference,
        Reason::WaitingForInfrastructure,
        Reason::WaitingToStart,
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

pub(super) fn kept(kind: &'static str, old: &NodeCondition) -> Condition {
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
