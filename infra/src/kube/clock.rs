//! The time of an API server: this process's clock, corrected by the `Date` of responses.
//!
//! Times that the API server stamps (`creationTimestamp`, the expiration of bootstrap tokens) are compared only with
//! this clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::future::BoxFuture;
use http::{Request, Response, header};
use k8s_openapi::jiff::fmt::rfc2822;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tower::Service;

use crate::kube::layer::{Middleware, layer};

/// No response has had a time yet.
const UNKNOWN: i64 = i64::MIN;

/// Maximum difference of the clocks: beyond that, one of them is broken, with unknown consequences.
const MAX_SKEW: SignedDuration = SignedDuration::from_hours(1);

/// A `Date` has whole seconds; the actual time may be up to a second later.
const RESOLUTION: SignedDuration = SignedDuration::from_secs(1);

/// The difference between an API server's clock and this process's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skew {
    /// No response has had a time yet.
    Unknown,
    /// Small enough to be corrected.
    Small,
    /// So large that nothing is created or deleted.
    TooLarge(SignedDuration),
}

/// The clock of one API server.
#[derive(Debug, Clone)]
pub struct ServerClock {
    /// Milliseconds by which it is ahead of this process's clock.
    ahead: Arc<AtomicI64>,
}

impl Default for ServerClock {
    fn default() -> Self {
        Self {
            ahead: Arc::new(AtomicI64::new(UNKNOWN)),
        }
    }
}

impl ServerClock {
    /// Its current time; this process's time until a response has had a time.
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        let ahead = self.ahead().unwrap_or_default();
        now.saturating_add(ahead).unwrap_or(now)
    }

    /// How far it is ahead of this process's clock, with an error of up to a second and the fastest response time.
    /// `None` until a response has had a time.
    pub fn ahead(&self) -> Option<SignedDuration> {
        let ahead = self.ahead.load(Ordering::Relaxed);
        (ahead != UNKNOWN).then(|| SignedDuration::from_millis(ahead))
    }

    /// Whether the difference is small enough.
    pub fn skew(&self) -> Skew {
        match self.ahead() {
            None => Skew::Unknown,
            Some(ahead) if ahead.abs() <= MAX_SKEW => Skew::Small,
            Some(ahead) => Skew::TooLarge(ahead),
        }
    }

    /// Records the `Date` of a response with the times of request and response. The estimate stays as long as it is
    /// possible: so a correct clock is not corrected, and a correction does not oscillate.
    fn record(&self, date: Timestamp, sent: Timestamp, came: Timestamp) {
        let millis = |ahead: SignedDuration| i64::try_from(ahead.as_millis()).unwrap_or_default();
        let least = millis(date.duration_since(came));
        let most = millis(date.duration_since(sent) + RESOLUTION);
        // This process's clock was changed meanwhile.
        if most < least {
            return;
        }
        let next = |known: i64| Some(if known == UNKNOWN { 0 } else { known }.clamp(least, most));
        let _ = self
            .ahead
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

layer!(ServerClock);

impl<S, A, B> Middleware<S, A> for ServerClock
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Answer = S::Response;

    fn call(&self, inner: &mut S, request: Request<A>) -> BoxFuture<'static, Result<Self::Answer, S::Error>> {
        let (clock, sent) = (self.clone(), Timestamp::now());
        let answer = inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            let date = answer.headers().get(header::DATE);
            let date = date.and_then(|date| rfc2822::parse(date.to_str().ok()?).ok());
            if let Some(date) = date {
                clock.record(date.timestamp(), sent, Timestamp::now());
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
    }

    fn ahead(clock: &ServerClock) -> Option<i128> {
        clock.ahead().map(|ahead| ahead.as_millis())
    }

    #[test]
    fn a_clock_that_may_be_right_is_not_corrected() {
        let clock = ServerClock::default();
        assert_eq!(ahead(&clock), None);
        for millis in 0..3000 {
            // Both show the same; the answer takes 20 ms.
            let date = at((millis + 10) / 1000 * 1000);
            clock.record(date, at(millis), at(millis + 20));
            assert_eq!(ahead(&clock), Some(0), "{millis}");
        }
    }

    #[test]
    fn a_clock_that_is_wrong_is_corrected_to_within_a_second_and_stays_so() {
        for skew in [-40 * 60_000_i64, -3000, 1500, 180_000, 7_200_000] {
            let clock = ServerClock::default();
            let mut before = None;
            for millis in (0..4000).step_by(37) {
                let date = at((millis + skew + 10).div_euclid(1000) * 1000);
                clock.record(date, at(millis), at(millis + 20));
                let known = ahead(&clock).unwrap();
                assert!((known - i128::from(skew)).abs() <= 1020, "{skew}: {known}");
                // To within the time from one answer to the next.
                let settled = before.is_some_and(|before: i128| (before - known).abs() <= 37);
                assert!(settled || millis <= 2000, "{skew}: {before:?}, then {known}");
                before = Some(known);
            }
        }
    }

    #[test]
    fn an_hour_is_corrected_and_more_is_not() {
        let clock = ServerClock::default();
        assert_eq!(clock.skew(), Skew::Unknown);
        for (seconds, small) in [(3599, true), (-3599, true), (3602, false), (-3602, false)] {
            clock.record(at(seconds * 1000), at(0), at(20));
            assert_eq!(clock.skew() == Skew::Small, small, "{seconds}");
        }
    }

    #[test]
    fn a_clock_that_is_set_is_followed_and_slow_answers_say_little() {
        let clock = ServerClock::default();
        clock.record(at(2_400_000), at(0), at(20));
        clock.record(at(2_400_000), at(-60_000), at(60_000));
        let known = ahead(&clock).unwrap();
        assert!((2_399_980..=2_401_000).contains(&known), "{known}");
        clock.record(at(5000), at(5000), at(5020));
        let known = ahead(&clock).unwrap();
        assert!((-20..=1000).contains(&known), "{known}");
    }

    #[tokio::test]
    async fn the_date_of_an_answer_is_read() {
        let clock = ServerClock::default();
        let answer = |date: &'static str| {
            service_fn(move |_: Request<()>| async move {
                let answer = Response::builder().header("date", date).body(()).unwrap();
                Ok::<_, Infallible>(answer)
            })
        };
        let ask = |date| clock.layer(answer(date)).oneshot(Request::new(()));
        ask("no date").await.unwrap();
        assert_eq!(clock.ahead(), None);
        ask("Fri, 31 Dec 2100 23:59:59 GMT").await.unwrap();
        let end: Timestamp = "2100-12-31T23:59:59Z".parse().unwrap();
        let off = clock.now().duration_since(end).as_millis().abs();
        assert!(off < 60_000, "{off}");
    }
}
