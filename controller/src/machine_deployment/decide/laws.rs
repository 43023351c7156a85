//! Laws of rollouts, held over random histories: a small world of sets and Machines, in which people scale, change
//! templates, pause and delete, Machines fail, and every controller acts whenever it happens to.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use machinist_shared::api::names::annotation;
use proptest::prelude::*;
use proptest::strategy::Strategy as Strategy2;
use serde_json::Value;

use super::super::rollout_limits::Limits;
use super::decide;
use super::fixtures::{at, deployment, observed, template as numbered};
use super::hash::hash_of;
use super::with_hash;
use crate::cache::Template;
use crate::machine_deployment::plan::{NewSet, Step};
use crate::machine_deployment::snapshot::types::{
    Deployment, Failure, Likeness, Machines, Set, Snapshot, Strategy,
};

/// What happens in the world.
#[derive(Debug, Clone)]
enum Happening {
    /// A person scales.
    Scale(i32),
    /// A person writes another template.
    Template(i32),
    /// A person writes another label of the Nodes.
    Label(i32),
    /// A person, or a program, writes the same template in other bytes.
    Rewrite,
    /// Writes of the deployment's controller fail from now on, or do not any more.
    Refuse(bool),
    /// A person allows changes in place, or not any more.
    Leave(bool),
    /// A person pauses or resumes.
    Pause(bool),
    /// A person goes back to the revision before.
    RollBack,
    /// A person deletes a Machine of that set.
    Delete(usize),
    /// Guests of that template never join from now on.
    Break(i32),
    /// They do again.
    Fix,
    /// A Node of that set is lost.
    Lose(usize),
    /// The host of a Machine of that set is drained, and another is made in its place first, if there is room.
    Drain(usize),
    /// The deployment's controller looks; so many of its writes succeed before it is killed.
    Look(usize),
    /// The set's controller looks.
    LookAtSet(usize),
    /// A Machine of that set has had its time: it becomes available, or fails to join.
    Join(usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Machine {
    Booting,
    Available,
    Tombstones,
}

#[derive(Debug, Clone)]
struct Member {
    set: Set,
    machines: Vec<Machine>,
    /// How many Machines wait for others in their place.
    surging: i32,
}

struct World {
    deployment: Deployment,
    sets: Vec<Member>,
    broken: BTreeSet<i32>,
    time: i64,
    /// How many sets there have been.
    born: u32,
    /// Writes of the deployment's controller fail.
    refused: bool,
}

impl World {
    fn new(replicas: i32, surge: i32, unavailable: i32, strategy: Strategy) -> Self {
        let mut deployment = deployment(replicas);
        deployment.max_surge = IntOrString::Int(surge);
        deployment.max_unavailable = IntOrString::Int(unavailable);
        deployment.strategy = strategy;
        Self {
            deployment,
            sets: Vec::new(),
            broken: BTreeSet::new(),
            time: 0,
            born: 0,
            refused: false,
        }
    }

    fn observe(&self) -> Snapshot {
        let mut sets: Vec<Set> = self.sets.iter().map(|member| member.set.clone()).collect();
        for (set, member) in sets.iter_mut().zip(&self.sets) {
            set.machines = Machines {
                alive: i32::try_from(member.machines.len()).unwrap(),
                surging: member.surging,
                ..Machines::default()
            };
            let same =
                hash_of(set).is_some_and(|hash| with_hash(&self.deployment.template, &hash) == set.template);
            let alike = number(&set.template) == number(&self.deployment.template);
            set.likeness = match (same, alike && self.deployment.in_place) {
                (true, _) => Likeness::Identical,
                (false, _) if alike && node_label(&set.template) == node_label(&self.deployment.template) => {
                    Likeness::Equal
                }
                (false, true) => Likeness::InPlace,
                (false, false) => Likeness::Different,
            };
        }
        let mut observed = observed(self.deployment.clone(), sets);
        observed.failure = self.refused.then(|| Failure {
            message: "refused".to_owned(),
            until: at(self.time + 1),
            of_status: false,
            ..Failure::default()
        });
        observed
    }

    /// The deployment's controller looks, and is killed after so many writes.
    fn look(&mut self, writes: usize) {
        let before = self.observe();
        let plan = decide(&before, at(self.time));
        let limits = Limits::of(&self.deployment);
        let mut writes_left = writes;
        for step in plan.steps {
            if matches!(step, Step::Event(_)) {
                continue;
            }
            if writes_left == 0 {
                break;
            }
            writes_left -= 1;
            let (total, kept) = (self.total(), self.kept());
            self.apply(step);
            assert!(
                self.total() <= total.max(limits.most),
                "we raised {total} to {} with at most {} allowed",
                self.total(),
                limits.most
            );
            // A paused one keeps proportions instead: it may shrink where most are available.
            assert!(
                self.deployment.paused || self.kept() >= kept.min(limits.least_available),
                "we gave up {kept} available Machines down to {}, with at least {} wanted",
                self.kept(),
                limits.least_available
            );
            self.assert_one_set_for_a_template();
        }
        for old in &before.sets {
            let now = self.sets.iter().find(|member| member.set.uid == old.uid);
            let lower = now.is_some_and(|now| super::revision::of(&now.set) < super::revision::of(old));
            assert!(!lower, "a revision went down");
        }
    }

    fn assert_one_set_for_a_template(&self) {
        let templates: BTreeSet<(i32, i32)> = self
            .sets
            .iter()
            .map(|member| (number(&member.set.template), node_label(&member.set.template)))
            .collect();
        assert_eq!(templates.len(), self.sets.len(), "two sets for one template");
    }

    fn total(&self) -> i32 {
        let sizes = self.sets.iter();
        sizes.map(|member| member.set.replicas + member.surging).sum()
    }

    /// Machines that are known to be available, and stay at the sizes that are asked for.
    fn kept(&self) -> i32 {
        self.sets.iter().map(|member| member.set.available()).sum()
    }

    fn available(&self) -> i32 {
        self.sets
            .iter()
            .map(|member| count(member, Machine::Available))
            .sum()
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::CreateSet(new) => self.create(*new),
            Step::PatchSet { name, patch, .. } => {
                let member = self
                    .sets
                    .iter_mut()
                    .find(|member| member.set.name == name)
                    .unwrap();
                patch_set(&mut member.set, &patch);
            }
            Step::DeleteSet { name, .. } => {
                let member = self.sets.iter().find(|member| member.set.name == name).unwrap();
                assert!(member.machines.is_empty(), "a set was deleted that has Machines");
                self.sets.retain(|member| member.set.name != name);
            }
            Step::PatchDeployment(patch) => patch_texts(
                &mut self.deployment.annotations,
                &patch["metadata"]["annotations"],
            ),
            Step::RollBack(template) => {
                self.deployment.annotations.remove(annotation::ROLLBACK_TO);
                self.set_template((*template).clone());
            }
            Step::PatchStatus(patch) => self.patch_status(&patch["status"]),
            Step::CopyTemplate { name, template, .. } => {
                let mut sets = self.sets.iter_mut();
                let member = sets.find(|member| member.set.name == name).unwrap();
                assert_eq!(
                    number(&member.set.template),
                    number(&template),
                    "other virtual machines"
                );
                assert!(
                    self.deployment.in_place || node_label(&member.set.template) == node_label(&template),
                    "another label, in place and without leave"
                );
                member.set.template = template;
                member.set.generation += 1;
            }
            Step::Event(_) => {}
        }
    }

    fn create(&mut self, new: NewSet) {
        assert!(
            self.sets.iter().all(|member| member.set.name != new.name),
            "the name is taken"
        );
        self.born += 1;
        let set = Set {
            name: new.name,
            uid: format!("uid-{}", self.born),
            created: Some(at(self.time)),
            owners: vec![self.deployment.owner()],
            labels: new.labels,
            annotations: new.annotations,
            template: new.template,
            replicas: new.replicas,
            existing: 0,
            ready: 0,
            available: 0,
            observed_generation: 0,
            ..super::fixtures::set(1, 0)
        };
        self.sets.push(Member {
            set,
            machines: Vec::new(),
            surging: 0,
        });
    }

    fn patch_status(&mut self, patch: &Value) {
        let status = &mut self.deployment.status;
        for (key, field) in [
            ("replicas", &mut status.replicas),
            ("updatedReplicas", &mut status.updated),
            ("readyReplicas", &mut status.ready),
            ("availableReplicas", &mut status.available),
            ("unavailableReplicas", &mut status.unavailable),
        ] {
            if let Some(number) = patch[key].as_i64() {
                *field = i32::try_from(number).unwrap();
            }
        }
        if let Some(generation) = patch["observedGeneration"].as_i64() {
            status.observed_generation = generation;
        }
        if let Some(text) = patch["labelSelector"].as_str() {
            status.label_selector = Some(text.to_owned());
        }
        if !patch["conditions"].is_null() {
            status.conditions = serde_json::from_value(patch["conditions"].clone()).unwrap();
        }
        if !patch["rollout"].is_null() {
            let (stored, rollout) = super::fixtures::rollout_after(&self.deployment, patch);
            (self.deployment.status.rollout, self.deployment.rollout) = (stored, rollout);
        }
    }

    /// The set's controller looks: it makes or deletes Machines, those that are not available first, and tells.
    fn look_at_set(&mut self, index: usize) {
        let Some(member) = member(&mut self.sets, index) else {
            return;
        };
        let wanted = usize::try_from(member.set.replicas + member.surging).unwrap();
        let stopped = member.set.annotations.contains_key(annotation::NO_NEW_MACHINES);
        member
            .machines
            .sort_by_key(|machine| *machine != Machine::Available);
        member.machines.truncate(wanted);
        if !stopped {
            member.machines.resize(wanted, Machine::Booting);
        }
        member.set.existing = i32::try_from(member.machines.len()).unwrap();
        member.set.available = count(member, Machine::Available);
        member.set.ready = member.set.available;
        member.set.observed_generation = member.set.generation;
    }

    fn join(&mut self, index: usize) {
        let broken = self.broken.clone();
        let Some(member) = member(&mut self.sets, index) else {
            return;
        };
        let template = number(&member.set.template);
        let Some(machine) = member
            .machines
            .iter()
            .position(|machine| *machine == Machine::Booting)
        else {
            return;
        };
        if broken.contains(&template) {
            member.machines.remove(machine);
            member.set.annotations.insert(
                annotation::MACHINE_FAILED.to_owned(),
                "Machine m: no Node".to_owned(),
            );
        } else {
            member.machines[machine] = Machine::Available;
        }
    }

    fn set_template(&mut self, template: Value) {
        if template != *self.deployment.template {
            self.deployment.template = Template::from(template);
            self.deployment.generation += 1;
        }
    }

    fn happen(&mut self, happening: &Happening) {
        self.time += 1;
        match happening {
            Happening::Scale(replicas) => {
                self.deployment.replicas = *replicas;
                self.deployment.generation += 1;
            }
            Happening::Template(number) => {
                let label = node_label(&self.deployment.template);
                self.set_template(labeled(*number, label));
            }
            Happening::Label(label) => {
                let number = number(&self.deployment.template);
                self.set_template(labeled(number, *label));
            }
            Happening::Rewrite => {
                let mut template = (*self.deployment.template).clone();
                let spec = template["spec"].as_object_mut().unwrap();
                if spec.remove("taints").is_none() {
                    spec.insert("taints".to_owned(), Value::Null);
                }
                self.set_template(template);
            }
            Happening::Refuse(refused) => self.refused = *refused,
            Happening::Leave(leave) => {
                let annotations = &mut self.deployment.annotations;
                annotations.remove(annotation::IN_PLACE);
                if *leave {
                    annotations.insert(annotation::IN_PLACE.to_owned(), "true".to_owned());
                }
                self.deployment.in_place = *leave;
            }
            Happening::Pause(paused) => {
                self.deployment.paused = *paused;
                self.deployment.generation += 1;
            }
            Happening::RollBack => {
                self.deployment
                    .annotations
                    .insert(annotation::ROLLBACK_TO.to_owned(), "0".to_owned());
            }
            Happening::Delete(index) => {
                if let Some(member) = member(&mut self.sets, *index) {
                    member.machines.pop();
                }
            }
            Happening::Break(number) => drop(self.broken.insert(*number)),
            Happening::Fix => self.broken.clear(),
            Happening::Lose(index) => {
                if let Some(member) = member(&mut self.sets, *index)
                    && let Some(machine) = member
                        .machines
                        .iter_mut()
                        .find(|machine| **machine == Machine::Available)
                {
                    *machine = Machine::Tombstones;
                }
            }
            Happening::Drain(index) => self.drain(*index),
            Happening::Look(writes) => self.look(*writes),
            Happening::LookAtSet(index) => self.look_at_set(*index),
            Happening::Join(index) => self.join(*index),
        }
    }

    /// Whether no set of the deployment has a higher revision.
    fn is_newest(&self, index: usize) -> bool {
        let revision = |member: &Member| super::revision::of(&member.set);
        let newest = self.sets.iter().map(revision).max();
        let own = self.sets.get(index).map(revision);
        own.is_some() && own == newest
    }

    /// As [`crate::machine::evacuation`] has it.
    fn drain(&mut self, index: usize) {
        let index = index % self.sets.len().max(1);
        let limits = Limits::of(&self.deployment);
        let surging: i32 = self.sets.iter().map(|member| member.surging).sum();
        let asked = (self.total() - surging).max(limits.desired);
        if self.is_newest(index) && !self.deployment.paused && asked + surging < limits.most {
            let member = &mut self.sets[index];
            member.surging = (member.surging + 1).min(member.set.available);
        }
    }

    /// Who waits for another goes when that is there, and waits no more while a rollout needs the room.
    fn reconsider(&mut self) {
        for index in 0..self.sets.len() {
            let newest = self.is_newest(index);
            let member = &mut self.sets[index];
            if !newest || count(member, Machine::Available) >= member.set.replicas + member.surging {
                member.surging = 0;
            }
        }
    }

    /// Everybody acts, in turn.
    fn round(&mut self) {
        self.time += 1;
        self.reconsider();
        self.look(usize::MAX);
        for index in 0..self.sets.len() {
            self.look_at_set(index);
            for _ in 0..self.sets[index].machines.len() {
                self.join(index);
            }
            // What is lost comes back, as a Node does whose kubelet is started again.
            for machine in &mut self.sets[index].machines {
                if *machine == Machine::Tombstones {
                    *machine = Machine::Available;
                }
            }
            self.look_at_set(index);
        }
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            self.round();
            if self.is_done() {
                return;
            }
        }
        panic!("it does not converge: {:?}", self.deployment.status);
    }

    fn is_done(&self) -> bool {
        let wanted = self.deployment.replicas;
        let plan = decide(&self.observe(), at(self.time));
        let new = self
            .sets
            .iter()
            .filter(|member| {
                let hash = hash_of(&member.set).unwrap();
                with_hash(&self.deployment.template, &hash) == member.set.template
            })
            .map(|member| count(member, Machine::Available))
            .sum::<i32>();
        plan.steps.is_empty() && new == wanted && self.available() == wanted && self.total() == wanted
    }
}

fn member(sets: &mut [Member], index: usize) -> Option<&mut Member> {
    let len = sets.len();
    (len > 0).then(|| &mut sets[index % len])
}

fn count(member: &Member, state: Machine) -> i32 {
    let machines = member.machines.iter().filter(|machine| **machine == state);
    i32::try_from(machines.count()).unwrap()
}

fn number(template: &Value) -> i32 {
    i32::try_from(template["spec"]["number"].as_i64().unwrap()).unwrap()
}

/// A label that is only on the Nodes.
fn node_label(template: &Value) -> i32 {
    i32::try_from(template["spec"]["label"].as_i64().unwrap_or_default()).unwrap()
}

fn labeled(number: i32, label: i32) -> Value {
    let mut template = numbered(number);
    if label > 0 {
        template["spec"]["label"] = label.into();
    }
    template
}

fn patch_set(set: &mut Set, patch: &Value) {
    patch_texts(&mut set.labels, &patch["metadata"]["labels"]);
    patch_texts(&mut set.annotations, &patch["metadata"]["annotations"]);
    if let Some(size) = patch.pointer("/spec/replicas").and_then(Value::as_i64) {
        set.replicas = i32::try_from(size).unwrap();
        set.generation += 1;
    }
}

fn patch_texts(texts: &mut std::collections::BTreeMap<String, String>, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten() {
        match value.as_str() {
            Some(value) => drop(texts.insert(key.clone(), value.to_owned())),
            None => drop(texts.remove(key)),
        }
    }
}

/// The controllers at work.
fn work() -> impl Strategy2<Value = Happening> {
    prop_oneof![
        4 => (0usize..4).prop_map(Happening::Look),
        2 => Just(Happening::Look(usize::MAX)),
        4 => (0usize..4).prop_map(Happening::LookAtSet),
        4 => (0usize..4).prop_map(Happening::Join),
    ]
}

/// That, and everything that people do and that goes wrong.
fn anything() -> impl Strategy2<Value = Happening> {
    prop_oneof![
        8 => work(),
        1 => (0i32..9).prop_map(Happening::Scale),
        1 => (1i32..5).prop_map(Happening::Template),
        1 => (0i32..3).prop_map(Happening::Label),
        1 => Just(Happening::Rewrite),
        1 => any::<bool>().prop_map(Happening::Refuse),
        1 => any::<bool>().prop_map(Happening::Leave),
        1 => any::<bool>().prop_map(Happening::Pause),
        1 => Just(Happening::RollBack),
        1 => (0usize..4).prop_map(Happening::Delete),
        1 => (1i32..5).prop_map(Happening::Break),
        1 => Just(Happening::Fix),
        1 => (0usize..4).prop_map(Happening::Lose),
        1 => (0usize..4).prop_map(Happening::Drain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The limits hold at every single write, whatever happens and wherever the controller is killed; and once people and
    /// faults stop, the deployment gets what it asks for, and then nothing is written any more.
    #[test]
    fn rollouts_keep_their_limits_and_converge(
        replicas in 0i32..9, surge in 0i32..4, unavailable in 0i32..4,
        happenings in prop::collection::vec(anything(), 0..120),
    ) {
        let mut world = World::new(replicas, surge, unavailable, Strategy::RollingUpdate);
        for happening in &happenings {
            world.happen(happening);
        }
        world.broken.clear();
        world.refused = false;
        world.deployment.paused = false;
        world.settle();
    }

    /// Where people only change the template, there are never fewer available Machines than the strategy allows, whatever
    /// the controllers know of each other's doing.
    #[test]
    fn a_change_of_template_never_costs_more_than_is_allowed(
        replicas in 1i32..9, surge in 0i32..4, unavailable in 0i32..4, broken in prop::collection::btree_set(3i32..6, 0..2),
        happenings in prop::collection::vec(prop_oneof![9 => work(), 1 => (3i32..6).prop_map(Happening::Template)], 0..150),
    ) {
        let mut world = World::new(replicas, surge, unavailable, Strategy::RollingUpdate);
        world.settle();
        world.broken = broken;
        let limits = Limits::of(&world.deployment);
        for happening in &happenings {
            world.happen(happening);
            prop_assert!(world.available() >= limits.least_available);
        }
    }

    /// Where changes in place are allowed, another label recreates no Machine, the one that is killed when.
    #[test]
    fn a_label_costs_no_machine(
        replicas in 0i32..9,
        happenings in prop::collection::vec(prop_oneof![4 => work(), 1 => (0i32..3).prop_map(Happening::Label)], 0..80),
    ) {
        let mut world = World::new(replicas, 1, 0, Strategy::RollingUpdate);
        world.happen(&Happening::Leave(true));
        world.settle();
        for happening in &happenings {
            world.happen(happening);
            prop_assert_eq!(world.available(), replicas);
            prop_assert_eq!(world.sets.len(), 1);
        }
        world.settle();
    }

    /// Other bytes make no Machine again, the one that is killed when, and end up in the set: machine-controller compares them.
    #[test]
    fn bytes_cost_no_machine(
        replicas in 0i32..9,
        happenings in prop::collection::vec(
            prop_oneof![4 => work(), 1 => Just(Happening::Rewrite), 1 => any::<bool>().prop_map(Happening::Refuse)], 0..80),
    ) {
        let mut world = World::new(replicas, 1, 0, Strategy::RollingUpdate);
        world.settle();
        for happening in &happenings {
            world.happen(happening);
            prop_assert_eq!(world.available(), replicas);
            prop_assert_eq!(world.sets.len(), 1);
        }
        world.refused = false;
        world.settle();
        let set = &world.sets[0].set;
        prop_assert_eq!(with_hash(&world.deployment.template, &hash_of(set).unwrap()), set.template.clone());
    }

    /// A template whose Machines never join costs nothing that has joined before, beyond what may be missing; and the way
    /// back recreates no Machine.
    #[test]
    fn a_template_that_fails_stops_and_the_way_back_is_free(
        replicas in 1i32..9, surge in 1i32..4,
    ) {
        let mut world = World::new(replicas, surge, 0, Strategy::RollingUpdate);
        world.settle();
        world.broken.insert(3);
        world.happen(&Happening::Template(3));
        for _ in 0..50 {
            world.round();
        }
        prop_assert_eq!(world.available(), replicas);
        prop_assert!(world.total() <= replicas + surge);
        world.happen(&Happening::RollBack);
        world.round();
        world.round();
        prop_assert_eq!(world.available(), replicas);
        world.settle();
        let old = &world.sets[0];
        prop_assert_eq!((number(&old.set.template), old.set.replicas), (2, replicas));
    }

    /// With OnDelete no Machine goes that no user deleted, as long as no fewer are wanted.
    #[test]
    fn on_delete_replaces_what_people_delete(
        replicas in 1i32..9,
        happenings in prop::collection::vec(
            prop_oneof![9 => work(), 1 => (3i32..6).prop_map(Happening::Template), 1 => (0usize..4).prop_map(Happening::Delete)],
            0..120,
        ),
    ) {
        let mut world = World::new(replicas, 1, 0, Strategy::OnDelete);
        for _ in 0..5 { world.round(); }
        prop_assert_eq!(world.available(), replicas);
        for happening in &happenings {
            let before = world.available();
            world.happen(happening);
            prop_assert!(world.available() >= before || matches!(happening, Happening::Delete(_)), "{:?}", happening);
            prop_assert!(world.total() <= replicas);
        }
        for _ in 0..20 { world.round(); }
        prop_assert_eq!(world.available(), replicas);
    }
}
