//! Addresses of a VM that are another client's, too, or may be.

use std::net::IpAddr;
use std::sync::Arc;

use machinist_infra::kube::error::RemoteError;
use machinist_infra::provider::InfraClient;

use crate::cache::StoredMachine;
use crate::context::Context;
use crate::csr::reserved_addresses::{Known, Reserved};
use crate::csr::serving::Contested;

/// Which addresses of the VM others have, too: the cluster itself, another Node, or another VM beside it. Only
/// looked for while a serving certificate is asked for.
///
/// What a guest says, by its kubelet or its guest agent, costs no other an address that is proven. A Machine's Node counts
/// with the addresses that its VM has.
pub(super) async fn find(
    context: &Context,
    known: &Known,
    machine: &StoredMachine,
    open: &dyn InfraClient,
    addresses: &[String],
    proven_addresses: &[String],
) -> Vec<Contested> {
    if context.stores.serving_requests(machine.name()).is_empty() {
        return Vec::new();
    }
    let hosts = context.access.hosts();
    let reserved = match &hosts {
        Ok(hosts) => known.get(&context.client, hosts).await,
        Err(pending) => Err(RemoteError::other(pending.to_string())),
    };
    let dns = context.access.dns();
    let clusters = |address| clusters_own(address, &dns, &reserved);
    let mut address_conflicts = Vec::new();
    for text in addresses {
        let Ok(address) = text.parse::<IpAddr>() else {
            continue;
        };
        let is_proven = proven_addresses.contains(text);
        let nodes = context.stores.nodes.by_index(text).into_iter();
        let nodes = nodes
            .filter(|node| !is_proven && context.stores.machines.by_index(node.name()).is_empty())
            .map(|node| format!("Node {}", node.name()));
        let vms = open.instances_at_address(text).into_iter();
        let vms = vms
            .filter(|other| other.name != machine.name() && (other.proven || !is_proven))
            .map(|other| format!("the VM {}", other.name));
        if let Some(by) = clusters(address).into_iter().chain(nodes).chain(vms).next() {
            address_conflicts.push(Contested {
                address: address.to_canonical(),
                by,
            });
        }
    }
    address_conflicts
}

/// Which part of the cluster has an address, or may have it: what cannot be ruled out is not approved, and polled again.
fn clusters_own(
    address: IpAddr,
    dns: &[IpAddr],
    reserved: &Result<Arc<Reserved>, RemoteError>,
) -> Option<String> {
    if dns.contains(&address.to_canonical()) {
        return Some("the cluster's DNS".to_owned());
    }
    match reserved {
        Ok(reserved) => reserved.whose(address),
        Err(error) => Some(format!(
            "perhaps the API server or a Service, whose addresses cannot be read ({error})"
        )),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn forbidden() -> RemoteError {
        RemoteError::other("servicecidrs is forbidden")
    }

    #[rstest]
    #[case::the_dns("10.96.0.10", Ok(Arc::default()), Some("the cluster's DNS"))]
    #[case::the_dns_whatever_cannot_be_read("10.96.0.10", Err(forbidden()), Some("the cluster's DNS"))]
    #[case::nobodys("10.0.0.2", Ok(Arc::default()), None)]
    #[case::unread(
        "10.0.0.2",
        Err(forbidden()),
        Some("cannot be read (servicecidrs is forbidden)")
    )]
    fn what_cannot_be_ruled_out_is_contested(
        #[case] address: &str,
        #[case] reserved: Result<Arc<Reserved>, RemoteError>,
        #[case] whose: Option<&str>,
    ) {
        let dns = ["10.96.0.10".parse().unwrap()];
        let found = clusters_own(address.parse().unwrap(), &dns, &reserved);
        let contains = |whose| found.as_ref().is_some_and(|found| found.contains(whose));
        assert!(whose.map_or(found.is_none(), contains), "{found:?}");
    }
}
