//! How long Machines take: in each phase, from their creation until they have joined, and from the wish for their deletion until
//! they are gone. Measured by what reconciles see, so a change of leader loses the phase that was under way, and nothing else. And how
//! long it takes from the news that a VM runs until the status says so.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use machinist_infra::cache::store::Key;
use parking_lot::Mutex;

use super::phase::Phase;
use super::record::Record;
use crate::cache::StoredMachine;
use crate::telemetry::metrics::Metrics;

/// What was last seen of Machines.
#[derive(Debug, Default)]
pub struct Times {
    seen: Mutex<HashMap<Key, Seen>>,
    /// News of VMs that no plan has answered yet.
    news: Mutex<HashMap<Key, News>>,
}

/// News of a Machine's VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News {
    /// When the first came.
    pub since: Instant,
    /// How many came.
    count: u64,
}

/// What was last seen of a Machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    uid: String,
    phase: Option<Phase>,
    /// Since when it has been in that phase.
    since: Timestamp,
    joined: bool,
    created: Option<Timestamp>,
    deleted: Option<Timestamp>,
}

impl Seen {
    fn new(machine: &StoredMachine, now: Timestamp) -> Self {
        let metadata = &machine.metadata;
        Self {
            uid: machine.uid().to_owned(),
            phase: machine.status.phase.as_deref().and_then(Phase::stored),
            since: now,
            // One that is adopted has joined long ago.
            joined: machine.status.node_ref.is_some()
                || machine.record.as_ref().is_some_and(Record::has_joined),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            deleted: metadata.deletion_timestamp.as_ref().map(|time| time.0),
        }
    }
}

/// What has just ended, in seconds.
#[derive(Debug, Default, PartialEq)]
struct Ended {
    /// A phase.
    phase: Option<(Phase, f64)>,
    /// From creation to the join.
    provisioning: Option<f64>,
    /// From the wish for the deletion to its end.
    deprovisioning: Option<f64>,
}

impl Times {
    /// Something of a Machine's VM has changed.
    pub fn heard(&self, machine: &StoredMachine, now: Instant) {
        if !machine.has_running_vm() {
            let mut news = self.news.lock();
            let known = news
                .entry(Key::of(machine))
                .or_insert(News { since: now, count: 0 });
            known.count += 1;
        }
    }

    /// What a snapshot that is taken now answers.
    pub fn news(&self, key: &Key) -> Option<News> {
        self.news.lock().get(key).copied()
    }

    /// That was answered: a plan was carried out that was made of it. What has come since then is for the next one.
    pub fn end_news(&self, key: &Key, answered: News) {
        let mut news = self.news.lock();
        if news.get(key) == Some(&answered) {
            news.remove(key);
        }
    }

    /// The Machine is gone.
    pub fn forget_news(&self, key: &Key) {
        self.news.lock().remove(key);
    }

    /// A pass has turned the Machine `before` into `after`, so long after the news was heard that it began with.
    pub fn answered(&self, before: &StoredMachine, after: &StoredMachine, took: Duration, metrics: &Metrics) {
        if before.uid() == after.uid() && !before.has_running_vm() && after.has_running_vm() {
            metrics.running_to_status.observe(took.as_secs_f64());
        }
    }

    /// A pass sees a Machine, or that it is gone.
    pub fn note(&self, key: &Key, machine: Option<&StoredMachine>, now: Timestamp, metrics: &Metrics) {
        let ended = self.ended(key, machine.map(|machine| Seen::new(machine, now)), now);
        if let Some((phase, seconds)) = ended.phase {
            metrics
                .phase_seconds
                .with_label_values(&[phase.text()])
                .observe(seconds);
        }
        if let Some(seconds) = ended.provisioning {
            metrics.provisioning_seconds.observe(seconds);
        }
        if let Some(seconds) = ended.deprovisioning {
            metrics.deprovisioning_seconds.observe(seconds);
        }
    }

    fn ended(&self, key: &Key, after: Option<Seen>, now: Timestamp) -> Ended {
        let mut seen = self.seen.lock();
        let before = seen.remove(key);
        let same = |before: &Seen| after.as_ref().is_none_or(|after| after.uid == before.uid);
        let ended = before
            .as_ref()
            .filter(|before| same(before))
            .map(|before| between(before, after.as_ref(), now));
        if let Some(mut after) = after {
            if let Some(before) =
                before.filter(|before| before.uid == after.uid && before.phase == after.phase)
            {
                after.since = before.since;
            }
            seen.insert(key.clone(), after);
        }
        ended.unwrap_or_default()
    }
}

fn between(before: &Seen, after: Option<&Seen>, now: Timestamp) -> Ended {
    let since = |time: Timestamp| now.duration_since(time).as_secs_f64().max(0.0);
    let phase_ended = after.is_none_or(|after| after.phase != before.phase);
    let joins = !before.joined && after.is_some_and(|after| after.joined);
    Ended {
        phase: before
            .phase
            .filter(|_| phase_ended)
            .map(|phase| (phase, since(before.since))),
        provisioning: before.created.filter(|_| joins).map(since),
        deprovisioning: before.deleted.filter(|_| after.is_none()).map(since),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(uid: &str, phase: Option<Phase>, joined: bool) -> Seen {
        Seen {
            uid: uid.to_owned(),
            phase,
            since: Timestamp::UNIX_EPOCH,
            joined,
            created: Some(Timestamp::UNIX_EPOCH),
            deleted: None,
        }
    }

    #[test]
    fn phases_the_join_and_the_end_are_timed_once_each() {
        let (times, key) = (Times::default(), Key::new("ns", "a"));
        let at = |seconds| Timestamp::UNIX_EPOCH + Duration::from_secs(seconds);
        let now = |seen: Seen, seconds| {
            Some(Seen {
                since: at(seconds),
                ..seen
            })
        };
        let spent = |phase, seconds| Some((phase, seconds));

        assert_eq!(
            times.ended(&key, now(seen("u", None, false), 1), at(1)),
            Ended::default()
        );
        let provisioning = seen("u", Some(Phase::Provisioning), false);
        assert_eq!(
            times.ended(&key, now(provisioning.clone(), 2), at(2)),
            Ended::default()
        );
        assert_eq!(times.ended(&key, now(provisioning, 20), at(20)), Ended::default());
        let running = seen("u", Some(Phase::Running), true);
        let joined = Ended {
            phase: spent(Phase::Provisioning, 28.0),
            provisioning: Some(30.0),
            deprovisioning: None,
        };
        assert_eq!(times.ended(&key, now(running.clone(), 30), at(30)), joined);
        assert_eq!(times.ended(&key, now(running, 40), at(40)), Ended::default());
        let deleting = Seen {
            deleted: Some(at(95)),
            ..seen("u", Some(Phase::Deleting), true)
        };
        let ended = times.ended(&key, now(deleting, 100), at(100));
        assert_eq!(ended.phase, spent(Phase::Running, 70.0));
        let gone = Ended {
            phase: spent(Phase::Deleting, 50.0),
            provisioning: None,
            deprovisioning: Some(55.0),
        };
        assert_eq!(times.ended(&key, None, at(150)), gone);
        assert_eq!(times.ended(&key, None, at(151)), Ended::default());
    }

    #[test]
    fn another_of_the_same_name_begins_again() {
        let (times, key) = (Times::default(), Key::new("ns", "a"));
        let at = Timestamp::UNIX_EPOCH + Duration::from_secs(9);
        times.ended(&key, Some(seen("u", Some(Phase::Pending), false)), at);
        let ended = times.ended(&key, Some(seen("v", Some(Phase::Running), true)), at);
        assert_eq!(ended, Ended::default());
    }

    #[test]
    fn what_had_joined_before_we_led_is_not_timed() {
        let (times, key) = (Times::default(), Key::new("ns", "a"));
        let ended = times.ended(
            &key,
            Some(seen("u", Some(Phase::Running), true)),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(ended, Ended::default());
    }

    #[test]
    fn a_vm_that_runs_is_timed_from_the_first_news_to_the_pass_that_says_so() {
        let (times, metrics) = (
            Times::default(),
            Metrics::new(&prometheus::Registry::new()).unwrap(),
        );
        let machine = |running: &str| -> StoredMachine {
            let condition =
                json!({"type": "InfrastructureReady", "status": running, "lastTransitionTime": null});
            let machine = json!({
                "apiVersion": "cluster.k8s.io/v1alpha1", "kind": "Machine",
                "metadata": {"namespace": "ns", "name": "a", "uid": "u"},
                "spec": {}, "status": {"conditions": [condition]},
            });
            serde_json::from_value(machine).unwrap()
        };
        let (before, after) = (machine("False"), machine("True"));
        let key = Key::of(&before);
        let reported = || {
            (
                metrics.running_to_status.get_sample_count(),
                metrics.running_to_status.get_sample_sum(),
            )
        };

        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        times.heard(&before, at(0));
        times.heard(&before, at(1));
        let first = times.news(&key).unwrap();
        assert_eq!(first.since, at(0));
        // More comes while a plan is carried out that knew nothing of it.
        times.heard(&before, at(2));
        times.end_news(&key, first);
        let second = times.news(&key).unwrap();
        assert_eq!(second.since, at(0));
        times.end_news(&key, second);
        assert_eq!(times.news(&key), None);
        times.answered(&before, &after, Duration::from_secs(3), &metrics);
        assert_eq!(reported(), (1, 3.0));

        // What runs already is no news, and is not timed again; nor is what does not run yet.
        times.heard(&after, at(3));
        assert_eq!(times.news(&key), None);
        times.answered(&after, &after, Duration::from_secs(1), &metrics);
        times.answered(&before, &before, Duration::from_secs(1), &metrics);
        assert_eq!(reported(), (1, 3.0));
    }

    #[test]
    fn a_phase_that_a_client_made_up_is_not_timed() {
        use prometheus::core::Collector as _;

        let (times, metrics) = (
            Times::default(),
            Metrics::new(&prometheus::Registry::new()).unwrap(),
        );
        let machine = |phase: &str| -> StoredMachine {
            let machine = json!({
                "apiVersion": "cluster.k8s.io/v1alpha1", "kind": "Machine",
                "metadata": {"namespace": "ns", "name": "a", "uid": "u"},
                "spec": {}, "status": {"phase": phase},
            });
            serde_json::from_value(machine).unwrap()
        };
        let key = Key::new("ns", "a");
        for phase in ["made up", "Running", "another", "one more"] {
            times.note(&key, Some(&machine(phase)), Timestamp::UNIX_EPOCH, &metrics);
        }
        times.note(&key, None, Timestamp::UNIX_EPOCH, &metrics);
        let families = metrics.phase_seconds.collect();
        let label = |metric: &prometheus::proto::Metric| metric.get_label()[0].value().to_owned();
        let phases: Vec<_> = families[0].get_metric().iter().map(label).collect();
        assert_eq!(phases, ["Running"]);
    }
}
