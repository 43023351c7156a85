//! Validation of the annotations that the autoscaler reads.

use std::time::Duration;

use serde_json::Value;

use super::sizes::whole_number;
use super::{Sizes, annotations, is_top_level, sizes};
use crate::api::did_you_mean::{did_you_mean, nearest};
use crate::api::field::{FieldPath, Report};
use crate::api::names::GROUP;
use crate::api::names::autoscaler::{CAPACITY, MAX_SIZE, MIN_SIZE, OPTIONS, SIZES};
use crate::api::{duration, quantity, syntax};

const DURATIONS: [&str; 4] = [
    "scaledownunneededtime",
    "scaledownunreadytime",
    "maxnodeprovisiontime",
    "maxnodestartuptime",
];
const FRACTIONS: [&str; 2] = [
    "scaledownutilizationthreshold",
    "scaledowngpuutilizationthreshold",
];
const QUANTITIES: [&str; 3] = ["cpu", "memory", "ephemeral-disk"];
const INTEGERS: [&str; 2] = ["maxPods", "gpu-count"];
const OTHERS: [&str; 5] = ["gpu-type", "labels", "taints", "csi-driver", "dra-driver"];
/// The least `maxnodeprovisiontime` above the time for which the autoscaler caches the instances of a group, 2 minutes.
const MIN_PROVISION_TIME: Duration = Duration::from_mins(3);
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Validates a MachineDeployment or MachineSet, after [`super::write`].
///
/// A value that hides node groups from the autoscaler is an error: malformed sizes hide all of them, a malformed
/// capacity this one while it has no Machine. A value that the autoscaler ignores is a warning.
pub fn validate(object: &Value, report: &mut Report) {
    // The MachineSets of a MachineDeployment have copies of its annotations, which no component reads.
    if !is_top_level(object) {
        return;
    }
    let path = FieldPath::new("metadata").child("annotations");
    validate_sizes(object, &path, report);
    for (key, text) in annotations(object) {
        let path = path.child(key);
        if let Some(option) = key.strip_prefix(OPTIONS) {
            validate_option(option, text, &path, report);
        } else if let Some(of) = key.strip_prefix(CAPACITY) {
            validate_capacity(of, text, &path, report);
        } else if key != MIN_SIZE && key != MAX_SIZE {
            warn_misnamed(key, &path, report);
        }
    }
    if let Some(sizes) = sizes(object) {
        validate_group(object, sizes, &path, report);
    }
}

fn validate_sizes(object: &Value, path: &FieldPath, report: &mut Report) {
    let consequence = "the cluster-autoscaler would drop every node group of the cluster";
    let mut size = |key: &str| {
        let (_, text) = annotations(object).find(|(found, _)| *found == key)?;
        let size = whole_number(text).filter(|size| *size >= 0);
        if size.is_none() {
            report.invalid(
                &path.child(key),
                format!("{text:?} must be a whole number of at least 0, or {consequence}"),
            );
        }
        Some(size)
    };
    match (size(MIN_SIZE), size(MAX_SIZE)) {
        (Some(min), None) if min != Some(0) => {
            let why = format!("must be set together with the minimum size, or {consequence}");
            report.required(&path.child(MAX_SIZE), why);
        }
        (Some(Some(min)), Some(Some(max))) if max < min => report.invalid(
            &path.child(MAX_SIZE),
            format!("{max} must not be below the minimum size {min}, or {consequence}"),
        ),
        _ => {}
    }
}

fn validate_option(option: &str, text: &str, path: &FieldPath, report: &mut Report) {
    if FRACTIONS.contains(&option) {
        if text.parse::<f64>().is_err() {
            report.warn(
                path,
                format!("{text:?} is not a number like 0.5; the cluster-autoscaler uses its default"),
            );
        }
    } else if DURATIONS.contains(&option) {
        if !is_duration(text) {
            report.warn(
                path,
                format!(
                    "{text:?} is not a duration like 10m or 1h30m; the cluster-autoscaler uses its default"
                ),
            );
        } else if option == "maxnodeprovisiontime"
            && duration::parse(text).is_ok_and(|time| time.is_some_and(|time| time < MIN_PROVISION_TIME))
        {
            report.warn(
                path,
                format!(
                    "{text:?} is below 3m: the cluster-autoscaler caches for 2 minutes which Machines are nodes, and would \
                     delete Machines that have joined"
                ),
            );
        }
    } else {
        let hint = did_you_mean(option, FRACTIONS.into_iter().chain(DURATIONS));
        report.warn(
            path,
            format!("the cluster-autoscaler has no option {option:?}{hint}"),
        );
    }
}

fn validate_capacity(of: &str, text: &str, path: &FieldPath, report: &mut Report) {
    let consequence = "the cluster-autoscaler would ignore the node group while it has no Machines";
    // The autoscaler reads an empty value as absent.
    if text.is_empty() {
        return;
    }
    match of {
        _ if QUANTITIES.contains(&of) => {
            // Without CPUs or memory there is no node; of local storage there may be none.
            let least = if of == "ephemeral-disk" {
                0.0
            } else {
                f64::MIN_POSITIVE
            };
            match quantity::parse(text) {
                None => report.invalid(
                    path,
                    format!("{text:?} is not a quantity like 4 or 8Gi; {consequence}"),
                ),
                Some(amount) if amount < least => {
                    report.invalid(path, format!("{text:?} must be more than nothing; {consequence}"));
                }
                Some(_) => {}
            }
        }
        _ if INTEGERS.contains(&of) => {
            if whole_number(text).is_none_or(|number| number < 0) {
                report.invalid(
                    path,
                    format!("{text:?} is not a whole number from 0 on; {consequence}"),
                );
            }
        }
        "labels" => {
            for item in items(text).filter(|item| !is_label(item)) {
                report.warn(
                    path,
                    format!("{item:?} is not a label like key=value; the cluster-autoscaler ignores it"),
                );
            }
        }
        "taints" => {
            for item in items(text).filter(|item| !is_taint(item)) {
                report.warn(
                    path,
                    format!(
                        "{item:?} is not a taint like key=value:NoSchedule; the cluster-autoscaler ignores it"
                    ),
                );
            }
        }
        "csi-driver" => validate_csi_drivers(text, consequence, path, report),
        _ if OTHERS.contains(&of) => {}
        _ => {
            let known = QUANTITIES.into_iter().chain(INTEGERS).chain(OTHERS);
            let hint = did_you_mean(of, known);
            report.warn(
                path,
                format!("the cluster-autoscaler does not know capacity {of:?}{hint}"),
            );
        }
    }
}

/// How many volumes of each CSI driver a node holds.
fn validate_csi_drivers(text: &str, consequence: &str, path: &FieldPath, report: &mut Report) {
    for item in items(text) {
        match item.split_once('=') {
            Some((driver, limit)) if !driver.is_empty() => {
                if whole_number(limit).is_none() {
                    let why = format!("{limit:?} of {item:?} is not a whole number; {consequence}");
                    report.invalid(path, why);
                }
            }
            _ => report.warn(
                path,
                format!(
                    "{item:?} is not a limit like ebs.csi.example.com=25; the cluster-autoscaler cannot read it"
                ),
            ),
        }
    }
}

/// Warns of misspelled size annotations, and of those of another API group.
fn warn_misnamed(key: &str, path: &FieldPath, report: &mut Report) {
    let Some((group, name)) = key.split_once('/') else {
        return;
    };
    let nearly = nearest(key, [MIN_SIZE, MAX_SIZE]);
    if group == GROUP && nearly.is_some() {
        let hint = did_you_mean(key, [MIN_SIZE, MAX_SIZE]);
        report.warn(
            path,
            format!("the cluster-autoscaler does not know this annotation{hint}"),
        );
    } else if group != GROUP && format!("/{name}").starts_with(SIZES) {
        report.warn(
            path,
            format!("the cluster-autoscaler with CAPI_GROUP={GROUP} reads {GROUP}/{name} instead"),
        );
    }
}

/// Warns of a node group that works, but perhaps not as intended.
fn validate_group(object: &Value, sizes: Sizes, path: &FieldPath, report: &mut Report) {
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64);
    if let Some(replicas) = replicas.filter(|n| !(sizes.min..=sizes.max).contains(n)) {
        report.warn(
            &FieldPath::new("spec").child("replicas"),
            format!(
                "{replicas} is outside the limits of the cluster-autoscaler, {} to {}: {}",
                sizes.min,
                sizes.max,
                if replicas > sizes.max {
                    "it deletes no node, also no empty one, until a user sets fewer"
                } else {
                    "it does not scale up to the smallest size, unless it runs with --enforce-node-group-min-size"
                }
            ),
        );
    }
    let of = |key: &str| {
        let found = annotations(object).find(|(found, _)| found.strip_prefix(CAPACITY) == Some(key));
        found.map(|(_, text)| text)
    };
    let missing = ["cpu", "memory"].into_iter().find(|key| of(key).is_none());
    if let Some(missing) = missing.filter(|_| sizes.min == 0 || replicas == Some(0)) {
        report.warn(
            &path.child(&format!("{CAPACITY}{missing}")),
            "is not known yet; until it is, the cluster-autoscaler ignores the node group while it has no Machines",
        );
    }
    if of("gpu-type").is_some() && of("gpu-count").is_none() {
        report.warn(
            &path.child(&format!("{CAPACITY}gpu-type")),
            "has no effect without gpu-count",
        );
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|item| !item.is_empty())
}

fn is_label(item: &str) -> bool {
    let label = item.split_once('=');
    label
        .is_some_and(|(key, value)| syntax::qualified_name(key).is_ok() && syntax::label_value(value).is_ok())
}

fn is_taint(item: &str) -> bool {
    let Some((taint, effect)) = item.rsplit_once(':') else {
        return false;
    };
    let (key, value) = taint.split_once('=').unwrap_or((taint, ""));
    EFFECTS.contains(&effect) && syntax::qualified_name(key).is_ok() && syntax::label_value(value).is_ok()
}

/// Whether Go's `time.ParseDuration` accepts it.
fn is_duration(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned == "0" {
        return true;
    }
    let mut rest = unsigned;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, tail) = rest.split_at(end.unwrap_or(rest.len()));
        let digits = number.bytes().filter(u8::is_ascii_digit).count();
        // The longest first: `m` begins `ms`.
        let units = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
        let Some(unit) = units.into_iter().find(|unit| tail.starts_with(unit)) else {
            return false;
        };
        if digits == 0 || number.len() - digits > 1 {
            return false;
        }
        rest = &tail[unit.len()..];
    }
    !unsigned.is_empty()
}
