//! Validation of the placement of the VM.

use super::{is_empty, literal, text};
use crate::api::field::{FieldPath, Report};
use crate::api::syntax;
use crate::kubevirt::spec::{NodeAffinityPreset, TopologySpread};

/// Validates the preset of a node affinity.
pub(super) fn affinity(preset: &NodeAffinityPreset, path: &FieldPath, report: &mut Report) {
    let unset = is_empty(&preset.kind);
    if let Some(kind) = text(&preset.kind)
        && !["hard", "soft"].contains(&kind.to_lowercase().as_str())
    {
        report.not_supported(&path.child("type"), kind, &["hard", "soft"]);
    }
    if unset {
        // Unused fields were never validated.
        if !is_empty(&preset.key) || !preset.values.is_empty() {
            report.warn(path, "has no effect without type; write hard or soft");
        }
        return;
    }
    if is_empty(&preset.key) {
        report.required(
            &path.child("key"),
            "is required with a type; name the label of the infra nodes",
        );
    }
    label_key(text(&preset.key), &path.child("key"), report);
    for (index, value) in preset.values.iter().enumerate() {
        if let Some(text) = literal(value)
            && let Err(why) = syntax::label_value(text)
        {
            report.invalid(
                &path.child("values").index(index),
                format!("{text:?} is not a label value: {why}"),
            );
        }
    }
}

/// Validates the topology spread constraints.
pub(super) fn topology_spread(constraints: &[TopologySpread], path: &FieldPath, report: &mut Report) {
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        let skew = path.child("maxSkew");
        if constraint.max_skew.is_unset() {
            report.required(&skew, "is required; write a number of at least 1");
        } else if let Some(text) = literal(&constraint.max_skew)
            && !text.parse::<i32>().is_ok_and(|skew| skew >= 1)
        {
            report.invalid(&skew, format!("{text:?} is not a whole number of at least 1"));
        }
        let key = path.child("topologyKey");
        if is_empty(&constraint.topology_key) {
            report.required(
                &key,
                "is required, like kubernetes.io/hostname; KubeVirt rejects a VM without it",
            );
        }
        label_key(text(&constraint.topology_key), &key, report);
        let when = path.child("whenUnsatisfiable");
        if is_empty(&constraint.when_unsatisfiable) {
            report.warn(&when, "is empty, which KubeVirt rejects; ScheduleAnyway is used");
        } else if let Some(other) = literal(&constraint.when_unsatisfiable)
            && !["DoNotSchedule", "ScheduleAnyway"].contains(&other)
        {
            report.not_supported(&when, other, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let this = what_is_spread(constraint);
        if this.is_some()
            && constraints[..index]
                .iter()
                .any(|other| what_is_spread(other) == this)
        {
            report.invalid(
                &path,
                "repeats topologyKey and whenUnsatisfiable of an earlier item, which KubeVirt rejects",
            );
        }
    }
}

/// The key that must be unique among constraints, as far as it is literal; `None` equals no other.
fn what_is_spread(constraint: &TopologySpread) -> Option<(&str, &str)> {
    let when = if is_empty(&constraint.when_unsatisfiable) {
        "ScheduleAnyway"
    } else {
        literal(&constraint.when_unsatisfiable)?
    };
    Some((literal(&constraint.topology_key)?, when))
}

fn label_key(text: Option<&str>, path: &FieldPath, report: &mut Report) {
    if let Some(text) = text
        && let Err(why) = syntax::qualified_name(text)
    {
        report.invalid(path, format!("{text:?} is not a label key: {why}"));
    }
}
