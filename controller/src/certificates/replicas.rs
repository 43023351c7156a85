//! Which replicas of the webhook there are, and what each serves with.
//!
//! Each is asked as an API server asks it, by a TLS handshake. That needs no right but to list the addresses, nothing that a
//! replica would have to be allowed to write, and shows what is served, not what another client says.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use machinist_certs::{Served, served};
use machinist_infra::kube::error::RemoteError;

use super::Settings;

/// How long one may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Where the replicas are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replicas {
    /// Behind this Service, in the namespace of the Secrets.
    Service(String),
    /// At these (`host:port`), each with all its addresses.
    Addresses(Vec<String>),
}

impl Replicas {
    /// Names with a port are addresses, one without a port is a Service.
    pub fn new(given: &[String]) -> Self {
        match given {
            [service] if !service.contains(':') => Self::Service(service.clone()),
            addresses => Self::Addresses(addresses.to_vec()),
        }
    }

    /// The names by which API servers call them, if nothing else is said.
    pub(super) fn names(&self, namespace: &str) -> Vec<String> {
        match self {
            Self::Service(service) => vec![format!("{service}.{namespace}.svc")],
            Self::Addresses(addresses) => {
                let hosts = addresses.iter().filter_map(|address| address.rsplit_once(':'));
                hosts
                    .map(|(host, _)| host.trim_matches(['[', ']']).to_owned())
                    .collect()
            }
        }
    }

    /// What each serves with; nothing if it is not known which there are.
    pub(super) async fn ask(&self, client: &Client, settings: &Settings) -> Option<Vec<Served>> {
        let addresses = match self {
            Self::Service(service) => endpoints(client, &settings.serving.namespace, service).await,
            Self::Addresses(addresses) => resolved(addresses).await,
        };
        let addresses = match addresses {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::warn!(
                    error,
                    "cannot find the webhook's replicas; trusting its old CA meanwhile"
                );
                return None;
            }
        };
        let name = settings.policy.names.first().map_or("", String::as_str);
        let answers = join_all(addresses.iter().map(|address| served(*address, name, TIMEOUT))).await;
        for (address, answer) in addresses.iter().zip(&answers) {
            if *answer == Served::Unknown {
                tracing::info!(%address, "a replica of the webhook does not answer; trusting its old CA meanwhile");
            }
        }
        Some(answers)
    }
}

/// All addresses, whether ready or not: who is not may be again, with what it had.
async fn endpoints(client: &Client, namespace: &str, service: &str) -> Result<Vec<SocketAddr>, String> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let listed = slices
        .list(&of_service)
        .await
        .map_err(|error| RemoteError::from(&error).to_string())?;
    Ok(listed.iter().flat_map(addresses).collect())
}

fn addresses(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let mut ports = slice.ports.iter().flatten();
    // The Service has one port.
    let Some(port) = ports.find_map(|port| u16::try_from(port.port?).ok()) else {
        return Vec::new();
    };
    let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    addresses
        .filter_map(|address| Some(SocketAddr::new(address.parse().ok()?, port)))
        .collect()
}

async fn resolved(hosts: &[String]) -> Result<Vec<SocketAddr>, String> {
    let mut found = Vec::new();
    for host in hosts {
        let addresses = tokio::net::lookup_host(host).await;
        found.extend(addresses.map_err(|error| format!("{host}: {error}"))?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case(&["machinist-webhook"], Replicas::Service("machinist-webhook".to_owned()))]
    #[case(&["10.0.0.1:9876"], Replicas::Addresses(vec!["10.0.0.1:9876".to_owned()]))]
    #[case(&["a:1", "[::1]:2"], Replicas::Addresses(vec!["a:1".to_owned(), "[::1]:2".to_owned()]))]
    fn a_name_with_a_port_is_an_address(#[case] given: &[&str], #[case] want: Replicas) {
        let given: Vec<_> = given.iter().map(ToString::to_string).collect();
        assert_eq!(Replicas::new(&given), want);
    }

    #[rstest]
    #[case(&["machinist-webhook"], &["machinist-webhook.ns.svc"])]
    #[case(&["a:1", "[::1]:2"], &["a", "::1"])]
    fn they_are_called_by_their_service_or_their_hosts(#[case] given: &[&str], #[case] want: &[&str]) {
        let given: Vec<_> = given.iter().map(ToString::to_string).collect();
        assert_eq!(Replicas::new(&given).names("ns"), want);
    }

    #[rstest]
    #[case::ready_or_not(
        json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}, {"addresses": ["fd00::1"], "conditions": {"ready": false}}]),
        json!([{"name": "webhook", "port": 9876}]), &["10.0.0.1:9876", "[fd00::1]:9876"]
    )]
    #[case::no_port(json!([{"addresses": ["10.0.0.1"]}]), json!([]), &[])]
    #[case::a_name_is_no_address(json!([{"addresses": ["example.com"]}]), json!([{"port": 1}]), &[])]
    fn every_endpoint_is_a_replica(#[case] endpoints: Value, #[case] ports: Value, #[case] want: &[&str]) {
        let slice = json!({"addressType": "IPv4", "metadata": {}, "endpoints": endpoints, "ports": ports});
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        let found: Vec<_> = addresses(&slice).iter().map(ToString::to_string).collect();
        assert_eq!(found, want);
    }
}
