//! The way to one API server: while it does not answer, few wait for it, so that those who ask others find a place.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

/// How many may ask at once: less than half of what the server of the reviews takes.
const PLACES: usize = 24;
/// How long a place is waited for.
const QUEUE: Duration = Duration::from_millis(250);
/// How many may wait for a place, unless the server is known to answer.
const WAITING: usize = 8;
/// How long it is believed that a server answers.
const LIVELY: Duration = Duration::from_secs(10);
/// A question that takes longer and stays without an answer tells that the next will, too. What fails sooner costs nobody
/// a place, and may be mended.
const SLOW: Duration = Duration::from_millis(500);
/// How long nobody asks a server that did not answer; then one does.
const SILENCE: Duration = Duration::from_secs(3);

/// The gate before one API server.
#[derive(Debug)]
pub(super) struct Gate {
    places: Semaphore,
    waiting: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Until when nobody asks, and why.
    silent: Option<(Instant, String)>,
    /// When a question was last answered.
    answered: Option<Instant>,
}

impl State {
    /// Whether it has answered lately.
    fn is_lively(&self, now: Instant) -> bool {
        self.answered.is_some_and(|last| now < last + LIVELY)
    }
}

/// A place among those who ask; left when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    gate: &'a Gate,
    since: Instant,
    _permit: SemaphorePermit<'a>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            places: Semaphore::new(PLACES),
            waiting: Semaphore::new(WAITING),
            state: Mutex::default(),
        }
    }
}

impl Gate {
    /// A place; why there is none, if the server is known not to answer or too many wait for it.
    pub(super) async fn enter(&self) -> Result<Place<'_>, String> {
        let lively = self.may_ask(Instant::now())?;
        let crowded = || format!("{PLACES} other questions wait for its answer");
        let place = |permit| Place {
            gate: self,
            since: Instant::now(),
            _permit: permit,
        };
        if let Ok(permit) = self.places.try_acquire() {
            return Ok(place(permit));
        }
        let waiting = self.waiting.try_acquire();
        if waiting.is_err() && !lively {
            return Err(crowded());
        }
        match timeout(QUEUE, self.places.acquire()).await {
            Ok(Ok(permit)) => Ok(place(permit)),
            _ => Err(crowded()),
        }
    }

    /// Whether it makes sense to ask; if so, whether the server is known to answer.
    fn may_ask(&self, now: Instant) -> Result<bool, String> {
        let mut state = self.state.lock();
        match state.silent.as_mut() {
            Some((until, why)) if now < *until => return Err(why.clone()),
            // This one finds out; the others go on as before until it has.
            Some((until, _)) => *until = now + SILENCE,
            None => {}
        }
        Ok(state.is_lively(now))
    }

    /// What came of a question that took so long.
    fn learn(&self, unanswered: Option<&str>, took: Duration, now: Instant) {
        let mut state = self.state.lock();
        match unanswered {
            None => {
                *state = State {
                    silent: None,
                    answered: Some(now),
                };
            }
            // One that is slow is asked again: whoever is next may have an answer in time.
            Some(_) if state.is_lively(now) => {}
            Some(why) if took >= SLOW => {
                *state = State {
                    silent: Some((now + SILENCE, why.to_owned())),
                    answered: None,
                };
            }
            Some(_) => {}
        }
    }
}

impl Place<'_> {
    /// Leaves, with what came of the question.
    pub(super) fn leave(self, unanswered: Option<&str>) {
        self.gate.learn(unanswered, self.since.elapsed(), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Option<&str> = Some("no answer in time");

    #[test]
    fn a_server_that_did_not_answer_is_left_alone_until_one_question_is_answered() {
        let (gate, now) = (Gate::default(), Instant::now());
        assert_eq!(gate.may_ask(now), Ok(false));
        gate.learn(LATE, SLOW, now);
        assert_eq!(gate.may_ask(now).unwrap_err(), "no answer in time");

        let later = now + SILENCE;
        assert!(gate.may_ask(later).is_ok(), "one finds out");
        assert!(gate.may_ask(later).is_err(), "and one is enough");
        gate.learn(None, SLOW, later);
        assert_eq!(gate.may_ask(later), Ok(true));
    }

    #[test]
    fn a_server_that_has_answered_lately_is_asked_on_when_one_answer_is_late() {
        let (gate, now) = (Gate::default(), Instant::now());
        gate.learn(None, SLOW, now);
        gate.learn(LATE, SLOW * 4, now + SLOW * 4);
        assert_eq!(gate.may_ask(now + SLOW * 4), Ok(true));
        gate.learn(LATE, SLOW * 4, now + LIVELY);
        assert!(
            gate.may_ask(now + LIVELY).is_err(),
            "it has not answered for a while"
        );
    }

    #[test]
    fn what_fails_at_once_keeps_nobody_away() {
        let (gate, now) = (Gate::default(), Instant::now());
        gate.learn(Some("connection refused"), SLOW / 2, now);
        assert!(gate.may_ask(now).is_ok());
    }

    #[tokio::test]
    async fn few_wait_for_a_server_unless_it_is_known_to_answer() {
        let gate = Gate::default();
        let mut places = Vec::new();
        for _ in 0..PLACES {
            places.push(gate.enter().await.unwrap());
        }
        let begun = Instant::now();
        let all = futures::future::join_all((0..PLACES + WAITING).map(|_| gate.enter())).await;
        assert!(all.iter().all(Result::is_err));
        assert!(begun.elapsed() >= QUEUE, "some have waited for a place");

        let waiting: Vec<_> = (0..WAITING).map(|_| gate.waiting.try_acquire()).collect();
        assert!(gate.enter().await.unwrap_err().contains("other questions wait"));
        // One is answered, so that a place is free and there is hope for more.
        places.pop().unwrap().leave(None);
        let place = gate.enter().await.unwrap();
        let (next, ()) = tokio::join!(gate.enter(), async { place.leave(None) });
        assert!(next.is_ok());
        drop(waiting);
    }
}
