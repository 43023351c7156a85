//! Annotations below our own prefix: which there are, on which objects they count, and which values they take.

use serde_json::Value;

use crate::api::did_you_mean::did_you_mean;
use crate::api::field::{FieldPath, Report};
use crate::api::names::{PREFIX, annotation, autoscaler};
use crate::api::{duration, raw::object_at};

/// On which object an annotation counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    /// A Machine, and so the template of a set.
    Machine,
    /// A MachineDeployment.
    Deployment,
    /// A MachineDeployment or MachineSet.
    Pool,
    /// An object that only Machinist writes.
    Nothing,
}

/// What an annotation may hold.
#[derive(Debug, Clone, Copy)]
enum Text {
    /// Anything, or judged elsewhere.
    Any,
    /// `true` or `false`.
    Boolean,
    /// A whole number of at least one.
    Count,
    /// A whole number, or nothing.
    Revision,
    /// This value alone.
    Only(&'static str),
    /// A duration or `off`.
    DurationOrOff,
}

const KNOWN: &[(&str, On, Text)] = &[
    (annotation::DRAIN_TIMEOUT, On::Machine, Text::Any),
    (annotation::DETACH_TIMEOUT, On::Machine, Text::Any),
    (annotation::NODE_DELETION_TIMEOUT, On::Machine, Text::Any),
    (annotation::PROVISIONING_TIMEOUT, On::Machine, Text::DurationOrOff),
    (annotation::STARTUP_TAINTS, On::Machine, Text::Any),
    (annotation::SECONDARY_DISKS, On::Machine, Text::Only("copy")),
    (annotation::BOOTSTRAP, On::Machine, Text::Any),
    (annotation::ADOPT_VM, On::Machine, Text::Any),
    (annotation::ABANDON_VM, On::Machine, Text::Any),
    (annotation::ACCEPT_INFRASTRUCTURE, On::Machine, Text::Any),
    (annotation::SPEC_CHANGE, On::Machine, Text::Any),
    (annotation::MAX_CONCURRENT_DRAINS, On::Deployment, Text::Count),
    (annotation::ROLLBACK_TO, On::Deployment, Text::Revision),
    (annotation::IN_PLACE, On::Pool, Text::Boolean),
    (
        annotation::CLUSTER_DNS,
        On::Pool,
        Text::Only(annotation::FIND_DNS),
    ),
    (annotation::PROVEN, On::Pool, Text::Any),
    (annotation::MACHINE_FAILED, On::Pool, Text::Any),
    (autoscaler::WRITTEN, On::Pool, Text::Any),
    (annotation::DELETING, On::Nothing, Text::Any),
    (annotation::ROTATE, On::Nothing, Text::Any),
];

/// Warns of annotations below our prefix that no component reads where they are. `metadata` is the object's at that path: of a
/// Machine or of a template.
pub(super) fn warn_of_machine(metadata: Option<&Value>, path: &FieldPath, report: &mut Report) {
    warn(metadata, On::Machine, path, report);
}

/// The same of a MachineDeployment.
pub(super) fn warn_of_deployment(object: &Value, report: &mut Report) {
    warn(
        object.get("metadata"),
        On::Deployment,
        &FieldPath::new("metadata"),
        report,
    );
}

/// The same of a MachineSet, which has a copy of what its MachineDeployment has.
pub(super) fn warn_of_set(object: &Value, report: &mut Report) {
    warn(
        object.get("metadata"),
        On::Pool,
        &FieldPath::new("metadata"),
        report,
    );
}

/// The same of the metadata for Nodes: nothing of ours counts there.
pub(super) fn warn_of_node(metadata: Option<&Value>, path: &FieldPath, report: &mut Report) {
    warn(metadata, On::Nothing, path, report);
}

fn warn(metadata: Option<&Value>, here: On, path: &FieldPath, report: &mut Report) {
    let annotations = metadata.and_then(|metadata| object_at(metadata.as_object()?, &["annotations"]));
    for (key, value) in annotations.into_iter().flatten() {
        let Some(name) = key.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        let path = path.child("annotations").child(key);
        let Some((_, on, text)) = KNOWN.iter().find(|(known, ..)| known == key) else {
            let names = KNOWN.iter().filter(|(_, on, _)| *on != On::Nothing);
            let names = names.filter_map(|(known, ..)| known.strip_prefix(PREFIX)?.strip_prefix('/'));
            let hint = did_you_mean(name, names);
            report.warn(&path, format!("Machinist reads no annotation of that name{hint}"));
            continue;
        };
        if let Some(place) = place(*on, here) {
            report.warn(&path, format!("has no effect here; it belongs in {place}"));
        } else if let Some(why) = value.as_str().and_then(|value| text.refusal(value)) {
            report.warn(&path, format!("{value} {why}"));
        }
    }
}

/// Where an annotation belongs, if not here.
fn place(on: On, here: On) -> Option<&'static str> {
    match (on, here) {
        // Only Machinist writes those on Nothing, onto Nodes and Secrets.
        (On::Nothing, _)
        | (On::Machine, On::Machine)
        | (On::Deployment | On::Pool, On::Deployment | On::Pool) => None,
        (On::Machine, On::Deployment | On::Pool) => Some("spec.template.metadata.annotations"),
        (On::Machine, On::Nothing) => Some("metadata.annotations of the Machine, or of the template"),
        (On::Deployment, _) => Some("metadata.annotations of the MachineDeployment"),
        (On::Pool, _) => Some("metadata.annotations of the MachineDeployment or MachineSet"),
    }
}

impl Text {
    fn refusal(self, text: &str) -> Option<String> {
        let is_fine = match self {
            Self::Any => true,
            Self::Boolean => ["true", "false", ""].contains(&text),
            Self::Count => text.trim().parse::<usize>().is_ok_and(|count| count > 0),
            Self::Revision => text.trim().is_empty() || text.trim().parse::<u64>().is_ok(),
            Self::Only(value) => [value, ""].contains(&text),
            Self::DurationOrOff => text == "off" || duration::parse(text).is_ok(),
        };
        let why = match self {
            Self::Any => "",
            Self::Boolean => "is neither true nor false, and has no effect",
            Self::Count => "is no whole number from 1 on, and sets no limit",
            Self::Revision => "is no revision, which is a whole number; empty is the one before",
            Self::Only(value) => {
                return (!is_fine).then(|| format!("has no effect; the one value is {value}"));
            }
            Self::DurationOrOff => "is neither a duration like 45m nor off, and is ignored",
        };
        (!is_fine).then(|| why.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// Names that are labels, or on Secrets.
    const ELSEWHERE: [&str; 3] = ["machine-uid", "cluster-uid", "certificate"];

    #[test]
    fn no_name_of_ours_is_left_out() {
        let names = include_str!("../api/names.rs");
        let ours = names
            .split('"')
            .filter_map(|text| text.strip_prefix("machinist.dev/"));
        let mut count = 0;
        for name in ours.filter(|name| !ELSEWHERE.contains(name)) {
            let key = format!("{PREFIX}/{name}");
            assert!(KNOWN.iter().any(|(known, ..)| *known == key), "{key}");
            count += 1;
        }
        assert_eq!(count, KNOWN.len());
    }

    #[rstest]
    #[case::misspelled(
        On::Machine,
        "node-drain-timout",
        "10m",
        "did you mean \"node-drain-timeout\"?"
    )]
    #[case::short(On::Deployment, "rollback", "1", "did you mean \"rollback-to\"?")]
    #[case::made_up(On::Deployment, "replicas", "1", "no annotation of that name")]
    #[case::in_capitals(On::Machine, "Bootstrap", "osm", "did you mean \"bootstrap\"?")]
    #[case::timeout_on_the_deployment(
        On::Deployment,
        "node-drain-timeout",
        "10m",
        "spec.template.metadata.annotations"
    )]
    #[case::taints_on_the_set(On::Pool, "startup-taints", "a", "spec.template.metadata.annotations")]
    #[case::limit_on_the_template(On::Machine, "max-concurrent-drains", "2", "of the MachineDeployment")]
    #[case::rollback_on_the_template(On::Machine, "rollback-to", "2", "of the MachineDeployment")]
    #[case::in_place_on_the_template(
        On::Machine,
        "in-place-changes",
        "true",
        "MachineDeployment or MachineSet"
    )]
    #[case::timeout_on_the_node(
        On::Nothing,
        "node-drain-timeout",
        "10m",
        "metadata.annotations of the Machine"
    )]
    #[case::word_for_a_number(On::Deployment, "max-concurrent-drains", "two", "is no whole number")]
    #[case::none_at_a_time(On::Deployment, "max-concurrent-drains", "0", "is no whole number")]
    #[case::yes(On::Deployment, "in-place-changes", "yes", "neither true nor false")]
    #[case::revision(On::Deployment, "rollback-to", "v2", "is no revision")]
    #[case::disks(On::Machine, "secondary-disks", "image", "the one value is copy")]
    #[case::provisioning(On::Machine, "provisioning-timeout", "45", "neither a duration")]
    fn a_name_without_effect_is_reported(
        #[case] here: On,
        #[case] name: &str,
        #[case] text: &str,
        #[case] why: &str,
    ) {
        let metadata = json!({"annotations": {format!("machinist.dev/{name}"): text}});
        let mut report = Report::new();
        warn(Some(&metadata), here, &FieldPath::new("metadata"), &mut report);
        let [warning] = report.warnings.as_slice() else {
            panic!("{:?}", report.warnings)
        };
        assert!(warning.contains(why), "{warning}");
    }

    #[rstest]
    #[case(On::Machine, "node-drain-timeout", "10m")]
    #[case(On::Machine, "provisioning-timeout", "off")]
    #[case(On::Deployment, "in-place-changes", "false")]
    #[case(On::Deployment, "rollback-to", "")]
    #[case(On::Pool, "max-concurrent-drains", "3")]
    fn what_counts_is_not(#[case] here: On, #[case] name: &str, #[case] text: &str) {
        let metadata = json!({"annotations": {format!("machinist.dev/{name}"): text, "example.com/x": "y"}});
        let mut report = Report::new();
        warn(Some(&metadata), here, &FieldPath::new("metadata"), &mut report);
        assert_eq!(report.warnings, [""; 0]);
    }
}
