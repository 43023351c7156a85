//! The check of subject alternative names: a kubelet's serving certificate is for its node's name and for addresses that its VM
//! alone has.

use std::net::IpAddr;

use super::Verdict;
use super::request::{Requested, shown};

/// An address of a VM that others have, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contested {
    /// The address.
    pub address: IpAddr,
    /// Who.
    pub by: String,
}

/// Whether there are names at all, and each DNS name is the node's.
pub(super) fn check_dns_names(wanted: &Requested, node: &str) -> Result<(), String> {
    if wanted.dns.is_empty() && wanted.addresses.is_empty() {
        return Err("it asks for neither a DNS name nor an IP address".to_owned());
    }
    match wanted.dns.iter().find(|name| *name != node) {
        Some(other) => Err(format!(
            "it asks for the DNS name {}, which is not node {node}'s",
            shown(other)
        )),
        None => Ok(()),
    }
}

/// Whether each address is the VM's own and no other's.
pub(super) fn check_addresses(
    wanted: &Requested,
    own: &[String],
    address_conflicts: &[Contested],
) -> Verdict {
    let parsed: Vec<IpAddr> = own
        .iter()
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|address| address.to_canonical())
        .collect();
    for address in &wanted.addresses {
        if parsed.is_empty() {
            return Verdict::Waiting(format!(
                "it asks for the IP address {address}, and the infra cluster shows no address of the VM"
            ));
        }
        if !parsed.contains(address) {
            return Verdict::Refused(format!(
                "it asks for the IP address {address}, which is not the VM's: those are {}",
                own.join(", ")
            ));
        }
        if let Some(other) = address_conflicts.iter().find(|other| other.address == *address) {
            return Verdict::Refused(format!(
                "it asks for the IP address {address}, which {} has, too",
                other.by
            ));
        }
    }
    Verdict::Approve
}
