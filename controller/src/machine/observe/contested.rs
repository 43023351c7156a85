//! Addresses of a VM that are somebody else's, too, or may be.

use std::net::IpAddr;
use std::sync::Arc;

use machinist_infra::client::RemoteError;
use machinist_infra::provider::Place;

use crate::bootstrap::access::{AccessError, ClusterAccess};
use crate::context::Context;
use crate::csr::reserved::Reserved;
use crate::csr::serving::Contested;
use crate::user::StoredMachine;

/// Which addresses of the VM somebody else has, too: the cluster itself, another Node, or another VM beside it. Only
/// looked for while a serving certificate is asked for.
pub(super) async fn find(
    context: &Context,
    machine: &StoredMachine,
    open: &dyn Place,
    addresses: &[String],
) -> Vec<Contested> {
    if context.stores.serving_requests(machine.name()).is_empty() {
        return Vec::new();
    }
    let access = context.access.look();
    let reserved = context.reserved.get(&context.client).await;
    let clusters = |address| clusters_own(address, &access, context.access.dns(), &reserved);
    let mut contested = Vec::new();
    for text in addresses {
        let Ok(address) = text.parse::<IpAddr>() else {
            continue;
        };
        let nodes = context.stores.nodes.by_index(text).into_iter();
        let nodes = nodes
            .filter(|node| node.name() != machine.name())
            .map(|node| format!("Node {}", node.name()));
        let vms = open.named_at(text).into_iter();
        let vms = vms
            .filter(|name| name != machine.name())
            .map(|name| format!("the VM {name}"));
        if let Some(by) = clusters(address).into_iter().chain(nodes).chain(vms).next() {
            contested.push(Contested {
                address: address.to_canonical(),
                by,
            });
        }
    }
    contested
}

/// Which part of the cluster has an address, or may have it: what cannot be ruled out is not approved, and looked at again.
fn clusters_own(
    address: IpAddr,
    access: &Result<Arc<ClusterAccess>, AccessError>,
    dns: &[IpAddr],
    reserved: &Result<Arc<Reserved>, RemoteError>,
) -> Option<String> {
    let api_server = "the API server".to_owned();
    if dns.contains(&address.to_canonical()) {
        return Some("the cluster's DNS".to_owned());
    }
    match access {
        Ok(access) if access.address() == Some(address) => return Some(api_server),
        Err(AccessError::Pending) => {
            return Some(format!("perhaps {api_server}, whose address is being looked up"));
        }
        // Where nobody publishes its address, those of its Service and of its replicas are what is known of it.
        Ok(_) | Err(AccessError::Unknown(_)) => {}
    }
    match reserved {
        Ok(reserved) => reserved.whose(address),
        Err(error) => Some(format!(
            "perhaps {api_server} or a Service, whose addresses cannot be read ({error})"
        )),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn access(server: &str) -> Arc<ClusterAccess> {
        Arc::new(ClusterAccess {
            server: server.to_owned(),
            ca_pem: String::new(),
            dns: Vec::new(),
            domain: String::new(),
        })
    }

    fn nobody_knows() -> AccessError {
        AccessError::Unknown("no ConfigMap".to_owned())
    }

    fn forbidden() -> RemoteError {
        RemoteError::other("servicecidrs is forbidden")
    }

    #[rstest]
    #[case::the_server(
        "10.0.0.1",
        Ok(access("https://10.0.0.1:6443")),
        Ok(Arc::default()),
        Some("the API server")
    )]
    #[case::the_dns(
        "10.96.0.10",
        Ok(access("https://10.0.0.1:6443")),
        Ok(Arc::default()),
        Some("the cluster's DNS")
    )]
    #[case::the_dns_without_a_server(
        "10.96.0.10",
        Err(nobody_knows()),
        Err(forbidden()),
        Some("the cluster's DNS")
    )]
    #[case::nobodys("10.0.0.2", Ok(access("https://10.0.0.1:6443")), Ok(Arc::default()), None)]
    #[case::nobodys_as_far_as_can_be_known("10.0.0.2", Err(nobody_knows()), Ok(Arc::default()), None)]
    #[case::not_looked_up_yet(
        "10.0.0.2",
        Err(AccessError::Pending),
        Ok(Arc::default()),
        Some("being looked up")
    )]
    #[case::unread(
        "10.0.0.2",
        Ok(access("https://10.0.0.1:6443")),
        Err(forbidden()),
        Some("cannot be read (servicecidrs is forbidden)")
    )]
    fn what_cannot_be_ruled_out_is_contested(
        #[case] address: &str,
        #[case] access: Result<Arc<ClusterAccess>, AccessError>,
        #[case] reserved: Result<Arc<Reserved>, RemoteError>,
        #[case] whose: Option<&str>,
    ) {
        let dns = ["10.96.0.10".parse().unwrap()];
        let found = clusters_own(address.parse().unwrap(), &access, &dns, &reserved);
        let contains = |whose| found.as_ref().is_some_and(|found| found.contains(whose));
        assert!(whose.map_or(found.is_none(), contains), "{found:?}");
    }
}
