//! The number of Machines that an object adds at once.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use machinist_shared::api::rollout;
use serde_json::Value;

/// The number of additional Machines: all of a new object; for a changed template, the added ones and the surge of the
/// rollout.
pub(crate) fn added(old: Option<&Value>, new: &Value) -> u64 {
    let replicas = |object: &Value| object.pointer("/spec/replicas").and_then(Value::as_u64);
    let wanted = replicas(new).unwrap_or(1);
    match old {
        None => wanted,
        Some(old) => {
            let surge = surge(new, wanted).min(wanted);
            wanted.saturating_sub(replicas(old).unwrap_or(1)) + surge
        }
    }
}

/// `maxSurge` of a MachineDeployment; a MachineSet has no rollout.
fn surge(object: &Value, replicas: u64) -> u64 {
    let strategy = object.pointer("/spec/strategy").unwrap_or(&Value::Null);
    if strategy.get("type").and_then(Value::as_str) != Some("RollingUpdate") {
        return 0;
    }
    let written = strategy.pointer("/rollingUpdate/maxSurge").cloned();
    // Values of a wrong type are already reported.
    let written: Option<IntOrString> = written.and_then(|it| serde_json::from_value(it).ok());
    let replicas = i32::try_from(replicas).unwrap_or(i32::MAX);
    u64::try_from(rollout::max_surge(written.as_ref(), replicas)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::a_new_one(None, json!(3), json!(1), 3)]
    #[case::a_rollout(Some(3), json!(3), json!(1), 1)]
    #[case::a_rollout_that_grows(Some(3), json!(5), json!(1), 3)]
    #[case::a_rollout_that_shrinks(Some(5), json!(3), json!(1), 1)]
    #[case::in_percent(Some(10), json!(10), json!("25%"), 3)]
    #[case::without_surge(Some(3), json!(3), json!(0), 0)]
    #[case::with_the_surge_that_is_the_default(Some(3), json!(3), json!(null), 1)]
    #[case::no_more_than_there_are(Some(2), json!(2), json!(9), 2)]
    fn a_pool_needs_room_for_what_is_added(
        #[case] old: Option<u64>,
        #[case] replicas: Value,
        #[case] surge: Value,
        #[case] want: u64,
    ) {
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge}});
        let new = json!({"spec": {"replicas": replicas, "strategy": strategy}});
        let old = old.map(|replicas| json!({"spec": {"replicas": replicas}}));
        assert_eq!(added(old.as_ref(), &new), want);
    }
}
