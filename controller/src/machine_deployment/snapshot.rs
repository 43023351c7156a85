//! Takes the snapshot of a MachineDeployment from the stores.

pub mod types;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_infra::cache::store::Key;
use machinist_shared::api::names::annotation;

use self::types::{Deployment, Likeness, Machines, Set, Snapshot, Status, Strategy, Trouble};
use super::decide::likeness_of;
use super::memory::Memories;
use super::rollout::Rollout;
use crate::autoscaler::NodeGroups;
use crate::cache::{
    NodeGroup, StoredMachine, StoredMachineDeployment, StoredMachineSet, Stores, overlap, owner,
};
use crate::context::Context;
use crate::machine::disruption_budget;
use crate::runtime::backoff;
use crate::runtime::creation_limit::Fate;

/// Takes notice of what has become of what the deployment has created.
pub(super) fn note(
    context: &Context,
    groups: &Arc<NodeGroups>,
    memories: &Memories,
    key: &Key,
    stored: &StoredMachineDeployment,
) {
    let sets = &context.stores.machine_sets;
    let find = |name: &str| sets.get(&Key::new(stored.namespace(), name));
    let fate = |name: &str| match find(name) {
        Some(set) if !stored.has(&set) => Fate::Tombstones,
        Some(set) if set.is_deleting() => Fate::Deleted,
        Some(_) => Fate::Kept,
        None if sets.saw_deletion(&Key::new(stored.namespace(), name)) => Fate::Deleted,
        None => Fate::Tombstones,
    };
    let is_there =
        |name: &str, uid: &str| find(name).is_some_and(|set| set.uid() == uid && !set.is_deleting());
    let deployment = deployment(stored);
    let is_paused = deployment.paused || deployment.held_by.is_some();
    memories.review(key, stored, is_paused, fate, is_there);
    let is_group = deployment.may_be_a_node_group() && !deployment.deleting;
    let object = is_group.then(|| deployment.as_node_group());
    groups.note(&NodeGroup::Deployment(key.clone()), object.as_ref());
}

/// Everything known of the deployment, and the sets that it was taken from.
pub(super) fn take_snapshot(
    context: &Context,
    groups: &NodeGroups,
    memories: &Memories,
    key: &Key,
    stored: &StoredMachineDeployment,
    now: Timestamp,
) -> (Snapshot, Vec<Arc<StoredMachineSet>>) {
    let all = context.stores.machine_sets_in(stored.namespace());
    let names = all.iter().map(|set| set.name().to_owned()).collect();
    let deployment = deployment(stored);
    let (creations, rejected) = memories.allowance(key);
    let is_rejected = |set: &StoredMachineSet| rejected.iter().any(|(_, uid)| uid == set.uid());
    let mut ours = all;
    ours.retain(|set| {
        let matches = stored.selector.matches(set.metadata.labels.as_ref());
        match owner::controller(&set.metadata) {
            None => matches,
            Some(owner) => owner.uid == deployment.uid,
        }
    });
    let sets = ours.iter().filter(|set| !is_rejected(set)).map(|set| {
        let mut observed = set_of(&context.stores, &deployment, set, stored.selects(set));
        if !stored.selector.matches(set.metadata.labels.as_ref()) {
            // Its selector and its Machines keep the labels from before: the current template does not fit into it.
            observed.likeness = Likeness::Different;
        }
        observed
    });
    let instancetype = groups.known(&NodeGroup::Deployment(key.clone()));
    let observed = Snapshot {
        sets: sets.collect(),
        names,
        creations,
        rejected,
        failure: memories.pending(key, || subject(stored, &ours), now),
        rollback_refused: memories.rollback_refused(key, &deployment.annotations),
        status_written: memories.status_written(key),
        overlaps: overlap::of_deployment(&context.stores, stored),
        instancetype: instancetype.spec,
        instancetype_again: instancetype.again,
        deployment,
    };
    (observed, ours)
}

/// What others may change that lets a write of the deployment succeed: itself, and its sets.
pub(super) fn subject(stored: &StoredMachineDeployment, sets: &[Arc<StoredMachineSet>]) -> u64 {
    let mut sets: Vec<_> = sets
        .iter()
        .map(|set| (set.uid(), set.metadata.generation))
        .collect();
    sets.sort_unstable();
    backoff::subject(&stored.metadata, (stored.metadata.generation, sets))
}

pub(super) fn deployment(stored: &StoredMachineDeployment) -> Deployment {
    let or = |number: &Option<IntOrString>, default| number.clone().unwrap_or(IntOrString::Int(default));
    let strategy = match stored.strategy.as_deref() {
        None | Some("" | "RollingUpdate") => Ok(Strategy::RollingUpdate),
        Some("OnDelete") => Ok(Strategy::OnDelete),
        Some(other) => Err(format!(
            "spec.strategy.type: {other:?} is not one of \"RollingUpdate\", \"OnDelete\""
        )),
    };
    let fault = stored
        .undecodable
        .clone()
        .or_else(|| stored.selector.fault().map(str::to_owned))
        .or_else(|| strategy.clone().err());
    Deployment {
        name: stored.name().to_owned(),
        uid: stored.uid().to_owned(),
        generation: stored.metadata.generation.unwrap_or_default(),
        deleting: stored.is_deleting(),
        annotations: stored.metadata.annotations.clone().unwrap_or_default(),
        finalizers: stored.metadata.finalizers.clone().unwrap_or_default(),
        replicas: stored.replicas.unwrap_or(1),
        template: stored.template.clone(),
        selector: stored.raw_selector.clone(),
        selector_text: stored.selector.text(),
        strategy: strategy.unwrap_or(Strategy::RollingUpdate),
        max_surge: or(&stored.max_surge, 1),
        max_unavailable: or(&stored.max_unavailable, 0),
        min_ready_seconds: stored.min_ready_seconds.unwrap_or_default(),
        revision_history_limit: stored.revision_history_limit.unwrap_or(1),
        progress_deadline: SignedDuration::from_secs(stored.progress_deadline_seconds.unwrap_or(600).into()),
        paused: stored.paused,
        in_place: stored.annotation(annotation::IN_PLACE) == Some("true"),
        held_by: held_by(stored),
        fault,
        rollout: Rollout::of(&stored.status),
        status: status(stored),
        status_decoded: stored.status_decoded,
    }
}

fn held_by(stored: &StoredMachineDeployment) -> Option<&'static str> {
    super::snapshot::types::held_by(|key| stored.annotation(key))
}

fn status(stored: &StoredMachineDeployment) -> Status {
    let status = &stored.status;
    Status {
        observed_generation: status.observed_generation.unwrap_or_default(),
        replicas: status.replicas.unwrap_or_default(),
        updated: status.updated_replicas.unwrap_or_default(),
        ready: status.ready_replicas.unwrap_or_default(),
        available: status.available_replicas.unwrap_or_default(),
        unavailable: status.unavailable_replicas.unwrap_or_default(),
        label_selector: status.label_selector.clone(),
        conditions: status.conditions.clone().unwrap_or_default(),
        rollout: status.rollout.clone(),
    }
}

pub(super) fn set_of(
    stores: &Stores,
    deployment: &Deployment,
    found: &StoredMachineSet,
    matches: bool,
) -> Set {
    let status = &found.status;
    let machines = machines(&stores.machines_of(found.uid()));
    // Any client may write a status. There are no more Machines than there are, and what is deleted counts no more.
    let count = |count: Option<i32>| count.unwrap_or_default().clamp(0, machines.alive);
    let existing = count(status.replicas);
    let mut set = Set {
        name: found.name().to_owned(),
        uid: found.uid().to_owned(),
        created: found.metadata.creation_timestamp.as_ref().map(|time| time.0),
        generation: found.metadata.generation.unwrap_or_default(),
        deleting: found.is_deleting(),
        owners: found.metadata.owner_references.clone().unwrap_or_default(),
        matches,
        likeness: Likeness::Different,
        template: found.template.clone(),
        // Without a number, it has as many as it has.
        replicas: found.replicas.unwrap_or(existing),
        min_ready_seconds: found.min_ready_seconds,
        labels: found.metadata.labels.clone().unwrap_or_default(),
        annotations: found.metadata.annotations.clone().unwrap_or_default(),
        existing,
        ready: count(status.ready_replicas),
        available: count(status.available_replicas),
        observed_generation: status.observed_generation.unwrap_or_default(),
        error: status.error_message.clone().filter(|message| !message.is_empty()),
        machines,
    };
    set.likeness = likeness_of(&set, deployment);
    set
}

/// What the Machines of a set say.
fn machines(machines: &[Arc<StoredMachine>]) -> Machines {
    let mut alive: Vec<_> = machines.iter().filter(|machine| !machine.is_deleting()).collect();
    alive.sort_by_key(|machine| machine.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let surging = alive
        .iter()
        .filter(|machine| disruption_budget::is_replaced(machine));
    Machines {
        alive: i32::try_from(alive.len()).unwrap_or(i32::MAX),
        surging: i32::try_from(surging.count()).unwrap_or(i32::MAX),
        failed: alive.iter().find_map(|machine| failed(machine)),
        blocking: alive.iter().find_map(|machine| blocking(machine)),
    }
}

fn failed(machine: &StoredMachine) -> Option<Trouble> {
    let status = &machine.status;
    let message = status
        .failure_message
        .as_ref()
        .or(status.error_message.as_ref())?;
    (status.phase.as_deref() == Some("Failed")).then(|| trouble(machine, message))
}

fn blocking(machine: &StoredMachine) -> Option<Trouble> {
    let conditions = machine.status.conditions.iter().flatten();
    let ready = conditions
        .into_iter()
        .find(|condition| condition.type_ == "Ready")?;
    let message = ready.message.as_deref().unwrap_or_default();
    (ready.status != "True").then(|| trouble(machine, message))
}

fn trouble(machine: &StoredMachine, message: &str) -> Trouble {
    Trouble {
        whose: format!("Machine {}", machine.name()),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[allow(clippy::needless_pass_by_value, reason = "literals of a test")]
    fn stored(metadata: Value, spec: Value) -> StoredMachineDeployment {
        let mut object = json!({"metadata": {"name": "d"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}}}});
        json_patch::merge(&mut object, &json!({"metadata": metadata, "spec": spec}));
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_is_absent_is_as_admission_would_have_it() {
        let deployment = deployment(&stored(json!({}), json!({})));
        assert_eq!(
            (deployment.replicas, deployment.strategy),
            (1, Strategy::RollingUpdate)
        );
        assert_eq!(
            (deployment.max_surge, deployment.max_unavailable),
            (IntOrString::Int(1), IntOrString::Int(0))
        );
        assert_eq!(deployment.progress_deadline, SignedDuration::from_secs(600));
        assert_eq!((deployment.revision_history_limit, deployment.fault), (1, None));
    }

    #[rstest]
    #[case::a_strategy_that_does_not_exist(json!({"strategy": {"type": "Recreate"}}), "spec.strategy.type")]
    #[case::a_number_that_is_none(json!({"replicas": "3"}), "spec.replicas")]
    #[case::a_selector_that_misses_the_template(json!({"selector": {"matchLabels": {"a": "c"}}}), "spec.selector")]
    fn what_nothing_can_be_decided_from_is_a_fault(#[case] spec: Value, #[case] fault: &str) {
        let found = deployment(&stored(json!({}), spec)).fault.unwrap();
        assert!(found.starts_with(fault), "{found}");
    }

    #[rstest]
    #[case::there_at_all(json!({"cluster.x-k8s.io/paused": ""}), Some(annotation::PAUSED))]
    #[case::any_text(json!({"machine-controller.kubermatic.io/initializers": "x"}), Some(annotation::INITIALIZERS))]
    #[case::no_text(json!({"machine-controller.kubermatic.io/initializers": ""}), None)]
    fn annotations_hold_it(#[case] annotations: Value, #[case] want: Option<&str>) {
        assert_eq!(
            held_by(&stored(json!({"annotations": annotations}), json!({}))),
            want
        );
    }

    #[rstest]
    #[case::far_too_many(2_000_000_000)]
    #[case::fewer_than_none(-2_000_000_000)]
    fn a_set_has_no_more_machines_than_there_are_whatever_its_status_says(#[case] number: i64) {
        let stores = Stores::default();
        stores.machines.apply(machinist_infra::cache::watch::Event::Apply(
            serde_json::from_value(json!({"metadata": {"name": "m", "namespace": "ns", "uid": "uid-m", "resourceVersion": "1",
                "ownerReferences": [{"apiVersion": "v1", "kind": "MachineSet", "name": "s", "uid": "uid-s", "controller": true}]}}))
            .unwrap(),
        ));
        let set: StoredMachineSet = serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "ns", "uid": "uid-s"},
            "status": {"replicas": number, "readyReplicas": number, "availableReplicas": number},
        }))
        .unwrap();
        let found = set_of(&stores, &deployment(&stored(json!({}), json!({}))), &set, true);
        let expected = i32::from(number > 0);
        // Without spec.replicas, it is as large as it is.
        assert_eq!(
            [found.existing, found.ready, found.available, found.replicas],
            [expected; 4]
        );
    }

    #[test]
    fn the_oldest_machine_that_is_not_ready_is_what_blocks() {
        let machine =
            |name: &str, second: u8, status: &str, phase: &str| -> Arc<StoredMachine> {
                Arc::new(serde_json::from_value(json!({
                "metadata": {"name": name, "creationTimestamp": format!("2027-01-01T00:00:0{second}Z")},
                "status": {"phase": phase, "failureMessage": (phase == "Failed").then_some("ended"),
                    "conditions": [{"type": "Ready", "status": status, "message": name}]},
            })).unwrap())
            };
        let mut going = (*machine("going", 0, "False", "Deleting")).clone();
        going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
        let found = machines(&[
            machine("late", 5, "False", "Failed"),
            machine("ready", 1, "True", "Running"),
            machine("early", 3, "False", "Provisioning"),
            Arc::new(going),
        ]);
        assert_eq!(found.alive, 3);
        assert_eq!(found.blocking.unwrap().to_string(), "Machine early: early");
        assert_eq!(found.failed.unwrap().to_string(), "Machine late: ended");
    }
}
