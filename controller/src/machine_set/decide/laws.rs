//! What holds over any history of a MachineSet, as it is decided from caches that lag behind.
//!
//! The world is the API server's truth. The controller sees its own writes at once and everything else late, as
//! [`machinist_infra::cache::store`] promises.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use machinist_infra::kube::clock::Skew;
use proptest::prelude::*;
use serde_json::json;

use super::decide;
use crate::cache::{StoredMachine, StoredMachineSet};
use crate::machine_set::plan::Step;
use crate::machine_set::snapshot::types::{Member, NodeState, Snapshot};
use crate::runtime::creation_limit::Allowance;

/// What happens between two passes.
#[derive(Debug, Clone, Copy)]
enum Happens {
    /// A user scales the set.
    Scale(i32),
    /// A user deletes a Machine.
    Delete(usize),
    /// A user changes the labels of a Machine so that they no longer match, or match again.
    Relabel(usize),
    /// A user makes a Machine that fits.
    Orphan,
    /// The Node of a Machine changes.
    Node(usize, Joined),
    /// Machine `.0` is marked for deletion.
    Mark(usize),
    /// The watch catches up with so many events.
    CatchUp(usize),
    /// The answer to the next create is lost; the Machine was made or not.
    LoseAnswer(bool),
    /// A pass.
    Pass,
}

/// What has become of a Machine's Node, and how much the Machine would be missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Joined {
    Absent,
    /// Ready, and not for `minReadySeconds`.
    Settling,
    Available,
}

fn joined() -> impl Strategy<Value = Joined> {
    prop_oneof![
        Just(Joined::Absent),
        Just(Joined::Settling),
        Just(Joined::Available)
    ]
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (0..8i32).prop_map(Happens::Scale),
        (0..12usize).prop_map(Happens::Delete),
        (0..12usize).prop_map(Happens::Relabel),
        Just(Happens::Orphan),
        (0..12usize, joined()).prop_map(|(i, joined)| Happens::Node(i, joined)),
        (0..12usize).prop_map(Happens::Mark),
        (0..5usize).prop_map(Happens::CatchUp),
        any::<bool>().prop_map(Happens::LoseAnswer),
        Just(Happens::Pass),
        Just(Happens::Pass),
        Just(Happens::Pass),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent of each other")]
struct Thing {
    ours: bool,
    fits: bool,
    node: Joined,
    marked: bool,
    version: u64,
}

impl Thing {
    /// How much it would be missed.
    fn worth(&self) -> Option<Joined> {
        (!self.marked).then_some(self.node)
    }
}

/// A minute is over since 1970 began.
const NOW: Timestamp = Timestamp::constant(60, 0);

type Machines = BTreeMap<String, Thing>;

#[derive(Debug, Default)]
struct World {
    wanted: i32,
    truth: Machines,
    cache: Machines,
    /// What is known to be gone, and up to which version.
    gone: BTreeMap<String, u64>,
    /// Changes by others that the cache has not seen: a name, the version, and what is there now.
    events: Vec<(String, u64, Option<Thing>)>,
    version: u64,
    /// The next create gets no answer, and whether it is carried out.
    lose: Option<bool>,
    /// A name whose fate is unknown.
    unresolved: Option<String>,
}

impl World {
    fn set(&self) -> Arc<StoredMachineSet> {
        let labels = json!({"fits": "true"});
        let set = json!({
            "metadata": {"name": "s", "namespace": "ns", "uid": "s", "finalizers": ["foregroundDeletion"]},
            "spec": {"replicas": self.wanted, "minReadySeconds": 60, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}},
        });
        Arc::new(serde_json::from_value(set).unwrap())
    }

    fn observed(&self) -> Snapshot {
        let stored = |(name, thing): (&String, &Thing)| -> Arc<StoredMachine> {
            let machine = json!({"metadata": {
                "name": name, "namespace": "ns", "uid": name,
                "labels": {"fits": thing.fits.to_string()},
                "annotations": {"cluster.k8s.io/delete-machine": if thing.marked { "x" } else { "" }},
            }});
            Arc::new(serde_json::from_value(machine).unwrap())
        };
        let node = |thing: &Thing| match thing.node {
            Joined::Absent => NodeState::Absent,
            Joined::Settling => NodeState::Ready { since: Some(NOW) },
            Joined::Available => NodeState::Ready {
                since: Some(Timestamp::UNIX_EPOCH),
            },
        };
        let ours = self.cache.iter().filter(|(_, thing)| thing.ours);
        let orphans = self.cache.iter().filter(|(_, thing)| !thing.ours && thing.fits);
        Snapshot {
            set: self.set(),
            machines: ours
                .map(|entry| Member {
                    machine: stored(entry),
                    node: node(entry.1),
                })
                .collect(),
            orphans: orphans.map(stored).collect(),
            rejected: Vec::new(),
            creations: Allowance::unlimited(),
            failure: None,
            recreation: None,
            skew: Skew::Small,
            status_overdue: false,
            instancetype: None,
            instancetype_again: None,
            overlaps: Vec::new(),
            left_behind: Vec::new(),
        }
    }

    /// A write of ours, seen in the cache at once; refused if the cache was behind.
    fn write(&mut self, name: &str, change: impl FnOnce(&mut Thing)) {
        let current = self.cache.get(name).map(|thing| thing.version);
        self.version += 1;
        let Some(thing) = self.truth.get_mut(name).filter(|t| Some(t.version) == current) else {
            return;
        };
        change(thing);
        thing.version = self.version;
        self.cache.insert(name.to_owned(), *thing);
    }

    /// A change by another client.
    fn change(&mut self, nth: usize, change: impl FnOnce(&mut Thing)) {
        let Some(name) = self.truth.keys().nth(nth).cloned() else {
            return;
        };
        self.version += 1;
        if let Some(thing) = self.truth.get_mut(&name) {
            change(thing);
            thing.version = self.version;
            self.events.push((name, thing.version, Some(*thing)));
        }
    }

    fn catch_up(&mut self, count: usize) {
        for (name, version, thing) in self.events.drain(..count.min(self.events.len())) {
            let had = self.cache.get(&name).map(|thing| thing.version);
            let had = had.max(self.gone.get(&name).copied()).unwrap_or(0);
            match thing {
                _ if version <= had => {}
                Some(thing) => drop(self.cache.insert(name, thing)),
                None => {
                    self.cache.remove(&name);
                    self.gone.insert(name, version);
                }
            }
        }
    }

    fn create(&mut self) {
        self.version += 1;
        let name = self
            .unresolved
            .take()
            .unwrap_or_else(|| format!("m-{:04}", self.version));
        let new = Thing {
            ours: true,
            fits: true,
            node: Joined::Absent,
            marked: false,
            version: self.version,
        };
        if let Some(made) = self.lose.take() {
            if made && !self.truth.contains_key(&name) {
                self.truth.insert(name.clone(), new);
                self.events.push((name.clone(), self.version, Some(new)));
            }
            self.unresolved = Some(name);
        } else {
            // AlreadyExists under this name is our own, and is looked up.
            let thing = *self.truth.entry(name.clone()).or_insert(new);
            self.cache.insert(name, thing);
        }
    }

    fn owned(&self) -> usize {
        self.truth
            .values()
            .filter(|thing| thing.ours && thing.fits)
            .count()
    }

    /// One pass; whether there was anything to do.
    fn pass(&mut self) -> bool {
        if self
            .unresolved
            .as_ref()
            .is_some_and(|name| self.cache.contains_key(name))
        {
            self.unresolved = None;
        }
        let plan = decide(&self.observed(), NOW);
        let mut worked = false;
        for step in plan.steps {
            worked |= step.is_work();
            match step {
                Step::Create(count) => {
                    for _ in 0..count {
                        self.create();
                        if self.unresolved.is_some() {
                            return true;
                        }
                    }
                }
                Step::Delete(machines) => {
                    let ours = self.cache.iter().filter(|(_, thing)| thing.ours && thing.fits);
                    let (victims, spared): (Vec<_>, Vec<_>) =
                        ours.partition(|(name, _)| machines.iter().any(|m| m.name() == *name));
                    let most = victims.iter().map(|(_, thing)| thing.worth()).max();
                    let least = spared.iter().map(|(_, thing)| thing.worth()).min();
                    assert!(
                        least.is_none_or(|least| most <= Some(least)),
                        "{most:?} went, and {least:?} stayed"
                    );
                    for machine in machines {
                        self.version += 1;
                        self.truth.remove(machine.name());
                        self.cache.remove(machine.name());
                        self.gone.insert(machine.name().to_owned(), self.version);
                    }
                }
                Step::Adopt(machines) => {
                    for machine in machines {
                        self.write(machine.name(), |thing| thing.ours = true);
                    }
                }
                Step::Release(machines) => {
                    for machine in machines {
                        self.write(machine.name(), |thing| thing.ours = false);
                    }
                }
                Step::PatchSet(_) | Step::ChangeInPlace(_) | Step::Status(_) | Step::Event(_) => {}
            }
        }
        worked
    }

    fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::Scale(wanted) => self.wanted = wanted,
            Happens::Delete(nth) => {
                if let Some(name) = self.truth.keys().nth(nth).cloned() {
                    self.version += 1;
                    self.truth.remove(&name);
                    self.events.push((name, self.version, None));
                }
            }
            Happens::Relabel(nth) => self.change(nth, |thing| thing.fits = !thing.fits),
            Happens::Orphan => {
                self.version += 1;
                let name = format!("o-{:04}", self.version);
                let orphan = Thing {
                    ours: false,
                    fits: true,
                    node: Joined::Available,
                    marked: false,
                    version: self.version,
                };
                self.truth.insert(name.clone(), orphan);
                self.events.push((name, self.version, Some(orphan)));
            }
            Happens::Node(nth, joined) => self.change(nth, |thing| thing.node = joined),
            Happens::Mark(nth) => self.change(nth, |thing| thing.marked = true),
            Happens::CatchUp(count) => self.catch_up(count),
            Happens::LoseAnswer(made) => self.lose = Some(made),
            Happens::Pass => drop(self.pass()),
        }
    }
}

proptest! {
    /// Of its own making there is never one too many: a pass raises the number of Machines at most to what is wanted, however
    /// far the cache lags behind and whichever answers are lost. What others add (a label, an orphan) it cannot help.
    #[test]
    fn a_pass_never_makes_more_than_wanted(history in proptest::collection::vec(happens(), 0..60)) {
        let mut world = World::default();
        for event in history {
            let before = world.owned();
            // Made by another client, or let go by us and relabeled since.
            let orphans = world.truth.values().filter(|thing| !thing.ours && thing.fits).count();
            world.happen(event);
            if matches!(event, Happens::Pass) {
                let wanted = usize::try_from(world.wanted).unwrap();
                // Machines that got their labels back while the cache did not know are others' doing, too.
                let relabeled = world.events.iter().filter(|(_, _, thing)| thing.is_some_and(|t| t.fits)).count();
                prop_assert!(
                    world.owned() <= before.max(wanted) + orphans + relabeled,
                    "{} Machines, {before} before, {wanted} wanted", world.owned()
                );
            }
        }
    }

    /// When faults stop and the cache has caught up, the number is right and stays right.
    #[test]
    fn it_always_converges(history in proptest::collection::vec(happens(), 0..60)) {
        let mut world = World::default();
        for event in history {
            world.happen(event);
        }
        world.lose = None;
        for _ in 0..20 {
            world.catch_up(usize::MAX);
            world.pass();
        }
        prop_assert_eq!(world.owned(), usize::try_from(world.wanted).unwrap());
        prop_assert!(!world.pass(), "it has come to rest");
    }

    /// Undisturbed by others, a set never has more Machines than were ever wanted, and loses none that it should keep.
    #[test]
    fn undisturbed_it_neither_overshoots_nor_undershoots(
        scales in proptest::collection::vec((0..8i32, 0..3usize, proptest::option::of(any::<bool>())), 1..20),
    ) {
        let mut world = World::default();
        for (wanted, behind, lose) in scales {
            let before = world.owned();
            world.wanted = wanted;
            world.lose = lose;
            for _ in 0..3 {
                world.pass();
                world.catch_up(behind);
                let wanted = usize::try_from(wanted).unwrap();
                prop_assert!(world.owned() <= before.max(wanted));
                prop_assert!(world.owned() >= before.min(wanted));
            }
        }
    }
}

#[test]
fn one_that_was_let_go_and_fits_again_is_adopted_and_one_goes_for_it() {
    use Happens::{CatchUp, Pass, Relabel, Scale};
    let mut world = World::default();
    for event in [
        Scale(3),
        Pass,
        Relabel(2),
        CatchUp(1),
        Pass,
        Relabel(2),
        CatchUp(1),
    ] {
        world.happen(event);
    }
    let fitting_orphans = world
        .truth
        .values()
        .filter(|thing| !thing.ours && thing.fits)
        .count();
    assert_eq!(
        (world.owned(), fitting_orphans),
        (3, 1),
        "three of our own, and the one that was let go"
    );
    world.happen(Pass);
    assert_eq!(world.owned(), 4, "it is adopted, not made");
    assert_eq!(world.truth.len(), 4, "no fifth was created");
    world.happen(Pass);
    assert_eq!(world.owned(), 3);
}
