//! What holds wherever the controller is killed or a write of it fails: in the making of a Machine and in its deletion,
//! after every write.
//!
//! The world is a model of both API servers, of KubeVirt, the guest and its kubelet. Only decisions are the real ones, with
//! what is remembered of failures; how they are carried out is modelled after `act.rs`.

mod apply;
mod client;
mod nature;
mod observe;
mod world;

use std::collections::BTreeMap;

use super::*;

use self::apply::{Outcome, approve_client, pass};
use self::client::{Client, Failure as Stopped, Fault};
use self::observe::Process;
use self::world::{Kind, MACHINE, NAME, World};

const FAULTS: [Fault; 6] = [
    Fault::Killed,
    Fault::KilledForLong,
    Fault::LostAnswer,
    Fault::LostAnswerSeenLate,
    Fault::Refused,
    Fault::NotSent,
];

/// Those of a second failure: a controller without memory, a view that is late, and a write that has to be repeated.
const SECOND_FAULTS: [Fault; 3] = [Fault::Killed, Fault::LostAnswerSeenLate, Fault::NotSent];

/// Twice as many passes as any making or deletion takes here.
const PASSES: usize = 60;

/// The controller at work on the world.
struct Run {
    world: World,
    process: Process,
    client: Client,
    passes: usize,
    /// How many passes in a row found nothing to do, in a world where nothing happens.
    quiet: usize,
    /// A person deletes the Machine right after the first failure.
    deletes: bool,
}

impl Run {
    /// Begins, with these failures of the n-th writes.
    fn new(world: World, faults: &[(usize, Fault)]) -> Self {
        Self {
            process: Process::new(world.led_since),
            world,
            client: Client {
                faults: faults.iter().copied().collect(),
                ..Client::default()
            },
            passes: 0,
            quiet: 0,
            deletes: false,
        }
    }

    /// Works until nothing happens any more.
    fn settled(mut self) -> Self {
        while self.quiet < 3 {
            self.turn();
        }
        self
    }

    /// A pass, and what happens after it.
    fn turn(&mut self) {
        self.passes += 1;
        assert!(self.passes < PASSES, "it does not settle: {self:#?}");
        let outcome = self.pass();
        if self.deletes && self.client.faults.is_empty() {
            self.deletes = false;
            self.world.delete_machine();
        }
        self.quiet = match outcome {
            Outcome::Done(false, _) if self.world.is_late() || self.world.advance() => 0,
            Outcome::Done(false, again) => {
                self.world.now += again.unwrap_or_default().max(Duration::from_secs(4));
                self.quiet + 1
            }
            Outcome::Done(true, _) | Outcome::Again => 0,
            Outcome::Killed(fault) => {
                self.restart(fault);
                0
            }
        };
        self.world.now += Duration::from_secs(1);
    }

    /// A pass, and the approval of a kubelet's first certificate beside it.
    fn pass(&mut self) -> Outcome {
        match self.approve() {
            Err(Stopped::Killed(fault)) => return Outcome::Killed(fault),
            // It is tried again.
            Err(Stopped::Error(_)) | Ok(true) => return Outcome::Again,
            Ok(false) => {}
        }
        pass(&mut self.world, &mut self.process, &mut self.client)
    }

    fn approve(&mut self) -> Result<bool, Stopped> {
        approve_client(&mut self.world, &mut self.client)
    }

    fn restart(&mut self, fault: Fault) {
        if fault == Fault::KilledForLong {
            while self.world.advance() || matches!(self.approve(), Ok(true)) {}
        }
        self.world.is_led_again();
        self.process = Process::new(self.world.led_since);
    }

    /// Whether fewer writes have been made than were to fail.
    fn lacks_writes(&self) -> bool {
        !self.client.faults.is_empty()
    }

    /// What there is in the end, but for versions and times, and whichever token it was.
    fn end(&self) -> Value {
        let vm = self.world.get(Kind::Vm, NAME);
        let user_data = vm.map(|vm| &vm["spec"]["template"]["spec"]["volumes"][0]["cloudInitNoCloud"]);
        let user_data = user_data.and_then(|volume| volume["secretRef"]["name"].as_str());
        let token = user_data.and_then(|name| name.strip_prefix(&format!("userdata-{MACHINE}-")));
        let objects = self.world.objects.iter();
        let objects: BTreeMap<String, Value> = objects
            .map(|((kind, name), object)| (format!("{kind:?} {name}"), timeless(object)))
            .collect();
        let text = json!(objects).to_string();
        serde_json::from_str(&text.replace(token.unwrap_or("no token"), "TOKEN")).unwrap()
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("writes", &self.client.trace)
            .field("machine", &self.world.get(Kind::Machine, NAME))
            .finish_non_exhaustive()
    }
}

fn timeless(value: &Value) -> Value {
    const TIMES: [&str; 6] = [
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "lastTransitionTime",
        "lastHeartbeatTime",
        "vmSeen",
    ];
    match value {
        Value::Object(fields) => {
            let is_time =
                |key: &str| TIMES.contains(&key) || key.ends_with("StartedAt") || key.ends_with("EndedAt");
            let kept = fields.iter().filter(|(key, _)| !is_time(key));
            kept.map(|(key, value)| (key.clone(), timeless(value))).collect()
        }
        Value::Array(items) => items.iter().map(timeless).collect(),
        other => other.clone(),
    }
}

/// A Machine that has joined, and nothing is due any more.
fn joined() -> Run {
    let run = Run::new(World::new(), &[]).settled();
    let has = |kind| run.world.get(kind, NAME).is_some();
    assert!(has(Kind::Vm) && has(Kind::Guest) && has(Kind::Node), "{run:#?}");
    run
}

/// The world of that Machine when a person has just deleted it.
fn deleted() -> World {
    let mut world = joined().world;
    world.delete_machine();
    world
}

/// What there is of others, with its versions: the controller must not touch that.
fn of_others(world: &World) -> BTreeMap<(Kind, String), Value> {
    let mut fresh = World::new().objects;
    fresh.remove(&(Kind::Machine, NAME.to_owned()));
    fresh.retain(|key, object| world.objects.get(key) != Some(object));
    fresh
}

/// Holds at the end of every run.
fn check(run: &Run, end: &Value, what: &str) {
    assert_eq!(of_others(&run.world), BTreeMap::new(), "{what}: {run:#?}");
    assert!(run.world.made(Kind::Vm) <= 1, "{what}: a second VM: {run:#?}");
    assert!(
        !run.world.undrained,
        "{what}: the VM went before its pods: {run:#?}"
    );
    assert_eq!(run.end(), *end, "{what}: another end: {run:#?}");
}

/// Runs with a failure of the first write, of the second, and so on; with how many there are.
fn each(world: &World, fault: Fault, deletes: bool, law: impl Fn(&Run, &str)) -> usize {
    for nth in 1.. {
        let mut run = Run::new(world.clone(), &[(nth, fault)]);
        run.deletes = deletes;
        let run = run.settled();
        if run.lacks_writes() {
            return nth - 1;
        }
        law(&run, &format!("{fault:?} at write {nth}"));
    }
    unreachable!()
}

#[test]
fn a_machine_is_made_and_deleted_with_several_writes_each_and_nothing_is_left() {
    let made = joined();
    println!(
        "made with {} writes in {} passes: {made:#?}",
        made.client.writes, made.passes
    );
    assert!(made.client.writes > 5);
    let gone = Run::new(deleted(), &[]).settled();
    println!(
        "deleted with {} writes in {} passes: {gone:#?}",
        gone.client.writes, gone.passes
    );
    assert!(gone.client.writes > 5);
    let mut left = gone.world.objects.clone();
    left.retain(|key, _| !World::new().objects.contains_key(key));
    assert_eq!(left, BTreeMap::new());
    assert_eq!(of_others(&gone.world), BTreeMap::new());
    assert_eq!(gone.world.collected, Vec::<String>::new());
}

#[test]
fn whatever_befalls_a_write_of_a_machines_making_there_is_one_vm_and_the_same_end() {
    let end = joined().end();
    for fault in FAULTS {
        let tried = each(&World::new(), fault, false, |run, what| check(run, &end, what));
        println!("{fault:?}: {tried} points of a making");
        assert!(tried > 5);
    }
}

#[test]
fn whatever_befalls_a_write_of_a_machines_deletion_nothing_is_left() {
    let world = deleted();
    let end = Run::new(world.clone(), &[]).settled().end();
    for fault in FAULTS {
        let tried = each(&world, fault, false, |run, what| {
            check(run, &end, what);
            assert_eq!(
                run.world.collected,
                Vec::<String>::new(),
                "{what}: left to others: {run:#?}"
            );
        });
        println!("{fault:?}: {tried} points of a deletion");
        assert!(tried > 5);
    }
}

#[test]
fn a_machine_that_is_deleted_after_any_failure_of_its_making_leaves_nothing() {
    let end = Run::new(deleted(), &[]).settled().end();
    for fault in FAULTS {
        let tried = each(&World::new(), fault, true, |run, what| check(run, &end, what));
        println!("{fault:?}: {tried} points of a making that ends in a deletion");
        assert!(tried > 5);
    }
}

#[test]
fn whatever_befalls_a_controller_that_follows_one_killed_in_a_making_there_is_one_vm_and_the_same_end() {
    assert!(pairs(&World::new(), &joined().end()) > 200);
}

#[test]
fn whatever_befalls_a_controller_that_follows_one_killed_in_a_deletion_nothing_is_left() {
    let world = deleted();
    let end = Run::new(world.clone(), &[]).settled().end();
    assert!(pairs(&world, &end) > 100);
}

/// The world as a controller finds it that follows one killed at the n-th write, if that has made so many.
fn after_killed(world: &World, nth: usize) -> Option<World> {
    let mut run = Run::new(world.clone(), &[(nth, Fault::Killed)]);
    while run.lacks_writes() && run.quiet < 3 {
        run.turn();
    }
    (!run.lacks_writes()).then_some(run.world)
}

/// Each write at which a controller is killed, with each failure of a write of the next; how many there are.
fn pairs(world: &World, end: &Value) -> usize {
    let worlds = (1..).map_while(|nth| Some((nth, after_killed(world, nth)?)));
    let tried = worlds.flat_map(|(nth, world)| {
        SECOND_FAULTS.map(|fault| {
            each(&world, fault, false, |run, what| {
                check(run, end, &format!("{what}, after one killed at write {nth}"));
            })
        })
    });
    let tried = tried.sum();
    println!("{tried} pairs of failures");
    tried
}
