//! What holds of Machines whose hosts are drained, however late anything happens: each is replaced by one, and no other goes
//! for it.
//!
//! The decisions of Machines and of their MachineSet are the real ones, as are the stores and the reservations. How long an
//! infra cluster takes to answer, a VM to end, a Node to join, and who reconciles first, is drawn.

use std::collections::{BTreeMap, BTreeSet};

use machinist_infra::cache::store::Key;
use machinist_infra::cache::watch::Event;
use proptest::prelude::*;

use super::*;
use crate::cache::{StoredMachineSet, Stores};
use crate::machine::disruption_budget::{self, SurgeReservations};
use crate::machine_set::decide::decide as decide_set;
use crate::machine_set::plan::Step as SetStep;
use crate::machine_set::snapshot::types::{Member, NodeState, Snapshot as SetSnapshot};
use crate::runtime::creation_limit::Allowance;

const REPLICAS: usize = 3;

/// What happens next. A number chooses one of the Machines to which it can happen.
#[derive(Debug, Clone, Copy)]
enum Happens {
    /// The admins of the infra cluster drain the host of a Machine's VM.
    Drain(usize),
    /// They think better of it.
    Uncordon(usize),
    ReconcileMachine(usize),
    /// The infra cluster confirms that a VM has to leave its host, which its Machine has waited for since it was chosen.
    Confirm(usize),
    ReconcileSet,
    Join(usize),
    /// The VM of a Machine that is being deleted has ended, and the Machine with it.
    End(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    let n = || 0..8_usize;
    prop_oneof![
        2 => n().prop_map(Happens::Drain),
        8 => n().prop_map(Happens::ReconcileMachine),
        2 => n().prop_map(Happens::Confirm),
        6 => Just(Happens::ReconcileSet),
        3 => n().prop_map(Happens::Join),
        2 => n().prop_map(Happens::End),
    ]
}

fn happens_or_not() -> impl Strategy<Value = Happens> {
    prop_oneof![1 => (0..8_usize).prop_map(Happens::Uncordon), 23 => happens()]
}

/// A Machine, as the API server has it.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent of each other")]
struct Replica {
    status: Value,
    joined: bool,
    deleting: bool,
    /// Its VM has to leave its host.
    drained: bool,
    /// It is chosen, and waits for the infra cluster to confirm that.
    confirming: bool,
}

impl Replica {
    fn is_available(&self) -> bool {
        self.joined && !self.deleting
    }
}

struct World {
    stores: Stores,
    surge_reservations: SurgeReservations,
    set: Arc<StoredMachineSet>,
    replicas: BTreeMap<String, Replica>,
    created: usize,
    uncordoned: usize,
    /// Machines that were available and whose VMs had not to leave, and that were deleted all the same.
    lost: usize,
    /// Those that were deleted because their VMs had to leave.
    evacuated: BTreeSet<String>,
}

fn of(kind: &str, name: &str, owner: Option<(&str, &str)>, extra: &Value) -> Value {
    let owners = owner.map(|(kind, name)| {
        json!([{"apiVersion": "cluster.k8s.io/v1alpha1", "kind": kind, "name": name, "uid": name, "controller": true}])
    });
    let mut object = json!({"apiVersion": "cluster.k8s.io/v1alpha1", "kind": kind, "metadata": {
        "name": name, "namespace": "ns", "uid": name, "resourceVersion": "1", "labels": {"a": "b"}, "ownerReferences": owners}});
    json_patch::merge(&mut object, extra);
    object
}

impl World {
    fn new(max_surge: usize, max_unavailable: usize) -> Self {
        let stores = Stores::default();
        let template = json!({"metadata": {"labels": {"a": "b"}}});
        let spec =
            json!({"replicas": REPLICAS, "selector": {"matchLabels": {"a": "b"}}, "template": template});
        let limits = json!({"strategy": {"rollingUpdate": {"maxSurge": max_surge, "maxUnavailable": max_unavailable}}});
        let mut deployment = of("MachineDeployment", "d", None, &json!({"spec": spec}));
        json_patch::merge(&mut deployment, &json!({ "spec": limits }));
        let deployment = Event::Apply(serde_json::from_value(deployment).unwrap());
        stores.machine_deployments.apply(deployment);
        let finalizers = json!({"finalizers": ["foregroundDeletion"]});
        let extra = json!({"spec": spec, "metadata": finalizers});
        let set = of("MachineSet", "s", Some(("MachineDeployment", "d")), &extra);
        stores
            .machine_sets
            .apply(Event::Apply(serde_json::from_value(set).unwrap()));
        let set = stores.machine_sets.get(&Key::new("ns", "s")).unwrap();
        let mut world = Self {
            stores,
            surge_reservations: SurgeReservations::default(),
            set,
            replicas: BTreeMap::new(),
            created: 0,
            uncordoned: 0,
            lost: 0,
            evacuated: BTreeSet::new(),
        };
        for _ in 0..REPLICAS {
            let name = world.create();
            world.change(&name, |replica| replica.joined = true);
        }
        world
    }

    fn create(&mut self) -> String {
        let name = format!("m-{}", self.created);
        self.created += 1;
        self.replicas.insert(name.clone(), Replica::default());
        self.change(&name, |_| ());
        name
    }

    /// Changes a Machine, which the caches show at once: the controller's own writes are what counts here.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Replica)) {
        let replica = self.replicas.get_mut(name).unwrap();
        change(replica);
        let deleted = replica.deleting.then_some(NOW);
        let mut extra = json!({"metadata": {"deletionTimestamp": deleted}, "status": replica.status});
        if replica.joined {
            json_patch::merge(
                &mut extra,
                &json!({"status": {"nodeRef": {"name": name, "uid": name}}}),
            );
            let ready =
                json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:00:00Z"});
            let node = json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1",
                "annotations": {"cluster.k8s.io/machine": format!("ns/{name}")}}, "status": {"conditions": [ready]}});
            self.stores
                .nodes
                .apply(Event::Apply(serde_json::from_value(node).unwrap()));
        }
        let machine = of("Machine", name, Some(("MachineSet", "s")), &extra);
        self.stores
            .machines
            .apply(Event::Apply(serde_json::from_value(machine).unwrap()));
    }

    fn stored(&self, name: &str) -> Arc<StoredMachine> {
        self.stores.machines.get(&Key::new("ns", name)).unwrap()
    }

    /// The `n`th of the Machines of which that is so.
    fn which(&self, n: usize, is: impl Fn(&Replica) -> bool) -> Option<String> {
        let all: Vec<&String> = self
            .replicas
            .iter()
            .filter(|(_, r)| is(r))
            .map(|(name, _)| name)
            .collect();
        (!all.is_empty()).then(|| all[n % all.len()].clone())
    }

    fn happen(&mut self, happened: Happens) {
        let works = |replica: &Replica| replica.is_available() && !replica.confirming;
        match happened {
            Happens::Drain(n) => {
                if let Some(name) = self.which(n, Replica::is_available) {
                    self.change(&name, |replica| replica.drained = true);
                }
            }
            Happens::Uncordon(n) => {
                if let Some(name) = self.which(n, |replica| replica.drained && !replica.deleting) {
                    self.change(&name, |replica| replica.drained = false);
                    self.uncordoned += 1;
                }
            }
            Happens::ReconcileMachine(n) => {
                if let Some(name) = self.which(n, works) {
                    self.reconcile_machine(&name);
                }
            }
            Happens::Confirm(n) => {
                if let Some(name) = self.which(n, |replica| replica.confirming) {
                    self.confirm(&name);
                }
            }
            Happens::ReconcileSet => self.reconcile_set(),
            Happens::Join(n) => {
                if let Some(name) = self.which(n, |replica| !replica.joined && !replica.deleting) {
                    self.change(&name, |replica| replica.joined = true);
                }
            }
            Happens::End(n) => {
                if let Some(name) = self.which(n, |replica| replica.deleting) {
                    let machine = StoredMachine::clone(&self.stored(&name));
                    self.stores.machines.apply(Event::Delete(machine));
                    self.surge_reservations.forget(&Key::new("ns", &name));
                    self.replicas.remove(&name);
                }
            }
        }
    }

    fn reconcile_machine(&mut self, name: &str) {
        let replica = self.replicas[name].clone();
        let mut raw = recorded();
        json_patch::merge(&mut raw, &json!({ "status": replica.status }));
        json_patch::merge(
            &mut raw,
            &json!({"metadata": {"ownerReferences": [
            {"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineSet", "name": "s", "uid": "s", "controller": true}]}}),
        );
        let wanted = Eviction::Wanted {
            uid: "vmi-1".into(),
            host: "host-a".into(),
        };
        let eviction = if replica.drained { wanted } else { Eviction::None };
        let mut o = observed(
            machine(&raw),
            Open {
                eviction,
                ..running()
            },
        );
        o.node = Some(node(&json!({})));
        if replica.drained {
            o.disruption_budget =
                disruption_budget::reserve(&self.stores, &self.surge_reservations, &self.stored(name), now());
        } else {
            self.surge_reservations.forget(&Key::new("ns", name));
        }
        let plan = decide(&o, now());
        for step in plan.steps {
            match step {
                Step::PatchMachine(patch) => self.change(name, |replica| {
                    for key in ["conditions", "providerStatus"] {
                        if let Some(value) = patch["status"].get(key) {
                            json_patch::merge(&mut replica.status, &json!({ key: value }));
                        }
                    }
                }),
                Step::Evacuate { .. } => self.change(name, |replica| replica.confirming = true),
                Step::DeleteMachine => panic!("it works"),
                _ => {}
            }
        }
    }

    fn confirm(&mut self, name: &str) {
        let machine = self.stored(name);
        let is_free = disruption_budget::reserve(&self.stores, &self.surge_reservations, &machine, now())
            == DisruptionBudget::Allowed;
        let goes = is_free && self.replicas[name].drained;
        self.change(name, |replica| {
            replica.confirming = false;
            replica.deleting |= goes;
        });
        if goes {
            self.evacuated.insert(name.to_owned());
        }
    }

    fn reconcile_set(&mut self) {
        let machines = self.stores.machines_of("s").into_iter().map(|machine| Member {
            node: if self.replicas[machine.name()].joined {
                NodeState::Ready { since: None }
            } else {
                NodeState::Absent
            },
            machine,
        });
        let observed = SetSnapshot {
            set: self.set.clone(),
            machines: machines.collect(),
            orphans: Vec::new(),
            left_behind: Vec::new(),
            rejected: Vec::new(),
            creations: Allowance::unlimited(),
            failure: None,
            recreation: None,
            skew: Skew::Small,
            status_overdue: false,
            instancetype: None,
            instancetype_again: None,
            overlaps: Vec::new(),
        };
        for step in decide_set(&observed, now()).steps {
            match step {
                SetStep::Create(count) => {
                    for _ in 0..count {
                        self.create();
                    }
                }
                SetStep::Delete(victims) => {
                    for victim in victims {
                        let replica = &self.replicas[victim.name()];
                        self.lost += usize::from(replica.is_available() && !replica.drained);
                        self.change(victim.name(), |replica| replica.deleting = true);
                    }
                }
                _ => {}
            }
        }
    }

    /// Everybody does what they have to until nothing happens any more.
    fn settle(&mut self) {
        for _ in 0..12 {
            for n in 0..self.replicas.len() {
                for happened in [
                    Happens::ReconcileMachine(n),
                    Happens::Confirm(n),
                    Happens::ReconcileSet,
                    Happens::Join(n),
                    Happens::End(n),
                ] {
                    self.happen(happened);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_machine_that_goes_is_replaced_by_one_and_no_other_goes_for_it(
        (max_surge, max_unavailable) in prop_oneof![Just((1, 0)), Just((0, 1)), Just((1, 1)), Just((2, 0))],
        happens in prop::collection::vec(happens(), 1..80),
    ) {
        let mut world = World::new(max_surge, max_unavailable);
        for happened in happens {
            world.happen(happened);
            let available = world.replicas.values().filter(|replica| replica.is_available()).count();
            prop_assert!(available + max_unavailable >= REPLICAS, "{} available after {:?}", available, happened);
            prop_assert_eq!(world.lost, 0, "after {:?}", happened);
        }
        world.settle();
        prop_assert_eq!(world.lost, 0);
        prop_assert_eq!(world.replicas.len(), REPLICAS);
        prop_assert!(world.replicas.values().all(|replica| replica.joined && !replica.drained));
        prop_assert_eq!(world.created, REPLICAS + world.evacuated.len(), "one for each");
    }

    /// A Machine that was chosen and need not go after all counts again: then there is one too many.
    #[test]
    fn no_more_go_in_vain_than_there_were_second_thoughts(
        (max_surge, max_unavailable) in prop_oneof![Just((1, 0)), Just((0, 1)), Just((1, 1))],
        happens in prop::collection::vec(happens_or_not(), 1..80),
    ) {
        let mut world = World::new(max_surge, max_unavailable);
        for happened in happens {
            world.happen(happened);
            prop_assert!(world.lost <= world.uncordoned, "after {:?}", happened);
        }
        world.settle();
        prop_assert!(world.lost <= world.uncordoned);
        prop_assert_eq!(world.replicas.len(), REPLICAS);
    }
}
