//! The address of the cluster's DNS, where no flag names one: that of the Service in kube-system that has one of the names
//! that distributions give it.
//!
//! Nodes of Machines that a MachineSet of an older version makes keep the address that was the default then, so that all
//! nodes of a pool have one: see [`annotation::CLUSTER_DNS`](machinist_shared::api::names::annotation::CLUSTER_DNS).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use machinist_infra::kube::error::RemoteError;
use tokio::sync::watch;

/// The address in clusters of kubeadm, and what kubelets get where no Service is found.
pub(super) const DEFAULT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));

const NAMESPACE: &str = "kube-system";
/// Names of the Service, by precedence: of kubeadm, k3s and managed clusters; of RKE2; of CoreDNS' own chart and kubespray.
const SERVICES: [&str; 3] = ["kube-dns", "rke2-coredns-rke2-coredns", "coredns"];

/// A Service keeps its address for as long as it is there.
const INTERVAL: Duration = Duration::from_mins(30);
/// After no Service was found, or no answer came; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(30);

/// What is known of the Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dns {
    /// Nothing yet.
    Pending,
    /// It does not exist, or may not be read.
    Absent,
    /// Its address.
    Found(IpAddr),
}

/// Keeps `known` up to date for as long as it is polled, and calls `on_change` after each change.
pub(super) async fn keep(client: &Client, known: &watch::Sender<Dns>, on_change: impl Fn()) {
    let mut retry = FIRST_RETRY;
    loop {
        let found = look_up(client).await;
        let pause = match &found {
            Ok(Dns::Found(_)) => INTERVAL,
            _ => retry,
        };
        retry = (retry * 2).min(INTERVAL);
        match found {
            // What was found once stays true until another answer comes.
            Err(error) => tracing::warn!(%error, "cannot read the cluster's DNS Service"),
            Ok(found) => {
                if known.send_if_modified(|before| std::mem::replace(before, found) != found) {
                    report(found);
                    on_change();
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

fn report(found: Dns) {
    if let Dns::Found(address) = found {
        tracing::info!(%address, "using this DNS address for kubelets of new pools");
    } else {
        tracing::warn!(
            address = %DEFAULT,
            "no DNS Service of a known name in kube-system; using this DNS address for kubelets: set --cluster-dns if it is another"
        );
    }
}

async fn look_up(client: &Client) -> Result<Dns, RemoteError> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let [first, second, third] = SERVICES.map(|name| services.get_opt(name));
    let (first, second, third) = tokio::join!(first, second, third);
    choose([first, second, third].map(|found| found.map_err(|error| RemoteError::from(&error))))
}

/// The first of them that has an address. One that may not be read counts as absent, like one that is not there.
fn choose(services: [Result<Option<Service>, RemoteError>; 3]) -> Result<Dns, RemoteError> {
    for service in services {
        match service {
            Ok(service) => {
                if let Some(address) = service.as_ref().and_then(address) {
                    return Ok(Dns::Found(address));
                }
            }
            Err(error) if error.is_refusal() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Dns::Absent)
}

/// The address of a Service that serves DNS; headless ones have none.
fn address(service: &Service) -> Option<IpAddr> {
    let spec = service.spec.as_ref()?;
    let serves = spec.ports.iter().flatten().any(|port| port.port == 53);
    spec.cluster_ip.as_deref()?.parse().ok().filter(|_| serves)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "it is one of several answers")]
    fn service(address: &str, port: u16) -> Result<Option<Service>, RemoteError> {
        let service: Value = json!({"spec": {"clusterIP": address, "ports": [{"port": port}]}});
        Ok(Some(serde_json::from_value(service).unwrap()))
    }

    fn failed(code: u16) -> Result<Option<Service>, RemoteError> {
        let status = kube::core::Status::failure("no", "no").with_code(code);
        Err(RemoteError::from(&kube::Error::Api(status.boxed())))
    }

    #[allow(clippy::unnecessary_wraps, reason = "it is one of several results")]
    fn found(address: &str) -> Option<Dns> {
        Some(Dns::Found(address.parse().unwrap()))
    }

    #[rstest]
    #[case::k3s([service("10.43.0.10", 53), Ok(None), Ok(None)], found("10.43.0.10"))]
    #[case::rke2([Ok(None), service("10.43.0.10", 53), Ok(None)], found("10.43.0.10"))]
    #[case::by_precedence([service("10.0.0.1", 53), service("10.0.0.2", 53), service("10.0.0.3", 53)], found("10.0.0.1"))]
    #[case::of_ipv6([service("fd00::a", 53), Ok(None), Ok(None)], found("fd00::a"))]
    #[case::headless([service("None", 53), Ok(None), service("10.0.0.3", 53)], found("10.0.0.3"))]
    #[case::of_metrics([service("10.0.0.1", 9153), Ok(None), Ok(None)], Some(Dns::Absent))]
    #[case::without([Ok(None), Ok(None), Ok(None)], Some(Dns::Absent))]
    #[case::without_the_right([failed(403), failed(403), failed(403)], Some(Dns::Absent))]
    #[case::without_an_answer([failed(500), service("10.0.0.2", 53), Ok(None)], None)]
    fn the_service_is_found(
        #[case] services: [Result<Option<Service>, RemoteError>; 3],
        #[case] want: Option<Dns>,
    ) {
        assert_eq!(choose(services).ok(), want);
    }
}
