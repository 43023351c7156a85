//! Machines whose VM's host is being drained by the admins of the infra cluster: how many of a pool may be missing while
//! they are replaced elsewhere.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use machinist_infra::cache::store::Key;
use machinist_shared::api::names::annotation;
use parking_lot::Mutex;

use super::record::Reservation;
use crate::cache::{StoredMachine, StoredMachineDeployment, StoredMachineSet, Stores};
use crate::machine_set;

/// Whether a Machine may be deleted now, to be replaced elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisruptionBudget {
    /// It stands alone: no controller would replace it.
    Alone,
    /// What would replace it is paused, by this annotation.
    Paused(&'static str),
    /// Too few others are there; how many are missing, and how many may be.
    Full {
        /// Machines that are missing.
        missing: usize,
        /// Machines that may be.
        limit: usize,
    },
    /// None may be missing, but there may be one too many: it waits for another to be there in its place.
    Surge,
    /// The same, and others are made in the place of as many as there may be too many already, or a rollout makes them.
    SurgeFull {
        /// How many that is.
        limit: usize,
    },
    /// It may.
    Allowed,
}

/// Whether a Machine waits to be replaced.
pub fn is_waiting(machine: &StoredMachine) -> bool {
    let evacuation = machine.progress.evacuation.as_ref();
    evacuation.is_some_and(|evacuation| evacuation.reserved != Some(Reservation::Deletion))
}

/// Whether its MachineSet is to make another in its place first. It does not count meanwhile.
pub fn has_surge(machine: &StoredMachine) -> bool {
    machine.progress.reservation() == Some(Reservation::Surge)
}

/// Whether it is the one that goes: from the moment that it is chosen until it is gone, it does not count, and no other goes
/// in its stead, however slow its deletion is.
pub fn is_replaced(machine: &StoredMachine) -> bool {
    machine.progress.reservation().is_some()
}

/// The Machines for which others are made in their place, and those that go, by UID. Their status says so a moment later;
/// meanwhile no other may take that room.
#[derive(Debug, Default)]
pub struct SurgeReservations {
    begun: Mutex<HashMap<Key, String>>,
    going: Mutex<HashMap<Key, String>>,
}

impl SurgeReservations {
    /// No budget is reserved for the Machine of that key to go.
    pub fn forget(&self, key: &Key) {
        self.begun.lock().remove(key);
        self.going.lock().remove(key);
    }
}

/// Whether another may be made in place of that Machine, beside `limit` of them at most, those having begun.
fn may_surge(
    begun: &HashMap<Key, String>,
    machine: &StoredMachine,
    siblings: &[Arc<StoredMachine>],
    limit: usize,
) -> bool {
    let has = |other: &StoredMachine| {
        has_surge(other) || begun.get(&Key::of(other)).is_some_and(|uid| *uid == other.uid())
    };
    let others = siblings.iter().filter(|other| other.uid() != machine.uid());
    let others = others.filter(|other| !other.is_deleting() && has(other));
    has(machine) || others.count() < limit
}

/// Whether the Machine may be deleted now, by what is in the stores and what is reserved for others. Reserves nothing.
pub fn check(
    stores: &Stores,
    surge_reservations: &SurgeReservations,
    machine: &StoredMachine,
    now: Timestamp,
) -> DisruptionBudget {
    find(
        stores,
        (&surge_reservations.begun.lock(), &surge_reservations.going.lock()),
        machine,
        now,
    )
}

/// The same, and reserves it for the Machine: if it may be deleted, it is one that goes, and no other counts on it; if another
/// is made in its place first, that is one of as many as there may be too many.
pub fn reserve(
    stores: &Stores,
    surge_reservations: &SurgeReservations,
    machine: &StoredMachine,
    now: Timestamp,
) -> DisruptionBudget {
    // Held until the end: of two that could go, one is the first.
    let (mut begun, mut going) = (surge_reservations.begun.lock(), surge_reservations.going.lock());
    let disruption_budget = find(stores, (&begun, &going), machine, now);
    let (key, uid) = (Key::of(machine), machine.uid().to_owned());
    match disruption_budget {
        DisruptionBudget::Surge => {
            begun.insert(key.clone(), uid.clone());
        }
        DisruptionBudget::SurgeFull { .. } => {
            begun.remove(&key);
        }
        _ => {}
    }
    if disruption_budget == DisruptionBudget::Allowed {
        going.insert(key, uid);
    } else {
        going.remove(&key);
    }
    disruption_budget
}

fn find(
    stores: &Stores,
    (begun, going): (&HashMap<Key, String>, &HashMap<Key, String>),
    machine: &StoredMachine,
    now: Timestamp,
) -> DisruptionBudget {
    let set = machine
        .machine_set()
        .and_then(|set| stores.machine_sets.get(&Key::new(machine.namespace(), set)))
        .filter(|set| machine.controller_uid() == Some(set.uid()));
    let Some(set) = set else {
        return DisruptionBudget::Alone;
    };
    if let Some(by) = set.paused_by() {
        return DisruptionBudget::Paused(by);
    }
    let deployment = stores.deployment_of(machine);
    if let Some(by) = deployment.as_ref().and_then(|deployment| paused_by(deployment)) {
        return DisruptionBudget::Paused(by);
    }
    let (siblings, wanted, limit, surge, ready_for) = match &deployment {
        Some(deployment) => (
            stores.machines_of_deployment(deployment),
            deployment.replicas.unwrap_or(1),
            deployment.max_unavailable(),
            deployment.max_surge(),
            deployment.min_ready_seconds.unwrap_or_default(),
        ),
        None => (
            stores.machines_of(set.uid()),
            replicas(&set),
            1,
            0,
            set.min_ready_seconds,
        ),
    };
    // What such a set lacks comes back from another, and only when it is gone.
    let surge = if set.annotation(annotation::NO_NEW_MACHINES) == Some("true") {
        0
    } else {
        usize::try_from(surge).unwrap_or_default()
    };
    let others = siblings.iter().filter(|other| other.uid() != machine.uid());
    let is_available = |other: &Arc<StoredMachine>| {
        let at = machine_set::available_at(stores, other, ready_for);
        let goes = other.progress.reservation() == Some(Reservation::Deletion)
            || going
                .get(&Key::of(other.as_ref()))
                .is_some_and(|uid| uid == other.uid());
        !other.is_deleting() && !goes && at.is_some_and(|at| at <= now)
    };
    let available = others.filter(|other| is_available(other)).count();
    let limit = usize::try_from(limit).unwrap_or_default();
    let judged = judge(
        usize::try_from(wanted).unwrap_or_default(),
        available,
        limit,
        surge,
    );
    let Some(deployment) = deployment.filter(|_| judged == DisruptionBudget::Surge) else {
        return judged;
    };
    let sets = stores.machine_sets_of(deployment.uid());
    if sets.iter().any(|other| other.revision() > set.revision()) {
        // A rollout replaces it, and needs the room.
        return DisruptionBudget::SurgeFull { limit: surge };
    }
    let asked: i32 = sets.iter().map(replicas).fold(0, i32::saturating_add);
    let taken = usize::try_from(asked.saturating_sub(wanted)).unwrap_or_default();
    if may_surge(begun, machine, &siblings, surge.saturating_sub(taken)) {
        DisruptionBudget::Surge
    } else {
        DisruptionBudget::SurgeFull { limit: surge }
    }
}

/// Whether `wanted` Machines less `limit` are left by the `available` others. Where none may be missing, another has to be
/// there first. Without any room, one may go: a host that is drained goes in any case.
fn judge(wanted: usize, available: usize, limit: usize, surge: usize) -> DisruptionBudget {
    let limit = if surge == 0 { limit.max(1) } else { limit };
    let missing = wanted.saturating_sub(available);
    if missing <= limit {
        DisruptionBudget::Allowed
    } else if limit == 0 {
        DisruptionBudget::Surge
    } else {
        DisruptionBudget::Full {
            missing: missing - 1,
            limit,
        }
    }
}

fn replicas(set: &Arc<StoredMachineSet>) -> i32 {
    set.replicas.unwrap_or(1)
}

fn paused_by(deployment: &StoredMachineDeployment) -> Option<&'static str> {
    let initializers = deployment.annotation(annotation::INITIALIZERS);
    if deployment.annotation(annotation::PAUSED).is_some() {
        Some(annotation::PAUSED)
    } else {
        initializers
            .is_some_and(|text| !text.is_empty())
            .then_some(annotation::INITIALIZERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinist_infra::cache::watch::Event;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[rstest]
    #[case::all_others_are_there(10, 9, 1, 0, DisruptionBudget::Allowed)]
    #[case::one_is_missing_already(10, 8, 1, 0, DisruptionBudget::Full { missing: 1, limit: 1 })]
    #[case::two_may_be(10, 8, 2, 0, DisruptionBudget::Allowed)]
    #[case::three_may_not(10, 7, 2, 0, DisruptionBudget::Full { missing: 2, limit: 2 })]
    #[case::what_may_be_missing_goes_without_a_surge(10, 9, 1, 1, DisruptionBudget::Allowed)]
    #[case::without_any_room_one_at_a_time(3, 2, 0, 0, DisruptionBudget::Allowed)]
    #[case::without_any_room_not_two(3, 1, 0, 0, DisruptionBudget::Full { missing: 1, limit: 1 })]
    #[case::none_may_be_missing(3, 2, 0, 1, DisruptionBudget::Surge)]
    #[case::another_is_there_instead(3, 3, 0, 1, DisruptionBudget::Allowed)]
    #[case::the_only_one(1, 0, 0, 0, DisruptionBudget::Allowed)]
    #[case::the_only_one_that_may_not_be_missing(1, 0, 0, 1, DisruptionBudget::Surge)]
    #[case::scaled_to_nothing(0, 0, 0, 1, DisruptionBudget::Allowed)]
    fn a_machine_may_be_replaced(
        #[case] wanted: usize,
        #[case] available: usize,
        #[case] limit: usize,
        #[case] surge: usize,
        #[case] disruption_budget: DisruptionBudget,
    ) {
        assert_eq!(judge(wanted, available, limit, surge), disruption_budget);
    }

    fn machine(name: &str, status: &Value) -> Arc<StoredMachine> {
        let machine = json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "status": status});
        Arc::new(serde_json::from_value(machine).unwrap())
    }

    const NOW: &str = "2027-01-15T08:00:00Z";

    fn of(kind: &str, name: &str, owner: Option<(&str, &str)>, extra: &Value) -> Value {
        let owners = owner.map(|(kind, name)| json!([{"apiVersion": "cluster.k8s.io/v1alpha1", "kind": kind, "name": name, "uid": name, "controller": true}]));
        let mut object = json!({"apiVersion": "cluster.k8s.io/v1alpha1", "kind": kind, "metadata": {
            "name": name, "namespace": "ns", "uid": name, "resourceVersion": "1", "ownerReferences": owners}});
        json_patch::merge(&mut object, extra);
        object
    }

    /// A deployment of three: a set with the Machines `a`, `b` and `c`, all Ready since `since`, and another set of that
    /// revision and size.
    fn pool(deployment: &Value, since: &str, other: (i64, i32)) -> Stores {
        let stores = Stores::default();
        let mut spec = json!({"spec": {"replicas": 3}});
        json_patch::merge(&mut spec, deployment);
        stores.machine_deployments.apply(Event::Apply(
            serde_json::from_value(of("MachineDeployment", "d", None, &spec)).unwrap(),
        ));
        for (name, revision, size) in [("own", 2, 3), ("other", other.0, other.1)] {
            let extra = json!({
                "metadata": {"annotations": {"machinedeployment.clusters.k8s.io/revision": revision.to_string()}},
                "spec": {"replicas": size},
            });
            let set = of("MachineSet", name, Some(("MachineDeployment", "d")), &extra);
            stores
                .machine_sets
                .apply(Event::Apply(serde_json::from_value(set).unwrap()));
        }
        for name in ["a", "b", "c"] {
            let joined = json!({"status": {"nodeRef": {"name": name, "uid": name}}});
            let machine = of("Machine", name, Some(("MachineSet", "own")), &joined);
            stores
                .machines
                .apply(Event::Apply(serde_json::from_value(machine).unwrap()));
            let node = json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1",
                "annotations": {"cluster.k8s.io/machine": format!("ns/{name}")}}, "status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": since}]}});
            stores
                .nodes
                .apply(Event::Apply(serde_json::from_value(node).unwrap()));
        }
        stores
    }

    const LONG_AGO: &str = "2027-01-15T07:00:00Z";
    const MINUTES_AGO: &str = "2027-01-15T07:58:00Z";
    const ALONE: (i64, i32) = (1, 0);

    #[rstest]
    #[case::all_others_are_there(json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}}), LONG_AGO, ALONE, DisruptionBudget::Allowed)]
    #[case::others_are_not_there_for_long_enough(json!({"spec": {"minReadySeconds": 300, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}}), MINUTES_AGO, ALONE, DisruptionBudget::Full { missing: 2, limit: 1 })]
    #[case::others_are_there_for_long_enough(json!({"spec": {"minReadySeconds": 120, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}}), MINUTES_AGO, ALONE, DisruptionBudget::Allowed)]
    #[case::another_comes_first(json!({}), LONG_AGO, ALONE, DisruptionBudget::Surge)]
    #[case::a_rollout_replaces_it(json!({}), LONG_AGO, (3, 0), DisruptionBudget::SurgeFull { limit: 1 })]
    #[case::a_rollout_has_the_room(json!({}), LONG_AGO, (1, 1), DisruptionBudget::SurgeFull { limit: 1 })]
    #[case::there_is_room_beside_a_rollout(json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 2}}}}), LONG_AGO, (1, 1), DisruptionBudget::Surge)]
    fn a_machine_is_replaced_by_the_rules_of_its_deployment(
        #[case] deployment: Value,
        #[case] since: &str,
        #[case] other: (i64, i32),
        #[case] expected: DisruptionBudget,
    ) {
        let stores = pool(&deployment, since, other);
        let machine = stores.machines.get(&Key::new("ns", "a")).unwrap();
        let disruption_budget = check(
            &stores,
            &SurgeReservations::default(),
            &machine,
            NOW.parse().unwrap(),
        );
        assert_eq!(disruption_budget, expected);
    }

    /// Of four Machines, one more than are wanted, each of two could go. The first that asks does.
    #[test]
    fn of_two_that_could_go_one_goes() {
        let stores = pool(&json!({}), LONG_AGO, ALONE);
        let replacement = of(
            "Machine",
            "r",
            Some(("MachineSet", "own")),
            &json!({"status": {"nodeRef": {"name": "r", "uid": "r"}}}),
        );
        stores
            .machines
            .apply(Event::Apply(serde_json::from_value(replacement).unwrap()));
        let node = json!({"metadata": {"name": "r", "uid": "r", "resourceVersion": "1",
            "annotations": {"cluster.k8s.io/machine": "ns/r"}}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": LONG_AGO}]}});
        stores
            .nodes
            .apply(Event::Apply(serde_json::from_value(node).unwrap()));
        let get = |name: &str| stores.machines.get(&Key::new("ns", name)).unwrap();
        let (surge_reservations, now) = (SurgeReservations::default(), NOW.parse().unwrap());
        for machine in ["a", "b", "a"] {
            let disruption_budget = check(&stores, &surge_reservations, &get(machine), now);
            assert_eq!(
                disruption_budget,
                DisruptionBudget::Allowed,
                "what is only seen is not taken"
            );
        }
        assert_eq!(
            reserve(&stores, &surge_reservations, &get("a"), now),
            DisruptionBudget::Allowed
        );
        assert_ne!(
            reserve(&stores, &surge_reservations, &get("b"), now),
            DisruptionBudget::Allowed
        );
        assert_eq!(
            reserve(&stores, &surge_reservations, &get("a"), now),
            DisruptionBudget::Allowed,
            "it stays so"
        );
        surge_reservations.forget(&Key::new("ns", "a"));
        assert_eq!(
            reserve(&stores, &surge_reservations, &get("b"), now),
            DisruptionBudget::Allowed
        );
    }

    #[test]
    fn no_more_are_made_in_place_of_others_than_may_be_too_many() {
        let mut begun = HashMap::new();
        let mut take = |machine: &Arc<StoredMachine>, siblings: &[Arc<StoredMachine>], limit: usize| {
            let may = may_surge(&begun, machine, siblings, limit);
            if may {
                begun.insert(Key::of(machine.as_ref()), machine.uid().to_owned());
            }
            may
        };
        let said = json!({"conditions": [{"type": "Evacuating", "status": "True", "reason": "WaitingForReplacement"}]});
        let (a, b) = (machine("a", &Value::Null), machine("b", &Value::Null));
        let all = [Arc::clone(&a), Arc::clone(&b)];
        assert!(take(&a, &all, 1));
        assert!(!take(&b, &all, 1), "before the other's status says so");
        assert!(take(&a, &all, 1), "it stays so");
        assert!(take(&b, &all, 2));
        let reported = machine("c", &said);
        assert!(
            !may_surge(&HashMap::new(), &b, &[Arc::clone(&b), reported], 1),
            "also when another process said so"
        );
    }
}
