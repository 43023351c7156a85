//! Validation of a spec without the infra cluster. Reports every error at once, each with its field.
//!
//! It refuses specs that cannot be rendered, and those that KubeVirt and CDI would refuse only later, when the user no
//! longer watches. Values without effect, or with only one sensible meaning, are warnings. Referenced values are
//! validated where they can be read ([`referred`]).

mod image;
mod machine;
mod matchers;
mod referred;
mod scheduling;
#[cfg(test)]
mod tests;
mod url;
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

/// Validates a spec at `path`; the environment of the server sets the fields in `overridden`.
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

/// The text of a literal value that no reference overrides.
fn literal(var: &ConfigVarString) -> Option<&str> {
    if var.reference().is_some() {
        None
    } else {
        var.value.as_deref()
    }
}

/// Whether the value is unset or empty, without a reference.
fn is_empty(var: &ConfigVarString) -> bool {
    var.is_unset() || literal(var) == Some("")
}

/// The literal text, if not empty.
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
        report.invalid(path, format!("{text:?} is not an object name: {why}"));
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
            "has a value and a reference; the value is used, unlike in other fields",
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
