//! Writes that failed, by Machine: what holds it back, until when, and how its status shows it.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use machinist_infra::cache::store::Key;
use machinist_infra::provider::InfraKey;
use parking_lot::Mutex;

use super::snapshot::types::{Failure, FailureScope};
use super::vm_creations::VmCreations;
use crate::cache::{SpecState, StoredMachine};
use crate::runtime::backoff::{self, Cause, Episode, Jitter};

/// Writes that failed, by Machine, with a pause that doubles.
#[derive(Debug, Default)]
pub struct Failures {
    jitter: Jitter,
    by_machine: Mutex<HashMap<Key, Failed>>,
    /// Infra clusters where labeling adopted VMs was forbidden, and when that was.
    unlabeled: Mutex<HashMap<InfraKey, Timestamp>>,
    /// Creates of VMs that got no answer.
    pub creations: VmCreations,
}

#[derive(Debug)]
struct Failed {
    failure: Failure,
    episode: Episode,
    /// Whether its Machine was being deleted.
    deleting: bool,
}

impl Failures {
    /// With pauses that are as long as they are meant to be.
    #[cfg(test)]
    pub fn exact() -> Self {
        Self {
            jitter: Jitter::NONE,
            ..Self::default()
        }
    }

    /// The failure that still holds its Machine back at `now`. What failed before the Machine was seen to be deleted does not
    /// hold back its deletion. Times of the API server's clock are not compared with those of ours.
    pub fn pending(&self, key: &Key, machine: &StoredMachine, now: Timestamp) -> Option<Failure> {
        let failures = self.by_machine.lock();
        let failed = failures
            .get(key)
            .filter(|failed| failed.deleting == machine.is_deleting())?;
        let until = failed.episode.until(subject(machine));
        if until <= now {
            return None;
        }
        Some(Failure {
            until,
            ..failed.failure.clone()
        })
    }

    /// A plan was made that reports the Machine's failure: it is no news any more.
    pub fn reported(&self, key: &Key) {
        if let Some(failed) = self.by_machine.lock().get_mut(key) {
            failed.failure.is_news = false;
        }
    }

    /// A write for a Machine failed that was, or was not, seen to be deleted. A deletion begins with short pauses again.
    pub fn add(
        &self,
        machine: &StoredMachine,
        (scope, cause): (FailureScope, Cause),
        message: String,
        now: Timestamp,
    ) {
        let mut failures = self.by_machine.lock();
        let (key, deleting) = (Key::of(machine), machine.is_deleting());
        let last = failures.get(&key).filter(|failed| failed.deleting == deleting);
        let before = last.map(|failed| &failed.episode);
        // What cannot even be reported is of the attempt before. What else failed after that was an attempt of its own.
        let is_same = last.is_some_and(|failed| failed.failure.scope == scope);
        let episode = if is_same || scope == FailureScope::Machine {
            Episode::after
        } else {
            Episode::longer
        };
        let subject = subject(machine);
        let episode = episode(before, subject, cause, self.jitter, now);
        let is_news = last.is_none_or(|failed| failed.failure.is_news || failed.failure.message != message);
        failures.insert(
            key,
            Failed {
                failure: Failure {
                    scope,
                    message,
                    until: episode.until(subject),
                    is_news,
                },
                episode,
                deleting,
            },
        );
    }

    /// Labeling VMs on that infra cluster was forbidden.
    pub fn forbid_labeling(&self, infra: &InfraKey, now: Timestamp) {
        self.unlabeled.lock().insert(infra.clone(), now);
    }

    /// A VM on that infra cluster was labeled; whether that was forbidden before, so that those of others can be, too.
    pub fn allow_labeling(&self, infra: &InfraKey) -> bool {
        self.unlabeled.lock().remove(infra).is_some()
    }

    /// Whether labeling VMs on that infra cluster has not just been forbidden: rights may have been granted since.
    pub fn may_label(&self, infra: &InfraKey, now: Timestamp) -> bool {
        let unlabeled = self.unlabeled.lock();
        unlabeled
            .get(infra)
            .is_none_or(|tried| may_try_again(*tried, now))
    }

    /// The same, and of many Machines that could try again, only this one does.
    pub fn try_labeling(&self, infra: &InfraKey, now: Timestamp) -> bool {
        let mut unlabeled = self.unlabeled.lock();
        match unlabeled.get_mut(infra) {
            Some(tried) if !may_try_again(*tried, now) => false,
            Some(tried) => {
                *tried = now;
                true
            }
            None => true,
        }
    }

    /// Something that the Machine waits for has changed: what failed is tried again soon.
    pub fn release(&self, machine: &Key) {
        let mut failures = self.by_machine.lock();
        if let Some(failed) = failures.get_mut(machine) {
            failed.episode.end();
        }
    }

    /// All went well.
    pub fn clear(&self, machine: &Key) {
        self.by_machine.lock().remove(machine);
    }
}

/// What others may change of a Machine.
fn subject(machine: &StoredMachine) -> u64 {
    let spec = match &machine.spec {
        SpecState::Decoded(spec) => serde_json::to_string(spec).unwrap_or_default(),
        SpecState::Undecodable(why) => why.clone(),
    };
    backoff::subject(&machine.metadata, spec)
}

/// After how long a forbidden label is tried again.
pub const LABEL_AGAIN: Duration = Duration::from_secs(30);

fn may_try_again(tried: Timestamp, now: Timestamp) -> bool {
    now.duration_since(tried).unsigned_abs() >= LABEL_AGAIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::SignedDuration;
    use serde_json::json;

    #[test]
    fn a_label_that_was_forbidden_is_tried_again_after_a_while() {
        let (failures, now) = (
            Failures::default(),
            Timestamp::from_second(1_800_000_000).unwrap(),
        );
        let [here, elsewhere] = ["https://a", "https://b"].map(|server| InfraKey {
            server: server.to_owned(),
            ca_digest: String::new(),
            namespace: "vms".to_owned(),
        });
        assert!(failures.try_labeling(&here, now) && failures.may_label(&here, now));
        failures.forbid_labeling(&here, now);
        assert!(!failures.may_label(&here, now) && failures.may_label(&elsewhere, now));
        let later = now + LABEL_AGAIN;
        assert!(failures.may_label(&here, later));
        assert!(failures.try_labeling(&here, later));
        assert!(!failures.try_labeling(&here, later), "one of many tries");
        assert!(failures.allow_labeling(&here), "others may follow");
        assert!(failures.try_labeling(&here, later) && !failures.allow_labeling(&here));
    }

    #[test]
    fn the_pause_doubles_and_ends_with_success() {
        let failures = Failures::exact();
        let mut now = Timestamp::from_second(1_800_000_000).unwrap();
        let machine = |deleted: Option<Timestamp>| -> StoredMachine {
            let mut machine: StoredMachine =
                serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "ns"}})).unwrap();
            machine.metadata.deletion_timestamp = deleted.map(Time);
            machine
        };
        let alive = machine(None);
        let key = Key::of(&alive);
        let is_news = |message: &str| {
            failures.add(
                &alive,
                (FailureScope::Machine, Cause::Object),
                message.into(),
                now,
            );
            let twice = [(); 2].map(|()| failures.pending(&key, &alive, now));
            assert_eq!(twice[0], twice[1], "what is only read stays as it is");
            [(); 2].map(|()| {
                let is_news = failures.pending(&key, &alive, now).unwrap().is_news;
                failures.reported(&key);
                is_news
            })
        };
        assert_eq!(
            [is_news("no"), is_news("no"), is_news("never")],
            [[true, false], [false, false], [true, false]]
        );
        failures.clear(&key);
        let mut pause = |failures: &Failures| {
            failures.add(
                &alive,
                (FailureScope::Infrastructure, Cause::Object),
                "no".into(),
                now,
            );
            let until = failures.pending(&key, &alive, now).unwrap().until;
            let pause = until.duration_since(now).as_millis();
            now = until;
            pause
        };
        assert_eq!(
            [pause(&failures), pause(&failures), pause(&failures)],
            [500, 1000, 2000]
        );
        for _ in 0..40 {
            pause(&failures);
        }
        assert_eq!(pause(&failures), 300_000);
        now -= SignedDuration::from_secs(1);
        // Its deletion, by clocks that go before ours and after it.
        for skew in [-90, 0, 90] {
            let deleted = machine(Some(now + SignedDuration::from_secs(skew)));
            assert_eq!(failures.pending(&key, &deleted, now), None, "deleted since");
        }
        for skew in [-90, 0, 90] {
            let deleted = machine(Some(now + SignedDuration::from_secs(skew)));
            failures.add(
                &deleted,
                (FailureScope::Infrastructure, Cause::Object),
                "no".into(),
                now,
            );
            assert!(
                failures.pending(&key, &deleted, now).is_some(),
                "a failed deletion"
            );
        }
        failures.clear(&key);
        assert_eq!(failures.pending(&key, &alive, now), None);
        failures.add(
            &alive,
            (FailureScope::Infrastructure, Cause::Object),
            "no".into(),
            now,
        );
        let until = failures.pending(&key, &alive, now).unwrap().until;
        assert_eq!(until, now + SignedDuration::from_millis(500));
    }

    #[test]
    fn writes_that_fail_in_one_attempt_count_once_and_a_change_lets_the_next_be_soon() {
        let failures = Failures::exact();
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let mut machine: StoredMachine =
            serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "ns"}})).unwrap();
        let key = Key::of(&machine);
        let until = |machine: &StoredMachine, now| {
            let pending = failures.pending(&key, machine, now);
            pending.map(|failure| failure.until.duration_since(start).as_millis())
        };
        // The Machine's status cannot be written, either.
        for failure_scope in [
            FailureScope::Infrastructure,
            FailureScope::Machine,
            FailureScope::Machine,
        ] {
            failures.add(&machine, (failure_scope, Cause::Object), "no".into(), start);
        }
        assert_eq!(until(&machine, start), Some(500));
        let mut now = start;
        for _ in 0..10 {
            failures.add(&machine, (FailureScope::Machine, Cause::Object), "no".into(), now);
            now = failures.pending(&key, &machine, now).unwrap().until;
        }
        let last = now - SignedDuration::from_secs(256);
        assert!(until(&machine, last).is_some());
        let change = machine.metadata.annotations.get_or_insert_default();
        change.insert("quota".into(), "raised".into());
        assert_eq!(until(&machine, last + Duration::from_millis(500)), None);
        machine.metadata.annotations = None;
        assert!(until(&machine, last + Duration::from_millis(500)).is_some());
        failures.release(&key);
        assert_eq!(until(&machine, last + Duration::from_millis(500)), None);
    }
}
