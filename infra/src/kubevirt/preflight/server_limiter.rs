//! Limits the requests to one API server: while it does not respond, few requests wait for it, so that requests to
//! other servers can proceed.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

/// Maximum number of concurrent requests: less than half of the webhook's limit of reviews.
const MAX_CONCURRENT: usize = 24;
/// How long a request waits for a permit.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(250);
/// Maximum number of waiting requests, unless the server is known to respond.
const MAX_WAITING: usize = 8;
/// How long a server counts as reachable after a response.
const REACHABLE_TTL: Duration = Duration::from_secs(10);
/// A request without a response for longer than this marks the server as unreachable. A faster failure blocks no
/// permit, and may be temporary.
const SLOW_THRESHOLD: Duration = Duration::from_millis(500);
/// How long a server counts as unreachable; then one request tries again.
const UNREACHABLE_TTL: Duration = Duration::from_secs(3);

/// The limiter for one API server.
#[derive(Debug)]
pub(super) struct ServerLimiter {
    places: Semaphore,
    waiting: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Until when requests fail immediately, and why.
    silent: Option<(Instant, String)>,
    /// Time of the last response.
    answered: Option<Instant>,
}

impl State {
    /// Whether it has responded recently.
    fn is_reachable(&self, now: Instant) -> bool {
        self.answered.is_some_and(|last| now < last + REACHABLE_TTL)
    }
}

/// Permission to send a request, until dropped.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    limiter: &'a ServerLimiter,
    since: Instant,
    _slot: SemaphorePermit<'a>,
}

impl Default for ServerLimiter {
    fn default() -> Self {
        Self {
            places: Semaphore::new(MAX_CONCURRENT),
            waiting: Semaphore::new(MAX_WAITING),
            state: Mutex::default(),
        }
    }
}

impl ServerLimiter {
    /// Acquires a permit for a request with that deadline; an error if the server is known to be unreachable or too many requests
    /// wait for it. For a server that responds, it waits for up to half of the time.
    pub(super) async fn acquire(&self, deadline: Instant) -> Result<Permit<'_>, String> {
        let lively = self.may_ask(Instant::now())?;
        let crowded = || format!("{MAX_CONCURRENT} other requests wait for its response");
        let place = |permit| Permit {
            limiter: self,
            since: Instant::now(),
            _slot: permit,
        };
        if let Ok(permit) = self.places.try_acquire() {
            return Ok(place(permit));
        }
        let waiting = self.waiting.try_acquire();
        if waiting.is_err() && !lively {
            return Err(crowded());
        }
        let half = deadline.saturating_duration_since(Instant::now()) / 2;
        let time = if lively {
            half.max(QUEUE_TIMEOUT)
        } else {
            QUEUE_TIMEOUT
        };
        match timeout(time, self.places.acquire()).await {
            Ok(Ok(permit)) => Ok(place(permit)),
            _ => Err(crowded()),
        }
    }

    /// Records that the server has responded.
    pub(super) fn answered(&self) {
        self.state.lock().answered = Some(Instant::now());
    }

    /// Whether it has responded recently.
    pub(super) fn is_answering(&self) -> bool {
        self.state.lock().is_reachable(Instant::now())
    }

    /// Whether a request may be sent; if so, whether the server is known to respond.
    fn may_ask(&self, now: Instant) -> Result<bool, String> {
        let mut state = self.state.lock();
        match state.silent.as_mut() {
            Some((until, why)) if now < *until => return Err(why.clone()),
            // This request tries again; others continue to fail until it succeeds.
            Some((until, _)) => *until = now + UNREACHABLE_TTL,
            None => {}
        }
        Ok(state.is_reachable(now))
    }

    /// Records the result of a request with that duration.
    fn record(&self, unanswered: Option<&str>, took: Duration, now: Instant) {
        let mut state = self.state.lock();
        match unanswered {
            None => {
                *state = State {
                    silent: None,
                    answered: Some(now),
                };
            }
            // A slow server is tried again: the next response may be in time.
            Some(_) if state.is_reachable(now) => {}
            Some(why) if took >= SLOW_THRESHOLD => {
                *state = State {
                    silent: Some((now + UNREACHABLE_TTL, why.to_owned())),
                    answered: None,
                };
            }
            Some(_) => {}
        }
    }
}

impl Permit<'_> {
    /// Releases the permit with the result of the request.
    pub(super) fn release(self, unanswered: Option<&str>) {
        self.limiter
            .record(unanswered, self.since.elapsed(), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::super::unreachable::Unreachable;
    use super::*;

    const LATE: Option<&str> = Some("no answer in time");

    #[test]
    fn a_server_that_did_not_answer_is_left_alone_until_one_question_is_answered() {
        let (limiter, now) = (ServerLimiter::default(), Instant::now());
        assert_eq!(limiter.may_ask(now), Ok(false));
        limiter.record(LATE, SLOW_THRESHOLD, now);
        assert_eq!(limiter.may_ask(now).unwrap_err(), "no answer in time");

        let later = now + UNREACHABLE_TTL;
        assert!(limiter.may_ask(later).is_ok(), "one finds out");
        assert!(limiter.may_ask(later).is_err(), "and one is enough");
        limiter.record(None, SLOW_THRESHOLD, later);
        assert_eq!(limiter.may_ask(later), Ok(true));
    }

    #[test]
    fn a_server_that_has_answered_lately_is_asked_on_when_one_answer_is_late() {
        let (limiter, now) = (ServerLimiter::default(), Instant::now());
        limiter.record(None, SLOW_THRESHOLD, now);
        limiter.record(LATE, SLOW_THRESHOLD * 4, now + SLOW_THRESHOLD * 4);
        assert_eq!(limiter.may_ask(now + SLOW_THRESHOLD * 4), Ok(true));
        limiter.record(LATE, SLOW_THRESHOLD * 4, now + REACHABLE_TTL);
        assert!(
            limiter.may_ask(now + REACHABLE_TTL).is_err(),
            "it has not answered for a while"
        );
    }

    /// Each answer counts, also where the last question of an admission is late.
    #[test]
    fn a_server_that_answers_slowly_is_asked_on_and_called_slow() {
        let limiter = ServerLimiter::default();
        let late = |limiter: &ServerLimiter| Unreachable::Late.text(limiter.is_answering());
        assert_eq!(late(&limiter), "no answer in time");
        limiter.answered();
        assert!(late(&limiter).contains("--infra-timeout"));
        limiter.record(LATE, SLOW_THRESHOLD, Instant::now());
        assert_eq!(limiter.may_ask(Instant::now()), Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn for_a_server_that_answers_a_place_is_waited_for_half_the_time() {
        let limiter = ServerLimiter::default();
        limiter.answered();
        let deadline = Instant::now() + QUEUE_TIMEOUT * 8;
        let mut places = Vec::new();
        for _ in 0..MAX_CONCURRENT {
            places.push(limiter.acquire(deadline).await.unwrap());
        }
        let (next, ()) = tokio::join!(limiter.acquire(deadline), async {
            tokio::time::sleep(QUEUE_TIMEOUT * 2).await;
            places.pop();
        });
        assert!(next.is_ok());
        let begun = Instant::now();
        assert!(limiter.acquire(begun + QUEUE_TIMEOUT * 4).await.is_err());
        assert!(begun.elapsed() < QUEUE_TIMEOUT * 3);
    }

    #[test]
    fn a_fast_failure_blocks_no_request() {
        let (limiter, now) = (ServerLimiter::default(), Instant::now());
        limiter.record(Some("connection refused"), SLOW_THRESHOLD / 2, now);
        assert!(limiter.may_ask(now).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn few_wait_for_a_server_unless_it_is_known_to_answer() {
        let limiter = ServerLimiter::default();
        let mut places = Vec::new();
        for _ in 0..MAX_CONCURRENT {
            places.push(limiter.acquire(Instant::now()).await.unwrap());
        }
        let begun = Instant::now();
        let all = futures::future::join_all(
            (0..MAX_CONCURRENT + MAX_WAITING).map(|_| limiter.acquire(Instant::now())),
        )
        .await;
        assert!(all.iter().all(Result::is_err));
        assert!(begun.elapsed() >= QUEUE_TIMEOUT, "some have waited for a place");

        let waiting: Vec<_> = (0..MAX_WAITING).map(|_| limiter.waiting.try_acquire()).collect();
        assert!(
            limiter
                .acquire(Instant::now())
                .await
                .unwrap_err()
                .contains("other requests wait")
        );
        // One is answered, so that a place is free and there is hope for more.
        places.pop().unwrap().release(None);
        let place = limiter.acquire(Instant::now()).await.unwrap();
        let (next, ()) = tokio::join!(limiter.acquire(Instant::now()), async { place.release(None) });
        assert!(next.is_ok());
        drop(waiting);
    }
}
