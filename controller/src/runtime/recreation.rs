//! Back-off of what is created again and again in the place of something that does not last: the VMs of a Machine, the
//! Machines of a MachineSet.
//!
//! The first replacement is immediate. Each further one of the same episode waits longer than the one before. An episode
//! ends when what was created has become a Node, or when nothing had to be replaced for a while.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_infra::cache::store::Key;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

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

/// An episode as a Machine's record has it, which survives the controller. Written with the record that precedes the creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recreated {
    /// How many were created in a row, the one that follows included.
    pub count: u32,
    /// When that was to be created.
    pub at: Timestamp,
    /// UID of the one that it replaces.
    pub former: String,
}

impl Recreated {
    /// What to record before one is created in the place of `former`, if `recreation` is the episode so far.
    pub fn after(
        before: Option<&Self>,
        recreation: Option<&Recreation>,
        former: &str,
        now: Timestamp,
    ) -> Self {
        // Its creation has been tried before, and may have been refused.
        if let Some(before) = before.filter(|before| before.former == former) {
            return before.clone();
        }
        Self {
            count: recreation
                .map_or(1, |recreation| recreation.count)
                .saturating_add(1),
            at: now,
            former: former.to_owned(),
        }
    }

    /// The episode, unless it is over.
    pub fn episode(&self, now: Timestamp) -> Option<Recreation> {
        let pause = PAUSE.pause(self.count.saturating_sub(2), Jitter::NONE);
        let until = later(self.at, pause);
        let ends = until.saturating_add(QUIET).unwrap_or(Timestamp::MAX);
        (now < ends).then_some(Recreation {
            count: self.count,
            until,
            ends,
        })
    }
}

fn later(now: Timestamp, pause: Duration) -> Timestamp {
    now.saturating_add(SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX))
        .unwrap_or(Timestamp::MAX)
}

impl Recreation {
    /// The longer of what this process remembers and what is on record.
    pub fn longer(remembered: Option<Self>, recorded: Option<Self>) -> Option<Self> {
        // Of two that are as long, that with the jitter.
        recorded
            .into_iter()
            .chain(remembered)
            .max_by_key(|recreation| recreation.count)
    }
}

impl Recreations {
    /// With pauses that are as long as they are meant to be.
    #[cfg(test)]
    pub fn exact() -> Self {
        Self::with(Jitter::NONE)
    }

    #[cfg(test)]
    fn with(jitter: Jitter) -> Self {
        Self {
            jitter,
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
        let until = later(now, pause);
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
    use proptest::prelude::*;

    /// docs/troubleshooting.md names both numbers: the VMs of one Machine in the first hour in which each ends at once, and in
    /// any hour, whatever ends them when, as long as none becomes a Node.
    const IN_THE_FIRST_HOUR: usize = 24;
    const IN_ANY_HOUR: usize = 45;

    /// What happens to a VM: it ends after so many seconds, and the controller may end with it.
    #[derive(Debug, Clone, Copy)]
    struct Interference {
        ends_after: u64,
        crashes: bool,
    }

    /// When the VMs of one Machine are created, in milliseconds, under that, one after the other. Pauses are as short as they
    /// can be.
    fn creations(interferences: impl IntoIterator<Item = Interference>, until: i64) -> Vec<i64> {
        let (mut memory, mut record) = (Recreations::with(Jitter::LEAST), None);
        let (mut now, mut created) = (at(0), Vec::new());
        for (number, interference) in interferences.into_iter().enumerate() {
            let recorded = record.as_ref().and_then(|record: &Recreated| record.episode(now));
            let recreation = Recreation::longer(memory.of(&key(), "u", now), recorded);
            if let Some(recreation) = &recreation {
                now = now.max(recreation.until);
            }
            let offset = i64::try_from(now.duration_since(at(0)).as_millis()).unwrap();
            if offset >= until * 1000 {
                break;
            }
            if number > 0 {
                // That may have come to its end during the pause.
                let recreation = recreation.filter(|recreation| now < recreation.ends);
                record = Some(Recreated::after(
                    record.as_ref(),
                    recreation.as_ref(),
                    &number.to_string(),
                    now,
                ));
            }
            memory.count(&key(), "u", now);
            created.push(offset);
            now += Duration::from_secs(interference.ends_after);
            if interference.crashes {
                memory = Recreations::with(Jitter::LEAST);
            }
        }
        created
    }

    fn most_in_an_hour(created: &[i64]) -> usize {
        let from = |start: &i64| {
            created
                .iter()
                .filter(|at| (*start..*start + 3_600_000).contains(at))
                .count()
        };
        created.iter().map(from).max().unwrap_or_default()
    }

    #[test]
    fn so_many_vms_are_created_in_the_first_hour_and_a_controller_that_crashes_each_time_creates_no_more() {
        let all = |crashes| {
            std::iter::repeat(Interference {
                ends_after: 0,
                crashes,
            })
        };
        assert_eq!(creations(all(false), 3600).len(), IN_THE_FIRST_HOUR);
        let crashing = creations(all(true), 3600).len();
        assert!(crashing <= IN_THE_FIRST_HOUR, "{crashing}");
    }

    #[test]
    fn the_one_that_waits_for_the_end_of_each_episode_gains_no_more_than_twice_as_many() {
        // After so many in a row, nothing is to be replaced until the episode is over. That on record has no jitter.
        let rhythm = |row: usize| {
            let episode = Recreations::exact();
            (0..=row).for_each(|_| episode.count(&key(), "u", at(0)));
            let ends = episode
                .of(&key(), "u", at(0))
                .map_or(QUIET, |found| found.ends.duration_since(at(0)));
            let quiet = ends.unsigned_abs().as_secs() + 1;
            (1..).map(move |number| Interference {
                ends_after: if number % row == 0 { quiet } else { 0 },
                crashes: false,
            })
        };
        let most = (2..20)
            .map(|row| creations(rhythm(row), 8 * 3600))
            .map(|created| most_in_an_hour(&created));
        let most = most.max().unwrap();
        assert!((IN_ANY_HOUR - 9..=IN_ANY_HOUR).contains(&most), "{most}");
    }

    fn interference() -> impl Strategy<Value = Interference> {
        let ends_after = prop_oneof![4 => 0..2_u64, 2 => 0..60_u64, 1 => 0..1000_u64];
        (ends_after, any::<bool>()).prop_map(|(ends_after, crashes)| Interference { ends_after, crashes })
    }

    proptest! {
        /// Whatever ends VMs and controllers when, by a clock of its own.
        #[test]
        fn so_many_vms_are_created_in_any_hour(interferences in prop::collection::vec(interference(), 1..400)) {
            let most = most_in_an_hour(&creations(interferences, i64::MAX / 2000));
            prop_assert!(most <= IN_ANY_HOUR, "{}", most);
        }
    }

    #[test]
    fn a_creation_that_is_tried_again_is_recorded_once_and_an_episode_on_record_ends_as_well() {
        let first = Recreated::after(None, None, "v1", at(0));
        assert_eq!(first.count, 2);
        assert_eq!(
            Recreated::after(Some(&first), first.episode(at(5)).as_ref(), "v1", at(5)),
            first
        );
        let second = Recreated::after(Some(&first), first.episode(at(5)).as_ref(), "v2", at(5));
        assert_eq!((second.count, second.episode(at(5)).unwrap().until), (3, at(7)));
        assert!(second.episode(at(606)).is_some());
        assert_eq!(second.episode(at(607)), None);
        let remembered = |count| {
            Some(Recreation {
                count,
                until: at(0),
                ends: at(1),
            })
        };
        assert_eq!(
            Recreation::longer(remembered(4), second.episode(at(5))),
            remembered(4)
        );
        assert_eq!(
            Recreation::longer(remembered(2), second.episode(at(5))),
            second.episode(at(5))
        );
    }

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
