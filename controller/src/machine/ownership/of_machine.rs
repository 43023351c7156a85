//! Whose the VM and the Node of a Machine's name are, by its snapshot: the one rule for all phases of its life.

use machinist_infra::provider::Instance;

use super::{NodeClaim, NodeVerdict, VmClaim, VmVerdict, node_verdict, vm_verdict};
use crate::cache::Node;
use crate::machine::snapshot::types::{Infra, Open, Snapshot};

impl Snapshot {
    /// Whose the VM of the Machine's name is.
    pub fn vm_verdict(&self, open: &Open, vm: &Instance) -> VmVerdict {
        vm_verdict(VmClaim {
            machine: &self.machine,
            vm,
            cluster_uid: &self.settings.cluster_uid,
            cluster_name: &self.cluster_name,
            labeled_machine_exists: open.labeled_machine_exists,
            rival: open.recorded_by.as_deref().or(self.name_winner.as_deref()),
        })
    }

    /// Whose the Node of the Machine's name is, if there is one.
    pub fn node_verdict(&self) -> Option<NodeVerdict> {
        let mut claim = NodeClaim::unobserved(&self.machine, self.node.as_deref()?);
        if let Infra::Open(open) = &self.infra
            && self.shows_own_vm(open)
        {
            claim.firmware_uuid = open.firmware_uuid.as_deref();
            claim.addresses = &open.addresses;
            claim.proven_addresses = &open.proven_addresses;
        }
        Some(node_verdict(claim))
    }

    /// The Node that goes with the Machine; never a foreign one.
    pub fn own_node(&self) -> Option<&Node> {
        let is_own = self.node_verdict() == Some(NodeVerdict::Ours);
        self.node.as_deref().filter(|_| is_own)
    }

    /// Whether what is observed of the VM of the Machine's name may tie a Node to the Machine: the VM is the Machine's, or is
    /// gone, and what is left is its guest.
    fn shows_own_vm(&self, open: &Open) -> bool {
        let Some(vm) = &open.vm else {
            let record = self.machine.record.as_ref();
            let recorded = record.and_then(|record| record.vm_uid.as_deref());
            return open.guest.is_none() || recorded.is_some_and(|recorded| open.has_guest_of(recorded));
        };
        matches!(self.vm_verdict(open, vm), VmVerdict::Ours | VmVerdict::Adopt)
    }
}
