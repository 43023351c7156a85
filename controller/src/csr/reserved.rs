//! Addresses that are the cluster's own: those of its API server and of its Services. No node serves at them, whatever its
//! VM is said to have.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ListParams;
use kube::{Api, Client};
use machinist_infra::client::RemoteError;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Where the API server is a Service, and its name there.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// How long what was read holds: replicas of the API server come and go.
const HOLDS: Duration = Duration::from_mins(10);

/// Addresses that are the cluster's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Of the API server.
    addresses: Vec<IpAddr>,
    /// From which Services get theirs: first address and length of the prefix.
    ranges: Vec<(IpAddr, u8)>,
}

impl Reserved {
    /// What is there of these objects.
    fn of(service: Option<&Service>, endpoints: Option<&EndpointSlice>, ranges: &[ServiceCIDR]) -> Self {
        let service = service.and_then(|service| service.spec.as_ref());
        let service = service.into_iter().flat_map(|spec| {
            let all = spec.cluster_ips.iter().flatten();
            spec.cluster_ip.iter().chain(all)
        });
        let endpoints = endpoints.into_iter().flat_map(|slice| &slice.endpoints);
        let endpoints = endpoints.flat_map(|endpoint| &endpoint.addresses);
        let ranges = ranges.iter().filter_map(|range| range.spec.as_ref());
        Self {
            // A Service without an address says None.
            addresses: service
                .chain(endpoints)
                .filter_map(|text| text.parse().ok())
                .collect(),
            ranges: ranges
                .flat_map(|spec| spec.cidrs.iter().flatten())
                .filter_map(|text| parse(text))
                .collect(),
        }
    }

    /// Whose an address is, if it is the cluster's own; for a person.
    pub fn whose(&self, address: IpAddr) -> Option<String> {
        let address = address.to_canonical();
        if self.addresses.contains(&address) {
            return Some("the API server".to_owned());
        }
        let range = self.ranges.iter().find(|range| contains(**range, address));
        range.map(|(first, prefix)| format!("the range of Services {first}/{prefix}"))
    }
}

fn parse(cidr: &str) -> Option<(IpAddr, u8)> {
    let (first, prefix) = cidr.split_once('/')?;
    Some((first.parse().ok()?, prefix.parse().ok()?))
}

fn contains((first, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    let (first, address, length) = match (first, address) {
        (IpAddr::V4(first), IpAddr::V4(address)) => (first.to_bits().into(), address.to_bits().into(), 32),
        (IpAddr::V6(first), IpAddr::V6(address)) => (first.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let differ: u128 = first ^ address;
    // All bits of an address may be left to the host.
    let host = u32::from(length.max(prefix) - prefix);
    differ.checked_shr(host).unwrap_or(0) == 0
}

/// What was read last.
#[derive(Debug, Default)]
pub struct Known(Mutex<Option<(Instant, Arc<Reserved>)>>);

impl Known {
    /// The cluster's own addresses, as they were some minutes ago at most.
    pub async fn get(&self, client: &Client) -> Result<Arc<Reserved>, RemoteError> {
        let mut known = self.0.lock().await;
        if let Some((read, reserved)) = known.as_ref()
            && read.elapsed() < HOLDS
        {
            return Ok(reserved.clone());
        }
        let reserved = Arc::new(read(client).await?);
        *known = Some((Instant::now(), reserved.clone()));
        Ok(reserved)
    }
}

async fn read(client: &Client) -> Result<Reserved, RemoteError> {
    let (namespace, name) = API_SERVER;
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let cidrs: Api<ServiceCIDR> = Api::all(client.clone());
    let all = ListParams::default();
    let (service, slice, cidrs) = futures::join!(services.get(name), slices.get(name), cidrs.list(&all));
    let cidrs = as_far_as_allowed(cidrs)?.map(|list| list.items);
    Ok(Reserved::of(
        as_far_as_allowed(service)?.as_ref(),
        as_far_as_allowed(slice)?.as_ref(),
        &cidrs.unwrap_or_default(),
    ))
}

/// Rights of an earlier chart do not include these reads, and clusters before Kubernetes 1.33 have no ServiceCIDRs.
fn as_far_as_allowed<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, RemoteError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::the_service("10.96.0.1", Some("the API server"))]
    #[case::the_service_inside_ipv6("::ffff:10.96.0.1", Some("the API server"))]
    #[case::its_second_family("fd00:96::1", Some("the API server"))]
    #[case::a_replica("192.168.0.11", Some("the API server"))]
    #[case::another_service("10.97.3.4", Some("the range of Services 10.96.0.0/15"))]
    #[case::the_first_of_the_range("10.96.0.0", Some("the range of Services 10.96.0.0/15"))]
    #[case::the_one_after_the_range("10.98.0.0", None)]
    #[case::the_one_before_the_range("10.95.255.255", None)]
    #[case::another_service_by_ipv6("fd00:96::ffff", Some("the range of Services fd00:96::/112"))]
    #[case::beyond_that("fd00:96::1:0", None)]
    #[case::a_vm("10.200.0.5", None)]
    fn an_address_is_told_to_be_the_clusters(#[case] address: &str, #[case] whose: Option<&str>) {
        let service = json!({"metadata": {"name": "kubernetes"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"]}});
        let endpoints = json!({"metadata": {"name": "kubernetes"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["192.168.0.10"]}, {"addresses": ["192.168.0.11"]}]});
        let range =
            json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/15", "fd00:96::/112"]}});
        let reserved = Reserved::of(
            serde_json::from_value(service).ok().as_ref(),
            serde_json::from_value(endpoints).ok().as_ref(),
            &[serde_json::from_value(range).unwrap()],
        );
        assert_eq!(reserved.whose(address.parse().unwrap()).as_deref(), whose);
    }

    #[rstest]
    #[case("0.0.0.0/0", "10.0.0.1", true)]
    #[case("::/0", "fd00::1", true)]
    #[case("10.0.0.1/32", "10.0.0.1", true)]
    #[case("10.0.0.1/32", "10.0.0.2", false)]
    #[case("10.0.0.1/99", "10.0.0.2", false)]
    fn prefixes_of_any_length(#[case] range: &str, #[case] address: &str, #[case] within: bool) {
        assert_eq!(contains(parse(range).unwrap(), address.parse().unwrap()), within);
    }

    #[test]
    fn what_may_not_be_read_is_done_without_and_what_fails_is_told() {
        let answer = |code| {
            let status = kube::core::Status {
                code,
                ..Default::default()
            };
            as_far_as_allowed::<()>(Err(kube::Error::Api(Box::new(status))))
        };
        assert!(matches!(answer(403), Ok(None)) && matches!(answer(404), Ok(None)));
        assert!(answer(500).is_err());
    }
}
