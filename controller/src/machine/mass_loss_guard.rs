//! The mass-loss guard: when many VMs of one infra cluster are missing at the same time and Machinist did not delete them,
//! another cluster answers there (restored, emptied, a name that leads elsewhere) rather than that the VMs are gone.
//!
//! What counts is how many Machines miss their VM together, not how many VMs are lost over time: a Machine whose VM another client
//! deletes again and again is one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_infra::cache::store::Key;
use machinist_infra::provider::{InfraClient, InfraKey};
use machinist_infra::providers::Providers;
use parking_lot::Mutex;

use super::record::Infrastructure;
use crate::cache::{StoredMachine, Stores};

/// VMs that vanish within this time vanish together.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);
/// Fewer than this are believed.
const AT_LEAST: usize = 5;
/// No more than one in so many (20 %) are believed.
const ONE_IN: usize = 5;
/// After so long without a question, a Machine that was being deleted is forgotten.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(1);
/// Nothing is done about a lost VM for so long: others that vanish with it are reported one by one.
pub const BURST: Duration = Duration::from_secs(2);

/// Whether too many VMs are missing at the same time to believe it: the mass-loss guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MassLoss {
    /// No.
    Released,
    /// Not known for so long: others that vanished with this one may not have been seen to be missing yet.
    Settling(Duration),
    /// Yes.
    Engaged(Arc<Losses>),
}

/// The VMs that are missing from an infra cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses {
    /// How many are missing.
    pub missing: usize,
    /// Of how many on record.
    pub recorded: usize,
    /// The Machines, as `namespace/name`, whose VMs have to be seen again; sorted.
    pub holders: Vec<String>,
}

/// The VMs of one infra cluster that Machines have on record, and are not being deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// How many there are.
    pub recorded: usize,
    /// UIDs of those that are not there, and their Machines.
    pub missing: BTreeMap<String, Key>,
}

/// How many of so many are believed to be lost at the same time.
pub fn believed(recorded: usize) -> usize {
    (recorded / ONE_IN).max(AT_LEAST - 1)
}

impl Inventory {
    fn is_mass_loss(&self, missing: usize) -> bool {
        missing > believed(self.recorded)
    }
}

/// What is missing from one infra cluster.
#[derive(Debug, Clone, Default)]
pub struct MissingTracker {
    /// When the VM of that UID was first missed.
    since: HashMap<String, Timestamp>,
    /// The same, of Machines that are being deleted, which are in no census; with when it was last asked for.
    of_deleting: HashMap<String, (Timestamp, Timestamp)>,
    /// Since when VMs that were missed from then until now hold the guard.
    engaged: Option<Span>,
}

/// From when until when VMs vanished together.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Timestamp,
    until: Timestamp,
}

impl Span {
    /// What vanished so shortly before or after `now` that it vanished with the others.
    fn around(now: Timestamp) -> Self {
        Self {
            from: now.checked_sub(WINDOW).unwrap_or(Timestamp::MIN),
            ..Self::ever(now)
        }
    }

    /// Whatever has vanished.
    fn ever(now: Timestamp) -> Self {
        Self {
            from: Timestamp::MIN,
            until: now.checked_add(WINDOW).unwrap_or(Timestamp::MAX),
        }
    }
}

impl MissingTracker {
    /// Takes a census in; whether too many are missing to believe it.
    ///
    /// It engages when more than 20 % and at least 5 are missing that vanished within 60 seconds. It is released when
    /// none of those is missing any more: each is back, its loss accepted by an admin, or its Machine deleted. What
    /// vanished later is judged by itself then.
    pub fn take(&mut self, inventory: &Inventory, now: Timestamp) -> MassLoss {
        self.since
            .retain(|uid, since| inventory.missing.contains_key(uid) || now.duration_since(*since) <= WINDOW);
        for uid in inventory.missing.keys() {
            self.since.entry(uid.clone()).or_insert(now);
        }
        let is_held = |span| self.holders(inventory, span).next().is_some();
        self.engaged = match self.engaged {
            Some(span) if is_held(span) => Some(span),
            // Nothing was done about these either: they are missing together, since whenever.
            Some(_) => inventory
                .is_mass_loss(inventory.missing.len())
                .then(|| Span::ever(now)),
            None => {
                let recent = inventory.missing.keys().filter(|uid| {
                    let since = self.since.get(*uid);
                    since.is_some_and(|since| now.duration_since(*since) <= WINDOW)
                });
                inventory.is_mass_loss(recent.count()).then(|| Span::around(now))
            }
        };
        let Some(span) = self.engaged else {
            return MassLoss::Released;
        };
        let mut holders: Vec<&Key> = self.holders(inventory, span).collect();
        holders.sort_unstable();
        MassLoss::Engaged(Arc::new(Losses {
            missing: inventory.missing.len(),
            recorded: inventory.recorded,
            holders: holders.into_iter().map(ToString::to_string).collect(),
        }))
    }

    /// The Machines whose missing VMs hold the guard.
    fn holders<'a>(&'a self, inventory: &'a Inventory, span: Span) -> impl Iterator<Item = &'a Key> {
        let missing = inventory.missing.iter().filter(move |(uid, _)| {
            // What was missing long before did not vanish with the others.
            let since = self.since.get(*uid);
            since.is_some_and(|since| (span.from..=span.until).contains(since))
        });
        missing.map(|(_, machine)| machine)
    }

    /// How long nothing is done yet about the loss of the VM of that UID.
    fn settles_in(&self, uid: &str, settle: Duration, now: Timestamp) -> Option<Duration> {
        let of_deleting = self.of_deleting.get(uid).map(|(since, _)| since);
        let since = self.since.get(uid).or(of_deleting).unwrap_or(&now);
        let settle = SignedDuration::try_from(settle).unwrap_or(SignedDuration::MAX);
        let left = settle.saturating_sub(now.duration_since(*since));
        Duration::try_from(left).ok().filter(|left| !left.is_zero())
    }

    /// The VM of that UID is missing. One of a Machine that is being deleted is in no census.
    fn miss(&mut self, uid: &str, now: Timestamp) {
        if !self.since.contains_key(uid) {
            self.of_deleting
                .retain(|_, (_, asked)| now.duration_since(*asked) <= FORGOTTEN);
            let (_, asked) = self.of_deleting.entry(uid.to_owned()).or_insert((now, now));
            *asked = now;
        }
    }
}

/// The mass-loss guards of all infra clusters.
#[derive(Debug, Default)]
pub struct MassLossGuards {
    by_infra: Mutex<HashMap<InfraKey, Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    vanished: MissingTracker,
    taken: Option<Taken>,
}

/// A verdict, and for how long it holds.
#[derive(Debug, Clone)]
struct Taken {
    at: Timestamp,
    removals: u64,
    mass_loss: MassLoss,
}

/// A verdict is used for this long, unless another VM goes.
const FRESH: SignedDuration = SignedDuration::from_secs(1);

/// Whose guard it is.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// All Machines.
    pub stores: &'a Stores,
    /// All infra clusters.
    pub pool: &'a Providers,
    /// The infra cluster, seen by the Machine's credential.
    pub open: &'a dyn InfraClient,
    /// The same, as records have it.
    pub infrastructure: &'a Infrastructure,
    /// The Machine.
    pub machine: &'a StoredMachine,
    /// Where VMs are polled one by one, one that has vanished is believed after this time: all others have been polled
    /// by then.
    pub settle: Duration,
}

/// What a Machine has seen of the guard.
#[derive(Debug)]
pub struct Seen {
    /// The verdict.
    pub mass_loss: MassLoss,
    infra: InfraKey,
    /// UID of its VM, if that is missing.
    lost: Option<String>,
    /// The census that the verdict is from, if it was taken for it.
    inventory: Option<(Inventory, u64)>,
    at: Timestamp,
}

impl MassLossGuards {
    /// The verdict for one Machine. Remembers nothing.
    pub fn see(&self, question: Question<'_>, now: Timestamp) -> Seen {
        let Question { open, machine, .. } = question;
        let record = machine.record.as_ref();
        let recorded = record.and_then(|record| record.vm_uid.as_deref());
        let is_missing = |uid: &&str| !is_there(open, machine.name(), uid);
        // That a VM which Machinist deletes goes is no loss.
        let is_deleted = record.is_some_and(|record| record.vm_deleting) && machine.is_deleting();
        let lost = recorded.filter(is_missing).filter(|_| !is_deleted);
        let seen = |mass_loss, inventory| Seen {
            mass_loss,
            infra: open.key().clone(),
            lost: lost.map(str::to_owned),
            inventory,
            at: now,
        };
        let by_infra = self.by_infra.lock();
        let none = Kept::default();
        let kept = by_infra.get(open.key()).unwrap_or(&none);
        if recorded.is_some() && lost.is_none() && kept.vanished.engaged.is_none() {
            return seen(MassLoss::Released, None);
        }
        let missed = recorded.is_some_and(|uid| kept.vanished.since.contains_key(uid));
        let removals = open.removals();
        let taken = kept.taken.as_ref().filter(|taken| {
            // Not if this one has gone, or come back, since then.
            missed == lost.is_some() && taken.removals == removals && now.duration_since(taken.at) < FRESH
        });
        let settle = if open.is_watched() { BURST } else { question.settle };
        let settles_in =
            |vanished: &MissingTracker| lost.and_then(|uid| vanished.settles_in(uid, settle, now));
        let (mass_loss, settles_in, inventory) = if let Some(taken) = taken {
            (taken.mass_loss.clone(), settles_in(&kept.vanished), None)
        } else {
            let (inventory, mut vanished) = (inventory(question), kept.vanished.clone());
            let mass_loss = vanished.take(&inventory, now);
            (mass_loss, settles_in(&vanished), Some((inventory, removals)))
        };
        match (mass_loss, settles_in) {
            (MassLoss::Released, Some(left)) => seen(MassLoss::Settling(left), inventory),
            (mass_loss, _) => seen(mass_loss, inventory),
        }
    }

    /// Remembers what was seen; whether the guard was released by it, so that others may go on.
    pub fn take(&self, seen: &Seen) -> bool {
        if seen.lost.is_none() && seen.inventory.is_none() {
            return false;
        }
        let mut by_infra = self.by_infra.lock();
        let kept = by_infra.entry(seen.infra.clone()).or_default();
        let was_engaged = kept.vanished.engaged.is_some();
        // Not one that is older than what is known.
        let is_newer = kept.taken.as_ref().is_none_or(|taken| taken.at <= seen.at);
        if let Some((inventory, removals)) = seen.inventory.as_ref().filter(|_| is_newer) {
            kept.taken = Some(Taken {
                at: seen.at,
                removals: *removals,
                mass_loss: kept.vanished.take(inventory, seen.at),
            });
        }
        if let Some(uid) = &seen.lost {
            kept.vanished.miss(uid, seen.at);
        }
        was_engaged && kept.vanished.engaged.is_none()
    }

    /// How many of the infra clusters in use have an engaged one. Of a cluster that no Machine uses any more, no Machine asks, so
    /// nothing would release it.
    pub fn engaged(&self, is_used: impl Fn(&InfraKey) -> bool) -> usize {
        let by_infra = self.by_infra.lock();
        let engaged = by_infra
            .iter()
            .filter(|(_, kept)| kept.vanished.engaged.is_some());
        engaged.filter(|(infra, _)| is_used(infra)).count()
    }
}

fn is_there(open: &dyn InfraClient, name: &str, uid: &str) -> bool {
    open.uid_of(name).as_deref() == Some(uid)
}

/// Counts the recorded VMs, but for those whose loss an admin has accepted, and those that have not been polled.
fn inventory(question: Question<'_>) -> Inventory {
    let mut inventory = Inventory::default();
    for machine in question.stores.machines.all() {
        // Nothing is done about the VM of one that is paused.
        let counts = !machine.is_deleting() && !machine.is_paused();
        let Some(record) = machine.record.as_ref().filter(|_| counts) else {
            continue;
        };
        let Some(uid) = &record.vm_uid else { continue };
        if !record.infrastructure.is_same(question.infrastructure)
            || !question.open.is_absence_conclusive(machine.name())
        {
            continue;
        }
        inventory.recorded += 1;
        let user = Key::new(machine.namespace(), machine.name());
        let is_missing = !is_there(question.open, machine.name(), uid)
            && !machine.accepts(question.infrastructure)
            // One address of a cluster may be behind another, and see less.
            && !question.pool.has_instance_elsewhere(&user, question.open.key(), uid);
        if is_missing {
            inventory.missing.insert(uid.clone(), user);
        }
    }
    inventory
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn inventory(recorded: usize, missing: impl IntoIterator<Item = usize>) -> Inventory {
        let missing = missing.into_iter();
        Inventory {
            recorded,
            missing: missing
                .map(|n| (format!("vm-{n}"), Key::new("ns", format!("web-{n}"))))
                .collect(),
        }
    }

    /// Missing, recorded, and the number of Machines that hold the guard.
    fn reported(mass_loss: &MassLoss) -> Option<[usize; 3]> {
        match mass_loss {
            MassLoss::Engaged(losses) => Some([losses.missing, losses.recorded, losses.holders.len()]),
            _ => None,
        }
    }

    #[test]
    fn what_was_missing_long_before_does_not_hold_it() {
        let mut vanished = MissingTracker::default();
        assert_eq!(reported(&vanished.take(&inventory(30, [99]), at(0))), None);
        let many = (0..10).chain([99]);
        assert_eq!(
            reported(&vanished.take(&inventory(30, many), at(86_400))),
            Some([11, 30, 10])
        );
        assert_eq!(
            reported(&vanished.take(&inventory(30, [99]), at(86_420))),
            None,
            "all others are back"
        );
    }

    #[test]
    fn the_loss_of_a_deleting_machines_vm_settles_once() {
        let (mut vanished, minute) = (MissingTracker::default(), Duration::from_mins(2));
        assert_eq!(vanished.settles_in("v", minute, at(0)), Some(minute));
        vanished.miss("v", at(0));
        // Others are polled meanwhile.
        vanished.take(&inventory(3, []), at(90));
        assert_eq!(
            vanished.settles_in("v", minute, at(100)),
            Some(Duration::from_secs(20))
        );
        assert_eq!(vanished.settles_in("v", minute, at(120)), None);
    }

    #[rstest]
    #[case::nothing(100, 0, None)]
    #[case::all_of_four(4, 4, None)]
    #[case::all_of_five(5, 5, Some([5, 5, 5]))]
    #[case::exactly_a_fifth(25, 5, None)]
    #[case::just_over_a_fifth(24, 5, Some([5, 24, 5]))]
    #[case::a_fifth_of_many(1000, 200, None)]
    #[case::all_of_many(1000, 1000, Some([1000; 3]))]
    fn many_missing_at_the_same_time_are_not_believed(
        #[case] recorded: usize,
        #[case] missing: usize,
        #[case] expected: Option<[usize; 3]>,
    ) {
        let mut vanished = MissingTracker::default();
        assert_eq!(
            reported(&vanished.take(&inventory(recorded, 0..missing), at(0))),
            expected
        );
    }

    #[test]
    fn losses_one_after_the_other_are_believed_however_many() {
        let mut vanished = MissingTracker::default();
        // Each is replaced before the next is lost: one Machine, or one of its MachineSet's, whose VM another client deletes.
        for n in 0..50 {
            let mass_loss = vanished.take(&inventory(6, [n]), at(i64::try_from(n).unwrap()));
            assert_eq!(mass_loss, MassLoss::Released, "{n}");
        }
    }

    #[test]
    fn it_is_released_when_those_that_vanished_together_are_back_and_names_them_until_then() {
        let mut vanished = MissingTracker::default();
        assert_eq!(
            reported(&vanished.take(&inventory(20, 0..10), at(0))),
            Some([10, 20, 10])
        );
        // Two more of the same episode.
        assert_eq!(
            reported(&vanished.take(&inventory(20, 0..12), at(50))),
            Some([12, 20, 12])
        );
        // Another one, an hour later, holds nothing.
        assert_eq!(
            reported(&vanished.take(&inventory(20, 0..13), at(3600))),
            Some([13, 20, 12])
        );
        let MassLoss::Engaged(losses) = vanished.take(&inventory(20, 11..13), at(3700)) else {
            panic!("one of them is missing");
        };
        assert_eq!(
            (losses.missing, &losses.holders[..]),
            (2, &["ns/web-11".to_owned()][..])
        );
        assert_eq!(
            vanished.take(&inventory(20, 12..13), at(3701)),
            MassLoss::Released
        );
        assert_eq!(
            vanished.take(&inventory(20, 12..14), at(3702)),
            MassLoss::Released
        );
    }

    #[test]
    fn what_vanished_together_later_holds_it_on() {
        let mut vanished = MissingTracker::default();
        assert_eq!(
            reported(&vanished.take(&inventory(30, 0..10), at(0))),
            Some([10, 30, 10])
        );
        assert_eq!(
            reported(&vanished.take(&inventory(30, 0..20), at(500))),
            Some([20, 30, 10])
        );
        assert_eq!(
            reported(&vanished.take(&inventory(30, 10..20), at(900))),
            Some([10, 30, 10]),
            "these are not replaced"
        );
        assert_eq!(vanished.take(&inventory(30, []), at(901)), MassLoss::Released);
    }

    #[test]
    fn a_loss_is_settled_a_moment_after_it_was_first_seen() {
        let mut vanished = MissingTracker::default();
        vanished.take(&inventory(3, [0]), at(0));
        assert_eq!(vanished.settles_in("vm-0", BURST, at(0)), Some(BURST));
        assert_eq!(
            vanished.settles_in("vm-0", BURST, at(1)),
            Some(Duration::from_secs(1))
        );
        vanished.take(&inventory(3, [0]), at(2));
        assert_eq!(vanished.settles_in("vm-0", BURST, at(2)), None);
    }

    #[test]
    fn a_guard_that_no_controller_can_release_any_more_is_not_counted() {
        let key = |server: &str| InfraKey {
            server: server.to_owned(),
            ca_digest: String::new(),
            namespace: "vms".to_owned(),
        };
        let mass_loss_guards = MassLossGuards::default();
        for (server, missing) in [("a", 9), ("b", 9), ("c", 0)] {
            let mut kept = Kept::default();
            kept.vanished.take(&inventory(10, 0..missing), at(0));
            mass_loss_guards.by_infra.lock().insert(key(server), kept);
        }
        assert_eq!(mass_loss_guards.engaged(|_| true), 2);
        assert_eq!(mass_loss_guards.engaged(|infra| *infra != key("a")), 1);
    }

    /// What happens to an infra cluster's VMs.
    #[derive(Debug, Clone)]
    enum Happens {
        Tombstones(usize),
        /// The infra cluster is emptied, or another one answers.
        AllLost,
        Back(usize),
        AllBack,
        MachineDeleted(usize),
        Seconds(i64),
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            6 => (0..30_usize).prop_map(Happens::Tombstones),
            1 => Just(Happens::AllLost),
            2 => (0..30_usize).prop_map(Happens::Back),
            1 => Just(Happens::AllBack),
            1 => (0..30_usize).prop_map(Happens::MachineDeleted),
            6 => (0..90_i64).prop_map(Happens::Seconds),
        ]
    }

    /// A Machine: the VM on record, and whether it is there.
    type Recorded = (usize, bool);

    proptest! {
        #[test]
        fn laws_of_the_guard(count in 1..30_usize, happens in prop::collection::vec(happens(), 1..80)) {
            let mut machines: Vec<Option<Recorded>> = (0..count).map(|vm| Some((vm, true))).collect();
            let (mut vms, mut clock, mut all_lost) = (count, 0, false);
            let mut vanished = MissingTracker::default();
            for happened in happens {
                let was_engaged = vanished.engaged.is_some();
                let all = machines.iter_mut().flatten();
                match happened {
                    Happens::Tombstones(n) => machines[n % count].iter_mut().for_each(|vm| vm.1 = false),
                    Happens::AllLost => all.for_each(|vm| vm.1 = false),
                    Happens::Back(n) => machines[n % count].iter_mut().for_each(|vm| vm.1 = true),
                    Happens::AllBack => all.for_each(|vm| vm.1 = true),
                    Happens::MachineDeleted(n) => machines[n % count] = None,
                    Happens::Seconds(seconds) => clock += seconds,
                }
                let recorded = machines.iter().flatten().count();
                let lost = machines.iter().flatten().filter(|vm| !vm.1).map(|vm| vm.0);
                let inventory = inventory(recorded, lost.collect::<Vec<_>>());
                let missing = inventory.missing.len();
                all_lost = match happened {
                    Happens::AllLost => recorded >= AT_LEAST,
                    Happens::Back(_) | Happens::AllBack | Happens::MachineDeleted(_) => false,
                    _ => all_lost,
                };
                let mass_loss = vanished.take(&inventory, at(clock));
                match &mass_loss {
                    MassLoss::Engaged(losses) => {
                        prop_assert_eq!((losses.missing, losses.recorded), (missing, recorded), "the numbers are true");
                        prop_assert!(!losses.holders.is_empty() && losses.holders.len() <= missing);
                        if !was_engaged {
                            prop_assert!(missing >= AT_LEAST && missing * ONE_IN > recorded, "{} of {}", missing, recorded);
                        }
                    }
                    _ => prop_assert!(!all_lost, "an emptied infra cluster is not believed"),
                }
                prop_assert!(missing > 0 || mass_loss == MassLoss::Released, "all are seen");
                // What is believed is replaced, once it has settled.
                for vm in machines.iter_mut().flatten().filter(|vm| !vm.1) {
                    let uid = format!("vm-{}", vm.0);
                    if vanished.settles_in(&uid, BURST, at(clock)).is_none() && mass_loss == MassLoss::Released {
                        prop_assert!(!all_lost);
                        *vm = (vms, true);
                        vms += 1;
                    }
                }
            }
        }
    }
}
