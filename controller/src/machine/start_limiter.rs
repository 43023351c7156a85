//! How many Machines of an infra cluster start at once: they have a VM, or one is being made, and have never been Ready. A
//! limit for each infra cluster, shared between MachineSets, so that no pool, however large, keeps others from starting. And how
//! many VMs are being made at once there: as many as it answers without making others wait.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use machinist_infra::cache::store::Key;
use machinist_infra::provider::InfraKey;
use machinist_infra::provider::adaptive_limit::AdaptiveLimit;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::phase::Phase;
use super::record::is_own_ca;
use crate::cache::StoredMachine;

/// No set takes more than so many times what is left, and no namespace more than that, so that there is always something left
/// for those who come later: one set alone has three quarters of the limit, all sets of a namespace have all but a 32nd.
const SHARES: (usize, usize) = (3, 31);

/// Who waits is named when its turn comes; should that be lost, it asks again.
pub const START_INTERVAL: Duration = Duration::from_mins(1);

/// VMs that are made at once of each infra cluster, however slow it is.
const FEWEST_CREATIONS: usize = 2;

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
pub struct StartLimiter {
    /// How many may at once on each.
    limit: usize,
    /// How many VMs may be made at once on each, at most.
    creations: usize,
    /// How long a Machine counts at most.
    longest: Duration,
    clusters: Mutex<HashMap<String, Cluster>>,
}

/// Those of one infra cluster.
#[derive(Debug)]
struct Cluster {
    /// Those whose VMs are being made.
    creating: HashSet<Key>,
    /// How many may be.
    creations: AdaptiveLimit,
    /// With until when they count.
    starting: HashMap<Key, (Pool, Instant)>,
    /// Those that have had their time.
    over: HashSet<Key>,
    /// How many of each pool start.
    pools: HashMap<Pool, usize>,
    /// How many of each namespace start.
    namespaces: HashMap<String, usize>,
    /// Those that wait, the longest first.
    waiting: BTreeMap<Pool, VecDeque<Key>>,
    /// Those that need no place among those that start.
    placed: VecDeque<Key>,
    waits: HashSet<Key>,
    /// Those whose turn has come, and who have not begun; from when on they may.
    called: HashMap<Key, Instant>,
}

/// Whose Machines take turns with those of others: those of a MachineSet, or those of a namespace that have none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pool {
    /// The namespace.
    pub namespace: String,
    /// UID of the MachineSet; empty without one.
    pub set: String,
}

impl Pool {
    /// The Machine's.
    pub fn of(machine: &StoredMachine) -> Self {
        Self {
            namespace: machine.namespace().to_owned(),
            set: machine.controller_uid().unwrap_or_default().to_owned(),
        }
    }
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

impl StartLimiter {
    /// At most `limit` at once on each infra cluster, without one if it is 0, each of them for as long as it may take to
    /// become a Node; VMs of at most `creations` are made at once.
    pub fn new(
        limit: usize,
        creations: usize,
        provisioning_timeout: Option<Duration>,
        join_timeout: Option<Duration>,
    ) -> Self {
        let longest = join_timeout.map(|join| join + provisioning_timeout.unwrap_or_default());
        Self {
            limit: if limit == 0 { usize::MAX } else { limit },
            creations,
            longest: longest.unwrap_or(FOR_EVER),
            clusters: Mutex::default(),
        }
    }

    /// The Machine's VM is about to be made: whether it may, or, while those of others are being made, when to ask again; and who
    /// may be next. If it may, [`StartLimiter::end_creation`] follows; if not, the Machine waits until it is among those.
    pub fn begin(
        &self,
        machine: &StoredMachine,
        infra: &InfraKey,
        now: Instant,
    ) -> (Result<Start, Duration>, Vec<Key>) {
        let mut clusters = self.clusters.lock();
        let cluster = self.cluster(&mut clusters, &infra.server, &infra.ca_digest);
        let (key, pool) = (Key::of(machine), Pool::of(machine));
        if let Some(pause) = cluster
            .called
            .get(&key)
            .map(|from| from.saturating_duration_since(now))
            && !pause.is_zero()
        {
            return (Err(pause), Vec::new());
        }
        let was_called = cluster.called.remove(&key).is_some();
        // Others have their place among those that start, or need none.
        let counts = stage(machine) != Stage::Over
            && !cluster.starting.contains_key(&key)
            && !cluster.over.contains(&key);
        if counts && !cluster.may_start(&pool, self.limit) {
            cluster.expire(now);
        }
        if counts && !cluster.may_start(&pool, self.limit) {
            let full = Start::Full {
                starting: cluster.starting.len(),
                own: cluster.pools.get(&pool).copied().unwrap_or_default(),
                limit: self.limit,
            };
            cluster.wait(key, pool, was_called);
            return (Ok(full), Vec::new());
        }
        if !cluster.may_create() {
            if counts {
                cluster.wait(key, pool, was_called);
            } else if cluster.waits.insert(key.clone()) {
                cluster.placed.push_back(key);
            }
            return (Err(START_INTERVAL), Vec::new());
        }
        cluster.stop_waiting(&key);
        cluster.creating.insert(key.clone());
        if counts {
            cluster.start(key, pool, now + self.longest);
        }
        (Ok(Start::Free), cluster.next(self.limit, now))
    }

    /// The infra cluster has answered the creation of a VM after so long; or it has not, or said that it has too much to do.
    pub fn answered(&self, infra: &InfraKey, took: Option<Duration>, now: Instant) {
        let mut clusters = self.clusters.lock();
        let cluster = self.cluster(&mut clusters, &infra.server, &infra.ca_digest);
        let in_flight = cluster.creating.len();
        match took {
            Some(took) => cluster.creations.answered(took, in_flight, now),
            None => cluster.creations.overloaded(now),
        }
    }

    /// The Machine's VM is being made no more; gives whose may be instead, and after how long.
    pub fn end_creation(&self, machine: &Key, now: Instant) -> (Vec<Key>, Duration) {
        let mut pause = Duration::ZERO;
        let next = self.each(now, |cluster| {
            let was_made = cluster.creating.remove(machine);
            if was_made {
                pause = cluster.creations.pause();
            }
            was_made.then_some(now + pause)
        });
        (next, pause)
    }

    /// The Machine's turn, if it has come, is given to others: no VM of it is made.
    pub fn decline(&self, machine: &Key, now: Instant) -> Vec<Key> {
        self.each(now, |cluster| {
            let waited = cluster.stop_waiting(machine);
            (cluster.called.remove(machine).is_some() || waited).then_some(now)
        })
    }

    /// Who may start where `change` has freed something, from when on it says.
    fn each(&self, now: Instant, mut change: impl FnMut(&mut Cluster) -> Option<Instant>) -> Vec<Key> {
        let mut next = Vec::new();
        self.clusters.lock().retain(|_, cluster| {
            if let Some(from) = change(cluster) {
                next.append(&mut cluster.next(self.limit, from));
            }
            cluster.is_used(now)
        });
        next
    }

    fn cluster<'a>(
        &self,
        clusters: &'a mut HashMap<String, Cluster>,
        server: &str,
        ca_digest: &str,
    ) -> &'a mut Cluster {
        let new = || Cluster::new(self.creations);
        clusters
            .entry(cluster_of(server, ca_digest).to_owned())
            .or_insert_with(new)
    }

    /// What the Machine's status says now, whose VM was made so long ago, if that is known; gives who may start instead of it.
    pub fn note(&self, machine: &StoredMachine, age: Duration, now: Instant) -> Vec<Key> {
        match (stage(machine), &machine.record) {
            (Stage::Over, _) => self.forget(&Key::of(machine), now),
            (Stage::Starting, Some(record)) => {
                let infra = &record.infrastructure;
                let mut clusters = self.clusters.lock();
                let cluster = self.cluster(&mut clusters, &infra.server, &infra.ca_digest);
                let key = Key::of(machine);
                if !cluster.over.contains(&key) {
                    cluster.start(key, Pool::of(machine), now + self.longest.saturating_sub(age));
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The Machine is gone, or does not start any more; gives who may start instead of it.
    pub fn forget(&self, machine: &Key, now: Instant) -> Vec<Key> {
        let mut clusters = self.clusters.lock();
        let mut next = Vec::new();
        clusters.retain(|_, cluster| {
            cluster.stop_waiting(machine);
            cluster.over.remove(machine);
            let was_called = cluster.called.remove(machine).is_some();
            if cluster.end(machine) || was_called {
                next.append(&mut cluster.next(self.limit, now));
            }
            cluster.is_used(now)
        });
        next
    }

    /// How many start, and how many wait for that.
    pub fn count(&self) -> Vec<(&'static str, usize)> {
        let clusters = self.clusters.lock();
        let sum = |count: fn(&Cluster) -> usize| clusters.values().map(count).sum();
        vec![
            ("creating", sum(|cluster| cluster.creating.len())),
            ("starting", sum(|cluster| cluster.starting.len())),
            ("waiting", sum(|cluster| cluster.waits.len())),
        ]
    }
}

impl Cluster {
    fn new(creations: usize) -> Self {
        Self {
            creating: HashSet::new(),
            creations: AdaptiveLimit::new(FEWEST_CREATIONS, creations),
            starting: HashMap::new(),
            over: HashSet::new(),
            pools: HashMap::new(),
            namespaces: HashMap::new(),
            waiting: BTreeMap::new(),
            placed: VecDeque::new(),
            waits: HashSet::new(),
            called: HashMap::new(),
        }
    }

    /// Whether there is something to be known of it.
    fn is_used(&self, now: Instant) -> bool {
        let is_empty = self.creating.is_empty()
            && self.starting.is_empty()
            && self.waits.is_empty()
            && self.over.is_empty();
        !is_empty || self.creations.is_known(now)
    }

    /// Who was called will, too.
    fn may_create(&self) -> bool {
        self.creating.len() + self.called.len() < self.creations.get()
    }

    /// Whether it did wait.
    fn stop_waiting(&mut self, key: &Key) -> bool {
        let waited = self.waits.remove(key);
        if waited {
            self.placed.retain(|waits| waits != key);
            self.waiting.retain(|_, waiting| {
                waiting.retain(|waits| waits != key);
                !waiting.is_empty()
            });
        }
        waited
    }

    /// Who was called and came too late is the next again.
    fn wait(&mut self, key: Key, pool: Pool, was_called: bool) {
        if self.waits.insert(key.clone()) {
            let waiting = self.waiting.entry(pool).or_default();
            if was_called {
                waiting.push_front(key);
            } else {
                waiting.push_back(key);
            }
        }
    }

    fn may_start(&self, pool: &Pool, limit: usize) -> bool {
        let left = limit.saturating_sub(self.starting.len());
        let own = self.pools.get(pool).copied().unwrap_or_default();
        let of_namespace = self.namespaces.get(&pool.namespace).copied().unwrap_or_default();
        // A single place is anybody's.
        let within = |count: usize, share: usize| count < left.saturating_mul(share);
        left > 0 && within(own, SHARES.0) && within(of_namespace, SHARES.1)
    }

    fn start(&mut self, key: Key, pool: Pool, until: Instant) {
        if !self.starting.contains_key(&key) {
            *self.namespaces.entry(pool.namespace.clone()).or_default() += 1;
            *self.pools.entry(pool.clone()).or_default() += 1;
            self.starting.insert(key, (pool, until));
        }
    }

    /// Whether it did start.
    fn end(&mut self, key: &Key) -> bool {
        let Some((pool, _)) = self.starting.remove(key) else {
            return false;
        };
        one_less(&mut self.namespaces, &pool.namespace);
        one_less(&mut self.pools, &pool);
        true
    }

    fn expire(&mut self, now: Instant) {
        let over = self.starting.iter().filter(|(_, (_, until))| *until <= now);
        let over: Vec<Key> = over.map(|(key, _)| key.clone()).collect();
        for key in over {
            self.end(&key);
            self.over.insert(key);
        }
    }

    /// Who has waited the longest, of the pool with the fewest, of the namespace with the fewest, that may start one.
    fn next(&mut self, limit: usize, from: Instant) -> Vec<Key> {
        if !self.may_create() {
            return Vec::new();
        }
        if let Some(key) = self.placed.pop_front() {
            self.waits.remove(&key);
            self.called.insert(key.clone(), from);
            return vec![key];
        }
        let count = |pool: &Pool| {
            let of_namespace = self.namespaces.get(&pool.namespace).copied().unwrap_or_default();
            (of_namespace, self.pools.get(pool).copied().unwrap_or_default())
        };
        let may = self.waiting.keys().filter(|pool| self.may_start(pool, limit));
        let Some(pool) = may.min_by_key(|pool| count(pool)).cloned() else {
            return Vec::new();
        };
        let next = self.waiting.get_mut(&pool).and_then(VecDeque::pop_front);
        if self.waiting.get(&pool).is_some_and(VecDeque::is_empty) {
            self.waiting.remove(&pool);
        }
        if let Some(key) = &next {
            self.waits.remove(key);
            self.called.insert(key.clone(), from);
        }
        next.into_iter().collect()
    }
}

fn one_less<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
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

    const SOON: Result<Start, Duration> = Err(START_INTERVAL);
    const FREE: Result<Start, Duration> = Ok(Start::Free);

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

    fn start_limiter(limit: usize) -> StartLimiter {
        StartLimiter::new(limit, 2, None, Some(Duration::from_mins(10)))
    }

    /// Whether it begins; its VM is made by then.
    fn begins(start_limiter: &StartLimiter, machine: &StoredMachine, infra: &InfraKey, now: Instant) -> bool {
        let begins = start_limiter.begin(machine, infra, now).0 == FREE;
        start_limiter.end_creation(&Key::of(machine), now);
        begins
    }

    /// How many of `count` Machines of the group begin.
    fn begun(start_limiter: &StartLimiter, group: &str, count: usize) -> usize {
        let begun = (0..count).filter(|i| {
            let machine = machine(group, &format!("{group}-{i}"), &json!({}));
            begins(start_limiter, &machine, &infra(), Instant::now())
        });
        begun.count()
    }

    #[test]
    fn one_pool_leaves_room_for_others_and_all_together_never_exceed_the_limit() {
        let start_limiter = start_limiter(1000);
        assert_eq!(begun(&start_limiter, "a", 5000), 750);
        assert_eq!(begun(&start_limiter, "b", 5000), 188);
        assert!(begun(&start_limiter, "c", 5000) > 25);
        for group in 0..1000 {
            begun(&start_limiter, &group.to_string(), 3);
        }
        assert_eq!(
            start_limiter.count()[1],
            ("starting", 969),
            "a namespace leaves something to others"
        );
        let elsewhere = (0..1000).filter(|i| {
            let other = json!({"metadata": {"namespace": "elsewhere"}});
            begins(
                &start_limiter,
                &machine("x", &format!("x-{i}"), &other),
                &infra(),
                Instant::now(),
            )
        });
        assert!(elsewhere.count() > 20);
        assert_eq!(
            begun(&super::StartLimiter::new(0, 2, None, None), "a", 5000),
            5000
        );
        assert_eq!(begun(&super::StartLimiter::new(1, 2, None, None), "a", 2), 1);
    }

    #[test]
    fn who_has_had_its_time_counts_no_more_however_often_it_is_checked() {
        let (start_limiter, now) = (start_limiter(1), Instant::now());
        let hangs = machine("a", "a-0", &record(&json!({})));
        start_limiter.note(&hangs, Duration::ZERO, now);
        let (other, later) = (machine("b", "b-0", &json!({})), now + Duration::from_mins(11));
        assert!(!begins(&start_limiter, &other, &infra(), now));
        assert!(begins(&start_limiter, &other, &infra(), later));
        start_limiter.note(&hangs, Duration::ZERO, later);
        assert_eq!(start_limiter.count()[1], ("starting", 1));
        // Nor after a restart, if it is known since when it hangs.
        let other_ = super::StartLimiter::new(1, 2, None, Some(Duration::from_mins(10)));
        other_.note(&hangs, Duration::from_mins(11), now);
        assert!(begins(&other_, &other, &infra(), now));
        start_limiter.forget(&Key::of(&hangs), now);
        start_limiter.forget(&Key::of(&other), now);
        assert_eq!(start_limiter.clusters.lock().len(), 0, "nothing is left of it");
    }

    #[test]
    fn who_waits_starts_as_soon_as_another_does_not_any_more() {
        let start_limiter = start_limiter(4);
        assert_eq!(begun(&start_limiter, "a", 3), 3);
        let (waiting, now) = (machine("a", "a-3", &json!({})), Instant::now());
        let full = Start::Full {
            starting: 3,
            own: 3,
            limit: 4,
        };
        assert_eq!(
            start_limiter.begin(&waiting, &infra(), now),
            (Ok(full), Vec::new())
        );
        assert_eq!(
            start_limiter.begin(&waiting, &infra(), now),
            (Ok(full), Vec::new())
        );
        assert_eq!(start_limiter.count()[1..], [("starting", 3), ("waiting", 1)]);
        let ready = machine("a", "a-0", &json!({"status": {"phase": "Running"}}));
        assert_eq!(
            start_limiter.note(&ready, Duration::ZERO, now),
            [Key::of(&waiting)]
        );
        assert_eq!(start_limiter.count()[1..], [("starting", 2), ("waiting", 0)]);
        assert!(begins(&start_limiter, &waiting, &infra(), now));
        assert!(
            begins(&start_limiter, &waiting, &infra(), now),
            "it has its place"
        );
        for i in 0..4 {
            start_limiter.forget(&Key::new("ns", format!("a-{i}")), now);
        }
        assert_eq!(start_limiter.clusters.lock().len(), 0, "nothing is left of it");
    }

    #[test]
    fn after_the_time_that_it_may_take_a_machine_counts_no_longer() {
        let start_limiter = start_limiter(1);
        assert_eq!(begun(&start_limiter, "a", 1), 1);
        let (other, now) = (machine("b", "b-0", &json!({})), Instant::now());
        assert!(!begins(&start_limiter, &other, &infra(), now));
        assert!(begins(
            &start_limiter,
            &other,
            &infra(),
            now + Duration::from_mins(11)
        ));
    }

    #[test]
    fn only_what_starts_counts() {
        let count = |more: &Value| {
            let start_limiter = start_limiter(9);
            start_limiter.note(&machine("a", "a-0", more), Duration::ZERO, Instant::now());
            start_limiter.count()[1].1
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
        let start_limiter = start_limiter(1);
        begun(&start_limiter, "b", 1);
        let again = machine("a", "a-0", &again);
        assert!(
            begins(&start_limiter, &again, &infra(), Instant::now()),
            "it was a Node before"
        );
    }

    #[test]
    fn an_infra_cluster_is_one_under_all_its_addresses() {
        let start_limiter = start_limiter(1);
        begun(&start_limiter, "a", 1);
        let elsewhere = InfraKey {
            server: "https://b".into(),
            namespace: "other".into(),
            ..infra()
        };
        let (other, now) = (machine("b", "b-0", &json!({})), Instant::now());
        assert!(!begins(&start_limiter, &other, &elsewhere, now));
        let another = InfraKey {
            ca_digest: "2".into(),
            ..elsewhere
        };
        assert!(begins(&start_limiter, &other, &another, now));
    }

    #[test]
    fn few_vms_are_made_at_once_until_it_is_seen_that_more_make_none_wait() {
        let (start_limiter, mut now) = (StartLimiter::new(0, 12, None, None), Instant::now());
        let machines: Vec<_> = (0..80)
            .map(|i| machine("a", &format!("a-{i}"), &json!({})))
            .collect();
        let (mut called, mut most) = (VecDeque::new(), 0);
        for machine in &machines {
            if start_limiter.begin(machine, &infra(), now).0 == FREE {
                called.push_back(Key::of(machine));
            }
        }
        assert_eq!(
            start_limiter.count(),
            [("creating", 2), ("starting", 2), ("waiting", 78)]
        );
        while let Some(done) = called.pop_front() {
            now += Duration::from_millis(200);
            start_limiter.answered(&infra(), Some(Duration::from_millis(10)), now);
            let (mut next, pause) = start_limiter.end_creation(&done, now);
            now += pause;
            while let Some(key) = next.pop() {
                let machine = machines
                    .iter()
                    .find(|machine| machine.name() == key.name)
                    .unwrap();
                let (start, more) = start_limiter.begin(machine, &infra(), now);
                assert_eq!(start, FREE, "its turn has come");
                called.push_back(key);
                next.extend(more);
            }
            most = most.max(start_limiter.count()[0].1);
        }
        assert_eq!(
            start_limiter.count(),
            [("creating", 0), ("starting", 80), ("waiting", 0)]
        );
        assert_eq!(most, 12);
        start_limiter.answered(&infra(), None, now);
        assert_eq!(
            start_limiter
                .clusters
                .lock()
                .values()
                .next()
                .unwrap()
                .creations
                .get(),
            9
        );
    }

    #[test]
    fn a_turn_to_be_made_is_given_on_by_a_machine_whose_vm_is_not_and_by_one_that_is_gone() {
        let (start_limiter, now) = (start_limiter(0), Instant::now());
        let machines: Vec<_> = (0..5)
            .map(|i| machine("a", &format!("a-{i}"), &json!({})))
            .collect();
        let begin = |i: usize| start_limiter.begin(&machines[i], &infra(), now);
        let key = |i: usize| Key::of(&machines[i]);
        assert_eq!([begin(0).0, begin(1).0], [FREE; 2]);
        assert_eq!([begin(2).0, begin(3).0, begin(4).0], [SOON; 3]);
        assert_eq!(start_limiter.end_creation(&key(0), now).0, [key(2)]);
        assert_eq!(begin(4).0, SOON, "another was called");
        assert_eq!(start_limiter.decline(&key(2), now), [key(3)]);
        assert_eq!(start_limiter.forget(&key(3), now), [key(4)]);
        assert_eq!(begin(4), (FREE, Vec::new()));
    }

    #[test]
    fn where_vms_are_made_slowly_the_next_one_comes_after_a_pause() {
        let (start_limiter, now) = (start_limiter(0), Instant::now());
        let machines: Vec<_> = (0..3)
            .map(|i| machine("a", &format!("a-{i}"), &json!({})))
            .collect();
        for machine in &machines {
            let _placed = start_limiter.begin(machine, &infra(), now);
        }
        start_limiter.answered(&infra(), None, now);
        let (next, pause) = start_limiter.end_creation(&Key::of(&machines[0]), now);
        assert_eq!(next, [Key::of(&machines[2])]);
        assert!(!pause.is_zero());
        // Whatever else it hears of.
        let begin = |at| start_limiter.begin(&machines[2], &infra(), at).0;
        assert_eq!(begin(now), Err(pause));
        assert_eq!(begin(now + pause), FREE);
    }

    #[test]
    fn who_has_its_place_already_is_made_before_those_that_have_none() {
        let (start_limiter, now) = (start_limiter(4), Instant::now());
        let again = machine(
            "a",
            "again",
            &record(&json!({"vmUID": null, "hasBeenReady": true})),
        );
        let machines: Vec<_> = (0..3)
            .map(|i| machine("a", &format!("a-{i}"), &json!({})))
            .collect();
        for machine in &machines {
            let _placed = start_limiter.begin(machine, &infra(), now);
        }
        assert_eq!(start_limiter.begin(&again, &infra(), now), (SOON, Vec::new()));
        assert_eq!(
            start_limiter.end_creation(&Key::of(&machines[0]), now).0,
            [Key::of(&again)]
        );
        assert_eq!(start_limiter.begin(&again, &infra(), now), (FREE, Vec::new()));
        assert_eq!(
            start_limiter.count()[1],
            ("starting", 2),
            "it counts as one that has started"
        );
    }

    proptest! {
        /// Whatever begins, ends and waits in whichever order: the limit holds, the one that waits is named in the end, and a pool
        /// that comes late starts something unless all is taken.
        #[test]
        fn the_limit_holds_and_none_waits_for_ever(
            limit in 1_usize..12,
            acts in prop::collection::vec((0..3_usize, 0..8_usize, any::<bool>()), 0..200),
        ) {
            let (start_limiter, now) = (start_limiter(limit), Instant::now());
            let made = |machine: &StoredMachine| {
                let mut next = start_limiter.begin(machine, &infra(), now).1;
                next.extend(start_limiter.end_creation(&Key::of(machine), now).0);
                next
            };
            let mut named: Vec<Key> = Vec::new();
            let mut alive = HashSet::new();
            for (group, number, ends) in acts {
                let machine = machine(&group.to_string(), &format!("m-{group}-{number}"), &json!({}));
                let key = Key::of(&machine);
                if ends {
                    alive.remove(&key);
                    named.extend(start_limiter.forget(&key, now));
                } else {
                    alive.insert(key);
                    named.extend(made(&machine));
                }
                prop_assert!(start_limiter.count()[1].1 <= limit);
            }
            // All that have been named begin; all that have begun end, one after the other.
            for _ in 0..1000 {
                let Some(key) = named.pop() else {
                    let started = start_limiter.clusters.lock().values().flat_map(|c| c.starting.keys().cloned().collect::<Vec<_>>()).next();
                    let Some(key) = started else { break };
                    alive.remove(&key);
                    named.extend(start_limiter.forget(&key, now));
                    continue;
                };
                if !alive.contains(&key) { continue }
                let group = key.name.split('-').nth(1).unwrap().to_owned();
                let machine = machine(&group, &key.name, &json!({}));
                named.extend(made(&machine));
            }
            prop_assert_eq!(start_limiter.count(), [("creating", 0), ("starting", 0), ("waiting", 0)]);
        }
    }
}
