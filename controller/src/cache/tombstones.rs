//! Machines whose object is gone before what they had is: tombstones.
//!
//! - The API server looks for finalizers when a DELETE comes in, and removes the object some time later, as it is then: what
//!   was added in between holds nothing up. A Machine that is deleted in the moment in which its VM is made would leave all
//!   that behind.
//! - Another client removes our finalizer by force after the deletion began under it. The deletion is finished all the same.
//!
//! Both are kept here as Machines that are being deleted until what they had is gone. Who removes the finalizer *before*
//! deleting the Machine lets VM and Node go: they stay, and an Event names them.
//!
//! A restart forgets what is here. What the deletion of a Machine has to know is therefore on its Node from the drain on
//! ([`Remnant`]).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use machinist_infra::cache::store::{Change, Key};
use machinist_shared::api::names::{annotation, finalizer, label};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Node, StoredMachine};
use crate::machine::record::{self, Record};

/// Machines that are gone, while something of theirs may not be.
#[derive(Debug, Default)]
pub struct Tombstones {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// This process leads: the finalizers that it does not remove itself, another client has.
    leads: bool,
    machines: HashMap<Key, Arc<StoredMachine>>,
    /// Those whose finalizer was removed before they were deleted.
    let_go: HashMap<Key, Arc<StoredMachine>>,
    /// UIDs of those whose finalizer this process removes, for all that they had is gone.
    released: HashSet<String>,
}

impl Tombstones {
    /// From now on this process leads.
    pub fn lead(&self) {
        self.inner.lock().leads = true;
    }

    /// Takes note of what that change says: of a Machine that is gone, or has lost our finalizer. `reported` is whether the end
    /// of one that is gone was reported, and not only missing in a list.
    pub(crate) fn note(&self, change: &Change<StoredMachine>, reported: bool, now: Timestamp) {
        let (Some(before), after) = (&change.before, &change.after) else {
            return;
        };
        if after.is_none() && !reported {
            return;
        }
        let mut inner = self.inner.lock();
        let key = Key::of(before.as_ref());
        let is_over = after.as_ref().is_none_or(|after| after.is_deleting());
        let keeps_finalizer = after
            .as_ref()
            .is_some_and(|after| after.has_finalizer(finalizer::VM));
        let is_released = if after.is_none() {
            inner.released.remove(before.uid())
        } else {
            inner.released.contains(before.uid())
        };
        if before.is_deleting() {
            // One that goes in the usual way has its finalizer removed by us.
            let by_force = before.has_finalizer(finalizer::VM) && !keeps_finalizer && !is_released;
            if inner.leads && by_force {
                tracing::warn!(machine = %key, uid = before.uid(), "its finalizer was removed while it was being deleted; the deletion goes on");
                inner.keep(key, before, now);
            }
        } else if before.has_finalizer(finalizer::VM) {
            if after.is_none() {
                tracing::warn!(machine = %key, uid = before.uid(), "removed with a finalizer; what it had is deleted");
                inner.keep(key, before, now);
            }
        } else if inner.leads && is_over && before.record.as_ref().is_some_and(|r| r.vm_uid.is_some()) {
            inner.let_go.insert(key, Arc::clone(before));
        }
    }

    /// Finishes the deletion of a Machine that is known from its Node.
    pub fn resume(&self, machine: StoredMachine, now: Timestamp) {
        self.inner.lock().keep(Key::of(&machine), &Arc::new(machine), now);
    }

    /// The Machine of that key that was let go, once.
    pub fn take_let_go(&self, key: &Key) -> Option<Arc<StoredMachine>> {
        self.inner.lock().let_go.remove(key)
    }

    /// This process removes our finalizer from the Machine of that UID; or it has not, after all.
    pub fn release(&self, uid: &str, releases: bool) {
        let mut inner = self.inner.lock();
        if releases {
            inner.released.insert(uid.to_owned());
        } else {
            inner.released.remove(uid);
        }
    }

    /// What a patch says of the status of a Machine that is here.
    pub fn patched(&self, key: &Key, patch: &Value) {
        let mut inner = self.inner.lock();
        let Some(machine) = inner.machines.get_mut(key) else {
            return;
        };
        let machine = Arc::make_mut(machine);
        if let Some(conditions) = patch.pointer("/status/conditions") {
            machine.status.conditions = serde_json::from_value(conditions.clone()).unwrap_or_default();
        }
        if let Some(change) = patch.pointer("/status/providerStatus") {
            let mut stored = json!(machine.record);
            json_patch::merge(&mut stored, &json!(machine.progress));
            json_patch::merge(&mut stored, change);
            let conditions = machine.status.conditions.as_deref().unwrap_or_default();
            (machine.record, machine.progress) = record::read(&stored, conditions);
        }
    }

    /// Whether the Machine of that UID is among them.
    pub fn has_uid(&self, uid: &str) -> bool {
        self.inner
            .lock()
            .machines
            .values()
            .any(|machine| machine.uid() == uid)
    }

    /// The Machine of that key.
    pub fn get(&self, key: &Key) -> Option<Arc<StoredMachine>> {
        self.inner.lock().machines.get(key).cloned()
    }

    /// Whether that very Machine is among them.
    pub fn has(&self, machine: &StoredMachine) -> bool {
        let known = self.get(&Key::of(machine));
        known.is_some_and(|known| known.uid() == machine.uid())
    }

    /// Nothing of it is left.
    pub fn forget(&self, key: &Key) {
        self.inner.lock().machines.remove(key);
    }

    /// The keys of those that are called so.
    pub fn named(&self, name: &str) -> Vec<Key> {
        let inner = self.inner.lock();
        let named = inner.machines.keys().filter(|key| key.name == name);
        named.cloned().collect()
    }

    /// The keys of all of them.
    pub fn keys(&self) -> Vec<Key> {
        self.inner.lock().machines.keys().cloned().collect()
    }
}

impl Inner {
    fn keep(&mut self, key: Key, machine: &Arc<StoredMachine>, now: Timestamp) {
        let mut machine = machine.as_ref().clone();
        machine.metadata.deletion_timestamp.get_or_insert(Time(now));
        // No client can remove a hook from an object that is gone.
        if let Some(annotations) = &mut machine.metadata.annotations {
            let hooks = [annotation::PRE_DRAIN_HOOK, annotation::PRE_TERMINATE_HOOK];
            annotations.retain(|key, _| !hooks.iter().any(|hook| key.starts_with(hook)));
        }
        self.machines.insert(key, Arc::new(machine));
    }
}

/// What the deletion of a Machine has to know, on its Node, in [`annotation::DELETING`]: written with the patch that cordons
/// the Node, and read when a controller begins and the Machine is gone.
///
/// A kubelet may write it, too: of its own Node, and so of nothing but the VM of that name, once no Machine has the name. Whose
/// the VM is, its labels say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remnant {
    namespace: String,
    uid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    controller: Option<String>,
    provider_status: Record,
}

impl Remnant {
    /// Of that Machine, whose record is this.
    pub fn new(machine: &StoredMachine, record: &Record) -> Self {
        let labels = machine.metadata.labels.as_ref();
        Self {
            namespace: machine.namespace().to_owned(),
            uid: machine.uid().to_owned(),
            controller: labels
                .and_then(|labels| labels.get(label::CONTROLLER_NAME))
                .cloned(),
            provider_status: record.clone(),
        }
    }

    /// Whether the Node says already that its Machine is being deleted.
    pub fn is_on(node: &Node, machine_uid: &str) -> bool {
        Self::read(node).is_some_and(|remnant| remnant.uid == machine_uid)
    }

    fn read(node: &Node) -> Option<Self> {
        serde_json::from_str(node.annotation(annotation::DELETING)?).ok()
    }

    /// The Machine of a Node, as far as it is known from the Node.
    pub fn machine(node: &Node) -> Option<StoredMachine> {
        let remnant = Self::read(node)?;
        if node.label(label::OWNED_BY) != Some(&remnant.uid) {
            return None;
        }
        let labels = remnant
            .controller
            .map(|name| json!({label::CONTROLLER_NAME: name}));
        let machine = json!({
            "metadata": {
                "name": node.name(), "namespace": remnant.namespace, "uid": remnant.uid, "labels": labels,
                "finalizers": [finalizer::VM, finalizer::NODE],
            },
            "spec": {},
            "status": {"providerStatus": remnant.provider_status},
        });
        serde_json::from_value(machine).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const DELETED: &str = "2026-01-01T12:00:00Z";

    fn machine(metadata: &Value) -> Arc<StoredMachine> {
        let mut machine = json!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}, "status": {"providerStatus": {
            "infrastructure": {"namespace": "vms", "server": "https://a"}, "vmUID": "v"}}});
        json_patch::merge(&mut machine["metadata"], metadata);
        Arc::new(serde_json::from_value(machine).unwrap())
    }

    fn change(before: &Value, after: Option<&Value>) -> Change<StoredMachine> {
        Change {
            before: Some(machine(before)),
            after: after.map(machine),
        }
    }

    fn ours() -> Value {
        json!({"finalizers": [finalizer::VM, finalizer::NODE]})
    }

    fn deleting(finalizers: &[&str]) -> Value {
        json!({"finalizers": finalizers, "deletionTimestamp": DELETED})
    }

    #[rstest]
    #[case::with_our_finalizer(&ours(), None, true, false)]
    #[case::with_that_of_nodes_alone(&json!({"finalizers": [finalizer::NODE]}), None, false, true)]
    #[case::without_finalizers(&json!({}), None, false, true)]
    #[case::by_force_during_its_deletion(&deleting(&[finalizer::VM]), None, true, false)]
    #[case::by_force_with_another_finalizer_left(&deleting(&[finalizer::VM, "x"]), Some(deleting(&["x"])), true, false)]
    #[case::without_ours_and_with_another_left(&json!({"finalizers": ["x"]}), Some(deleting(&["x"])), false, true)]
    #[case::which_has_lost_its_finalizer_before(&deleting(&["x"]), None, false, false)]
    #[case::that_stays(&ours(), Some(json!({})), false, false)]
    #[case::that_begins_to_go(&ours(), Some(deleting(&[finalizer::VM])), false, false)]
    fn a_machine_that_goes(
        #[case] before: &Value,
        #[case] after: Option<Value>,
        #[case] kept: bool,
        #[case] let_go: bool,
    ) {
        let (lost, key) = (Tombstones::default(), Key::new("ns", "a"));
        lost.lead();
        let gone = change(before, after.as_ref());
        lost.note(&gone, true, Timestamp::UNIX_EPOCH);
        assert_eq!(lost.has(&machine(&json!({}))), kept);
        assert_eq!(lost.named("a").len(), usize::from(kept));
        assert_eq!(lost.take_let_go(&key).is_some(), let_go);
        assert!(lost.take_let_go(&key).is_none(), "it is reported once");
        if kept {
            assert!(lost.get(&key).unwrap().is_deleting());
            lost.forget(&key);
            assert!(lost.keys().is_empty());
        }
    }

    #[test]
    fn what_this_process_releases_is_not_finished_again() {
        let lost = Tombstones::default();
        lost.lead();
        let gone = change(&deleting(&[finalizer::VM]), None);
        lost.release("u", true);
        lost.note(&gone, true, Timestamp::UNIX_EPOCH);
        assert!(lost.keys().is_empty());
        lost.release("u", true);
        lost.release("u", false);
        lost.note(&gone, true, Timestamp::UNIX_EPOCH);
        assert!(lost.has_uid("u"), "its write failed");
    }

    #[rstest]
    #[case::on_a_standby(false, true, &deleting(&[finalizer::VM]))]
    #[case::let_go_on_a_standby(false, true, &json!({}))]
    #[case::only_missing_in_a_list(true, false, &ours())]
    fn what_may_be_the_work_of_others_is_not_kept(
        #[case] leads: bool,
        #[case] reported: bool,
        #[case] before: &Value,
    ) {
        let lost = Tombstones::default();
        if leads {
            lost.lead();
        }
        lost.note(&change(before, None), reported, Timestamp::UNIX_EPOCH);
        assert!(lost.keys().is_empty());
        assert!(lost.take_let_go(&Key::new("ns", "a")).is_none());
    }

    #[test]
    fn a_tombstone_waits_for_no_hook_and_remembers_what_is_said_of_it() {
        let (lost, key) = (Tombstones::default(), Key::new("ns", "a"));
        lost.lead();
        let mut before = deleting(&[finalizer::VM]);
        let hook = format!("{}/x", annotation::PRE_TERMINATE_HOOK);
        before["annotations"] = json!({hook: "", "other": ""});
        lost.note(&change(&before, None), true, Timestamp::UNIX_EPOCH);
        let kept = lost.get(&key).unwrap();
        assert_eq!(kept.metadata.annotations.as_ref().unwrap().len(), 1);
        lost.patched(
            &key,
            &json!({"status": {"conditions": [{"type": "Deleting", "status": "True"}], "providerStatus": {"vmDeleting": true}}}),
        );
        let kept = lost.get(&key).unwrap();
        assert_eq!(kept.status.conditions.as_ref().unwrap().len(), 1);
        let record = kept.record.as_ref().unwrap();
        assert!(record.vm_deleting && record.vm_uid.as_deref() == Some("v"));
    }

    #[test]
    fn what_is_on_a_node_is_enough_to_finish_the_deletion_of_its_machine() {
        let machine = machine(&json!({"labels": {label::CONTROLLER_NAME: "b", "x": "y"}}));
        let remnant = Remnant::new(&machine, machine.record.as_ref().unwrap());
        let node = |owner: &str| -> Node {
            let remnant = serde_json::to_string(&remnant).unwrap();
            let metadata = json!({"name": "a", "labels": {label::OWNED_BY: owner}, "annotations": {annotation::DELETING: remnant}});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        assert!(Remnant::is_on(&node("u"), "u") && !Remnant::is_on(&node("u"), "v"));
        assert!(Remnant::machine(&node("another")).is_none());
        let lost = Tombstones::default();
        lost.resume(Remnant::machine(&node("u")).unwrap(), Timestamp::UNIX_EPOCH);
        let found = lost.get(&Key::new("ns", "a")).unwrap();
        assert!(
            found.is_deleting() && found.has_finalizer(finalizer::VM) && found.has_finalizer(finalizer::NODE)
        );
        assert_eq!((found.uid(), &found.record), ("u", &machine.record));
        assert!(found.is_anothers(""));
    }
}
