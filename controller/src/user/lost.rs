//! Machines that were removed with our finalizer on them.
//!
//! The API server looks for finalizers when a DELETE comes in, and removes the object some time later, as it is then: what
//! was added in between holds nothing up. So a Machine that is deleted in the moment in which its VM is made would leave all
//! that behind. It is kept here as one that is being deleted until what it had is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use machinist_infra::store::{Change, Key};
use machinist_shared::names::finalizer;

use super::StoredMachine;

/// Machines that were removed with our finalizer on them.
#[derive(Debug, Default)]
pub struct Lost {
    machines: Mutex<HashMap<Key, Arc<StoredMachine>>>,
}

impl Lost {
    /// Keeps the Machine if that change removed it, and should not have been able to.
    pub(super) fn note(&self, change: &Change<StoredMachine>, now: Timestamp) {
        let (Some(before), None) = (&change.before, &change.after) else {
            return;
        };
        // One that is being deleted goes when its finalizers are gone, which is never seen in it.
        if before.is_deleting() || !before.has_finalizer(finalizer::VM) {
            return;
        }
        let key = Key::of(before.as_ref());
        tracing::warn!(machine = %key, uid = before.uid(), "removed with a finalizer; what it had is deleted");
        let mut machine = before.as_ref().clone();
        machine.metadata.deletion_timestamp = Some(Time(now));
        self.lock().insert(key, Arc::new(machine));
    }

    /// The Machine of that key.
    pub fn get(&self, key: &Key) -> Option<Arc<StoredMachine>> {
        self.lock().get(key).cloned()
    }

    /// Whether that very Machine is among them.
    pub fn has(&self, machine: &StoredMachine) -> bool {
        let known = self.get(&Key::of(machine));
        known.is_some_and(|known| known.uid() == machine.uid())
    }

    /// Nothing of it is left.
    pub fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// The keys of those that are called so.
    pub fn named(&self, name: &str) -> Vec<Key> {
        let machines = self.lock();
        machines.keys().filter(|key| key.name == name).cloned().collect()
    }

    /// The keys of all of them.
    pub fn keys(&self) -> Vec<Key> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<StoredMachine>>> {
        // Every change is one insert or removal.
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[rstest]
    #[case::it_had_our_finalizer(&json!({"finalizers": [finalizer::VM]}), true)]
    #[case::it_had_that_of_nodes_alone(&json!({"finalizers": [finalizer::NODE]}), false)]
    #[case::it_had_none(&json!({}), false)]
    #[case::it_was_let_go(
        &json!({"finalizers": [finalizer::VM], "deletionTimestamp": "2026-01-01T12:00:00Z"}), false)]
    fn a_machine_that_goes_is_kept_if(#[case] metadata: &Value, #[case] kept: bool) {
        let mut machine = json!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}});
        json_patch::merge(&mut machine["metadata"], metadata);
        let machine: StoredMachine = serde_json::from_value(machine).unwrap();
        let machine = Arc::new(machine);
        let lost = Lost::default();
        let stays = Change {
            before: Some(machine.clone()),
            after: Some(machine.clone()),
        };
        lost.note(&stays, Timestamp::UNIX_EPOCH);
        assert!(lost.keys().is_empty());
        let goes = Change {
            before: Some(machine.clone()),
            after: None,
        };
        lost.note(&goes, Timestamp::UNIX_EPOCH);
        assert_eq!(lost.has(&machine), kept);
        assert_eq!(lost.named("a").len(), usize::from(kept));
        if kept {
            let key = Key::new("ns", "a");
            assert!(lost.get(&key).unwrap().is_deleting());
            lost.forget(&key);
            assert!(lost.keys().is_empty());
        }
    }
}
