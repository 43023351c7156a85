//! How many Nodes of one MachineDeployment are drained at a time, and whose turn it is.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use machinist_infra::cache::store::Key;
use parking_lot::Mutex;

use machinist_shared::api::names::annotation;

use super::super::record::{Deletion, WaitingFor};
use crate::cache::{StoredMachine, StoredMachineDeployment};

/// Whose turn a Machine's drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainSlot {
    /// How many Machines of the MachineDeployment come first.
    pub ahead: usize,
    /// How many of them may be drained at a time.
    pub limit: usize,
}

/// The Machines whose turn has come since this process started, by UID. Their status says so a moment later; meanwhile
/// no other may think that it is his.
#[derive(Debug, Default)]
pub struct DrainSlots(Mutex<HashMap<Key, String>>);

impl DrainSlots {
    /// Whose turn the drain of one of these Machines is, without taking it.
    pub fn see(
        &self,
        machine: &StoredMachine,
        siblings: Vec<Arc<StoredMachine>>,
        limit: usize,
        controller_name: &str,
    ) -> DrainSlot {
        turn(&self.0.lock(), machine, siblings, limit, controller_name).0
    }

    /// The same; if it is its own, it stays so.
    pub fn take(
        &self,
        machine: &StoredMachine,
        siblings: Vec<Arc<StoredMachine>>,
        limit: usize,
        controller_name: &str,
    ) -> DrainSlot {
        let mut begun = self.0.lock();
        let (turn, is_in_line) = turn(&begun, machine, siblings, limit, controller_name);
        if is_in_line && turn.ahead < limit {
            begun.insert(Key::of(machine), machine.uid().to_owned());
        }
        turn
    }

    /// Forgets a Machine that is gone.
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

/// Whose turn it is, those having begun, and whether the Machine is in line at all.
fn turn(
    begun: &HashMap<Key, String>,
    machine: &StoredMachine,
    siblings: Vec<Arc<StoredMachine>>,
    limit: usize,
    controller_name: &str,
) -> (DrainSlot, bool) {
    let has_begun = |other: &StoredMachine| {
        is_draining(other) || begun.get(&Key::of(other)).is_some_and(|uid| *uid == other.uid())
    };
    let in_turn = in_turn(siblings, controller_name, &has_begun);
    let place = in_turn.iter().position(|other| other.uid() == machine.uid());
    // One that is not in line yet comes last. One that was held up gets in line first, or all that were would begin at once.
    let ahead = place.unwrap_or_else(|| in_turn.len().max(if is_held_up(machine) { limit } else { 0 }));
    (DrainSlot { ahead, limit }, place.is_some())
}

/// How many Nodes of a MachineDeployment may be drained at a time, if it says so.
pub fn limit(deployment: &StoredMachineDeployment) -> Option<usize> {
    let text = deployment.annotation(annotation::MAX_CONCURRENT_DRAINS)?;
    text.trim().parse().ok().filter(|limit| *limit > 0)
}

/// The Machines of one MachineDeployment whose drain is not over, those being drained first, then by the time of their
/// deletion.
fn in_turn(
    machines: Vec<Arc<StoredMachine>>,
    controller_name: &str,
    has_begun: &dyn Fn(&StoredMachine) -> bool,
) -> Vec<Arc<StoredMachine>> {
    let mut machines = machines;
    machines.retain(|machine| is_in_line(machine, controller_name));
    machines.sort_by_key(|machine| {
        let deleted = machine.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        (Reverse(has_begun(machine)), deleted, machine.name().to_owned())
    });
    machines
}

/// Whether its Node is being drained.
pub fn is_draining(machine: &StoredMachine) -> bool {
    let deletion = machine.progress.deletion.as_deref();
    deletion.is_some_and(Deletion::is_draining)
}

/// Whether it waits for its turn.
pub fn is_waiting(machine: &StoredMachine) -> bool {
    machine.progress.waits_for() == Some(WaitingFor::DrainSlot)
}

/// Whether nothing can be done for its VM, and so nothing is done for its Node.
fn is_held_up(machine: &StoredMachine) -> bool {
    machine.progress.waits_for() == Some(WaitingFor::Infrastructure)
}

/// One that is left alone or held up lets others go first, as long as its drain has not begun.
fn is_in_line(machine: &StoredMachine, controller_name: &str) -> bool {
    if !machine.is_deleting() || machine.status.node_ref.is_none() {
        return false;
    }
    if is_draining(machine) {
        return true;
    }
    let annotations = machine.metadata.annotations.iter().flatten();
    let mut hooks = annotations.filter(|(key, _)| key.starts_with(annotation::PRE_DRAIN_HOOK));
    let deletion = machine.progress.deletion.as_deref();
    let is_over = deletion.is_some_and(|deletion| deletion.drain_ended_at.is_some());
    !is_over && !is_held_up(machine) && hooks.next().is_none() && !machine.is_ignored(controller_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn machine(name: &str, deleted: Option<&str>, extra: &Value) -> Arc<StoredMachine> {
        let mut machine = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "deletionTimestamp": deleted},
            "status": {"nodeRef": {"kind": "Node", "name": name}},
        });
        json_patch::merge(&mut machine, extra);
        Arc::new(serde_json::from_value(machine).unwrap())
    }

    fn with(kind: &str, reason: &str) -> Value {
        json!({"status": {"conditions": [{"type": kind, "status": "False", "reason": reason}]}})
    }

    const EARLY: Option<&str> = Some("2026-01-01T12:00:00Z");
    const LATE: Option<&str> = Some("2026-01-01T12:00:01Z");

    #[test]
    fn those_being_drained_come_first_then_the_oldest_deletion_then_names() {
        let machines = vec![
            machine("c", EARLY, &json!({})),
            machine("b", LATE, &json!({})),
            machine("a", EARLY, &json!({})),
            machine("z", LATE, &with("Drained", "EvictionBlocked")),
        ];
        let names: Vec<_> = in_turn(machines, "", &is_draining)
            .iter()
            .map(|m| m.name().to_owned())
            .collect();
        assert_eq!(names, ["z", "a", "c", "b"]);
    }

    #[test]
    fn who_has_begun_stays_first_before_its_status_says_so() {
        let drain_slots = DrainSlots::default();
        let (a, b) = (machine("a", EARLY, &json!({})), machine("b", EARLY, &json!({})));
        let ahead = |of: &StoredMachine, all: &[&Arc<StoredMachine>]| {
            let all = all.iter().map(|machine| Arc::clone(machine)).collect();
            drain_slots.take(of, all, 1, "").ahead
        };
        assert_eq!(ahead(&b, &[&b]), 0, "no other is deleted yet");
        assert_eq!(ahead(&a, &[&a, &b]), 1, "it comes first by name, and too late");
        assert_eq!(ahead(&b, &[&a, &b]), 0);
        let over = machine("b", EARLY, &with("Drained", "NodeDrained"));
        assert_eq!(ahead(&a, &[&a, &over]), 0, "the other's drain is over");
        drain_slots.forget(&Key::of(a.as_ref()));
        let other_ = machine("b", EARLY, &json!({"metadata": {"uid": "other"}}));
        assert_eq!(
            ahead(&a, &[&a, &other_]),
            0,
            "a namesake of one that had begun has not"
        );
    }

    #[test]
    fn a_turn_that_is_only_seen_is_not_taken() {
        let drain_slots = DrainSlots::default();
        let (a, b) = (machine("a", EARLY, &json!({})), machine("b", LATE, &json!({})));
        let both = || vec![Arc::clone(&a), Arc::clone(&b)];
        let seen = |of: &StoredMachine, all| drain_slots.see(of, all, 1, "").ahead;
        assert_eq!(seen(&b, vec![Arc::clone(&b)]), 0, "nothing else is deleted yet");
        assert_eq!([seen(&a, both()), seen(&b, both())], [0, 1]);
        drain_slots.take(&b, vec![Arc::clone(&b)], 1, "");
        assert_eq!([seen(&a, both()), seen(&b, both())], [1, 0]);
    }

    #[test]
    fn those_that_were_blocked_do_not_all_begin_at_once() {
        let drain_slots = DrainSlots::default();
        let blocked = |name: &str| machine(name, EARLY, &with("Deleting", "DeletionBlocked"));
        let (a, b) = (blocked("a"), blocked("b"));
        let begins = |of: &StoredMachine| {
            let turn = drain_slots.take(of, vec![Arc::clone(&a), Arc::clone(&b)], 1, "");
            turn.ahead < turn.limit
        };
        assert!(!begins(&a) && !begins(&b));
        let waits = machine("a", EARLY, &with("Deleting", "WaitingForOtherDrains"));
        let turn = drain_slots.take(&waits, vec![Arc::clone(&waits), b], 1, "");
        assert_eq!(turn.ahead, 0, "it is in line, and the blocked one is not");
    }

    #[rstest]
    #[case::one_that_is_not_deleted(None, json!({}))]
    #[case::one_that_is_drained(EARLY, with("Drained", "NodeDrained"))]
    #[case::one_that_is_blocked(EARLY, with("Deleting", "DeletionBlocked"))]
    #[case::one_that_is_not_to_be_drained(EARLY, with("Drained", "DrainSkipped"))]
    #[case::one_without_a_node(EARLY, json!({"status": {"nodeRef": null}}))]
    #[case::one_that_a_hook_holds(
        EARLY, json!({"metadata": {"annotations": {"pre-drain.delete.hook.machine.cluster.x-k8s.io/a": ""}}}))]
    #[case::a_paused_one(
        EARLY, json!({"metadata": {"annotations": {"machine-controller.kubermatic.io/initializers": "a"}}}))]
    fn no_machine_waits_for(#[case] deleted: Option<&str>, #[case] extra: Value) {
        assert!(in_turn(vec![machine("a", deleted, &extra)], "", &is_draining).is_empty());
    }

    #[test]
    fn one_that_was_paused_in_the_middle_of_its_drain_is_waited_for() {
        let mut paused = with("Drained", "Draining");
        paused["metadata"] = json!({"annotations": {"machine-controller.kubermatic.io/initializers": "a"}});
        assert_eq!(
            in_turn(vec![machine("a", EARLY, &paused)], "", &is_draining).len(),
            1
        );
    }

    #[rstest]
    #[case::a_number("2", Some(2))]
    #[case::nothing_is_no_limit("0", None)]
    #[case::no_number_is_no_limit("half", None)]
    fn a_limit(#[case] text: &str, #[case] expected: Option<usize>) {
        let deployment =
            json!({"metadata": {"name": "d", "annotations": {"machinist.dev/max-concurrent-drains": text}}});
        assert_eq!(limit(&serde_json::from_value(deployment).unwrap()), expected);
    }
}
