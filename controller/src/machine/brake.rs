//! The brake: when many VMs of one infra cluster vanish at once and it was not us, it is rather the cluster that is
//! another (restored, emptied, a name that leads elsewhere) than the VMs that are gone.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_infra::provider::{InfraKey, Place, Providers};
use machinist_infra::store::Key;

use super::observed::Brake;
use super::record::Infrastructure;
use crate::user::{StoredMachine, Stores};

/// VMs that vanish within this time count together.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);
/// Fewer than this are believed.
const AT_LEAST: usize = 5;
/// No more than one in so many (20 %) are believed.
const ONE_IN: usize = 5;

/// The VMs of one infra cluster that Machines have on record, and are not being deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// How many there are.
    pub recorded: usize,
    /// UIDs of those that are not there.
    pub missing: HashSet<String>,
}

/// What has vanished from one infra cluster.
#[derive(Debug, Default)]
pub struct Vanished {
    /// When the VM of that UID was first missed.
    since: HashMap<String, Timestamp>,
    engaged: Option<(usize, usize)>,
}

impl Vanished {
    /// Takes a census in; whether too many have vanished at once to believe it.
    ///
    /// It engages when within 60 seconds more than 20 % and at least 5 vanish; those that were acted upon meanwhile count,
    /// too. It is released when none is missing any more: all are back, or an admin has accepted the others' loss.
    pub fn take(&mut self, census: &Census, now: Timestamp) -> Brake {
        self.since
            .retain(|uid, since| census.missing.contains(uid) || now.duration_since(*since) <= WINDOW);
        for uid in &census.missing {
            self.since.entry(uid.clone()).or_insert(now);
        }
        let recent = self
            .since
            .iter()
            .filter(|(_, since)| now.duration_since(**since) <= WINDOW);
        let recent = recent.count();
        // Machines whose VM was lost and that have been replaced are not on record any more.
        let recorded = census.recorded.max(recent);
        if census.missing.is_empty() {
            if self.engaged.take().is_some() {
                self.since.clear();
            }
        } else if self.engaged.is_none() && recent >= AT_LEAST && recent * ONE_IN > recorded {
            self.engaged = Some((recent, recorded));
        }
        match self.engaged {
            Some((vanished, recorded)) => Brake::Engaged { vanished, recorded },
            None => Brake::Released,
        }
    }

    /// Whether the VM of that UID was missed only so lately.
    fn is_fresh(&self, uid: &str, settle: Duration, now: Timestamp) -> bool {
        let settle = SignedDuration::try_from(settle).unwrap_or(SignedDuration::MAX);
        self.since
            .get(uid)
            .is_some_and(|since| now.duration_since(*since) < settle)
    }
}

/// The brakes of all infra clusters.
#[derive(Debug, Default)]
pub struct Brakes {
    by_infra: Mutex<HashMap<InfraKey, Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    vanished: Vanished,
    taken: Option<Taken>,
}

/// A verdict, and for how long it holds.
#[derive(Debug, Clone, Copy)]
struct Taken {
    at: Timestamp,
    removals: u64,
    brake: Brake,
}

/// A verdict is used for this long, unless another VM goes.
const FRESH: SignedDuration = SignedDuration::from_secs(1);

/// Whose brake it is.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// All Machines.
    pub stores: &'a Stores,
    /// All infra clusters.
    pub pool: &'a Providers,
    /// The infra cluster, seen by the Machine's credential.
    pub open: &'a dyn Place,
    /// The same, as records have it.
    pub infrastructure: &'a Infrastructure,
    /// The Machine.
    pub machine: &'a StoredMachine,
    /// Where VMs are looked at one by one, one that has vanished is believed after this time: all others have been looked
    /// at by then.
    pub settle: Duration,
}

impl Brakes {
    /// The verdict for one Machine, and whether the brake was released by it, so that others may go on.
    pub fn ask(&self, question: Question<'_>, now: Timestamp) -> (Brake, bool) {
        let Question { open, machine, .. } = question;
        let recorded = machine
            .record
            .as_ref()
            .and_then(|record| record.vm_uid.as_deref());
        let lost = recorded.filter(|uid| !is_there(open, machine.name(), uid));
        let mut by_infra = self.by_infra.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = by_infra.entry(open.key().clone()).or_default();
        let was_engaged = kept.vanished.engaged.is_some();
        let is_well = recorded.is_some() && lost.is_none() && !machine.is_deleting();
        if is_well && !was_engaged {
            return (Brake::Released, false);
        }
        let missed = recorded.is_some_and(|uid| kept.vanished.since.contains_key(uid));
        let removals = open.removals();
        let taken = kept.taken.filter(|taken| {
            // Not if this one has gone, or come back, since then.
            missed == lost.is_some() && taken.removals == removals && now.duration_since(taken.at) < FRESH
        });
        let taken = taken.unwrap_or_else(|| Taken {
            at: now,
            removals,
            brake: kept.vanished.take(&census(question), now),
        });
        kept.taken = Some(taken);
        let released = was_engaged && taken.brake == Brake::Released;
        let is_fresh = lost.is_some_and(|uid| kept.vanished.is_fresh(uid, question.settle, now));
        match taken.brake {
            Brake::Released if is_fresh && !open.is_watched() => (Brake::Settling, released),
            brake => (brake, released),
        }
    }

    /// How many of the infra clusters in use have an engaged one. Of a cluster that no Machine uses any more, nobody asks, so
    /// nothing would release it.
    pub fn engaged(&self, is_used: impl Fn(&InfraKey) -> bool) -> usize {
        let by_infra = self.by_infra.lock().unwrap_or_else(PoisonError::into_inner);
        let engaged = by_infra
            .iter()
            .filter(|(_, kept)| kept.vanished.engaged.is_some());
        engaged.filter(|(infra, _)| is_used(infra)).count()
    }
}

fn is_there(open: &dyn Place, name: &str, uid: &str) -> bool {
    open.uid_of(name).as_deref() == Some(uid)
}

/// Counts the recorded VMs, but for those whose loss an admin has accepted, and those that nobody has looked at.
fn census(question: Question<'_>) -> Census {
    let mut census = Census::default();
    for machine in question.stores.machines.all() {
        let Some(record) = machine.record.as_ref().filter(|_| !machine.is_deleting()) else {
            continue;
        };
        let Some(uid) = &record.vm_uid else { continue };
        if !record.infrastructure.is_same(question.infrastructure) || !question.open.knows(machine.name()) {
            continue;
        }
        census.recorded += 1;
        let user = Key::new(machine.namespace(), machine.name());
        let is_missing = !is_there(question.open, machine.name(), uid)
            && !machine.accepts(question.infrastructure)
            // One address of a cluster may be behind another, and see less.
            && !question.pool.sees_elsewhere(&user, question.open.key(), uid);
        if is_missing {
            census.missing.insert(uid.clone());
        }
    }
    census
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn census(recorded: usize, missing: std::ops::Range<usize>) -> Census {
        Census {
            recorded,
            missing: missing.map(|n| format!("vm-{n}")).collect(),
        }
    }

    const RELEASED: Brake = Brake::Released;

    fn engaged(vanished: usize, recorded: usize) -> Brake {
        Brake::Engaged { vanished, recorded }
    }

    #[rstest]
    #[case::nothing(100, 0, RELEASED)]
    #[case::all_of_four(4, 4, RELEASED)]
    #[case::all_of_five(5, 5, engaged(5, 5))]
    #[case::exactly_a_fifth(25, 5, RELEASED)]
    #[case::just_over_a_fifth(24, 5, engaged(5, 24))]
    #[case::a_fifth_of_many(1000, 200, RELEASED)]
    #[case::all_of_many(1000, 1000, engaged(1000, 1000))]
    fn many_at_once_are_not_believed(#[case] recorded: usize, #[case] missing: usize, #[case] brake: Brake) {
        let mut vanished = Vanished::default();
        assert_eq!(vanished.take(&census(recorded, 0..missing), at(0)), brake);
    }

    #[test]
    fn those_that_were_acted_upon_count_for_a_minute() {
        let mut vanished = Vanished::default();
        // One after the other is made anew, so that none but the newest is missing.
        for n in 0..4 {
            assert_eq!(vanished.take(&census(6, n..n + 1), at(10)), RELEASED, "{n}");
        }
        assert_eq!(vanished.take(&census(6, 4..5), at(20)), engaged(5, 6));
        let mut slowly = Vanished::default();
        for n in 0..20 {
            let brake = slowly.take(&census(6, n..n + 1), at(20 * i64::try_from(n).unwrap()));
            assert_eq!(brake, RELEASED, "{n}");
        }
    }

    #[test]
    fn it_is_released_when_all_are_back_and_not_before() {
        let mut vanished = Vanished::default();
        assert_eq!(vanished.take(&census(10, 0..10), at(0)), engaged(10, 10));
        assert_eq!(
            vanished.take(&census(10, 9..10), at(500)),
            engaged(10, 10),
            "one is missing"
        );
        assert_eq!(vanished.take(&census(10, 0..0), at(501)), RELEASED);
        assert_eq!(
            vanished.take(&census(10, 0..1), at(502)),
            RELEASED,
            "one more is believed"
        );
    }

    #[test]
    fn a_brake_that_nobody_can_release_any_more_is_not_counted() {
        let key = |server: &str| InfraKey {
            server: server.to_owned(),
            ca_digest: String::new(),
            namespace: "vms".to_owned(),
        };
        let brakes = Brakes::default();
        for (server, missing) in [("a", 9), ("b", 9), ("c", 0)] {
            let mut kept = Kept::default();
            kept.vanished.take(&census(10, 0..missing), at(0));
            brakes.by_infra.lock().unwrap().insert(key(server), kept);
        }
        assert_eq!(brakes.engaged(|_| true), 2);
        assert_eq!(brakes.engaged(|infra| *infra != key("a")), 1);
    }
}
