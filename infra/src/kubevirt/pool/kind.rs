//! The kinds that are watched on an infra cluster, and the stores of one view of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::cache::store::Store;
use crate::kubevirt::objects::{Cached as _, Claim, DataVolume, Vm, Vmi};

/// A kind that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// VirtualMachine.
    Vm,
    /// VirtualMachineInstance.
    Vmi,
    /// DataVolume.
    DataVolume,
    /// PersistentVolumeClaim.
    Claim,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Vm, Self::Vmi, Self::DataVolume, Self::Claim];

    /// As RBAC calls it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Vm => "virtualmachines.kubevirt.io",
            Self::Vmi => "virtualmachineinstances.kubevirt.io",
            Self::DataVolume => "datavolumes.cdi.kubevirt.io",
            Self::Claim => "persistentvolumeclaims",
        }
    }
}

/// The permissions that a credential lacks for watching, by kind; usually none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing(BTreeMap<Kind, Vec<&'static str>>);

impl Missing {
    /// The same, and no other kind is watched either, regardless of the credential's permissions.
    pub(super) fn and_all(&self) -> Self {
        let mut all = self.clone();
        for kind in Kind::ALL {
            all.0.entry(kind).or_default();
        }
        all
    }

    /// Whether the credential lacks a verb; otherwise there are too many objects to watch.
    pub fn is_forbidden(&self) -> bool {
        self.0.values().any(|verbs| !verbs.is_empty())
    }

    /// Whether the credential lacks a verb for that kind.
    pub fn forbids(&self, kind: Kind) -> bool {
        self.0.get(&kind).is_some_and(|verbs| !verbs.is_empty())
    }

    /// Adds missing verbs for a kind.
    pub(super) fn add(&mut self, kind: Kind, verbs: Vec<&'static str>) {
        if !verbs.is_empty() {
            self.0.insert(kind, verbs);
        }
    }

    /// Whether a kind cannot be watched.
    pub fn has(&self, kind: Kind) -> bool {
        self.0.contains_key(&kind)
    }

    /// Whether every kind can be watched.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `list, watch virtualmachines.kubevirt.io; watch persistentvolumeclaims`.
impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        for (kind, verbs) in &self.0 {
            let separator = if text.is_empty() { "" } else { "; " };
            write!(text, "{separator}{} {}", verbs.join(", "), kind.resource())?;
        }
        f.write_str(&text)
    }
}

/// The stores of one view of a namespace.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) vms: Arc<Store<Vm>>,
    pub(super) vmis: Arc<Store<Vmi>>,
    pub(super) data_volumes: Arc<Store<DataVolume>>,
    pub(super) claims: Arc<Store<Claim>>,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            vms: Arc::new(Store::weighing(|_| Vec::new(), Vm::bytes)),
            // Indexed by address: two VMs with the same address are a conflict.
            vmis: Arc::new(Store::weighing(|vmi| vmi.status.addresses(), Vmi::bytes)),
            data_volumes: Arc::new(Store::weighing(|_| Vec::new(), DataVolume::bytes)),
            claims: Arc::new(Store::weighing(|_| Vec::new(), Claim::bytes)),
        }
    }
}

impl Objects {
    /// Their approximate size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.vms.bytes() + self.vmis.bytes() + self.data_volumes.bytes() + self.claims.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_by_verb_and_resource() {
        let mut missing = Missing::default();
        missing.add(Kind::Claim, vec!["watch"]);
        missing.add(Kind::Vm, vec!["list", "watch"]);
        missing.add(Kind::Vmi, Vec::new());
        assert_eq!(
            missing.to_string(),
            "list, watch virtualmachines.kubevirt.io; watch persistentvolumeclaims"
        );
        assert!(missing.has(Kind::Vm) && !missing.has(Kind::Vmi));
    }
}
