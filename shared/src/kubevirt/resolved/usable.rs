//! Malformed values. machine-controller refuses the same ones each time it reads a spec, so none of its Machines with a
//! VM has one.

use super::ResolvedSpec;
use crate::api::quantity;
use crate::provider::Unresolved;

const QUANTITY: &str = "is not a quantity; write one like 2, 500m, 4Gi or 10G";

/// A number that fits 32 bits.
pub(super) fn whole_number(field: &'static str, text: &str) -> Result<i32, Unresolved> {
    text.parse().map_err(|_| Unresolved::Unusable {
        field,
        why: "is not a whole number",
    })
}

/// Checks the rest.
pub(super) fn check(spec: &ResolvedSpec) -> Result<(), Unresolved> {
    let quantity = |field, text: &str| require(quantity::parse(text).is_some(), field, QUANTITY);
    let one_of = |field, text: &str, allowed: &[&str], why| {
        require(text.is_empty() || allowed.contains(&text), field, why)
    };
    if spec.instancetype.is_none() {
        quantity("memory", &spec.memory)?;
        if spec.vcpu_cores == 0 {
            quantity("cpus", &spec.cpus)?;
        }
    }
    require(
        spec.image.extra_headers.is_empty() || spec.image.extra_headers_secret.is_empty(),
        "primaryDisk.extraHeadersSecretRef",
        "is mutually exclusive with extraHeaders; keep one of them",
    )?;
    one_of(
        "primaryDisk.pullMethod",
        &spec.image.pull_method,
        &["node", "pod"],
        "must be node or pod",
    )?;
    quantity("primaryDisk.size", &spec.primary_disk.size)?;
    for disk in &spec.secondary_disks {
        quantity("secondaryDisks.size", &disk.size)?;
    }
    one_of(
        "dnsPolicy",
        &spec.dns_policy,
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        "must be ClusterFirstWithHostNet, ClusterFirst, Default or None",
    )?;
    one_of(
        "nodeAffinityPreset.type",
        &spec.node_affinity,
        &["hard", "soft"],
        "must be hard or soft",
    )
}

fn require(holds: bool, field: &'static str, why: &'static str) -> Result<(), Unresolved> {
    holds.then_some(()).ok_or(Unresolved::Unusable { field, why })
}
