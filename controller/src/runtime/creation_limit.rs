//! What holds a MachineSet or MachineDeployment back from creating the same again and again: a limit of creations that come
//! to nothing, and a halt while the API server stores something else than was sent.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::cache::Template;
use crate::runtime::backoff::{Backoff, Jitter};

/// After this long, an object that is still its owner's was worth creating.
const PROVEN_AFTER: Duration = Duration::from_secs(20);

/// Pauses before one more is created although the limit is reached: the one that changed them may have ended that.
const AGAIN: Backoff = Backoff {
    first: Duration::from_secs(2),
    longest: Duration::from_mins(5),
};

/// Pauses of a halt.
const HALT: Backoff = Backoff {
    first: Duration::from_mins(5),
    longest: Duration::from_mins(30),
};

/// `status.errorReason` and the reason of a condition: the limit is reached.
pub const TOO_MANY_CREATIONS: &str = "TooManyCreations";

/// What has become of an object that was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is its owner's.
    Kept,
    /// It is its owner's and is being deleted.
    Deleted,
    /// Its owner does not have it: it was changed, or has not been seen.
    Tombstones,
}

/// Why nothing is created, as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// What was stored instead of what was sent.
    pub message: String,
    /// Not to be tried again before.
    pub until: Timestamp,
}

/// What may be created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowance {
    /// What was created last was changed on its way.
    pub halt: Option<Halt>,
    /// How many creations are left of the limit.
    pub left: usize,
    /// If none is: how long until there is one.
    pub next: Option<Duration>,
}

impl Allowance {
    /// Nothing is known that speaks against creations.
    #[cfg(test)]
    pub fn unlimited() -> Self {
        Self {
            halt: None,
            left: usize::MAX,
            next: None,
        }
    }
}

/// What one owner has created that may come to nothing.
#[derive(Debug, Default)]
pub struct CreationLimit {
    /// By name: when it was created.
    unproven: BTreeMap<String, Instant>,
    /// When one more may be created although the limit is reached.
    next: Option<Instant>,
    /// How many were, one after the other.
    tries: u32,
    halt: Option<(Halt, u32)>,
    /// Objects that were changed on their way, by name: their UIDs. They are deleted.
    rejected: BTreeMap<String, String>,
    /// The selector and the template that were asked for.
    asked: Option<(Option<String>, Template)>,
    /// How many creations were left at the last review, and how long until there is one if none was.
    left: Option<(usize, Option<Duration>)>,
}

impl CreationLimit {
    /// Forgets what speaks against creations when something else is asked for, or while creation is paused: the one that resumes
    /// it asks again. Another size asks for nothing else.
    pub fn asked(&mut self, selector: Option<String>, template: &Template, paused: bool) {
        let asked = Some((selector, template.clone()));
        if paused || self.asked != asked {
            self.unproven.clear();
            (self.next, self.tries) = (None, 0);
            self.halt = None;
        }
        self.asked = asked;
    }

    /// An object of that name is about to be created.
    pub fn spend(&mut self, name: &str, now: Instant) {
        self.unproven.insert(name.to_owned(), now);
    }

    /// It was not created, or was deleted on purpose.
    pub fn refund(&mut self, name: &str) {
        self.unproven.remove(name);
    }

    /// Takes notice of what has become of what was created.
    ///
    /// At most `limit` creations may come to nothing. Of rejected objects, only those that are still there are remembered.
    pub fn review(
        &mut self,
        limit: usize,
        now: Instant,
        fate: impl Fn(&str) -> Fate,
        is_there: impl Fn(&str, &str) -> bool,
    ) {
        self.rejected.retain(|name, uid| is_there(name, uid));
        let mut proven = None;
        self.unproven.retain(|name, created| match fate(name) {
            Fate::Deleted => false,
            Fate::Kept if now.saturating_duration_since(*created) >= PROVEN_AFTER => {
                proven = proven.max(Some(*created));
                false
            }
            Fate::Kept | Fate::Tombstones => true,
        });
        if proven.is_some() {
            // What went wrong before it does so no more.
            self.unproven.retain(|_, created| Some(*created) > proven);
            self.tries = 0;
        }
        self.left = Some(self.left_of(limit, now));
    }

    /// How many creations are left of the limit, and how long until there is one if none is.
    fn left_of(&mut self, limit: usize, now: Instant) -> (usize, Option<Duration>) {
        let mut left = limit.saturating_sub(self.unproven.len());
        if left > 0 {
            self.next = None;
        } else if self.next.is_some_and(|next| next <= now) {
            let oldest = self.unproven.iter().min_by_key(|(_, created)| **created);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.unproven.remove(&name);
            }
            (self.next, self.tries, left) = (None, self.tries + 1, 1);
        }
        let mut next = None;
        if left == 0 {
            let pause = AGAIN.pause(self.tries, Jitter::default());
            let again = *self.next.get_or_insert(now + pause);
            // One that stays shows before that all is well.
            let proven = self.unproven.values().map(|created| *created + PROVEN_AFTER);
            let first = proven
                .filter(|at| *at > now)
                .min()
                .map_or(again, |at| at.min(again));
            next = Some(first.saturating_duration_since(now));
        }
        (left, next)
    }

    /// What may be created, by the last review; without one, nothing.
    pub fn allowance(&self) -> Allowance {
        let (left, next) = self.left.unwrap_or_default();
        Allowance {
            halt: self.halt.as_ref().map(|(halt, _)| halt.clone()),
            left,
            next,
        }
    }

    /// What was created last is as it was sent.
    pub fn accept(&mut self) {
        self.halt = None;
    }

    /// It is not: nothing more is created for a while, which doubles from one time to the next.
    pub fn halt(&mut self, message: String, now: Timestamp) {
        let count = self.halt.as_ref().map_or(0, |(_, count)| count + 1);
        let pause = HALT.pause(count, Jitter::default());
        let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
        let until = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        self.halt = Some((Halt { message, until }, count));
    }

    /// The object of that name and UID is not as it was sent.
    pub fn reject(&mut self, name: &str, uid: &str) {
        self.rejected.insert(name.to_owned(), uid.to_owned());
    }

    /// Names and UIDs of objects that are to be deleted.
    pub fn rejected(&self) -> Vec<(String, String)> {
        let left = self.rejected.iter();
        left.map(|(name, uid)| (name.clone(), uid.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIMIT: usize = 18;
    const SECOND: Duration = Duration::from_secs(1);

    /// Every second for so long, as many are created as may be, of which each has that fate at that age; how many that are.
    fn created(seconds: u32, fate: impl Fn(Duration) -> Fate) -> usize {
        let (mut creations, start) = (CreationLimit::default(), Instant::now());
        let mut made: BTreeMap<String, Instant> = BTreeMap::new();
        for second in 0..seconds {
            let now = start + SECOND * second;
            creations.review(LIMIT, now, |name| fate(now - made[name]), |_, _| true);
            let kept = made.values().filter(|at| fate(now - **at) == Fate::Kept).count();
            for _ in 0..creations.allowance().left.min(2_usize.saturating_sub(kept)) {
                let name = format!("m-{}", made.len());
                creations.spend(&name, now);
                made.insert(name, now);
            }
        }
        made.len()
    }

    #[test]
    fn creations_that_come_to_nothing_are_limited_and_tried_again_more_and_more_rarely() {
        let minute = created(60, |_| Fate::Tombstones);
        assert!(
            (LIMIT + 3..=LIMIT + 5).contains(&minute),
            "{minute} within a minute"
        );
        let hour = created(3600, |_| Fate::Tombstones);
        assert!((LIMIT + 15..=LIMIT + 21).contains(&hour), "{hour} within an hour");
        let soon = created(3600, |age| {
            if age < SECOND * 10 {
                Fate::Kept
            } else {
                Fate::Tombstones
            }
        });
        assert!(soon <= LIMIT + 21, "{soon} that are lost after 10 s");
    }

    #[test]
    fn creations_that_last_and_deletions_are_not_limited() {
        assert_eq!(created(3600, |_| Fate::Kept), 2);
        assert!(created(600, |_| Fate::Deleted) > 1000);
    }

    #[test]
    fn one_that_lasts_is_proof_that_what_was_lost_before_is_history() {
        let (mut creations, start) = (CreationLimit::default(), Instant::now());
        for lost in 0..LIMIT {
            creations.spend(&lost.to_string(), start);
        }
        creations.spend("kept", start + SECOND);
        let fate = |name: &str| {
            if name == "kept" {
                Fate::Kept
            } else {
                Fate::Tombstones
            }
        };
        let left = |creations: &mut CreationLimit, now| {
            creations.review(LIMIT, now, fate, |_, _| true);
            creations.allowance().left
        };
        assert_eq!(left(&mut creations, start + PROVEN_AFTER), 0);
        assert_eq!(left(&mut creations, start + PROVEN_AFTER + SECOND), LIMIT);
    }

    #[test]
    fn a_halt_lasts_longer_from_one_time_to_the_next_and_ends_when_something_else_is_asked_for() {
        let (mut creations, now) = (
            CreationLimit::default(),
            Timestamp::from_second(1_800_000_000).unwrap(),
        );
        let template = |number: i32| Template::from(json!({ "spec": number }));
        let halted = |creations: &CreationLimit| creations.allowance().halt;
        creations.asked(Some("a=b".to_owned()), &template(1), false);
        for minutes in [5, 10, 20, 30, 30] {
            creations.halt("labels".to_owned(), now);
            let pause = halted(&creations).unwrap().until.duration_since(now);
            let (least, most) = (minutes * 48, minutes * 72);
            assert!(
                (least..=most).contains(&pause.as_secs()),
                "{pause} for {minutes} min"
            );
            creations.asked(Some("a=b".to_owned()), &template(1), false);
        }
        creations.asked(Some("a=b".to_owned()), &template(2), false);
        assert_eq!(halted(&creations), None, "another template");
        creations.halt("labels".to_owned(), now);
        creations.asked(Some("a=c".to_owned()), &template(2), false);
        assert_eq!(halted(&creations), None, "another selector");
        creations.halt("labels".to_owned(), now);
        creations.asked(Some("a=c".to_owned()), &template(2), true);
        assert_eq!(halted(&creations), None, "paused");
        creations.halt("labels".to_owned(), now);
        creations.accept();
        assert_eq!(halted(&creations), None, "accepted");
    }

    #[test]
    fn what_was_changed_on_its_way_is_remembered_until_it_is_gone() {
        let mut creations = CreationLimit::default();
        creations.reject("a", "1");
        creations.reject("b", "2");
        let mut review = |is_there: fn(&str) -> bool| {
            creations.review(LIMIT, Instant::now(), |_| Fate::Kept, |name, _| is_there(name));
            creations.rejected()
        };
        assert_eq!(review(|name| name == "a"), [("a".to_owned(), "1".to_owned())]);
        assert!(review(|_| false).is_empty());
    }
}
