//! How many Machines of an infra cluster start at once: they have a VM, or one is being made, and have never been Ready. A
//! limit for each infra cluster, shared between MachineSets, so that no pool, however large, keeps others from starting.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use machinist_infra::provider::InfraKey;
use machinist_infra::store::Key;
use tokio::time::Instant;

use super::phase::Phase;
use super::record::is_own_ca;
use crate::user::StoredMachine;

/// Nobody takes more than so many times what is left, so that there is always something left for those who come later: one
/// set alone has three quarters of the limit, two have three sevenths each.
const SHARE: usize = 3;

/// How long a Machine whose node may take for ever to join counts as one that starts.
const FOR_EVER: Duration = Duration::from_hours(1);

/// Whether a Machine's VM may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It may.
    Free,
    /// Too many others are starting.
    Full {
        /// How many start on its infra cluster.
        starting: usize,
        /// How many of them are of its MachineSet; of Machines without one, of its namespace.
        own: usize,
        /// How many may.
        limit: usize,
    },
}

/// The Machines that start, by infra cluster.
#[derive(Debug)]
pub struct Starts {
    /// How many may at once on each.
    limit: usize,
    /// How long a Machine counts at most.
    longest: Duration,
    clusters: Mutex<HashMap<String, Cluster>>,
}

/// Those of one infra cluster. A group is a MachineSet, or the Machines without one of a namespace.
#[derive(Debug, Default)]
struct Cluster {
    starting: HashMap<Key, (String, Instant)>,
    /// How many of each group start.
    groups: HashMap<String, usize>,
    /// Those that wait, the longest first.
    waiting: BTreeMap<String, VecDeque<Key>>,
    waits: HashSet<Key>,
}

/// What a Machine's status says of its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has no VM.
    Before,
    /// It has one, and has never been Ready.
    Starting,
    /// It has been Ready, or does not start any more.
    Over,
}

fn stage(machine: &StoredMachine) -> Stage {
    let phase = machine.status.phase.as_deref().and_then(Phase::stored);
    let record = machine.record.as_ref();
    let is_over = machine.is_deleting()
        || machine.is_paused()
        || matches!(phase, Some(Phase::Running | Phase::Failed))
        || record.is_some_and(|record| record.has_been_ready);
    match record.is_some_and(|record| record.vm_uid.is_some()) {
        _ if is_over => Stage::Over,
        true => Stage::Starting,
        false => Stage::Before,
    }
}

/// By its CA, which is the same under every address; else by its address.
fn cluster_of<'a>(server: &'a str, ca_digest: &'a str) -> &'a str {
    if is_own_ca(ca_digest) { ca_digest } else { server }
}

/// Whose Machines take turns with those of others: those of its MachineSet, or those of its namespace that have none.
pub fn pool_of(machine: &StoredMachine) -> String {
    match machine.controller_uid() {
        Some(uid) => uid.to_owned(),
        None => format!("namespace {}", machine.namespace()),
    }
}

impl Starts {
    /// At most `limit` at once on each infra cluster, without one if it is 0, each of them for as long as it may take to
    /// become a Node.
    pub fn new(limit: usize, provisioning_timeout: Option<Duration>, join_timeout: Option<Duration>) -> Self {
        let longest = join_timeout.map(|join| join + provisioning_timeout.unwrap_or_default());
        Self {
            limit: if limit == 0 { usize::MAX } else { limit },
            longest: longest.unwrap_or(FOR_EVER),
            clusters: Mutex::default(),
        }
    }

    /// The Machine's VM is about to be made: whether it may, and who may be next. If it may not, the Machine waits until it is
    /// among those.
    pub fn begin(&self, machine: &StoredMachine, infra: &InfraKey, now: Instant) -> (Start, Vec<Key>) {
        if stage(machine) == Stage::Over {
            return (Start::Free, Vec::new());
        }
        let mut clusters = self.lock();
        let cluster = cluster_of(&infra.server, &infra.ca_digest).to_owned();
        let cluster = clusters.entry(cluster).or_default();
        let (key, group) = (Key::of(machine), pool_of(machine));
        if cluster.starting.contains_key(&key) {
            return (Start::Free, Vec::new());
        }
        if !cluster.may_start(&group, self.limit) {
            cluster.expire(now);
        }
        if !cluster.may_start(&group, self.limit) {
            let full = Start::Full {
                starting: cluster.starting.len(),
                own: cluster.groups.get(&group).copied().unwrap_or_default(),
                limit: self.limit,
            };
            cluster.wait(key, group);
            return (full, Vec::new());
        }
        cluster.start(key, group, now + self.longest);
        (Start::Free, cluster.next(self.limit))
    }

    /// What the Machine's status says now; gives who may start instead of it.
    pub fn note(&self, machine: &StoredMachine, now: Instant) -> Vec<Key> {
        match (stage(machine), &machine.record) {
            (Stage::Over, _) => self.forget(&Key::of(machine)),
            (Stage::Starting, Some(record)) => {
                let infra = &record.infrastructure;
                let mut clusters = self.lock();
                let cluster = clusters
                    .entry(cluster_of(&infra.server, &infra.ca_digest).to_owned())
                    .or_default();
                cluster.start(Key::of(machine), pool_of(machine), now + self.longest);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The Machine is gone, or does not start any more; gives who may start instead of it.
    pub fn forget(&self, machine: &Key) -> Vec<Key> {
        let mut clusters = self.lock();
        let mut next = Vec::new();
        clusters.retain(|_, cluster| {
            let waited = cluster.waits.remove(machine);
            if waited {
                cluster.waiting.retain(|_, waiting| {
                    waiting.retain(|key| key != machine);
                    !waiting.is_empty()
                });
            }
            if cluster.end(machine) {
                next.append(&mut cluster.next(self.limit));
            }
            !cluster.starting.is_empty() || !cluster.waits.is_empty()
        });
        next
    }

    /// How many start, and how many wait for that.
    pub fn count(&self) -> Vec<(&'static str, usize)> {
        let clusters = self.lock();
        let sum = |count: fn(&Cluster) -> usize| clusters.values().map(count).sum();
        vec![
            ("starting", sum(|cluster| cluster.starting.len())),
            ("waiting", sum(|cluster| cluster.waits.len())),
        ]
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Cluster>> {
        // Every change is complete before anything can panic.
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cluster {
    fn wait(&mut self, key: Key, group: String) {
        if self.waits.insert(key.clone()) {
            self.waiting.entry(group).or_default().push_back(key);
        }
    }

    fn may_start(&self, group: &str, limit: usize) -> bool {
        let left = limit.saturating_sub(self.starting.len());
        let own = self.groups.get(group).copied().unwrap_or_default();
        left > 0 && own < left.saturating_mul(SHARE)
    }

    fn start(&mut self, key: Key, group: String, until: Instant) {
        if !self.starting.contains_key(&key) {
            *self.groups.entry(group.clone()).or_default() += 1;
            self.starting.insert(key, (group, until));
        }
    }

    /// Whether it did start.
    fn end(&mut self, key: &Key) -> bool {
        let Some((group, _)) = self.starting.remove(key) else {
            return false;
        };
        if let Some(count) = self.groups.get_mut(&group) {
            *count -= 1;
            if *count == 0 {
                self.groups.remove(&group);
            }
        }
        true
    }

    fn expire(&mut self, now: Instant) {
        let over = self.starting.iter().filter(|(_, (_, until))| *until <= now);
        let over: Vec<Key> = over.map(|(key, _)| key.clone()).collect();
        for key in over {
            self.end(&key);
        }
    }

    /// Of each group that may start one, who has waited the longest.
    fn next(&mut self, limit: usize) -> Vec<Key> {
        let groups: Vec<String> = self.waiting.keys().cloned().collect();
        let may = groups.into_iter().filter(|group| self.may_start(group, limit));
        let may: Vec<String> = may.collect();
        let mut next = Vec::new();
        for group in may {
            let Some(waiting) = self.waiting.get_mut(&group) else {
                continue;
            };
            next.extend(waiting.pop_front());
            if waiting.is_empty() {
                self.waiting.remove(&group);
            }
        }
        for key in &next {
            self.waits.remove(key);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn machine(group: &str, name: &str, more: &Value) -> StoredMachine {
        let mut machine = json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "ownerReferences": [
            {"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineSet", "name": group, "uid": group, "controller": true}]}});
        json_patch::merge(&mut machine, more);
        serde_json::from_value(machine).unwrap()
    }

    fn infra() -> InfraKey {
        InfraKey {
            namespace: "vms".into(),
            server: "https://a".into(),
            ca_digest: "1".into(),
        }
    }

    fn record(more: &Value) -> Value {
        let mut record = json!({"infrastructure": {"namespace": "vms", "server": "https://a", "caDigest": "1"}, "vmUID": "v"});
        json_patch::merge(&mut record, more);
        json!({"status": {"providerStatus": record}})
    }

    fn starts(limit: usize) -> Starts {
        Starts::new(limit, None, Some(Duration::from_mins(10)))
    }

    fn begins(starts: &Starts, machine: &StoredMachine, infra: &InfraKey, now: Instant) -> bool {
        starts.begin(machine, infra, now).0 == Start::Free
    }

    /// How many of `count` Machines of the group begin.
    fn begun(starts: &Starts, group: &str, count: usize) -> usize {
        let begun = (0..count).filter(|i| {
            let machine = machine(group, &format!("{group}-{i}"), &json!({}));
            begins(starts, &machine, &infra(), Instant::now())
        });
        begun.count()
    }

    #[test]
    fn one_pool_leaves_room_for_others_and_all_together_never_exceed_the_limit() {
        let starts = starts(1000);
        assert_eq!(begun(&starts, "a", 5000), 750);
        assert_eq!(begun(&starts, "b", 5000), 188);
        assert!(begun(&starts, "c", 5000) > 40);
        for group in 0..1000 {
            begun(&starts, &group.to_string(), 3);
        }
        assert_eq!(starts.count()[0], ("starting", 1000));
        assert_eq!(begun(&super::Starts::new(0, None, None), "a", 5000), 5000);
        assert_eq!(begun(&super::Starts::new(1, None, None), "a", 2), 1);
    }

    #[test]
    fn who_waits_starts_as_soon_as_another_does_not_any_more() {
        let starts = starts(4);
        assert_eq!(begun(&starts, "a", 3), 3);
        let (waiting, now) = (machine("a", "a-3", &json!({})), Instant::now());
        let full = Start::Full {
            starting: 3,
            own: 3,
            limit: 4,
        };
        assert_eq!(starts.begin(&waiting, &infra(), now), (full, Vec::new()));
        assert_eq!(starts.begin(&waiting, &infra(), now), (full, Vec::new()));
        assert_eq!(starts.count(), [("starting", 3), ("waiting", 1)]);
        let ready = machine("a", "a-0", &json!({"status": {"phase": "Running"}}));
        assert_eq!(starts.note(&ready, now), [Key::of(&waiting)]);
        assert_eq!(starts.count(), [("starting", 2), ("waiting", 0)]);
        assert!(begins(&starts, &waiting, &infra(), now));
        assert!(begins(&starts, &waiting, &infra(), now), "it has its place");
        for i in 0..4 {
            starts.forget(&Key::new("ns", format!("a-{i}")));
        }
        assert_eq!(starts.lock().len(), 0, "nothing is left of it");
    }

    #[test]
    fn after_the_time_that_it_may_take_a_machine_counts_no_longer() {
        let starts = starts(1);
        assert_eq!(begun(&starts, "a", 1), 1);
        let (other, now) = (machine("b", "b-0", &json!({})), Instant::now());
        assert!(!begins(&starts, &other, &infra(), now));
        assert!(begins(&starts, &other, &infra(), now + Duration::from_mins(11)));
    }

    #[test]
    fn only_what_starts_counts() {
        let count = |more: &Value| {
            let starts = starts(9);
            starts.note(&machine("a", "a-0", more), Instant::now());
            starts.count()[0].1
        };
        let mut paused = record(&json!({}));
        paused["metadata"] = json!({"annotations": {"machine-controller.kubermatic.io/initializers": "x"}});
        let mut failed = record(&json!({}));
        failed["status"]["phase"] = json!("Failed");
        assert_eq!(count(&record(&json!({}))), 1);
        assert_eq!(count(&record(&json!({"vmUID": null}))), 0, "without a VM");
        assert_eq!(count(&record(&json!({"hasBeenReady": true}))), 0, "once Ready");
        assert_eq!([count(&paused), count(&failed)], [0, 0]);
        let again = record(&json!({"vmUID": null, "hasBeenReady": true}));
        let starts = starts(1);
        begun(&starts, "b", 1);
        let again = machine("a", "a-0", &again);
        assert!(
            begins(&starts, &again, &infra(), Instant::now()),
            "it was a Node before"
        );
    }

    #[test]
    fn an_infra_cluster_is_one_under_all_its_addresses() {
        let starts = starts(1);
        begun(&starts, "a", 1);
        let elsewhere = InfraKey {
            server: "https://b".into(),
            namespace: "other".into(),
            ..infra()
        };
        let (other, now) = (machine("b", "b-0", &json!({})), Instant::now());
        assert!(!begins(&starts, &other, &elsewhere, now));
        let another = InfraKey {
            ca_digest: "2".into(),
            ..elsewhere
        };
        assert!(begins(&starts, &other, &another, now));
    }

    proptest! {
        /// Whatever begins, ends and waits in whichever order: the limit holds, whoever waits is named in the end, and a pool
        /// that comes late starts something unless all is taken.
        #[test]
        fn the_limit_holds_and_nobody_waits_for_ever(
            limit in 1_usize..12,
            acts in prop::collection::vec((0..3_usize, 0..8_usize, any::<bool>()), 0..200),
        ) {
            let (starts, now) = (starts(limit), Instant::now());
            let mut named: Vec<Key> = Vec::new();
            let mut alive = HashSet::new();
            for (group, number, ends) in acts {
                let machine = machine(&group.to_string(), &format!("m-{group}-{number}"), &json!({}));
                let key = Key::of(&machine);
                if ends {
                    alive.remove(&key);
                    named.extend(starts.forget(&key));
                } else {
                    alive.insert(key);
                    named.extend(starts.begin(&machine, &infra(), now).1);
                }
                prop_assert!(starts.count()[0].1 <= limit);
            }
            // All that have been named begin; all that have begun end, one after the other.
            for _ in 0..1000 {
                let Some(key) = named.pop() else {
                    let started = starts.lock().values().flat_map(|c| c.starting.keys().cloned().collect::<Vec<_>>()).next();
                    let Some(key) = started else { break };
                    alive.remove(&key);
                    named.extend(starts.forget(&key));
                    continue;
                };
                if !alive.contains(&key) { continue }
                let group = key.name.split('-').nth(1).unwrap().to_owned();
                let machine = machine(&group, &key.name, &json!({}));
                named.extend(starts.begin(&machine, &infra(), now).1);
            }
            prop_assert_eq!(starts.count(), [("starting", 0), ("waiting", 0)]);
        }
    }
}
