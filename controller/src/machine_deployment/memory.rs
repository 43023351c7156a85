//! What one process remembers of MachineDeployments. Nothing here is needed after a restart.

use std::collections::HashMap;

use k8s_openapi::jiff::Timestamp;
use machinist_infra::cache::store::Key;
use parking_lot::Mutex;

use machinist_shared::api::names::annotation;

use tokio::time::Instant;

use super::snapshot::types::Texts;
use crate::cache::StoredMachineDeployment;
use crate::runtime::backoff::Jitter;
use crate::runtime::creation_limit::{Allowance, CreationLimit, Fate};
use crate::runtime::failure::{Failed, Failure, LastFailure};

/// Sets of one template that may come to nothing.
const MAX_CREATIONS: usize = 8;

#[derive(Debug, Default)]
struct Memory {
    creations: CreationLimit,
    failure: LastFailure,
    status_written: Option<Timestamp>,
    /// The rollback that was asked for, and what the answer was.
    rollback_refused: Option<(String, String)>,
}

/// What is remembered of MachineDeployments.
#[derive(Debug, Default)]
pub struct Memories {
    deployments: Mutex<HashMap<Key, Memory>>,
    jitter: Jitter,
}

impl Memories {
    /// The failure that holds the deployment back at `now`, if it is like `subject` now.
    pub fn pending(&self, key: &Key, subject: impl FnOnce() -> u64, now: Timestamp) -> Option<Failure> {
        let failure = self.deployments.lock().get(key)?.failure.show(subject);
        failure.filter(|failure| failure.until > now)
    }

    /// A plan was made that reports it.
    pub fn reported(&self, key: &Key) {
        if let Some(memory) = self.deployments.lock().get_mut(key) {
            memory.failure.reported();
        }
    }

    /// A write failed while the deployment was like `subject`.
    pub fn fail(&self, key: &Key, subject: u64, failed: Failed, now: Timestamp) {
        let mut memories = self.deployments.lock();
        let memory = memories.entry(key.clone()).or_default();
        memory.failure.add(subject, failed, self.jitter, now);
    }

    /// The rollback that the annotations ask for was refused: with which answer.
    pub fn rollback_refused(&self, key: &Key, annotations: &Texts) -> Option<String> {
        let asked = annotations.get(annotation::ROLLBACK_TO)?;
        let memories = self.deployments.lock();
        let (refused, answer) = memories.get(key)?.rollback_refused.as_ref()?;
        (refused == asked).then(|| answer.clone())
    }

    /// The rollback that the annotations ask for was refused.
    pub fn refuse_rollback(&self, key: &Key, annotations: &Texts, answer: String) {
        let asked = annotations.get(annotation::ROLLBACK_TO).cloned();
        self.deployments
            .lock()
            .entry(key.clone())
            .or_default()
            .rollback_refused = asked.map(|asked| (asked, answer));
    }

    /// All went well.
    pub fn forgive(&self, key: &Key) {
        if let Some(memory) = self.deployments.lock().get_mut(key) {
            memory.failure.clear();
            memory.rollback_refused = None;
        }
    }

    /// What the deployment may create, and what it has created that is to be deleted again: by name and UID.
    pub fn allowance(&self, key: &Key) -> (Allowance, Vec<(String, String)>) {
        let deployments = self.deployments.lock();
        let creations = deployments.get(key).map(|memory| &memory.creations);
        creations
            .map(|creations| (creations.allowance(), creations.rejected()))
            .unwrap_or_default()
    }

    /// What it has created that may come to nothing.
    pub fn creations<T>(&self, key: &Key, of: impl FnOnce(&mut CreationLimit) -> T) -> T {
        of(&mut self.deployments.lock().entry(key.clone()).or_default().creations)
    }

    /// Takes notice of what has become of the sets that the deployment has created, by their names, and which of those that are
    /// not as they were sent are still there.
    pub fn review(
        &self,
        key: &Key,
        deployment: &StoredMachineDeployment,
        is_paused: bool,
        fate: impl Fn(&str) -> Fate,
        is_there: impl Fn(&str, &str) -> bool,
    ) {
        self.creations(key, |creations| {
            creations.asked(deployment.selector.text(), &deployment.template, is_paused);
            creations.review(MAX_CREATIONS, Instant::now(), fate, is_there);
        });
    }

    /// When the status was written last.
    pub fn status_written(&self, key: &Key) -> Option<Timestamp> {
        self.deployments.lock().get(key)?.status_written
    }

    /// The status was written.
    pub fn status_written_at(&self, key: &Key, now: Timestamp) {
        self.deployments
            .lock()
            .entry(key.clone())
            .or_default()
            .status_written = Some(now);
    }

    /// The deployment is gone.
    pub fn forget(&self, key: &Key) {
        self.deployments.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::backoff::Cause;

    #[test]
    fn pauses_double_until_all_goes_well() {
        let (memories, key) = (exact(), Key::new("ns", "a"));
        let mut now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut pause = || {
            memories.fail(&key, 1, failed("no", false), now);
            let until = memories.pending(&key, || 1, now).unwrap().until;
            let pause = until.duration_since(now).as_millis();
            now = until;
            pause
        };
        assert_eq!([pause(), pause(), pause()], [500, 1000, 2000]);
        memories.forgive(&key);
        assert_eq!(pause(), 500);
    }

    #[test]
    fn a_status_that_cannot_be_written_is_of_the_attempt_that_it_reports() {
        let (memories, key) = (exact(), Key::new("ns", "a"));
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        memories.fail(&key, 1, failed("no set", false), now);
        for _ in 0..20 {
            memories.fail(&key, 1, failed("no status", true), now);
        }
        let pending = memories.pending(&key, || 1, now).unwrap();
        assert!(pending.of_status);
        assert_eq!(pending.message, "no set");
        assert_eq!(pending.until.duration_since(now).as_millis(), 500);
    }

    fn exact() -> Memories {
        Memories {
            jitter: Jitter::NONE,
            ..Memories::default()
        }
    }

    fn failed(message: &str, of_status: bool) -> Failed {
        Failed {
            reason: "",
            message: message.to_owned(),
            cause: Cause::Object,
            of_status,
        }
    }
}
