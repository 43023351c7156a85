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

impl ResolvedSpec {
    /// Checks everything but numbers.
    pub(in crate::kubevirt) fn check(&self) -> Result<(), Unresolved> {
        let quantity = |field, text: &str| require(quantity::parse(text).is_some(), field, QUANTITY);
        let one_of = |field, text: &str, allowed: &[&str], why| {
            require(text.is_empty() || allowed.contains(&text), field, why)
        };
        if self.instancetype.is_none() {
            quantity("memory", &self.memory)?;
            if self.vcpu_cores == 0 {
                quantity("cpus", &self.cpus)?;
            }
        }
        require(
            self.image.extra_headers.is_empty() || self.image.extra_headers_secret.is_empty(),
            "primaryDisk.extraHeadersSecretRef",
            "is mutually exclusive with extraHeaders; keep one of them",
        )?;
        one_of(
            "primaryDisk.pullMethod",
            &self.image.pull_method,
            &["node", "pod"],
            "must be node or pod",
        )?;
        quantity("primaryDisk.size", &self.primary_disk.size)?;
        for disk in &self.secondary_disks {
            quantity("secondaryDisks.size", &disk.size)?;
        }
        one_of(
            "dnsPolicy",
            &self.dns_policy,
            &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
            "must be ClusterFirstWithHostNet, ClusterFirst, Default or None",
        )?;
        one_of(
            "nodeAffinityPreset.type",
            &self.node_affinity,
            &["hard", "soft"],
            "must be hard or soft",
        )
    }
}

fn require(holds: bool, field: &'static str, why: &'static str) -> Result<(), Unresolved> {
    holds.then_some(()).ok_or(Unresolved::Unusable { field, why })
}
