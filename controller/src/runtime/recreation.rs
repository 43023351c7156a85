//! Back-off of what is created again and again in the place of something that does not last: the VMs of a Machine, the
//! Machines of a MachineSet.
//!
//! The first replacement is immediate. Each further one of the same episode waits longer than the one before. An episode
//! ends when what was created has become a Node, or when nothing had to be replaced for a while.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_infra::store::Key;
use parking_lot::Mutex;

use crate::runtime::backoff::{Backoff, Jitter};

/// From the second replacement on.
const PAUSE: Backoff = Backoff {
    first: Duration::from_secs(1),
    longest: Duration::from_mins(5),
};

/// An episode ends when nothing had to be replaced for so long after its last pause.
const QUIET: SignedDuration = SignedDuration::from_mins(10);

/// What was created in the place of something else, by whom it is for.
#[derive(Debug, Default)]
pub struct Recreations {
    episodes: Mutex<HashMap<Key, Episode>>,
    jitter: Jitter,
}

/// Creations in a row of which none has lasted.
#[derive(Debug, Clone)]
struct Episode {
    /// UID of whom they were for.
    uid: String,
    count: u32,
    until: Timestamp,
}

/// An episode with pauses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recreation {
    /// How many were created in a row.
    pub count: u32,
    /// No other is created before.
    pub until: Timestamp,
    /// When the episode ends, if nothing has to be replaced.
    pub ends: Timestamp,
}

impl Recreations {
    /// With pauses that are as long as they are meant to be.
    #[cfg(test)]
    pub fn exact() -> Self {
        Self {
            jitter: Jitter::NONE,
            ..Self::default()
        }
    }

    /// Something was created for the object of that key and UID, or is to be.
    pub fn count(&self, key: &Key, uid: &str, now: Timestamp) {
        let mut episodes = self.episodes.lock();
        let before = episodes
            .get(key)
            .filter(|episode| episode.uid == uid && now < episode.ends());
        let count = before.map_or(0, |episode| episode.count).saturating_add(1);
        let pause = match count.checked_sub(2) {
            None => Duration::ZERO,
            Some(pauses) => PAUSE.pause(pauses, self.jitter),
        };
        let until = now + SignedDuration::try_from(pause).unwrap_or_default();
        let uid = uid.to_owned();
        episodes.insert(key.clone(), Episode { uid, count, until });
    }

    /// The episode of the object of that key and UID, if it has come to pauses.
    pub fn of(&self, key: &Key, uid: &str, now: Timestamp) -> Option<Recreation> {
        let episodes = self.episodes.lock();
        let episode = episodes.get(key)?;
        let is_on = episode.uid == uid && episode.count > 1 && now < episode.ends();
        is_on.then(|| Recreation {
            count: episode.count,
            until: episode.until,
            ends: episode.ends(),
        })
    }

    /// What was created has lasted, or the object is gone or asks for something else.
    pub fn end(&self, key: &Key) {
        self.episodes.lock().remove(key);
    }
}

impl Episode {
    fn ends(&self) -> Timestamp {
        self.until.saturating_add(QUIET).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// How long the next creation at `now` has to wait.
    fn wait(recreations: &Recreations, now: Timestamp) -> u64 {
        let found = recreations.of(&key(), "u", now);
        found.map_or(0, |found| {
            found.until.duration_since(now).unsigned_abs().as_secs()
        })
    }

    fn key() -> Key {
        Key::new("ns", "a")
    }

    #[test]
    fn the_first_replacement_is_immediate_and_pauses_double_from_then_on() {
        let (recreations, mut now) = (Recreations::exact(), at(0));
        let waits: Vec<u64> = (0..12)
            .map(|_| {
                let wait = wait(&recreations, now);
                now += Duration::from_secs(wait);
                recreations.count(&key(), "u", now);
                wait
            })
            .collect();
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    }

    #[test]
    fn an_episode_ends_when_what_was_created_lasts_or_nothing_had_to_be_replaced_for_long() {
        let recreations = Recreations::exact();
        let count = |now| recreations.count(&key(), "u", now);
        for _ in 0..5 {
            count(at(0));
        }
        assert_eq!(wait(&recreations, at(0)), 8);
        assert_eq!(recreations.of(&key(), "another", at(0)), None);
        recreations.end(&key());
        assert_eq!(wait(&recreations, at(0)), 0);
        for _ in 0..5 {
            count(at(0));
        }
        assert!(recreations.of(&key(), "u", at(607)).is_some());
        assert_eq!(recreations.of(&key(), "u", at(608)), None);
        count(at(608));
        assert_eq!(wait(&recreations, at(608)), 0, "it begins again");
    }
}
