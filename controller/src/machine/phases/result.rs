//! What a phase results in, and how the results of several make one.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;

use super::super::conditions::{Condition, Status};
use super::super::plan::{Event, Step};
use super::super::reason::Reason;
use super::super::record::{Progress, Record};
use crate::csr::serving::NodeState;

/// What a phase results in.
#[derive(Debug, Default)]
pub struct PhaseResult {
    /// Whether the next phase runs.
    pub flow: Flow,
    /// Conditions. Of two of one type, the one of the earlier phase stays.
    pub conditions: Vec<Condition>,
    /// What is kept of the stored status.
    pub kept: Kept,
    /// What is done before the Machine is written.
    pub steps: Vec<Step>,
    /// What is done after it is written, for it reports that.
    pub then: Vec<Step>,
    /// What is done about signing requests: after everything else.
    pub on_requests: Vec<Step>,
    /// What a person is reported once the Machine is written.
    pub events: Vec<Announcement>,
    /// When to decide again at the latest.
    pub requeue_after: Option<Duration>,
    /// The Machine is not written for its status alone, which will be another in a moment.
    pub is_momentary: bool,
    /// The record.
    pub record: Option<Record>,
    /// What takes time.
    pub progress: Option<Progress>,
    /// Finalizers that the Machine gets.
    pub adds_finalizers: &'static [&'static str],
    /// Finalizers that it loses.
    pub drops_finalizers: Vec<&'static str>,
    /// `errorReason`, `errorMessage` and what follows from them.
    pub failing: Option<Failing>,
    /// `spec.providerID`.
    pub provider_id: Option<String>,
    /// `status.addresses`.
    pub addresses: Option<Vec<String>>,
    /// `status.nodeRef`.
    pub node_ref: Field<ObjectReference>,
    /// `status.versions.kubelet`.
    pub kubelet_version: Option<String>,
    /// The Machine's Node is Ready, whatever else is wrong with it.
    pub node_is_ready: bool,
    /// The Node cannot be deleted, and is not waited for any longer.
    pub leaves_node: bool,
    /// What later phases go by.
    pub found: Found,
}

/// What later phases go by.
#[derive(Debug, Default)]
pub struct Found {
    /// The Node of the Machine's name, if the VM was found to be the Machine's own.
    pub node: Option<NodeState>,
    /// The time to join is over.
    pub is_overdue: bool,
    /// How a deleting Machine's VM stands.
    pub vm: Option<Fate>,
    /// How the drain ended.
    pub drain: Option<Drained>,
}

/// How a deleting Machine's VM stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is there, and to be deleted.
    Stays,
    /// It is being deleted.
    Goes,
    /// It is verified gone.
    Gone,
    /// It was seen to be gone before.
    WasGone,
    /// It is not this Machine's any more, or never was: the reason and the message of the Event that reports it.
    Let(&'static str, String),
}

/// How the drain of a Node ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drained {
    /// It is over; the claims of the pods that stay.
    Over(BTreeSet<String>),
    /// It is left out, and volumes are waited for all the same.
    Skipped,
    /// It is left out, and with it the wait for volumes, which nothing would detach.
    SkippedWithVolumes,
}

/// Whether the next phase runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    #[default]
    Continue,
    /// It does not.
    Stop,
}

/// What is kept of the stored status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// Nothing.
    #[default]
    Nothing,
    /// Conditions of which nothing is said this time.
    Conditions,
    /// These, errors and phase: nothing new is known.
    Status,
}

/// What becomes of a field of the status.
#[derive(Debug, Default)]
pub enum Field<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// It goes.
    Remove,
    /// It becomes this.
    Set(T),
}

/// An error of the Machine.
#[derive(Debug, Clone)]
pub struct Failing {
    /// `errorReason`.
    pub reason: &'static str,
    /// `errorMessage`.
    pub message: String,
    /// It cannot heal: phase `Failed`.
    pub is_final: bool,
}

/// An Event.
#[derive(Debug)]
pub struct Announcement {
    /// The Event.
    pub event: Event,
    /// Recorded only if that condition has not had that reason before.
    pub once: Option<(&'static str, Reason)>,
}

impl PhaseResult {
    /// Nothing, and the next phase does not run.
    pub fn stop() -> Self {
        Self::default().stopped()
    }

    /// The same, and the next phase does not run.
    #[must_use]
    pub fn stopped(mut self) -> Self {
        self.flow = Flow::Stop;
        self
    }

    /// With that condition.
    #[must_use]
    pub fn condition(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// With `InfrastructureReady` False for that reason.
    #[must_use]
    pub fn infrastructure(self, reason: Reason, message: impl Into<String>) -> Self {
        self.condition(Condition::infrastructure(Status::False, reason, message))
    }

    /// Conditions of which nothing is said stay as they are stored.
    #[must_use]
    pub fn keeping(mut self, kept: Kept) -> Self {
        self.kept = self.kept.max(kept);
        self
    }

    /// With that step, before the Machine is written.
    #[must_use]
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// With that step, after the Machine is written.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.then.push(step);
        self
    }

    /// Decided again after `delay` at the latest, if that is known.
    #[must_use]
    pub fn requeue(mut self, delay: impl Into<Option<Duration>>) -> Self {
        self.requeue_after = self.requeue_after.into_iter().chain(delay.into()).min();
        self
    }

    /// With an Event once the Machine is written.
    #[must_use]
    pub fn event(mut self, warning: bool, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let event = Event {
            warning,
            reason,
            message,
        };
        self.events.push(Announcement { event, once: None });
        self
    }

    /// The last Event is recorded only if that condition has not had that reason before.
    #[must_use]
    pub fn once(mut self, kind: &'static str, reason: Reason) -> Self {
        if let Some(last) = self.events.last_mut() {
            last.once = Some((kind, reason));
        }
        self
    }

    /// With that record.
    #[must_use]
    pub fn record(mut self, record: impl Into<Option<Record>>) -> Self {
        self.record = record.into().or(self.record);
        self
    }

    /// With what takes time.
    #[must_use]
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// With an error.
    #[must_use]
    pub fn error(mut self, reason: &'static str, message: impl Into<String>) -> Self {
        let (message, is_final) = (message.into(), self.is_failed());
        self.failing = Some(Failing {
            reason,
            message,
            is_final,
        });
        self
    }

    /// With an error that cannot heal.
    #[must_use]
    pub fn fail(mut self, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        self.failing = Some(Failing {
            reason,
            message,
            is_final: true,
        });
        self
    }

    /// Whether there is an error that cannot heal.
    pub fn is_failed(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| failing.is_final)
    }

    /// What this and a later phase result in.
    #[must_use]
    pub fn and(mut self, later: Self) -> Self {
        for condition in later.conditions {
            if !self.conditions.iter().any(|c| c.kind == condition.kind) {
                self.conditions.push(condition);
            }
        }
        self.steps.extend(later.steps);
        self.then.extend(later.then);
        self.on_requests.extend(later.on_requests);
        self.events.extend(later.events);
        self.drops_finalizers.extend(later.drops_finalizers);
        let is_failed = self.is_failed();
        let failing = later.failing.map(|failing| Failing {
            is_final: failing.is_final || is_failed,
            ..failing
        });
        Self {
            flow: match (self.flow, later.flow) {
                (Flow::Continue, Flow::Continue) => Flow::Continue,
                _ => Flow::Stop,
            },
            kept: self.kept.max(later.kept),
            requeue_after: self.requeue_after.into_iter().chain(later.requeue_after).min(),
            is_momentary: self.is_momentary || later.is_momentary,
            record: later.record.or(self.record),
            progress: later.progress.or(self.progress),
            adds_finalizers: if later.adds_finalizers.is_empty() {
                self.adds_finalizers
            } else {
                later.adds_finalizers
            },
            failing: failing.or(self.failing),
            provider_id: later.provider_id.or(self.provider_id),
            addresses: later.addresses.or(self.addresses),
            node_ref: match later.node_ref {
                Field::Keep => self.node_ref,
                field => field,
            },
            kubelet_version: later.kubelet_version.or(self.kubelet_version),
            node_is_ready: self.node_is_ready || later.node_is_ready,
            leaves_node: self.leaves_node || later.leaves_node,
            found: Found {
                node: later.found.node.or(self.found.node),
                is_overdue: later.found.is_overdue || self.found.is_overdue,
                vm: later.found.vm.or(self.found.vm),
                drain: later.found.drain.or(self.found.drain),
            },
            conditions: self.conditions,
            steps: self.steps,
            then: self.then,
            on_requests: self.on_requests,
            events: self.events,
            drops_finalizers: self.drops_finalizers,
        }
    }
}
