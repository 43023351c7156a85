//! What a phase is decided from.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use machinist_infra::provider::Instance;
use machinist_shared::api::names::annotation;

use super::super::clock::{self, Wait};
use super::super::conditions::Condition;
use super::super::record::{Deletion, Progress, Record};
use super::super::snapshot::types::{Infra, Open, Snapshot, Spec, Usable};
use super::result::PhaseResult;
use crate::cache::{Node, StoredMachine};

/// The snapshot, what the phases before resulted in, and the time.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Everything known of the Machine.
    pub observed: &'a Snapshot,
    /// What the phases before resulted in.
    pub before: &'a PhaseResult,
    /// The time.
    pub now: Timestamp,
}

impl<'a> View<'a> {
    /// After phases that resulted in that.
    pub fn new(observed: &'a Snapshot, before: &'a PhaseResult, now: Timestamp) -> Self {
        Self {
            observed,
            before,
            now,
        }
    }

    /// The Machine.
    pub fn machine(&self) -> &'a StoredMachine {
        &self.observed.machine
    }

    /// Its record, as it shall be.
    pub fn record(&self) -> Option<&'a Record> {
        self.before
            .record
            .as_ref()
            .or(self.observed.machine.record.as_ref())
    }

    /// UID of its VM on record.
    pub fn vm_uid(&self) -> Option<&'a str> {
        self.record()?.vm_uid.as_deref()
    }

    /// UIDs of its VM on record, and of the one before.
    pub fn vms(&self) -> Vec<&'a str> {
        let former = self.record().and_then(|record| record.former.as_ref());
        let former = former.map(|former| former.uid.as_str());
        self.vm_uid().into_iter().chain(former).collect()
    }

    /// What takes time, as it shall be recorded.
    pub fn progress(&self) -> &'a Progress {
        let stored = &self.observed.machine.progress;
        self.before.progress.as_ref().unwrap_or(stored)
    }

    /// The deletion, as far as it has got.
    pub fn deletion(&self) -> Deletion {
        self.progress().deletion()
    }

    /// What its spec asks for, if that can be rendered.
    pub fn usable(&self) -> Option<&'a Usable> {
        match &self.observed.spec {
            Spec::Usable(usable) => Some(usable),
            _ => None,
        }
    }

    /// Its infra cluster, if that answers.
    pub fn open(&self) -> Option<&'a Open> {
        match &self.observed.infra {
            Infra::Open(open) => Some(open),
            _ => None,
        }
    }

    /// Its infra cluster and the VM of its name there.
    pub fn vm(&self) -> Option<(&'a Open, &'a Instance)> {
        let open = self.open()?;
        Some((open, open.vm.as_deref()?))
    }

    /// The Node that goes with the Machine; never a foreign one.
    pub fn own_node(&self) -> Option<&'a Node> {
        self.observed.own_node()
    }

    /// Whether the Machine's node has ever joined, maybe as a former VM's.
    pub fn has_joined_once(&self) -> bool {
        self.record().is_some_and(Record::has_joined)
    }

    /// A condition as it is stored.
    pub fn stored(&self, kind: &'static str) -> Option<Condition> {
        let mut stored = self.machine().status.conditions.iter().flatten();
        let stored = stored.find(|stored| stored.type_ == kind)?;
        Some(Condition::stored(kind, stored))
    }

    /// A wait that began at `since`.
    pub fn wait(&self, since: Timestamp, timeout: Duration) -> Wait {
        Wait::of(since, timeout, self.now)
    }

    /// How long until `instant`.
    pub fn until(&self, instant: Timestamp) -> Duration {
        clock::until(instant, self.now)
    }

    /// What an admin names to let go of the VM on purpose: its UID.
    pub fn abandoned(&self) -> &'a str {
        let recorded = self.machine().record.as_ref();
        let recorded = recorded.and_then(|record| record.vm_uid.as_deref());
        recorded.unwrap_or(annotation::ABANDON_UNKNOWN)
    }
}
