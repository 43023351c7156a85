//! How kubelets reach the user cluster: its API server and CA.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::Kubeconfig;
use kube::{Api, Client};

/// How kubelets reach the user cluster, and its DNS.
#[derive(Debug, Clone)]
pub struct ClusterAccess {
    /// URL of the API server.
    pub server: String,
    /// Its CA, PEM.
    pub ca_pem: String,
    /// Addresses of the DNS service.
    pub dns: Vec<IpAddr>,
    /// Domain of the cluster's DNS.
    pub domain: String,
}

impl ClusterAccess {
    /// The API server's address, if its URL has one and not a name.
    pub fn address(&self) -> Option<IpAddr> {
        let (_, rest) = self.server.split_once("://")?;
        let authority = rest.split('/').next()?;
        if let Ok(with_port) = authority.parse::<std::net::SocketAddr>() {
            return Some(with_port.ip());
        }
        authority
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .ok()
    }
}

/// Why nobody can tell kubelets where the API server is.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It could not be read.
    #[error("cannot read ConfigMap kube-public/cluster-info: {0}")]
    Read(#[source] Box<kube::Error>),
    /// It says nothing usable.
    #[error(
        "ConfigMap kube-public/cluster-info has no kubeconfig with one cluster, its server and certificate-authority-data: {0}"
    )]
    Unusable(String),
}

/// Reads `kube-public/cluster-info`; `server`, where not empty, replaces the URL in it.
pub async fn read(
    client: &Client,
    server: &str,
    dns: Vec<IpAddr>,
    domain: String,
) -> Result<ClusterAccess, AccessError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-public");
    let map = maps
        .get("cluster-info")
        .await
        .map_err(|error| AccessError::Read(Box::new(error)))?;
    let text = map
        .data
        .unwrap_or_default()
        .remove("kubeconfig")
        .unwrap_or_default();
    let (found, ca_pem) = parse(&text).map_err(AccessError::Unusable)?;
    let server = if server.is_empty() {
        found
    } else {
        server.to_owned()
    };
    Ok(ClusterAccess {
        server,
        ca_pem,
        dns,
        domain,
    })
}

/// Server and CA of the one cluster in a kubeconfig.
fn parse(text: &str) -> Result<(String, String), String> {
    use base64::Engine;
    let kubeconfig = Kubeconfig::from_yaml(text).map_err(|error| error.to_string())?;
    let cluster = kubeconfig
        .clusters
        .into_iter()
        .next()
        .and_then(|named| named.cluster)
        .ok_or("no cluster")?;
    let data = cluster
        .certificate_authority_data
        .ok_or("no certificate-authority-data")?;
    let pem = base64::engine::general_purpose::STANDARD
        .decode(data)
        .map_err(|error| error.to_string())?;
    let pem = String::from_utf8(pem).map_err(|error| error.to_string())?;
    Ok((cluster.server.ok_or("no server")?, pem))
}

#[cfg(test)]
mod tests {
    use super::{ClusterAccess, parse};

    #[rstest::rstest]
    #[case::with_a_port("https://10.0.0.1:6443", Some("10.0.0.1"))]
    #[case::without("https://10.0.0.1/prefix", Some("10.0.0.1"))]
    #[case::ipv6("https://[fd00::1]:6443", Some("fd00::1"))]
    #[case::ipv6_without_a_port("https://[fd00::1]", Some("fd00::1"))]
    #[case::a_name("https://api.example.com:6443", None)]
    fn the_address_of_a_url_is_known_if_it_has_one(#[case] server: &str, #[case] address: Option<&str>) {
        let access = ClusterAccess {
            server: server.to_owned(),
            ca_pem: String::new(),
            dns: Vec::new(),
            domain: String::new(),
        };
        assert_eq!(access.address(), address.map(|address| address.parse().unwrap()));
    }

    #[test]
    fn server_and_ca_are_read_as_kubeadm_writes_them() {
        let text = "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: https://a:6443\n    certificate-authority-data: Q0E=\n";
        assert_eq!(parse(text), Ok(("https://a:6443".into(), "CA".into())));
        assert!(parse("clusters: []").is_err());
        assert!(parse("").is_err());
    }
}
