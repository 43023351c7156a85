//! Whole elections against a Lease in memory that refuses outdated writes as the API server does, in made-up time.

use jiff::SignedDuration;
use rstest::rstest;

use super::*;

/// How a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Works,
    /// Nothing arrives.
    Down,
    /// Writes arrive, but their answers do not.
    SwallowsAnswers,
}

struct World {
    start: Instant,
    ms: u64,
    lease: Option<Lease>,
    version: u64,
    network: Network,
    /// Reads since the start.
    reads: usize,
}

struct Candidate {
    election: Election,
    /// How far its wall clock is off.
    skew: SignedDuration,
}

fn candidate(identity: &str) -> Candidate {
    let election = Election::new(
        "machine-controller".to_owned(),
        "kube-system".to_owned(),
        identity.to_owned(),
        Timing::default(),
    );
    Candidate {
        election,
        skew: SignedDuration::ZERO,
    }
}

impl World {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            ms: 0,
            lease: None,
            version: 0,
            network: Network::Works,
            reads: 0,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms)
    }

    fn wall(&self) -> Timestamp {
        let midnight: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        midnight + SignedDuration::from_millis(self.ms.try_into().unwrap())
    }

    fn pass(&mut self, ms: u64) {
        self.ms += ms;
    }

    fn store(&mut self, mut lease: Lease) -> Lease {
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        lease
    }

    /// Another client writes the Lease by hand.
    fn edit(&mut self, change: impl FnOnce(&mut LeaseSpec)) {
        let mut lease = self.lease.clone().unwrap();
        change(lease.spec.as_mut().unwrap());
        self.store(lease);
    }

    fn spec(&self) -> &LeaseSpec {
        self.lease.as_ref().unwrap().spec.as_ref().unwrap()
    }

    fn holder(&self) -> &str {
        self.spec().holder_identity.as_deref().unwrap()
    }

    /// What the API server says to a write: the stored Lease, or nothing for a conflict.
    fn write(&mut self, attempt: &Attempt) -> Option<Lease> {
        match attempt {
            Attempt::Create(lease) if self.lease.is_none() => Some(self.store((**lease).clone())),
            Attempt::Replace(lease) => {
                let current = self.lease.as_ref()?.metadata.resource_version.clone();
                assert!(
                    lease.metadata.resource_version.is_some(),
                    "a replacement without a precondition"
                );
                (current == lease.metadata.resource_version).then(|| self.store((**lease).clone()))
            }
            _ => None,
        }
    }

    /// One turn of a candidate; whether it leads after it.
    fn turn(&mut self, candidate: &mut Candidate) -> bool {
        let mut conflicts = 0;
        loop {
            let attempt = candidate.election.next(self.now(), self.wall() + candidate.skew);
            match &attempt {
                Attempt::Wait | Attempt::Tombstones => break,
                _ if self.network == Network::Down => {
                    candidate.election.refused();
                    break;
                }
                Attempt::Read => {
                    self.reads += 1;
                    candidate.election.observe(self.lease.clone(), self.now());
                }
                Attempt::Create(_) | Attempt::Replace(_) => match self.write(&attempt) {
                    _ if self.network == Network::SwallowsAnswers => {
                        candidate.election.refused();
                        break;
                    }
                    Some(lease) => {
                        candidate.election.written(lease, self.now());
                        break;
                    }
                    None => {
                        candidate.election.refused();
                        conflicts += 1;
                        if conflicts > 1 {
                            break;
                        }
                    }
                },
            }
        }
        candidate.election.expire(self.now());
        candidate.election.renewed().is_some()
    }

    /// Turns of `candidate` every two seconds until it leads; after how many milliseconds that is.
    fn until_it_leads(&mut self, candidate: &mut Candidate) -> u64 {
        let from = self.ms;
        while !self.turn(candidate) {
            self.pass(2_000);
            assert!(self.ms - from < 120_000, "it never leads");
        }
        self.ms - from
    }
}

fn is_lost(candidate: &mut Candidate, world: &World) -> bool {
    candidate.election.next(world.now(), world.wall()) == Attempt::Tombstones
}

#[test]
fn the_first_candidate_creates_the_lease_and_renews_it_without_reading() {
    let (mut world, mut a) = (World::new(), candidate("a"));
    assert!(world.turn(&mut a));
    let created = world.spec().clone();
    assert_eq!(created.holder_identity.as_deref(), Some("a"));
    assert_eq!(created.lease_duration_seconds, Some(15));
    assert_eq!(created.lease_transitions, Some(0));
    assert_eq!(
        world.lease.as_ref().unwrap().metadata.name.as_deref(),
        Some("machine-controller")
    );
    let reads = world.reads;
    for _ in 0..30 {
        world.pass(2_000);
        assert!(world.turn(&mut a));
    }
    assert_eq!(world.reads, reads);
    assert_eq!(world.spec().acquire_time, created.acquire_time);
    assert_eq!(world.spec().renew_time, Some(MicroTime(world.wall())));
    assert_eq!(world.spec().lease_transitions, Some(0));
    assert_eq!(a.election.renewed(), Some(world.now()));
}

#[test]
fn of_two_standbys_that_race_for_a_dead_leaders_lease_one_wins() {
    let mut world = World::new();
    assert!(world.turn(&mut candidate("dead")));
    let (mut a, mut b) = (candidate("a"), candidate("b"));
    for standby in [&mut a, &mut b] {
        assert!(!world.turn(standby));
    }
    world.pass(16_000);
    // Both read the expired Lease before either writes.
    for standby in [&mut a, &mut b] {
        assert_eq!(standby.election.next(world.now(), world.wall()), Attempt::Read);
        standby.election.observe(world.lease.clone(), world.now());
        assert!(matches!(
            standby.election.next(world.now(), world.wall()),
            Attempt::Replace(_)
        ));
    }
    assert!(world.turn(&mut b));
    assert!(
        !world.turn(&mut a),
        "its write is refused, and the next read shows the winner"
    );
    assert_eq!(world.holder(), "b");
    assert_eq!(world.spec().lease_transitions, Some(1));
    // And so it stays while the winner renews.
    for _ in 0..30 {
        world.pass(2_000);
        assert!(world.turn(&mut b));
        assert!(!world.turn(&mut a));
    }
}

#[test]
fn of_two_standbys_that_race_to_create_the_lease_one_wins() {
    let (mut world, mut a, mut b) = (World::new(), candidate("a"), candidate("b"));
    for standby in [&mut a, &mut b] {
        standby.election.observe(None, world.now());
    }
    assert!(world.turn(&mut a));
    assert!(!world.turn(&mut b));
    assert_eq!(world.holder(), "a");
}

#[rstest]
#[case::fast(60)]
#[case::slow(-60)]
fn a_wall_clock_that_is_a_minute_off_neither_takes_nor_loses_a_lease(#[case] skew: i64) {
    let (mut world, mut leader, mut standby) = (World::new(), candidate("leader"), candidate("standby"));
    standby.skew = SignedDuration::from_secs(skew);
    assert!(world.turn(&mut leader));
    for _ in 0..60 {
        world.pass(2_000);
        assert!(world.turn(&mut leader));
        assert!(!world.turn(&mut standby));
    }
    // The leader dies: the standby takes over after the duration on its own monotonic clock, whatever its wall clock.
    let waited = world.until_it_leads(&mut standby);
    assert!((15_000..=18_000).contains(&waited), "{waited}");
    // And the old leader's successor judges the same, though renewTime is a minute off.
    let mut next = candidate("next");
    for _ in 0..20 {
        world.pass(2_000);
        assert!(world.turn(&mut standby));
        assert!(!world.turn(&mut next));
    }
}

#[test]
fn a_renew_time_of_long_ago_is_not_believed_by_who_has_just_started() {
    let mut world = World::new();
    world.turn(&mut candidate("other"));
    world.pass(3_600_000);
    let waited = world.until_it_leads(&mut candidate("new"));
    assert!((15_000..=18_000).contains(&waited), "{waited}");
}

#[rstest]
#[case::longer(60, 60_000)]
#[case::absent(0, 15_000)]
fn the_holders_own_duration_counts(#[case] seconds: i32, #[case] least: u64) {
    let mut world = World::new();
    world.turn(&mut candidate("other"));
    world.edit(|spec| spec.lease_duration_seconds = (seconds > 0).then_some(seconds));
    let waited = world.until_it_leads(&mut candidate("new"));
    assert!((least..=least + 3_000).contains(&waited), "{waited}");
}

#[rstest]
#[case::another("thief")]
#[case::no_holder("")]
fn a_leader_that_finds_another_holder_has_lost(#[case] holder: &str) {
    let (mut world, mut a) = (World::new(), candidate("a"));
    assert!(world.turn(&mut a));
    world.edit(|spec| spec.holder_identity = Some(holder.to_owned()));
    world.pass(2_000);
    assert!(!world.turn(&mut a));
    assert!(is_lost(&mut a, &world));
    assert_eq!(world.holder(), holder, "it writes nothing over it");
}

#[test]
fn a_change_that_is_no_change_of_holder_costs_a_leader_one_more_read() {
    let (mut world, mut a) = (World::new(), candidate("a"));
    assert!(world.turn(&mut a));
    let mut labeled = world.lease.clone().unwrap();
    labeled.metadata.labels = Some([("team".to_owned(), "x".to_owned())].into());
    world.store(labeled);
    let reads = world.reads;
    world.pass(2_000);
    assert!(world.turn(&mut a), "409, read again, renewed");
    assert_eq!(world.reads, reads + 1);
    assert_eq!(a.election.renewed(), Some(world.now()));
    assert!(
        world.lease.as_ref().unwrap().metadata.labels.is_some(),
        "what others wrote stays"
    );
}

#[test]
fn a_standby_is_not_put_off_by_a_change_of_metadata() {
    let (mut world, mut a) = (World::new(), candidate("a"));
    world.turn(&mut candidate("dead"));
    let mut waited = 0;
    while !world.turn(&mut a) {
        let lease = world.lease.clone().unwrap();
        world.store(lease);
        world.pass(2_000);
        waited += 2_000;
        assert!(waited <= 18_000);
    }
}

#[test]
fn a_leader_makes_a_deleted_lease_again_before_a_standby_may() {
    let (mut world, mut leader, mut standby) = (World::new(), candidate("leader"), candidate("standby"));
    assert!(world.turn(&mut leader));
    assert!(!world.turn(&mut standby));
    world.pass(1_000);
    world.lease = None;
    assert!(
        !world.turn(&mut standby),
        "the one that held it may not have noticed"
    );
    world.pass(1_000);
    assert!(world.turn(&mut leader));
    assert_eq!(world.holder(), "leader");
    world.pass(2_000);
    assert!(!world.turn(&mut standby));
}

#[test]
fn a_standby_takes_a_deleted_lease_once_its_holder_is_out_of_time() {
    let (mut world, mut standby) = (World::new(), candidate("standby"));
    world.turn(&mut candidate("dead"));
    assert!(!world.turn(&mut standby));
    world.lease = None;
    let waited = world.until_it_leads(&mut standby);
    assert!((15_000..=17_000).contains(&waited), "{waited}");
}

#[test]
fn renewals_that_fail_for_ten_seconds_are_a_loss_and_five_before_a_standby_takes_over() {
    let (mut world, mut leader, mut standby) = (World::new(), candidate("leader"), candidate("standby"));
    assert!(world.turn(&mut leader));
    assert!(!world.turn(&mut standby));
    world.network = Network::Down;
    for _ in 0..4 {
        world.pass(2_000);
        assert!(world.turn(&mut leader));
    }
    world.pass(1_999);
    assert!(world.turn(&mut leader));
    world.pass(1);
    assert!(!world.turn(&mut leader));
    assert!(is_lost(&mut leader, &world));
    world.network = Network::Works;
    assert!(!world.turn(&mut leader), "what is lost stays lost");
    assert!(!world.turn(&mut standby));
    assert!(world.until_it_leads(&mut standby) >= 5_000);
}

#[test]
fn failures_that_pass_in_time_cost_nothing() {
    let (mut world, mut a) = (World::new(), candidate("a"));
    assert!(world.turn(&mut a));
    world.network = Network::Down;
    world.pass(8_000);
    assert!(world.turn(&mut a));
    world.network = Network::Works;
    world.pass(1_000);
    assert!(world.turn(&mut a));
    assert_eq!(a.election.renewed(), Some(world.now()));
}

#[test]
fn a_write_whose_answer_is_lost_is_no_renewal_until_it_is_read_back() {
    let (mut world, mut a) = (World::new(), candidate("a"));
    world.network = Network::SwallowsAnswers;
    assert!(!world.turn(&mut a));
    assert_eq!(world.holder(), "a");
    world.network = Network::Works;
    world.pass(2_000);
    assert!(world.turn(&mut a), "it is ours, so there is nothing to wait for");
    assert_eq!(world.spec().lease_transitions, Some(0));
    world.network = Network::SwallowsAnswers;
    let renewed = a.election.renewed();
    world.pass(2_000);
    assert!(world.turn(&mut a));
    assert_eq!(a.election.renewed(), renewed, "an unknown write does not count");
}

#[test]
fn a_leader_that_was_stopped_and_is_woken_late_sends_nothing() {
    let (mut world, mut a) = (World::new(), candidate("a"));
    assert!(world.turn(&mut a));
    world.pass(60_000);
    assert!(is_lost(&mut a, &world));
    assert!(!world.turn(&mut a));
    assert_eq!(world.version, 1);
}

#[test]
fn a_renewal_counts_from_when_it_was_sent() {
    let (mut world, mut a) = (World::new(), candidate("a"));
    assert!(world.turn(&mut a));
    world.pass(2_000);
    let sent = world.now();
    let attempt = a.election.next(sent, world.wall());
    let lease = world.write(&attempt).unwrap();
    world.pass(30_000);
    a.election.written(lease, sent);
    assert_eq!(a.election.renewed(), Some(sent));
    assert!(
        is_lost(&mut a, &world),
        "the process slept between sending and reading the answer"
    );
}

#[test]
fn a_leader_that_leaves_lets_a_standby_in_at_once() {
    let (mut world, mut leader, mut standby) = (World::new(), candidate("leader"), candidate("standby"));
    assert!(world.turn(&mut leader));
    assert!(!world.turn(&mut standby));
    let farewell = leader.election.farewell(world.wall()).unwrap();
    assert_eq!(
        farewell.spec.as_ref().unwrap().holder_identity.as_deref(),
        Some("")
    );
    assert!(world.write(&Attempt::Replace(Box::new(farewell))).is_some());
    world.pass(2_000);
    assert!(world.turn(&mut standby));
    assert_eq!(world.spec().lease_transitions, Some(1));
    assert_eq!(world.spec().lease_duration_seconds, Some(15));
}

#[test]
fn who_does_not_hold_the_lease_has_nothing_to_release() {
    let (mut world, mut a) = (World::new(), candidate("a"));
    assert!(a.election.farewell(world.wall()).is_none());
    world.turn(&mut candidate("other"));
    world.turn(&mut a);
    assert!(a.election.farewell(world.wall()).is_none());
}
