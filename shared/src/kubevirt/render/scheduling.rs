//! Placement of the VM: node affinity and topology spread.

use serde_json::{Value, json};

use crate::api::names::label;
use crate::kubevirt::resolved::ResolvedSpec;

/// The node affinity preset; `{}` without one.
pub(super) fn affinity(spec: &ResolvedSpec) -> Value {
    let mut expression = json!({"key": spec.node_affinity_key, "operator": "Exists"});
    if !spec.node_affinity_values.is_empty() {
        expression["operator"] = json!("In");
        expression["values"] = json!(spec.node_affinity_values);
    }
    match spec.node_affinity.as_str() {
        "hard" => json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}),
        "soft" => json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [expression]}}]}}),
        _ => json!({}),
    }
}

/// The given constraints, or one that spreads over hosts. KubeVirt rejects an empty `whenUnsatisfiable`, so it becomes
/// the only sensible value.
pub(super) fn topology_spread(spec: &ResolvedSpec, machine_deployment: Option<&str>) -> Value {
    let selector =
        json!({"matchLabels": {label::MACHINE_DEPLOYMENT: machine_deployment.unwrap_or_default()}});
    let constraint = |skew: i32, key: &str, when: &str| {
        let when = if when.is_empty() { "ScheduleAnyway" } else { when };
        json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when, "labelSelector": selector})
    };
    if spec.topology_spread.is_empty() {
        return json!([constraint(1, "kubernetes.io/hostname", "")]);
    }
    let given = spec.topology_spread.iter();
    given
        .map(|spread| constraint(spread.max_skew, &spread.topology_key, &spread.when_unsatisfiable))
        .collect()
}
