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
use machinist_infra::cache::ttl::TtlMap;
use machinist_infra::kube::error::RemoteError;
use tokio::sync::Mutex;

use super::range::Range;
use crate::bootstrap::Access;

/// Where the API server is a Service, and its name there.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// How long what was read holds: replicas of the API server come and go.
const TTL: Duration = Duration::from_mins(10);

/// Addresses that are the cluster's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Of the API server.
    addresses: Vec<IpAddr>,
    /// From which Services get theirs.
    ranges: Vec<Range>,
    /// From which they get them at most, where nothing tells the ranges.
    at_most: Option<Range>,
}

impl Reserved {
    /// What these objects and the flag say. Clusters before Kubernetes 1.33 have no ServiceCIDRs: there, the ranges are those
    /// of the flag or, without it, whatever can be one. That is said of the range which the API server's Service is from;
    /// of a second one, of the other IP family, only the flag tells.
    fn of(
        service: Option<&Service>,
        endpoints: Option<&EndpointSlice>,
        cidrs: Option<&[ServiceCIDR]>,
        reported: &[Range],
    ) -> Result<Self, RemoteError> {
        let service = service.and_then(|service| service.spec.as_ref());
        let service = service.into_iter().flat_map(|spec| {
            let all = spec.cluster_ips.iter().flatten();
            spec.cluster_ip.iter().chain(all)
        });
        // A Service without an address says None.
        let service: Vec<IpAddr> = service.filter_map(|text| text.parse().ok()).collect();
        let endpoints = endpoints.into_iter().flat_map(|slice| &slice.endpoints);
        let endpoints = endpoints.flat_map(|endpoint| &endpoint.addresses);
        let endpoints = endpoints.filter_map(|text| text.parse().ok());
        let specs = cidrs
            .into_iter()
            .flatten()
            .filter_map(|range| range.spec.as_ref());
        let ranges = specs.flat_map(|spec| spec.cidrs.iter().flatten());
        let ranges = ranges.filter_map(|text| text.parse().ok());
        let at_most = if cidrs.is_some() || !reported.is_empty() {
            None
        } else {
            let found = service.first().and_then(|address| Range::at_most(*address));
            Some(found.ok_or_else(|| {
                RemoteError::other(
                    "there are no ServiceCIDRs, and the Service default/kubernetes has no address; \
                     --service-cluster-ip-range tells those of Services",
                )
            })?)
        };
        Ok(Self {
            ranges: ranges.chain(reported.iter().copied()).collect(),
            addresses: service.into_iter().chain(endpoints).collect(),
            at_most,
        })
    }

    /// Whose an address is, if it is, or may be, the cluster's own; for a person.
    pub fn whose(&self, address: IpAddr) -> Option<String> {
        let address = address.to_canonical();
        if self.addresses.contains(&address) {
            return Some("the API server".to_owned());
        }
        let mut ranges = self.ranges.iter();
        if let Some(range) = ranges.find(|range| range.contains(address)) {
            return Some(format!("the range of Services {range}"));
        }
        let range = self.at_most.filter(|range| range.contains(address))?;
        Some(format!(
            "perhaps the range of Services, which is {range} at most (--service-cluster-ip-range tells which it is)"
        ))
    }
}

/// What was read, by the hosts by which the API server is known.
#[derive(Debug, Default)]
pub struct Known {
    /// Ranges of Services that the flag tells.
    reported: Vec<Range>,
    read: TtlMap<Vec<String>, Arc<Reserved>>,
    /// Held while they are read: others wait for the same answer.
    reading: Mutex<()>,
}

/// How long requests wait for what is known of the API server's addresses.
const LOOKED_UP: Duration = Duration::from_secs(5);

/// How long a name server may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);

/// The addresses of hosts. A name that does not resolve here has none: it may be one that only guests resolve.
async fn resolve(hosts: &[String]) -> Vec<IpAddr> {
    let resolved = hosts.iter().map(async |host| {
        if let Ok(address) = host.parse::<IpAddr>() {
            return vec![address.to_canonical()];
        }
        let found =
            tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host.as_str(), 443))).await;
        let Ok(Ok(found)) = found else {
            tracing::warn!(
                host,
                "the API server's name cannot be resolved, so its addresses are not known to be its own"
            );
            return Vec::new();
        };
        found.map(|address| address.ip().to_canonical()).collect()
    });
    futures::future::join_all(resolved).await.concat()
}

impl Known {
    /// Nothing is read yet; `reported` are the ranges of Services that the flag tells.
    pub fn new(reported: Vec<Range>) -> Self {
        Self {
            reported,
            ..Self::default()
        }
    }

    /// Reads them before any node asks for a serving certificate, so that no request waits for it.
    pub async fn read_ahead(&self, client: &Client, access: &Access) {
        let _ = tokio::time::timeout(LOOKED_UP, access.looked_up()).await;
        if let Ok(hosts) = access.hosts()
            && let Err(error) = self.get(client, &hosts).await
        {
            tracing::warn!(%error, "cannot read the cluster's own addresses; it is tried again when a node asks for a certificate");
        }
    }

    /// The cluster's own addresses, as they were some minutes ago at most; `hosts` are those by which the API server is known.
    pub async fn get(&self, client: &Client, hosts: &[String]) -> Result<Arc<Reserved>, RemoteError> {
        let _reading = self.reading.lock().await;
        let hosts = hosts.to_vec();
        if let Some(reserved) = self.read.get(&hosts) {
            return Ok(reserved);
        }
        let (reserved, resolved) = futures::join!(read(client, &self.reported), resolve(&hosts));
        let mut reserved = reserved?;
        reserved.addresses.extend(resolved);
        let reserved = Arc::new(reserved);
        self.read.insert(hosts, reserved.clone(), TTL);
        Ok(reserved)
    }
}

async fn read(client: &Client, reported: &[Range]) -> Result<Reserved, RemoteError> {
    let (namespace, name) = API_SERVER;
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let cidrs: Api<ServiceCIDR> = Api::all(client.clone());
    let all = ListParams::default();
    let (service, slice, cidrs) = futures::join!(services.get(name), slices.get(name), cidrs.list(&all));
    let cidrs = if_it_exists(cidrs)?.map(|list| list.items);
    Reserved::of(
        if_it_exists(service)?.as_ref(),
        if_it_exists(slice)?.as_ref(),
        cidrs.as_deref(),
        reported,
    )
}

/// `None` of an object, or of a whole resource, that does not exist. What may not be read may exist.
fn if_it_exists<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, RemoteError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn service() -> Service {
        let service = json!({"metadata": {"name": "kubernetes"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"]}});
        serde_json::from_value(service).unwrap()
    }

    fn endpoints() -> EndpointSlice {
        let endpoints = json!({"metadata": {"name": "kubernetes"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["192.168.0.10"]}, {"addresses": ["192.168.0.11"]}]});
        serde_json::from_value(endpoints).unwrap()
    }

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
    fn an_address_is_reported_to_be_the_clusters(#[case] address: &str, #[case] whose: Option<&str>) {
        let range =
            json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/15", "fd00:96::/112"]}});
        let ranges = [serde_json::from_value(range).unwrap()];
        let reserved = Reserved::of(Some(&service()), Some(&endpoints()), Some(&ranges), &[]).unwrap();
        assert_eq!(reserved.whose(address.parse().unwrap()).as_deref(), whose);
    }

    /// As of Kubernetes before 1.33.
    #[rstest]
    #[case::nothing_tells(&[], "10.111.3.4", Some("perhaps the range of Services, which is 10.96.0.0/12 at most"))]
    #[case::nothing_reports_that(&[], "10.112.0.0", None)]
    #[case::nothing_tells_but_this_is_known(&[], "10.96.0.1", Some("the API server"))]
    #[case::the_flag_tells(&["10.96.0.0/16", "fd00:96::/112"], "10.96.3.4", Some("the range of Services 10.96.0.0/16"))]
    #[case::the_flag_tells_both(&["10.96.0.0/16", "fd00:96::/112"], "fd00:96::9", Some("the range of Services fd00:96::/112"))]
    #[case::the_flag_tells_otherwise(&["10.96.0.0/16"], "10.111.3.4", None)]
    fn without_service_cidrs(#[case] reported: &[&str], #[case] address: &str, #[case] whose: Option<&str>) {
        let reported: Vec<Range> = reported.iter().map(|text| text.parse().unwrap()).collect();
        let reserved = Reserved::of(Some(&service()), Some(&endpoints()), None, &reported).unwrap();
        let found = reserved.whose(address.parse().unwrap());
        let begins = |whose| found.as_ref().is_some_and(|found| found.starts_with(whose));
        assert!(whose.map_or(found.is_none(), begins), "{found:?}");
    }

    #[test]
    fn where_nothing_tells_anything_that_is_said() {
        let error = Reserved::of(None, None, None, &[]).unwrap_err();
        assert!(
            error.to_string().contains("--service-cluster-ip-range"),
            "{error}"
        );
        assert!(Reserved::of(None, None, None, &["10.0.0.0/8".parse().unwrap()]).is_ok());
        assert!(Reserved::of(None, None, Some(&[]), &[]).is_ok());
    }

    /// An API server that answers with that to the question for ServiceCIDRs.
    fn api_server(code: u16, body: &'static str) -> Client {
        let answer = move |request: http::Request<kube::client::Body>| async move {
            let (code, body) = match request.uri().path() {
                "/api/v1/namespaces/default/services/kubernetes" => {
                    (200, serde_json::to_string(&service()).unwrap())
                }
                "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes" => {
                    (200, serde_json::to_string(&endpoints()).unwrap())
                }
                _ => (code, body.to_owned()),
            };
            let response = http::Response::builder().status(code);
            Ok::<_, std::convert::Infallible>(
                response
                    .body(kube::client::Body::from(body.into_bytes()))
                    .unwrap(),
            )
        };
        Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn an_api_server_that_has_no_service_cidrs_is_no_failure_and_one_that_keeps_them_is() {
        // As it answers where it does not know the resource.
        let known = Known::default()
            .get(&api_server(404, "404 page not found\n"), &[])
            .await;
        let whose = known.unwrap().whose("10.97.0.1".parse().unwrap());
        assert!(whose.unwrap().contains("10.96.0.0/12 at most"));
        let forbidden = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
            "message": "servicecidrs.networking.k8s.io is forbidden"}"#;
        let known = Known::new(vec!["10.96.0.0/12".parse().unwrap()]);
        let error = known.get(&api_server(403, forbidden), &[]).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("servicecidrs.networking.k8s.io is forbidden"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn every_address_by_which_the_api_server_is_known_is_its_own_by_name_too() {
        let (known, api_server) = (Known::default(), api_server(404, ""));
        let hosts = ["10.55.0.1", "fd00::1", "localhost", "no.such.name.invalid"].map(str::to_owned);
        let reserved = known.get(&api_server, &hosts).await.unwrap();
        for address in ["10.55.0.1", "fd00::1", "127.0.0.1"] {
            let whose = reserved.whose(address.parse().unwrap());
            assert_eq!(whose.as_deref(), Some("the API server"), "{address}");
        }
        assert_eq!(reserved.whose("10.55.0.2".parse().unwrap()), None);
        let now = known.get(&api_server, &hosts[1..]).await.unwrap();
        assert_eq!(
            now.whose("10.55.0.1".parse().unwrap()),
            None,
            "no longer known by it"
        );
    }

    #[rstest]
    #[case::kubeadm("10.96.0.1", "10.96.0.0/12")]
    #[case::k3s("10.43.0.1", "10.43.0.0/16")]
    #[case::no_larger_than_the_api_server_allows("10.0.0.1", "10.0.0.0/12")]
    #[case::small("192.168.7.129", "192.168.7.128/25")]
    #[case::ipv6("fd00:10:96::1", "fd00:10:96::/108")]
    fn the_most_that_the_range_of_services_can_be(#[case] api_server: &str, #[case] range: &str) {
        let found = Range::at_most(api_server.parse().unwrap()).unwrap();
        assert_eq!(found.to_string(), range);
    }

    #[rstest]
    #[case("0.0.0.0/0", "10.0.0.1", true)]
    #[case("::/0", "fd00::1", true)]
    #[case("10.0.0.1/32", "10.0.0.1", true)]
    #[case("10.0.0.1/32", "10.0.0.2", false)]
    #[case("10.0.0.7/24", "10.0.0.2", true)]
    fn prefixes_of_any_length(#[case] range: &str, #[case] address: &str, #[case] within: bool) {
        assert_eq!(
            range.parse::<Range>().unwrap().contains(address.parse().unwrap()),
            within
        );
    }

    #[rstest]
    #[case("10.0.0.1")]
    #[case("10.0.0.1/33")]
    #[case("fd00::/129")]
    #[case("a/8")]
    #[case("")]
    fn what_is_no_range(#[case] text: &str) {
        assert!(text.parse::<Range>().is_err());
    }

    #[rstest]
    #[case::does_not_exist(404, true)]
    #[case::may_not_be_read(403, false)]
    #[case::fails(500, false)]
    fn only_what_does_not_exist_is_done_without(#[case] code: u16, #[case] is_done_without: bool) {
        let status = kube::core::Status {
            code,
            ..Default::default()
        };
        let answer = if_it_exists::<()>(Err(kube::Error::Api(Box::new(status))));
        assert_eq!(matches!(answer, Ok(None)), is_done_without);
        assert_eq!(answer.is_err(), !is_done_without);
    }
}
