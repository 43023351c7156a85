//! How many Machines of an infra cluster are replaced at the same time because their nodes are lost: no more than the mass-loss
//! guard believes to be lost, and the next ones only when the replacements of those have become Ready.

use jiff::Timestamp;

use super::mass_loss_guard::believed;
use super::record::Infrastructure;
use crate::cache::{StoredMachine, Stores};

/// Whether a Machine whose node is lost may be replaced now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It may.
    Free,
    /// Others come first.
    Full {
        /// Machines whose nodes are lost.
        lost: usize,
        /// Machines of sets that are being deleted, or that have never been Ready.
        under_way: usize,
    },
}

/// Whether the Machine may be replaced now, by what is in the stores: those whose nodes were lost first go first.
pub fn check(stores: &Stores, infrastructure: &Infrastructure, machine: &StoredMachine) -> Pace {
    let (mut recorded, mut lost, mut under_way, mut before) = (0, 0, 0, 0);
    let turn = turn(machine);
    for other in stores.machines.all() {
        let record = other.record.as_ref();
        let is_here = record.is_some_and(|record| record.infrastructure.is_same(infrastructure));
        if !is_here || other.is_paused() || other.machine_set().is_none() {
            continue;
        }
        recorded += 1;
        if other.progress.node_loss.is_some() && !other.is_deleting() {
            lost += 1;
            before += usize::from(self::turn(&other) < turn);
        } else if other.is_deleting() || record.is_some_and(|record| !record.has_been_ready) {
            under_way += 1;
        }
    }
    if under_way + before < believed(recorded) {
        Pace::Free
    } else {
        Pace::Full { lost, under_way }
    }
}

fn turn(machine: &StoredMachine) -> (Option<Timestamp>, &str) {
    let loss = machine.progress.node_loss.as_ref();
    (loss.map(|loss| loss.missed_at), machine.uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinist_infra::cache::store::Key;
    use machinist_infra::cache::watch::Event;
    use rstest::rstest;
    use serde_json::{Value, json};

    /// `lost` Machines whose nodes are lost, one after the other; others that are under way, and others that are Ready.
    fn stores(lost: usize, under_way: usize, ready: usize) -> Stores {
        let stores = Stores::default();
        let add = |name: String, change: Value| {
            let mut machine = json!({
                "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1", "ownerReferences": [
                    {"apiVersion": "v", "kind": "MachineSet", "name": "s", "uid": "s", "controller": true}]},
                "status": {"providerStatus": {"hasBeenReady": true, "infrastructure": {"namespace": "vms", "server": "https://a"}}}});
            json_patch::merge(&mut machine, &change);
            let machine = serde_json::from_value(machine).unwrap();
            stores.machines.apply(Event::Apply(machine));
        };
        for n in 0..lost {
            let missed = format!("2026-01-01T12:00:{n:02}Z");
            add(
                format!("lost-{n:02}"),
                json!({"status": {"providerStatus": {"nodeLoss": {"missedAt": missed}}}}),
            );
        }
        for n in 0..under_way {
            add(
                format!("new-{n}"),
                json!({"status": {"providerStatus": {"hasBeenReady": false}}}),
            );
        }
        for n in 0..ready {
            add(format!("ready-{n}"), json!({}));
        }
        // Others that do not count: of another infra cluster, without a set, paused.
        add(
            "elsewhere".to_owned(),
            json!({"status": {"providerStatus": {"hasBeenReady": false,
            "infrastructure": {"server": "https://b"}}}}),
        );
        add(
            "alone".to_owned(),
            json!({"metadata": {"ownerReferences": null},
            "status": {"providerStatus": {"hasBeenReady": false}}}),
        );
        add(
            "paused".to_owned(),
            json!({"metadata": {"annotations": {"machine-controller.kubermatic.io/initializers": "x"}},
            "status": {"providerStatus": {"hasBeenReady": false}}}),
        );
        stores
    }

    #[rstest]
    #[case::one_of_one(stores(1, 0, 0), 1)]
    #[case::four_of_few(stores(4, 0, 1), 4)]
    #[case::not_the_fifth(stores(9, 0, 1), 4)]
    #[case::a_fifth_of_many(stores(40, 0, 60), 20)]
    #[case::fewer_while_others_are_under_way(stores(9, 3, 0), 1)]
    #[case::none_while_as_many_are_under_way(stores(9, 4, 0), 0)]
    fn so_many_are_replaced_at_once_those_lost_first(#[case] stores: Stores, #[case] expected: usize) {
        let here = Infrastructure {
            namespace: "vms".to_owned(),
            server: "https://a".to_owned(),
            ..Infrastructure::default()
        };
        let may = |n: usize| {
            let machine = stores.machines.get(&Key::new("ns", format!("lost-{n:02}")))?;
            Some(check(&stores, &here, &machine) == Pace::Free)
        };
        let may: Vec<bool> = (0..).map_while(may).collect();
        assert_eq!(may.iter().filter(|may| **may).count(), expected);
        assert!(may.iter().take(expected).all(|may| *may), "{may:?}");
    }
}
