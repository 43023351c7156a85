//! Creates of VMs that got no answer: as long as the infra cluster may be busy admitting one, its VM may still appear.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use machinist_infra::cache::store::Key;
use machinist_infra::kube::error::RemoteError;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cache::StoredMachine;

/// The longest that an API server works on a request: its `--request-timeout`, admission webhooks included.
pub const LONGEST: Duration = Duration::from_mins(1);

/// What is known of a Machine's last create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// None is under way.
    Settled,
    /// Its VM may still appear, for so long.
    UnderWay(Duration),
    /// It is over; whether it made a VM has to be looked up.
    Unseen,
}

/// Creates that got no answer, by Machine.
#[derive(Debug, Default)]
pub struct VmCreations {
    /// Since when this process makes VMs. Of those that another made before, it cannot know.
    since: OnceLock<Instant>,
    by_machine: Mutex<HashMap<Key, (String, State)>>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Unanswered(Instant),
    Settled,
}

impl VmCreations {
    /// This process makes VMs from now on.
    pub fn begin(&self, now: Instant) {
        self.since.get_or_init(|| now);
    }

    /// What is known of the Machine's last create.
    pub fn of(&self, machine: &StoredMachine, now: Instant) -> Creation {
        let asked = match self.state(machine) {
            Some(State::Settled) => return Creation::Settled,
            Some(State::Unanswered(asked)) => asked,
            None => *self.since.get_or_init(|| now),
        };
        match (asked + LONGEST).checked_duration_since(now) {
            Some(left) if !left.is_zero() => Creation::UnderWay(left),
            _ => Creation::Unseen,
        }
    }

    /// A create of the Machine's VM, asked for at `asked`, was answered so.
    pub fn answered(&self, machine: &StoredMachine, asked: Instant, answer: Result<(), &RemoteError>) {
        let refused = |error: &&RemoteError| error.code().is_some_and(|code| (400..500).contains(&code));
        match (answer, self.state(machine)) {
            // From now on, its VM can be seen.
            (Ok(()), _) => self.forget(&Key::of(machine)),
            // A refusal says nothing of the one before that was not answered.
            (Err(error), Some(State::Unanswered(before))) if refused(&error) && asked < before + LONGEST => {}
            (Err(error), _) if refused(&error) => self.settle(machine),
            (Err(_), _) => self.put(machine, State::Unanswered(asked)),
        }
    }

    /// There is no VM of the Machine's name, and none will come.
    pub fn settle(&self, machine: &StoredMachine) {
        self.put(machine, State::Settled);
    }

    /// Forgets a Machine that is gone.
    pub fn forget(&self, key: &Key) {
        self.by_machine.lock().remove(key);
    }

    fn state(&self, machine: &StoredMachine) -> Option<State> {
        let creations = self.by_machine.lock();
        let (uid, state) = creations.get(&Key::of(machine))?;
        (uid == machine.uid()).then_some(*state)
    }

    fn put(&self, machine: &StoredMachine, state: State) {
        self.by_machine
            .lock()
            .insert(Key::of(machine), (machine.uid().to_owned(), state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn machine(uid: &str) -> StoredMachine {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "ns", "uid": uid}})).unwrap()
    }

    fn refused() -> RemoteError {
        RemoteError::conflict("refused")
    }

    fn lost() -> RemoteError {
        RemoteError::other("no answer")
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_create_without_an_answer_is_under_way_for_as_long_as_admission_may_take() {
        let (creations, now, a) = (VmCreations::default(), Instant::now(), machine("a"));
        creations.answered(&a, now, Err(&lost()));
        assert_eq!(
            creations.of(&a, now + SECOND),
            Creation::UnderWay(Duration::from_secs(59))
        );
        assert_eq!(creations.of(&a, now + LONGEST), Creation::Unseen);
        creations.settle(&a);
        assert_eq!(creations.of(&a, now + LONGEST), Creation::Settled);
        creations.forget(&Key::of(&a));
        creations.answered(&a, now, Err(&refused()));
        assert_eq!(creations.of(&a, now), Creation::Settled, "a refusal is an answer");
        let other_ = machine("b");
        assert_ne!(
            creations.of(&other_, now),
            Creation::Settled,
            "a namesake's is not its own"
        );
    }

    #[test]
    fn a_refusal_says_nothing_of_an_earlier_create() {
        let (creations, now, a) = (VmCreations::default(), Instant::now(), machine("a"));
        creations.answered(&a, now, Err(&lost()));
        creations.answered(&a, now + SECOND, Err(&refused()));
        assert_eq!(
            creations.of(&a, now + SECOND),
            Creation::UnderWay(Duration::from_secs(59))
        );
        creations.answered(&a, now + LONGEST, Err(&refused()));
        assert_eq!(creations.of(&a, now + LONGEST), Creation::Settled);
    }

    #[test]
    fn what_another_process_asked_for_may_still_appear() {
        let (creations, now, a) = (VmCreations::default(), Instant::now(), machine("a"));
        creations.begin(now);
        assert_eq!(
            creations.of(&a, now + SECOND),
            Creation::UnderWay(Duration::from_secs(59))
        );
        assert_eq!(creations.of(&a, now + LONGEST), Creation::Unseen);
    }
}
