//! Conditions of a Machine: one per question, each with a reason from a closed list and a message for a person.

use std::time::Duration;

use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_shared::api::names::condition;

use super::reason::Reason;

/// Status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Yes.
    True,
    /// No.
    False,
    /// It cannot be determined.
    Unknown,
}

impl Status {
    fn text(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// How soon a changed condition must be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Mere progress: with the next write, or after a [`ProgressInterval`].
    Lazy,
    /// At once.
    Now,
}

/// What becomes of other words for the same reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// They are as urgent as the reason.
    Same,
    /// They are mere progress.
    Late,
    /// The first stay.
    First,
}

/// How long after the last write progress alone is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressInterval {
    /// Another stage.
    stage: Duration,
}

impl ProgressInterval {
    /// Another stage is written `stage` after the last write.
    pub fn new(stage: Duration) -> Self {
        Self { stage }
    }

    /// Another stage.
    fn stage(self) -> Duration {
        self.stage
    }

    /// Other words for the same stage, like the percentage of an import: 10 s for a stage's 3 s.
    fn words(self) -> Duration {
        self.stage * 10 / 3
    }
}

/// A condition as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Type, from [`condition`].
    pub kind: &'static str,
    /// Status.
    pub status: Status,
    /// Reason, CamelCase.
    pub reason: String,
    /// For a person. Never holds a secret.
    pub message: String,
    /// How soon a change of it must be written.
    pub urgency: Urgency,
    /// What becomes of other words for the same reason.
    pub words: Words,
}

impl Condition {
    /// A condition to be written at once when it changes.
    pub fn new(kind: &'static str, status: Status, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind,
            status,
            reason: reason.as_str().to_owned(),
            message: message.into(),
            urgency: Urgency::Now,
            words: Words::Same,
        }
    }

    /// `InfrastructureReady`.
    pub fn infrastructure(status: Status, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(condition::INFRASTRUCTURE_READY, status, reason, message)
    }

    /// `NodeReady`.
    pub fn node_ready(status: Status, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(condition::NODE_READY, status, reason, message)
    }

    /// `NodeReady` of a Machine that has no VM.
    pub fn no_vm_yet() -> Self {
        Self::node_ready(Status::False, Reason::WaitingForVM, "there is no VM yet").lazy()
    }

    /// `Deleting`, at that step.
    pub fn deleting(step: Reason, message: impl Into<String>) -> Self {
        Self::new(condition::DELETING, Status::True, step, message)
    }

    /// A condition as it is stored.
    pub fn stored(kind: &'static str, stored: &NodeCondition) -> Self {
        let status = match stored.status.as_str() {
            "True" => Status::True,
            "False" => Status::False,
            _ => Status::Unknown,
        };
        Self {
            kind,
            status,
            reason: stored.reason.clone().unwrap_or_default(),
            message: stored.message.clone().unwrap_or_default(),
            urgency: Urgency::Lazy,
            words: Words::Same,
        }
    }

    /// The same, as mere progress.
    #[must_use]
    pub fn lazy(mut self) -> Self {
        self.urgency = Urgency::Lazy;
        self
    }

    /// The same; what becomes of other words for the same reason.
    #[must_use]
    pub fn words(mut self, words: Words) -> Self {
        self.words = words;
        self
    }
}

/// Adds the summary `Ready`: what the first of the others that is not True says.
pub fn with_summary(mut conditions: Vec<Condition>) -> Vec<Condition> {
    let order = [
        condition::DELETING,
        condition::INFRASTRUCTURE_REACHABLE,
        condition::INFRASTRUCTURE_READY,
        condition::BOOTSTRAP_READY,
        condition::NODE_READY,
    ];
    let blocking = order.iter().find_map(|kind| {
        let found = conditions.iter().find(|c| c.kind == *kind)?;
        let blocks = if *kind == condition::DELETING {
            found.status == Status::True
        } else {
            found.status != Status::True
        };
        blocks.then_some(found)
    });
    // A drain says more of what it waits for than that it goes on.
    let is_drained = |cause: &Condition| cause.reason == Reason::DrainingNode.as_str();
    let drain = conditions
        .iter()
        .find(|c| c.kind == condition::DRAINED && c.status == Status::False);
    let blocking = blocking.map(|cause| drain.filter(|_| is_drained(cause)).unwrap_or(cause));
    let ready = match blocking {
        None => Condition::new(condition::READY, Status::True, Reason::NodeReady, ""),
        Some(cause) => Condition {
            kind: condition::READY,
            status: Status::False,
            reason: cause.reason.clone(),
            message: cause.message.clone(),
            urgency: cause.urgency,
            words: cause.words,
        },
    };
    conditions.insert(0, ready);
    conditions
}

/// What writing conditions comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// They are as they should be.
    None,
    /// Only progress changed; the earliest time to write it.
    Later(Vec<NodeCondition>, Timestamp),
    /// To be written now.
    Now(Vec<NodeCondition>),
}

/// Compares the stored conditions with the wanted ones. Conditions of types that are not ours are kept. Before the first
/// write, progress is counted from when the object was `born`.
pub fn change(
    stored: &[NodeCondition],
    wanted: &[Condition],
    now: Timestamp,
    born: Option<Timestamp>,
    interval: ProgressInterval,
) -> Change {
    let mut urgency = None;
    let mut only_words = true;
    let mut list: Vec<NodeCondition> = Vec::with_capacity(wanted.len());
    for want in wanted {
        let old = stored.iter().find(|c| c.type_ == want.kind);
        let same_status = old.is_some_and(|c| {
            // Each step of a deletion is a state of its own: since when it hangs there is what people ask.
            let same_step = want.kind != condition::DELETING || c.reason.as_deref() == Some(&want.reason);
            c.status == want.status.text() && same_step
        });
        let same_reason = old.is_some_and(|c| c.reason.as_deref().unwrap_or_default() == want.reason);
        let same_words = want.words == Words::First
            || old.is_some_and(|c| c.message.as_deref().unwrap_or_default() == want.message);
        if let Some(old) = old.filter(|_| same_status && same_reason && same_words) {
            list.push(old.clone());
            continue;
        }
        // A new condition that says "not yet" is progress; a new verdict is not.
        urgency = urgency.max(Some(match want.words {
            Words::Late if same_reason => Urgency::Lazy,
            _ => want.urgency,
        }));
        only_words &= same_status && same_reason;
        list.push(NodeCondition {
            type_: want.kind.to_owned(),
            status: want.status.text().to_owned(),
            reason: Some(want.reason.clone()),
            message: Some(want.message.clone()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: match old {
                Some(old) if same_status && old.last_transition_time.is_some() => {
                    old.last_transition_time.clone()
                }
                _ => Some(Time(now)),
            },
        });
    }
    let foreign = stored.iter().filter(|c| !is_ours(&c.type_));
    let dropped = stored
        .iter()
        .any(|c| is_ours(&c.type_) && !wanted.iter().any(|w| w.kind == c.type_));
    list.extend(foreign.cloned());
    if dropped {
        urgency = Some(Urgency::Now);
    }
    match urgency {
        None => Change::None,
        Some(Urgency::Now) => Change::Now(list),
        Some(Urgency::Lazy) => {
            let written = stored
                .iter()
                .filter_map(|c| c.last_heartbeat_time.as_ref())
                .map(|t| t.0)
                .max()
                .or(born);
            let pause = if only_words {
                interval.words()
            } else {
                interval.stage()
            };
            let due = written.map_or(now, |written| {
                written + SignedDuration::try_from(pause).unwrap_or(SignedDuration::ZERO)
            });
            if due <= now {
                Change::Now(list)
            } else {
                Change::Later(list, due)
            }
        }
    }
}

fn is_ours(kind: &str) -> bool {
    [
        condition::READY,
        condition::INFRASTRUCTURE_READY,
        condition::INFRASTRUCTURE_REACHABLE,
        condition::BOOTSTRAP_READY,
        condition::NODE_READY,
        condition::SERVING_CERTIFICATE,
        condition::EVACUATING,
        condition::DRAINED,
        condition::VOLUMES_DETACHED,
        condition::DELETING,
    ]
    .contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: ProgressInterval = ProgressInterval {
        stage: Duration::from_secs(3),
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn progress(message: &str) -> Condition {
        Condition::new(
            condition::INFRASTRUCTURE_READY,
            Status::False,
            Reason::Creating,
            message,
        )
        .lazy()
    }

    fn stored(change: Change) -> Vec<NodeCondition> {
        match change {
            Change::Now(list) | Change::Later(list, _) => list,
            Change::None => panic!("nothing changed"),
        }
    }

    #[test]
    fn what_is_stored_is_not_written_again() {
        let list = stored(change(&[], &[progress("a")], at(0), None, INTERVAL));
        assert_eq!(
            change(&list, &[progress("a")], at(9), None, INTERVAL),
            Change::None
        );
    }

    #[test]
    fn progress_waits_after_the_last_write_and_a_cause_does_not() {
        let list = stored(change(&[], &[progress("a")], at(0), None, INTERVAL));
        assert!(
            matches!(change(&list, &[progress("b")], at(3), None, INTERVAL), Change::Later(_, due) if due == at(10))
        );
        assert!(matches!(
            change(&list, &[progress("b")], at(10), None, INTERVAL),
            Change::Now(_)
        ));
        let stage = Condition {
            reason: "DiskImporting".to_owned(),
            ..progress("b")
        };
        let stage = std::slice::from_ref(&stage);
        assert!(matches!(change(&list, stage, at(1), None, INTERVAL), Change::Later(_, due) if due == at(3)));
        assert!(matches!(
            change(&list, stage, at(3), None, INTERVAL),
            Change::Now(_)
        ));
        let cause = Condition::new(
            condition::INFRASTRUCTURE_READY,
            Status::False,
            Reason::CreateFailed,
            "quota",
        );
        assert!(matches!(
            change(&list, &[cause], at(1), None, INTERVAL),
            Change::Now(_)
        ));
    }

    #[test]
    fn progress_before_the_first_write_waits_a_moment_too() {
        let wanted = [progress("a")];
        assert!(
            matches!(change(&[], &wanted, at(1), Some(at(0)), INTERVAL), Change::Later(_, due) if due == at(3))
        );
        assert!(matches!(
            change(&[], &wanted, at(3), Some(at(0)), INTERVAL),
            Change::Now(_)
        ));
    }

    #[test]
    fn the_transition_time_is_that_of_the_status() {
        let list = stored(change(&[], &[progress("a")], at(0), None, INTERVAL));
        let list = stored(change(&list, &[progress("b")], at(5), None, INTERVAL));
        assert_eq!(list[0].last_transition_time, Some(Time(at(0))));
        assert_eq!(list[0].last_heartbeat_time, Some(Time(at(5))));
    }

    #[test]
    fn the_transition_time_of_a_deletion_is_that_of_its_step() {
        let step = |reason, message: &str| Condition::new(condition::DELETING, Status::True, reason, message);
        let list = stored(change(
            &[],
            &[step(Reason::DrainingNode, "a")],
            at(0),
            None,
            INTERVAL,
        ));
        let list = stored(change(
            &list,
            &[step(Reason::DrainingNode, "b")],
            at(5),
            None,
            INTERVAL,
        ));
        assert_eq!(list[0].last_transition_time, Some(Time(at(0))));
        let list = stored(change(
            &list,
            &[step(Reason::WaitingForVMDeletion, "b")],
            at(9),
            None,
            INTERVAL,
        ));
        assert_eq!(list[0].last_transition_time, Some(Time(at(9))));
    }

    #[test]
    fn conditions_of_others_are_kept_and_our_own_leftovers_go() {
        let foreign = NodeCondition {
            type_: "Theirs".into(),
            status: "True".into(),
            ..NodeCondition::default()
        };
        let ours = NodeCondition {
            type_: condition::DELETING.into(),
            status: "True".into(),
            ..NodeCondition::default()
        };
        let list = stored(change(&[foreign, ours], &[progress("a")], at(0), None, INTERVAL));
        let types: Vec<_> = list.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(types, [condition::INFRASTRUCTURE_READY, "Theirs"]);
    }

    /// `kubectl get machines` shows it: what a deletion waits for, and while it drains, what the drain waits for.
    #[rstest::rstest]
    #[case::a_drain(Reason::DrainingNode, ("EvictionBlocked", "budget"))]
    #[case::another_step(Reason::WaitingForVMDeletion, ("WaitingForVMDeletion", "step"))]
    fn the_summary_of_a_deletion_has_what_it_waits_for(#[case] step: Reason, #[case] shown: (&str, &str)) {
        let all = with_summary(vec![
            Condition::new(condition::NODE_READY, Status::False, Reason::NodeNotReady, "node"),
            Condition::new(
                condition::DRAINED,
                Status::False,
                Reason::EvictionBlocked,
                "budget",
            ),
            Condition::deleting(step, "step"),
        ]);
        assert_eq!((all[0].kind, all[0].status), (condition::READY, Status::False));
        assert_eq!((all[0].reason.as_str(), all[0].message.as_str()), shown);
    }

    #[test]
    fn the_summary_says_what_the_first_trouble_says() {
        let all = with_summary(vec![
            Condition::new(
                condition::INFRASTRUCTURE_REACHABLE,
                Status::True,
                Reason::Reachable,
                "",
            ),
            Condition::new(
                condition::INFRASTRUCTURE_READY,
                Status::False,
                Reason::DiskNameTaken,
                "disk",
            ),
            Condition::new(
                condition::NODE_READY,
                Status::False,
                Reason::WaitingForNode,
                "node",
            ),
        ]);
        assert_eq!(
            (all[0].kind, all[0].status, all[0].message.as_str()),
            (condition::READY, Status::False, "disk")
        );
        assert_eq!(all[0].reason, "DiskNameTaken");
    }
}
