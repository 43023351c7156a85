//! What a process remembers of its MachineSets between passes, and the API server does not know.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use machinist_infra::cache::store::Key;
use machinist_infra::provider::adaptive_limit::AdaptiveLimit;
use machinist_infra::provider::concurrency_limit::ConcurrencyLimit;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::cache::{StoredMachine, StoredMachineSet};
use crate::runtime::backoff::Jitter;
use crate::runtime::creation_limit::{CreationLimit, Fate};
use crate::runtime::failure::{Failed, Failure, LastFailure};
use crate::runtime::recreation::Recreations;

/// Between two passes over a set whose spec is the same: what a burst of Machines and Nodes changes is reported together.
const PACE: Duration = Duration::from_millis(400);

/// How long a status may wait for the Machines to settle.
const OVERDUE: Duration = Duration::from_secs(1);

/// Machines that may come to nothing beyond those that are asked for, and a tenth of these.
const SPARE_CREATIONS: usize = 16;

/// Writes in flight at once, of all sets together: half of what the client allows, for Machines have writes, too.
const IN_FLIGHT: usize = 32;

/// Creations of Machines in flight at once, however slow the API server is.
const FEWEST_CREATIONS: usize = 2;

/// What is remembered of all sets.
#[derive(Debug)]
pub struct Memories {
    sets: Mutex<HashMap<Key, Memory>>,
    jitter: Jitter,
    /// Machines that ended before they became Nodes.
    pub recreations: Recreations,
    /// Writes of Machines that may be in flight.
    pub in_flight: Semaphore,
    /// Creations of Machines among them: as many as the API server answers without making others wait, each set in turn.
    pub creations: Arc<ConcurrencyLimit>,
}

impl Default for Memories {
    fn default() -> Self {
        Self {
            sets: Mutex::default(),
            jitter: Jitter::default(),
            recreations: Recreations::default(),
            in_flight: Semaphore::new(IN_FLIGHT),
            creations: ConcurrencyLimit::adaptive(AdaptiveLimit::new(FEWEST_CREATIONS, IN_FLIGHT)),
        }
    }
}

/// What is remembered of one set.
#[derive(Debug, Default)]
struct Memory {
    uid: String,
    /// Names under which Machines were asked for, and no answer said whether they exist.
    unresolved: BTreeSet<String>,
    failure: LastFailure,
    /// UIDs of Machines that have not become Nodes yet, as of the generation beside them.
    unproven: (Option<i64>, HashSet<String>),
    /// When the last pass began, and what of the set it saw.
    passed: Option<(Instant, Seen)>,
    /// When the status was last known to be true.
    status_current_at: Option<Instant>,
    /// The generation for which it was reported who else selects its Machines.
    overlap_reported: Option<i64>,
    creations: CreationLimit,
}

/// What of a set makes a pass urgent when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    generation: Option<i64>,
    paused: bool,
    deleting: bool,
}

impl Memories {
    /// How long a pass over the set has to wait; if it need not, the pass begins with this.
    pub fn pace(&self, key: &Key, set: &StoredMachineSet, now: Instant) -> Option<Duration> {
        let seen = Seen {
            generation: set.metadata.generation,
            paused: set.paused_by().is_some(),
            deleting: set.is_deleting(),
        };
        let mut sets = self.sets.lock();
        let memory = sets.entry(key.clone()).or_default();
        if memory.uid != set.uid() {
            *memory = Memory {
                uid: set.uid().to_owned(),
                status_current_at: Some(now),
                ..Memory::default()
            };
        }
        if let Some((at, before)) = &memory.passed
            && *before == seen
            && let Some(wait) = PACE.checked_sub(now.saturating_duration_since(*at))
            && !wait.is_zero()
        {
            return Some(wait);
        }
        memory.passed = Some((now, seen));
        None
    }

    /// Lets the next pass begin at once.
    pub fn hurry(&self, key: &Key) {
        self.of(key, |memory| memory.passed = None);
    }

    /// The set is gone.
    pub fn forget(&self, key: &Key) {
        self.recreations.end(key);
        self.sets.lock().remove(key);
    }

    /// The status says what is so.
    pub fn status_is_current(&self, key: &Key, now: Instant) {
        self.of(key, |memory| memory.status_current_at = Some(now));
    }

    /// Whether the status has not been known to be true for long.
    pub fn is_overdue(&self, key: &Key, now: Instant) -> bool {
        let reported = self.of(key, |memory| memory.status_current_at).flatten();
        reported.is_some_and(|reported| now.saturating_duration_since(reported) > OVERDUE)
    }

    /// Whether it is to be reported who else selects the set's Machines: once for each spec. A newcomer is reported those that
    /// are there.
    pub fn tells_overlap(&self, key: &Key, generation: Option<i64>) -> bool {
        let reported = self.of(key, |memory| memory.overlap_reported);
        reported != Some(generation)
    }

    /// That was reported.
    pub fn overlap_reported(&self, key: &Key, generation: Option<i64>) {
        self.of(key, |memory| memory.overlap_reported = generation);
    }

    /// The write that failed last, for a set that is like `subject` now.
    pub fn failure(&self, key: &Key, subject: impl FnOnce() -> u64) -> Option<Failure> {
        self.of(key, |memory| memory.failure.show(subject)).flatten()
    }

    /// A plan was made that reports it.
    pub fn reported(&self, key: &Key) {
        self.of(key, |memory| memory.failure.reported());
    }

    /// A write failed while the set was like `subject`.
    pub fn fail(&self, key: &Key, subject: u64, failed: Failed, now: Timestamp) {
        self.of(key, |memory| {
            memory.failure.add(subject, failed, self.jitter, now);
        });
    }

    /// All went well, or what failed is not wanted any more.
    pub fn forgive(&self, key: &Key) {
        self.of(key, |memory| memory.failure.clear());
    }

    /// Counts Machines of the set that ended before they became Nodes, and that the set did not take itself: those that are
    /// missed at once count once. A set that asks for something else begins again.
    pub fn count_losses<'a>(
        &self,
        key: &Key,
        set: &StoredMachineSet,
        machines: impl Iterator<Item = &'a StoredMachine>,
        now: Timestamp,
    ) {
        let (mut joined, mut unproven) = (HashSet::new(), HashSet::new());
        for machine in machines.filter(|machine| !machine.is_deleting()) {
            if machine.has_joined() {
                joined.insert(machine.uid());
            } else {
                unproven.insert(machine.uid().to_owned());
            }
        }
        let generation = set.metadata.generation;
        let before = self.of(key, |memory| {
            std::mem::replace(&mut memory.unproven, (generation, unproven.clone()))
        });
        let Some((asked, before)) = before else { return };
        let has_joined = before.iter().any(|uid| joined.contains(uid.as_str()));
        if asked != generation || has_joined {
            self.recreations.end(key);
        } else if before.iter().any(|uid| !unproven.contains(uid)) {
            self.recreations.count(key, set.uid(), now);
        }
    }

    /// The set itself takes that Machine, or lets it go.
    pub fn expect_loss(&self, key: &Key, uid: &str) {
        self.of(key, |memory| memory.unproven.1.remove(uid));
    }

    /// A Machine is about to be asked for under this name.
    pub fn begin(&self, key: &Key, name: &str, now: Instant) {
        self.of(key, |memory| {
            memory.unresolved.insert(name.to_owned());
            memory.creations.spend(name, now);
        });
    }

    /// Takes notice of what has become of the Machines that the set has created, by their names, and which of those that are not
    /// as they were sent are still there. It may create as many as it asks for, some to replace others, and few that come to
    /// nothing.
    pub fn review(
        &self,
        key: &Key,
        set: &StoredMachineSet,
        now: Instant,
        fate: impl Fn(&str) -> Fate,
        is_there: impl Fn(&str, &str) -> bool,
    ) {
        let replicas = set.replicas.and_then(|replicas| usize::try_from(replicas).ok());
        let replicas = replicas.unwrap_or_default();
        self.of(key, |memory| {
            let creations = &mut memory.creations;
            creations.asked(set.selector.text(), &set.template, set.paused_by().is_some());
            creations.review(replicas + replicas / 10 + SPARE_CREATIONS, now, fate, is_there);
        });
    }

    /// What the set has created that may come to nothing.
    pub fn creations<T>(&self, key: &Key, of: impl FnOnce(&mut CreationLimit) -> T) -> Option<T> {
        self.of(key, |memory| of(&mut memory.creations))
    }

    /// It is known what has become of that name.
    pub fn resolve(&self, key: &Key, name: &str) {
        self.of(key, |memory| memory.unresolved.remove(name));
    }

    /// Names of which it is not known whether a Machine bears them.
    pub fn unresolved(&self, key: &Key) -> Vec<String> {
        let names = self.of(key, |memory| memory.unresolved.iter().cloned().collect());
        names.unwrap_or_default()
    }

    fn of<T>(&self, key: &Key, change: impl FnOnce(&mut Memory) -> T) -> Option<T> {
        self.sets.lock().get_mut(key).map(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::backoff::Cause;
    use serde_json::json;

    fn set(uid: &str, generation: i64) -> StoredMachineSet {
        serde_json::from_value(json!({"metadata": {"name": "a", "uid": uid, "generation": generation}}))
            .unwrap()
    }

    fn exact() -> Memories {
        Memories {
            jitter: Jitter::NONE,
            ..Memories::default()
        }
    }

    fn failed(message: &str, of_status: bool) -> Failed {
        Failed {
            reason: "CreateError",
            message: message.to_owned(),
            cause: Cause::Object,
            of_status,
        }
    }

    #[test]
    fn a_status_that_cannot_be_written_is_of_the_attempt_that_it_reports() {
        let (memories, key) = (exact(), Key::new("ns", "a"));
        memories.pace(&key, &set("u", 1), Instant::now());
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        memories.fail(&key, 1, failed("quota", false), now);
        let first = memories.failure(&key, || 1).unwrap();
        assert!(first.is_news && !first.of_status);
        assert_eq!(
            memories.failure(&key, || 1),
            Some(first.clone()),
            "seeing it reports nothing"
        );
        memories.reported(&key);
        for _ in 0..20 {
            memories.fail(&key, 1, failed("no status", true), now);
        }
        let reported = memories.failure(&key, || 1).unwrap();
        assert_eq!(
            (reported.message.as_str(), reported.until),
            ("quota", first.until)
        );
        assert!(reported.of_status && !reported.is_news);
        let changed = memories.failure(&key, || 2).unwrap();
        assert_eq!(changed.until, first.until, "the first pause is short anyway");
    }

    #[test]
    fn machines_that_end_before_they_join_are_counted_once_a_pass_until_one_joins_or_the_spec_changes() {
        let memories = Memories {
            recreations: Recreations::exact(),
            ..exact()
        };
        let (key, of_set) = (Key::new("ns", "a"), set("u", 1));
        memories.pace(&key, &of_set, Instant::now());
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let machine = |uid: &str, node: Option<&str>| -> StoredMachine {
            let node = node.map(|name| json!({"name": name}));
            let machine = json!({"metadata": {"name": uid, "uid": uid}, "status": {"nodeRef": node}});
            serde_json::from_value(machine).unwrap()
        };
        let pass = |set: &StoredMachineSet, machines: &[StoredMachine]| {
            memories.count_losses(&key, set, machines.iter(), now);
            let found = memories.recreations.of(&key, "u", now);
            found.map(|found| found.until.duration_since(now).as_secs())
        };
        assert_eq!(pass(&of_set, &[machine("1", None), machine("2", None)]), None);
        assert_eq!(
            pass(&of_set, &[machine("3", None), machine("4", None)]),
            None,
            "the first is immediate"
        );
        assert_eq!(pass(&of_set, &[machine("5", None), machine("6", None)]), Some(1));
        assert_eq!(pass(&of_set, &[machine("7", None), machine("6", None)]), Some(2));
        memories.expect_loss(&key, "7");
        assert_eq!(pass(&of_set, &[machine("6", None)]), Some(2), "the set took it");
        assert_eq!(pass(&of_set, &[machine("6", Some("n"))]), None, "one has joined");
        for uid in ["8", "9", "10"] {
            pass(&of_set, &[machine(uid, None)]);
        }
        assert_eq!(pass(&of_set, &[machine("11", None)]), Some(2));
        assert_eq!(
            pass(&set("u", 2), &[machine("12", None)]),
            None,
            "another template or size"
        );
    }

    #[tokio::test]
    async fn a_burst_makes_one_pass_and_a_changed_spec_another_at_once() {
        let (memories, key, start) = (Memories::default(), Key::new("ns", "a"), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let pace = |set: &StoredMachineSet, ms| memories.pace(&key, set, at(ms));
        assert_eq!(pace(&set("u", 1), 0), None, "the first at once");
        assert_eq!(pace(&set("u", 1), 50), Some(Duration::from_millis(350)));
        assert_eq!(pace(&set("u", 2), 60), None, "another spec");
        assert_eq!(pace(&set("u", 2), 70), Some(Duration::from_millis(390)));
        memories.hurry(&key);
        assert_eq!(pace(&set("u", 2), 80), None, "there is more to do");
        assert_eq!(pace(&set("u", 2), 480), None, "long enough after the last");
        assert_eq!(pace(&set("v", 2), 490), None, "another set of that name");
    }

    #[tokio::test]
    async fn a_status_is_overdue_only_when_it_has_not_been_current_for_long() {
        let (memories, key, start) = (Memories::default(), Key::new("ns", "a"), Instant::now());
        memories.pace(&key, &set("u", 1), start);
        assert!(!memories.is_overdue(&key, start + OVERDUE));
        let late = start + OVERDUE * 2;
        assert!(memories.is_overdue(&key, late));
        memories.status_is_current(&key, late);
        assert!(!memories.is_overdue(&key, late));
    }

    #[test]
    fn an_overlap_is_reported_once_for_each_spec() {
        let (memories, key) = (Memories::default(), Key::new("ns", "a"));
        memories.pace(&key, &set("u", 1), Instant::now());
        assert!(memories.tells_overlap(&key, Some(1)));
        memories.overlap_reported(&key, Some(1));
        assert!(!memories.tells_overlap(&key, Some(1)));
        assert!(memories.tells_overlap(&key, Some(2)));
    }

    #[test]
    fn pauses_double_until_all_goes_well_and_names_are_kept_until_resolved() {
        let (memories, key) = (exact(), Key::new("ns", "a"));
        memories.pace(&key, &set("u", 1), Instant::now());
        let mut now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut pause = || {
            memories.fail(&key, 1, failed("no", false), now);
            let until = memories.failure(&key, || 1).unwrap().until;
            let pause = until.duration_since(now).as_millis();
            now = until;
            pause
        };
        assert_eq!([pause(), pause(), pause()], [500, 1000, 2000]);
        memories.forgive(&key);
        assert_eq!(memories.failure(&key, || 1), None);
        memories.begin(&key, "a-1", Instant::now());
        memories.begin(&key, "a-2", Instant::now());
        memories.resolve(&key, "a-1");
        assert_eq!(memories.unresolved(&key), ["a-2"]);
        memories.forget(&key);
        assert!(memories.unresolved(&key).is_empty());
    }
}
