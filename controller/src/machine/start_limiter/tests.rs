use std::collections::{HashSet, VecDeque};

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn machine(group: &str, name: &str, more: &Value) -> StoredMachine {
    let mut machine = json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "ownerReferences": [
        {"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineSet", "name": group, "uid": group, "controller": true}]}});
    json_patch::merge(&mut machine, more);
    serde_json::from_value(machine).unwrap()
}

const SOON: Result<Start, Duration> = Err(START_INTERVAL);
const FREE: Result<Start, Duration> = Ok(Start::Free);

fn infra() -> InfraKey {
    InfraKey {
        namespace: "vms".into(),
        server: "https://a".into(),
        ca_digest: "1".into(),
    }
}

fn record(more: &Value) -> Value {
    let mut record =
        json!({"infrastructure": {"namespace": "vms", "server": "https://a", "caDigest": "1"}, "vmUID": "v"});
    json_patch::merge(&mut record, more);
    json!({"status": {"providerStatus": record}})
}

fn start_limiter(limit: usize) -> StartLimiter {
    StartLimiter::new(limit, 2, None, Some(Duration::from_mins(10)))
}

/// Whether it begins; its VM is made by then.
fn begins(start_limiter: &StartLimiter, machine: &StoredMachine, infra: &InfraKey, now: Instant) -> bool {
    let begins = start_limiter.begin(machine, infra, now).0 == FREE;
    start_limiter.end_creation(&Key::of(machine), now);
    begins
}

/// How many of `count` Machines of the group begin.
fn begun(start_limiter: &StartLimiter, group: &str, count: usize) -> usize {
    let begun = (0..count).filter(|i| {
        let machine = machine(group, &format!("{group}-{i}"), &json!({}));
        begins(start_limiter, &machine, &infra(), Instant::now())
    });
    begun.count()
}

#[test]
fn one_pool_leaves_room_for_others_and_all_together_never_exceed_the_limit() {
    let start_limiter = start_limiter(1000);
    assert_eq!(begun(&start_limiter, "a", 5000), 750);
    assert_eq!(begun(&start_limiter, "b", 5000), 188);
    assert!(begun(&start_limiter, "c", 5000) > 25);
    for group in 0..1000 {
        begun(&start_limiter, &group.to_string(), 3);
    }
    assert_eq!(
        start_limiter.count()[1],
        ("starting", 969),
        "a namespace leaves something to others"
    );
    let elsewhere = (0..1000).filter(|i| {
        let other = json!({"metadata": {"namespace": "elsewhere"}});
        begins(
            &start_limiter,
            &machine("x", &format!("x-{i}"), &other),
            &infra(),
            Instant::now(),
        )
    });
    assert!(elsewhere.count() > 20);
    assert_eq!(
        begun(&super::StartLimiter::new(0, 2, None, None), "a", 5000),
        5000
    );
    assert_eq!(begun(&super::StartLimiter::new(1, 2, None, None), "a", 2), 1);
}

#[test]
fn who_has_had_its_time_counts_no_more_however_often_it_is_checked() {
    let (start_limiter, now) = (start_limiter(1), Instant::now());
    let hangs = machine("a", "a-0", &record(&json!({})));
    start_limiter.note(&hangs, Duration::ZERO, now);
    let (other, later) = (machine("b", "b-0", &json!({})), now + Duration::from_mins(11));
    assert!(!begins(&start_limiter, &other, &infra(), now));
    assert!(begins(&start_limiter, &other, &infra(), later));
    start_limiter.note(&hangs, Duration::ZERO, later);
    assert_eq!(start_limiter.count()[1], ("starting", 1));
    // Nor after a restart, if it is known since when it hangs.
    let other_ = super::StartLimiter::new(1, 2, None, Some(Duration::from_mins(10)));
    other_.note(&hangs, Duration::from_mins(11), now);
    assert!(begins(&other_, &other, &infra(), now));
    start_limiter.forget(&Key::of(&hangs), now);
    start_limiter.forget(&Key::of(&other), now);
    assert_eq!(start_limiter.clusters.lock().len(), 0, "nothing is left of it");
}

#[test]
fn who_waits_starts_as_soon_as_another_does_not_any_more() {
    let start_limiter = start_limiter(4);
    assert_eq!(begun(&start_limiter, "a", 3), 3);
    let (waiting, now) = (machine("a", "a-3", &json!({})), Instant::now());
    let full = Start::Full {
        starting: 3,
        own: 3,
        limit: 4,
    };
    assert_eq!(
        start_limiter.begin(&waiting, &infra(), now),
        (Ok(full), Vec::new())
    );
    assert_eq!(
        start_limiter.begin(&waiting, &infra(), now),
        (Ok(full), Vec::new())
    );
    assert_eq!(start_limiter.count()[1..], [("starting", 3), ("waiting", 1)]);
    let ready = machine("a", "a-0", &json!({"status": {"phase": "Running"}}));
    assert_eq!(
        start_limiter.note(&ready, Duration::ZERO, now),
        [Key::of(&waiting)]
    );
    assert_eq!(start_limiter.count()[1..], [("starting", 2), ("waiting", 0)]);
    assert!(begins(&start_limiter, &waiting, &infra(), now));
    assert!(
        begins(&start_limiter, &waiting, &infra(), now),
        "it has its place"
    );
    for i in 0..4 {
        start_limiter.forget(&Key::new("ns", format!("a-{i}")), now);
    }
    assert_eq!(start_limiter.clusters.lock().len(), 0, "nothing is left of it");
}

#[test]
fn after_the_time_that_it_may_take_a_machine_counts_no_longer() {
    let start_limiter = start_limiter(1);
    assert_eq!(begun(&start_limiter, "a", 1), 1);
    let (other, now) = (machine("b", "b-0", &json!({})), Instant::now());
    assert!(!begins(&start_limiter, &other, &infra(), now));
    assert!(begins(
        &start_limiter,
        &other,
        &infra(),
        now + Duration::from_mins(11)
    ));
}

#[test]
fn only_what_starts_counts() {
    let count = |more: &Value| {
        let start_limiter = start_limiter(9);
        start_limiter.note(&machine("a", "a-0", more), Duration::ZERO, Instant::now());
        start_limiter.count()[1].1
    };
    let mut paused = record(&json!({}));
    paused["metadata"] = json!({"annotations": {"machine-controller.kubermatic.io/initializers": "x"}});
    let mut failed = record(&json!({}));
    failed["status"]["phase"] = json!("Failed");
    assert_eq!(count(&record(&json!({}))), 1);
    assert_eq!(count(&record(&json!({"vmUID": null}))), 0, "without a VM");
    assert_eq!(count(&record(&json!({"hasBeenReady": true}))), 0, "once Ready");
    assert_eq!([count(&paused), count(&failed)], [0, 0]);
    let again = record(&json!({"vmUID": null, "hasBeenReady": true}));
    let start_limiter = start_limiter(1);
    begun(&start_limiter, "b", 1);
    let again = machine("a", "a-0", &again);
    assert!(
        begins(&start_limiter, &again, &infra(), Instant::now()),
        "it was a Node before"
    );
}

#[test]
fn an_infra_cluster_is_one_under_all_its_addresses() {
    let start_limiter = start_limiter(1);
    begun(&start_limiter, "a", 1);
    let elsewhere = InfraKey {
        server: "https://b".into(),
        namespace: "other".into(),
        ..infra()
    };
    let (other, now) = (machine("b", "b-0", &json!({})), Instant::now());
    assert!(!begins(&start_limiter, &other, &elsewhere, now));
    let another = InfraKey {
        ca_digest: "2".into(),
        ..elsewhere
    };
    assert!(begins(&start_limiter, &other, &another, now));
}

#[test]
fn few_vms_are_made_at_once_until_it_is_seen_that_more_make_none_wait() {
    let (start_limiter, mut now) = (StartLimiter::new(0, 12, None, None), Instant::now());
    let machines: Vec<_> = (0..80)
        .map(|i| machine("a", &format!("a-{i}"), &json!({})))
        .collect();
    let (mut called, mut most) = (VecDeque::new(), 0);
    for machine in &machines {
        if start_limiter.begin(machine, &infra(), now).0 == FREE {
            called.push_back(Key::of(machine));
        }
    }
    assert_eq!(
        start_limiter.count(),
        [("creating", 2), ("starting", 2), ("waiting", 78)]
    );
    while let Some(done) = called.pop_front() {
        now += Duration::from_millis(200);
        start_limiter.answered(&infra(), Some(Duration::from_millis(10)), now);
        let (mut next, pause) = start_limiter.end_creation(&done, now);
        now += pause;
        while let Some(key) = next.pop() {
            let machine = machines
                .iter()
                .find(|machine| machine.name() == key.name)
                .unwrap();
            let (start, more) = start_limiter.begin(machine, &infra(), now);
            assert_eq!(start, FREE, "its turn has come");
            called.push_back(key);
            next.extend(more);
        }
        most = most.max(start_limiter.count()[0].1);
    }
    assert_eq!(
        start_limiter.count(),
        [("creating", 0), ("starting", 80), ("waiting", 0)]
    );
    assert_eq!(most, 12);
    start_limiter.answered(&infra(), None, now);
    assert_eq!(
        start_limiter
            .clusters
            .lock()
            .values()
            .next()
            .unwrap()
            .creations
            .get(),
        9
    );
}

#[test]
fn a_turn_to_be_made_is_given_on_by_a_machine_whose_vm_is_not_and_by_one_that_is_gone() {
    let (start_limiter, now) = (start_limiter(0), Instant::now());
    let machines: Vec<_> = (0..5)
        .map(|i| machine("a", &format!("a-{i}"), &json!({})))
        .collect();
    let begin = |i: usize| start_limiter.begin(&machines[i], &infra(), now);
    let key = |i: usize| Key::of(&machines[i]);
    assert_eq!([begin(0).0, begin(1).0], [FREE; 2]);
    assert_eq!([begin(2).0, begin(3).0, begin(4).0], [SOON; 3]);
    assert_eq!(start_limiter.end_creation(&key(0), now).0, [key(2)]);
    assert_eq!(begin(4).0, SOON, "another was called");
    assert_eq!(start_limiter.decline(&key(2), now), [key(3)]);
    assert_eq!(start_limiter.forget(&key(3), now), [key(4)]);
    assert_eq!(begin(4), (FREE, Vec::new()));
}

#[test]
fn where_vms_are_made_slowly_the_next_one_comes_after_a_pause() {
    let (start_limiter, now) = (start_limiter(0), Instant::now());
    let machines: Vec<_> = (0..3)
        .map(|i| machine("a", &format!("a-{i}"), &json!({})))
        .collect();
    for machine in &machines {
        let _placed = start_limiter.begin(machine, &infra(), now);
    }
    start_limiter.answered(&infra(), None, now);
    let (next, pause) = start_limiter.end_creation(&Key::of(&machines[0]), now);
    assert_eq!(next, [Key::of(&machines[2])]);
    assert!(!pause.is_zero());
    // Whatever else it hears of.
    let begin = |at| start_limiter.begin(&machines[2], &infra(), at).0;
    assert_eq!(begin(now), Err(pause));
    assert_eq!(begin(now + pause), FREE);
}

#[test]
fn who_has_its_place_already_is_made_before_those_that_have_none() {
    let (start_limiter, now) = (start_limiter(4), Instant::now());
    let again = machine(
        "a",
        "again",
        &record(&json!({"vmUID": null, "hasBeenReady": true})),
    );
    let machines: Vec<_> = (0..3)
        .map(|i| machine("a", &format!("a-{i}"), &json!({})))
        .collect();
    for machine in &machines {
        let _placed = start_limiter.begin(machine, &infra(), now);
    }
    assert_eq!(start_limiter.begin(&again, &infra(), now), (SOON, Vec::new()));
    assert_eq!(
        start_limiter.end_creation(&Key::of(&machines[0]), now).0,
        [Key::of(&again)]
    );
    assert_eq!(start_limiter.begin(&again, &infra(), now), (FREE, Vec::new()));
    assert_eq!(
        start_limiter.count()[1],
        ("starting", 2),
        "it counts as one that has started"
    );
}

proptest! {
    /// Whatever begins, ends and waits in whichever order: the limit holds, the one that waits is named in the end, and a pool
    /// that comes late starts something unless all is taken.
    #[test]
    fn the_limit_holds_and_none_waits_for_ever(
        limit in 1_usize..12,
        acts in prop::collection::vec((0..3_usize, 0..8_usize, any::<bool>()), 0..200),
    ) {
        let (start_limiter, now) = (start_limiter(limit), Instant::now());
        let made = |machine: &StoredMachine| {
            let mut next = start_limiter.begin(machine, &infra(), now).1;
            next.extend(start_limiter.end_creation(&Key::of(machine), now).0);
            next
        };
        let mut named: Vec<Key> = Vec::new();
        let mut alive = HashSet::new();
        for (group, number, ends) in acts {
            let machine = machine(&group.to_string(), &format!("m-{group}-{number}"), &json!({}));
            let key = Key::of(&machine);
            if ends {
                alive.remove(&key);
                named.extend(start_limiter.forget(&key, now));
            } else {
                alive.insert(key);
                named.extend(made(&machine));
            }
            prop_assert!(start_limiter.count()[1].1 <= limit);
        }
        // All that have been named begin; all that have begun end, one after the other.
        for _ in 0..1000 {
            let Some(key) = named.pop() else {
                let started = start_limiter.clusters.lock().values().flat_map(|c| c.shares.starting.keys().cloned().collect::<Vec<_>>()).next();
                let Some(key) = started else { break };
                alive.remove(&key);
                named.extend(start_limiter.forget(&key, now));
                continue;
            };
            if !alive.contains(&key) { continue }
            let group = key.name.split('-').nth(1).unwrap().to_owned();
            let machine = machine(&group, &key.name, &json!({}));
            named.extend(made(&machine));
        }
        prop_assert_eq!(start_limiter.count(), [("creating", 0), ("starting", 0), ("waiting", 0)]);
    }
}
