//! What of a spec is wrong in itself, without asking the infra cluster. Every error at once, each with its field.
//!
//! Besides what cannot be rendered it refuses what KubeVirt and CDI refuse only later, when nobody looks any more. What
//! has no effect, or has one sensible reading, is a warning. Values behind references are judged where they can be read
//! ([`referred`]).

mod image;
mod machine;
mod matchers;
mod referred;
mod scheduling;
#[cfg(test)]
mod tests;
mod vm;

use super::spec::CloudProviderSpec;
use crate::api::config_var::ConfigVarString;
use crate::api::field::{FieldPath, Report};
use crate::api::{quantity, syntax};
use crate::provider::{Overridden, machinist};

pub use machine::{labels, name, owner_name};
pub use referred::referred;

/// Operating systems that this provider can boot.
pub const OPERATING_SYSTEMS: [&str; 4] = ["ubuntu", "rhel", "flatcar", "rockylinux"];

/// Judges a spec found at `path`, in servers whose environment sets what is `overridden`.
pub fn validate(spec: &CloudProviderSpec, overridden: Overridden, path: &FieldPath, report: &mut Report) {
    if !overridden.cluster_name {
        label_value(literal(&spec.cluster_name), &path.child("clusterName"), report);
    }
    if !overridden.project_id {
        label_value(literal(&spec.project_id), &path.child("projectID"), report);
    }
    kubeconfig(&spec.kubeconfig, &path.child("auth").child("kubeconfig"), report);
    vm::validate(&spec.virtual_machine, &path.child("virtualMachine"), report);
    scheduling::affinity(
        &spec.node_affinity,
        &path.child("affinity").child("nodeAffinityPreset"),
        report,
    );
    scheduling::topology_spread(
        &spec.topology_spread,
        &path.child("topologySpreadConstraints"),
        report,
    );
    machinist::validate(&spec.machinist, &path.child("machinist"), report);
}

/// The text of a value that is written down and not overridden by a reference.
fn literal(var: &ConfigVarString) -> Option<&str> {
    if var.reference().is_some() {
        None
    } else {
        var.value.as_deref()
    }
}

/// Nothing is written, or the empty text, and nothing referred to.
fn is_empty(var: &ConfigVarString) -> bool {
    var.is_unset() || literal(var) == Some("")
}

/// The text, if it is written down and not empty.
fn text(var: &ConfigVarString) -> Option<&str> {
    literal(var).filter(|text| !text.is_empty())
}

fn label_value(text: Option<&str>, path: &FieldPath, report: &mut Report) {
    if let Some(text) = text
        && let Err(why) = syntax::label_value(text)
    {
        report.invalid(path, format!("{text:?} becomes a label of the VM: {why}"));
    }
}

/// The name of an object on the infra cluster.
fn object_name(text: Option<&str>, path: &FieldPath, report: &mut Report) {
    if let Some(text) = text.filter(|text| !text.is_empty())
        && let Err(why) = syntax::dns_subdomain(text)
    {
        report.invalid(path, format!("{text:?} is no name of an object: {why}"));
    }
}

fn kubeconfig(var: &ConfigVarString, path: &FieldPath, report: &mut Report) {
    let Some(inline) = var.value.as_deref().filter(|text| !text.is_empty()) else {
        return;
    };
    if crate::provider::decode_base64(inline).is_none() {
        report.invalid(path, "the inline value is not base64; encode the kubeconfig with `base64 -w0`, or refer to a Secret by secretKeyRef");
    } else if var.reference().is_some() {
        report.warn(
            path,
            "has a value and a reference; the value is used, unlike elsewhere",
        );
    }
}

/// A Kubernetes quantity above zero.
fn positive(text: &str, path: &FieldPath, report: &mut Report) {
    match quantity::parse(text) {
        None => report.invalid(
            path,
            format!("{text:?} is not a quantity; write one like 2, 500m, 4Gi or 10G"),
        ),
        Some(amount) if amount <= 0.0 => report.invalid(path, format!("{text:?} must be more than zero")),
        Some(_) => {}
    }
}
