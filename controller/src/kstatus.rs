//! `Ready`, `Reconciling` and `Stalled` of MachineSets and MachineDeployments, by the rules of kstatus: what Flux, Helm and
//! other tools that wait for an object read from it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::MachineDeploymentCondition;

/// Everything is as the spec asks.
pub const READY: &str = "Ready";
/// It is not yet. There only while that is so.
pub const RECONCILING: &str = "Reconciling";
/// It will not be until a person changes something. There only while that is so.
pub const STALLED: &str = "Stalled";

/// What kstatus computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Everything is as the spec asks.
    Current,
    /// It is not yet.
    InProgress,
    /// It will not be until a person changes something.
    Failed,
}

/// A condition as it should be.
#[derive(Debug, Clone, Copy)]
pub struct Desired<'a> {
    /// Type.
    pub kind: &'a str,
    /// `True`, `False` or `Unknown`.
    pub status: &'a str,
    /// Why, in CamelCase.
    pub reason: &'a str,
    /// For a person. Never holds a secret.
    pub message: &'a str,
}

/// Puts the three into the conditions.
pub fn put_health(
    conditions: &mut Vec<MachineDeploymentCondition>,
    health: Health,
    (reason, message): (&str, &str),
    now: Timestamp,
) {
    let mut put_or_remove = |kind, desired: Option<&str>| match desired {
        Some(status) => {
            let desired = Desired {
                kind,
                status,
                reason,
                message,
            };
            put(conditions, desired, None, now);
        }
        None => conditions.retain(|condition| condition.type_ != kind),
    };
    let is = |other| (health == other).then_some("True");
    put_or_remove(READY, is(Health::Current).or(Some("False")));
    put_or_remove(RECONCILING, is(Health::InProgress));
    put_or_remove(STALLED, is(Health::Failed));
}

/// Puts one condition into the conditions. `updated` is when something last happened that it reports; by default, the time
/// at which status, reason or message changed.
pub fn put(
    conditions: &mut Vec<MachineDeploymentCondition>,
    desired: Desired<'_>,
    updated: Option<Timestamp>,
    now: Timestamp,
) {
    let old = conditions
        .iter()
        .find(|condition| condition.type_ == desired.kind);
    let same_status = old.is_some_and(|old| old.status == desired.status);
    let same = same_status
        && old.is_some_and(|old| {
            old.reason.as_deref() == Some(desired.reason)
                && old.message.as_deref().unwrap_or_default() == desired.message
        });
    let kept = |time: Option<&Time>, keep: bool| time.filter(|_| keep).cloned().or(Some(Time(now)));
    let new = MachineDeploymentCondition {
        type_: desired.kind.to_owned(),
        status: desired.status.to_owned(),
        reason: Some(desired.reason.to_owned()),
        message: Some(desired.message.to_owned()),
        last_update_time: match updated {
            Some(updated) => Some(Time(updated)),
            None => kept(old.and_then(|old| old.last_update_time.as_ref()), same),
        },
        last_transition_time: kept(old.and_then(|old| old.last_transition_time.as_ref()), same_status),
    };
    match conditions
        .iter_mut()
        .find(|condition| condition.type_ == desired.kind)
    {
        Some(slot) => *slot = new,
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[rstest]
    #[case::current(Health::Current, &[("Ready", "True")])]
    #[case::in_progress(Health::InProgress, &[("Ready", "False"), ("Reconciling", "True")])]
    #[case::failed(Health::Failed, &[("Ready", "False"), ("Stalled", "True")])]
    fn what_is_not_so_is_not_there(#[case] health: Health, #[case] expected: &[(&str, &str)]) {
        for before in [Health::Current, Health::InProgress, Health::Failed] {
            let mut conditions = Vec::new();
            put_health(&mut conditions, before, ("Before", "b"), at(0));
            put_health(&mut conditions, health, ("After", "a"), at(1));
            let shown: Vec<_> = conditions
                .iter()
                .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
                .collect();
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn a_transition_is_one_of_the_status_and_an_update_one_of_anything() {
        let mut conditions = Vec::new();
        put_health(&mut conditions, Health::InProgress, ("A", "1 of 3"), at(0));
        put_health(&mut conditions, Health::InProgress, ("A", "2 of 3"), at(1));
        put_health(&mut conditions, Health::InProgress, ("A", "2 of 3"), at(2));
        let ready = &conditions[0];
        assert_eq!(ready.last_transition_time, Some(Time(at(0))));
        assert_eq!(ready.last_update_time, Some(Time(at(1))));
    }
}
