//! Episodes of failures: how long to wait before something that failed is tried again.
//!
//! Failures are counted by episode, not by write. An episode begins with a first failure and ends with success, or when
//! what failed has changed. Attempts that fail while the pause of an episode lasts are part of the attempt before it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::core::ObjectMeta;
pub use machinist_infra::backoff::{Backoff, Jitter};
use machinist_infra::kube::error::RemoteError;

/// The first pause after a failed write, whatever it failed of.
const FIRST: Duration = Duration::from_millis(500);

/// What made a write fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The API server of the user cluster, or the way to it. All other writes have the same trouble, and none of them can
    /// end it.
    Server,
    /// What was written, or the infra cluster that it was written to.
    Object,
}

impl Cause {
    /// What the answer of the user cluster's API server says.
    pub fn of(error: &RemoteError) -> Self {
        match error.code() {
            None | Some(401 | 408 | 429 | 500..) => Self::Server,
            Some(_) => Self::Object,
        }
    }

    fn backoff(self) -> Backoff {
        let longest = match self {
            Self::Server => Duration::from_secs(10),
            Self::Object => Duration::from_mins(5),
        };
        Backoff {
            first: FIRST,
            longest,
        }
    }
}

/// Failures in a row, until something ends them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Episode {
    failures: u32,
    /// What failed, as it was then.
    subject: u64,
    last: Timestamp,
    until: Timestamp,
}

impl Episode {
    /// The episode with one more failure of `subject` at `now`.
    pub fn after(before: Option<&Self>, subject: u64, cause: Cause, jitter: Jitter, now: Timestamp) -> Self {
        let before = before.filter(|before| before.subject == subject);
        if let Some(before) = before.filter(|before| before.is_pending(now)) {
            return before.clone();
        }
        Self::longer(before, subject, cause, jitter, now)
    }

    /// The same, also if the pause has not passed yet.
    pub fn longer(before: Option<&Self>, subject: u64, cause: Cause, jitter: Jitter, now: Timestamp) -> Self {
        let before = before.filter(|before| before.subject == subject);
        let failures = before.map_or(0, |before| before.failures);
        Self {
            failures: failures.saturating_add(1),
            subject,
            last: now,
            until: later(now, cause.backoff().pause(failures, jitter)),
        }
    }

    /// When the next attempt may be made, if what failed is `subject` now: what has changed since is tried soon.
    pub fn until(&self, subject: u64) -> Timestamp {
        if subject == self.subject {
            self.until
        } else {
            self.until.min(later(self.last, FIRST))
        }
    }

    /// Ends the episode: something has changed that may let the next attempt succeed.
    pub fn end(&mut self) {
        self.failures = 0;
        self.until = self.until.min(later(self.last, FIRST));
    }

    fn is_pending(&self, now: Timestamp) -> bool {
        self.until > now
    }
}

/// What a person, or another controller, may change of an object: metadata, and whatever else there is to `spec`.
pub fn subject(metadata: &ObjectMeta, spec: impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&metadata.uid, &metadata.labels, &metadata.annotations).hash(&mut hasher);
    metadata.deletion_timestamp.is_some().hash(&mut hasher);
    spec.hash(&mut hasher);
    hasher.finish()
}

fn later(now: Timestamp, pause: Duration) -> Timestamp {
    now.saturating_add(SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX))
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
    }

    /// Fails at once whenever the pause has passed; the pauses.
    fn pauses(cause: Cause, jitter: Jitter, count: usize) -> Vec<i64> {
        let (mut episode, mut now) = (None, at(0));
        (0..count)
            .map(|_| {
                let next = Episode::after(episode.as_ref(), 1, cause, jitter, now);
                let pause = next.until(1).duration_since(now).as_millis();
                now = next.until(1);
                episode = Some(next);
                i64::try_from(pause).unwrap()
            })
            .collect()
    }

    #[test]
    fn pauses_double_up_to_a_limit_that_is_near_where_the_server_is_in_trouble() {
        let refused = pauses(Cause::Object, Jitter::NONE, 12);
        assert_eq!(refused[..4], [500, 1000, 2000, 4000]);
        assert_eq!(refused[9..], [256_000, 300_000, 300_000]);
        let down = pauses(Cause::Server, Jitter::NONE, 7);
        assert_eq!(down, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }

    #[test]
    fn pauses_are_a_fifth_shorter_or_longer_by_chance() {
        assert_eq!(pauses(Cause::Object, Jitter::LEAST, 3), [400, 800, 1600]);
        let pauses = pauses(Cause::Server, Jitter::default(), 200);
        assert!(
            pauses[6..].iter().all(|pause| (8000..=12_000).contains(pause)),
            "{pauses:?}"
        );
        assert_ne!(pauses[6], pauses[7]);
    }

    #[test]
    fn what_fails_while_a_pause_lasts_is_of_the_attempt_before_it() {
        let fail =
            |before: Option<&Episode>, now| Episode::after(before, 1, Cause::Object, Jitter::NONE, at(now));
        let first = fail(None, 0);
        let mut episode = first.clone();
        for millis in 0..400 {
            episode = fail(Some(&episode), millis);
        }
        assert_eq!(episode, first);
        assert_eq!(fail(Some(&episode), 500).until(1), at(1500));
    }

    #[test]
    fn a_change_ends_an_episode_and_the_next_attempt_is_soon_but_never_at_once() {
        let mut episode = None;
        for _ in 0..20 {
            let now = episode
                .as_ref()
                .map_or(at(0), |episode: &Episode| episode.until(1));
            episode = Some(Episode::after(
                episode.as_ref(),
                1,
                Cause::Object,
                Jitter::NONE,
                now,
            ));
        }
        let mut episode = episode.unwrap();
        let soon = later(episode.last, FIRST);
        assert_eq!(episode.until(2), soon);
        assert!(episode.until(1) > soon);
        let changed = Episode::after(Some(&episode), 2, Cause::Object, Jitter::NONE, soon);
        assert_eq!(changed.until(2), later(soon, FIRST));
        episode.end();
        assert_eq!(episode.until(1), soon);
        let next = Episode::after(Some(&episode), 1, Cause::Object, Jitter::NONE, soon);
        assert_eq!(next.until(1), later(soon, FIRST));
    }

    #[rstest]
    #[case::no_answer(None, Cause::Server)]
    #[case::too_many_requests(Some(429), Cause::Server)]
    #[case::internal_error(Some(500), Cause::Server)]
    #[case::unavailable(Some(503), Cause::Server)]
    #[case::a_token_that_is_being_rotated(Some(401), Cause::Server)]
    #[case::quota(Some(403), Cause::Object)]
    #[case::admission(Some(422), Cause::Object)]
    fn an_answer_says_whose_trouble_it_is(#[case] code: Option<u16>, #[case] expected: Cause) {
        let error = match code {
            None => RemoteError::other("no answer"),
            Some(code) => RemoteError::from(&kube::Error::Api(Box::new(kube::core::Status {
                code,
                ..Default::default()
            }))),
        };
        assert_eq!(Cause::of(&error), expected);
    }

    #[test]
    fn what_we_write_ourselves_is_no_change() {
        let metadata = |value| serde_json::from_value::<ObjectMeta>(value).unwrap();
        let one = metadata(serde_json::json!({"uid": "u", "resourceVersion": "1", "labels": {"a": "b"}}));
        let written = metadata(
            serde_json::json!({"uid": "u", "resourceVersion": "2", "labels": {"a": "b"}, "finalizers": ["f"]}),
        );
        let changed = metadata(serde_json::json!({"uid": "u", "resourceVersion": "2", "labels": {"a": "c"}}));
        assert_eq!(subject(&one, 1), subject(&written, 1));
        assert_ne!(subject(&one, 1), subject(&changed, 1));
        assert_ne!(subject(&one, 1), subject(&one, 2));
    }
}
