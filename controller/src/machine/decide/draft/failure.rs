//! What becomes of a plan while a write that failed is held back: what it concerns says so, and everything else that does not
//! wait for it goes on.

use machinist_shared::names::condition;

use super::super::super::conditions::{Condition, Reason, Status};
use super::super::super::observed::{Concern, Failure};
use super::super::super::plan::{Event, Plan, Step};
use super::{Draft, Field};

impl Draft<'_> {
    /// The finished plan.
    pub(in super::super) fn finish(mut self) -> Plan {
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
}
