//! What one process remembers of MachineDeployments. Nothing here is needed after a restart.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_infra::store::Key;

use machinist_shared::names::annotation;

use super::observed::{Failure, Texts};

/// First and longest pause after a failed write.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(5));

#[derive(Debug, Default)]
struct Memory {
    failure: Option<(Failure, u32)>,
    status_written: Option<Timestamp>,
    /// The rollback that was asked for, and what the answer was.
    rollback_refused: Option<(String, String)>,
}

/// What is remembered of MachineDeployments.
#[derive(Debug, Default)]
pub struct Memories(Mutex<HashMap<Key, Memory>>);

impl Memories {
    /// The failure that holds the deployment back at `now`.
    pub fn pending(&self, key: &Key, now: Timestamp) -> Option<Failure> {
        let memories = self.lock();
        let (failure, _) = memories.get(key)?.failure.as_ref()?;
        (failure.until > now).then(|| failure.clone())
    }

    /// A write failed; the pause doubles from one time to the next.
    pub fn fail(&self, key: &Key, message: String, now: Timestamp) {
        let mut memories = self.lock();
        let memory = memories.entry(key.clone()).or_default();
        let count = memory.failure.as_ref().map_or(0, |(_, count)| count + 1);
        let pause = BACKOFF.0.saturating_mul(1 << count.min(16)).min(BACKOFF.1);
        let until = now
            .saturating_add(SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX))
            .unwrap_or(Timestamp::MAX);
        memory.failure = Some((Failure { message, until }, count));
    }

    /// The rollback that the annotations ask for was refused: with which answer.
    pub fn rollback_refused(&self, key: &Key, annotations: &Texts) -> Option<String> {
        let asked = annotations.get(annotation::ROLLBACK_TO)?;
        let memories = self.lock();
        let (refused, answer) = memories.get(key)?.rollback_refused.as_ref()?;
        (refused == asked).then(|| answer.clone())
    }

    /// The rollback that the annotations ask for was refused.
    pub fn refuse_rollback(&self, key: &Key, annotations: &Texts, answer: String) {
        let asked = annotations.get(annotation::ROLLBACK_TO).cloned();
        self.lock().entry(key.clone()).or_default().rollback_refused = asked.map(|asked| (asked, answer));
    }

    /// All went well.
    pub fn forgive(&self, key: &Key) {
        if let Some(memory) = self.lock().get_mut(key) {
            memory.failure = None;
            memory.rollback_refused = None;
        }
    }

    /// When the status was written last.
    pub fn status_written(&self, key: &Key) -> Option<Timestamp> {
        self.lock().get(key)?.status_written
    }

    /// The status was written.
    pub fn told(&self, key: &Key, now: Timestamp) {
        self.lock().entry(key.clone()).or_default().status_written = Some(now);
    }

    /// The deployment is gone.
    pub fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Memory>> {
        // Every change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_all_goes_well() {
        let (memories, key) = (Memories::default(), Key::new("ns", "a"));
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let pause = || {
            memories.fail(&key, "no".into(), now);
            let until = memories.pending(&key, now).unwrap().until;
            until.duration_since(now).as_millis()
        };
        assert_eq!([pause(), pause(), pause()], [500, 1000, 2000]);
        memories.forgive(&key);
        assert_eq!(memories.pending(&key, now), None);
        assert_eq!(pause(), 500);
    }
}
