//! How kubelets reach the user cluster: its API server, CA and DNS ([`super::dns`]).
//!
//! Both are in the ConfigMap `kube-public/cluster-info`, where kubeadm's control plane is; managed clusters may have none. There
//! the address is that of the Service `default/kubernetes`, and the CA the one by which we know the API server ourselves. What is
//! found is watched: guests get the CA of the day.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::Kubeconfig;
use kube::{Api, Client, Resource};
use machinist_infra::cache::reflect::{Signal, reflect};
use machinist_infra::cache::store::{Key, Store};
use machinist_infra::cache::watch::Selector;
use machinist_infra::kube::error::RemoteError;
use machinist_infra::kube::user_cluster::UserCluster;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use super::dns::{self, Dns};
use crate::config::Flags;

/// How kubelets reach the user cluster, and its DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterAccess {
    /// URL of the API server.
    pub server: String,
    /// Its CA, PEM.
    pub ca_pem: String,
    /// Addresses of the DNS service: those of the flag, or of the Service that was found.
    pub dns: Vec<IpAddr>,
    /// The same without looking for a Service.
    pub default_dns: Vec<IpAddr>,
    /// Domain of the cluster's DNS.
    pub domain: String,
}

/// The host in a URL, an address or a name.
fn host(url: &str) -> Option<String> {
    let url: http::Uri = url.parse().ok()?;
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
    Some(host.to_owned())
}

/// Why it cannot be determined kubelets where the API server is, as of now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// It is being looked up.
    #[error("the API server's address and CA and the DNS address for kubelets are being looked up")]
    Pending,
    /// They are not to be found; why.
    #[error("cannot determine the API server URL and CA for kubelets: {0}")]
    Unknown(String),
}

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
/// Selects the EndpointSlices of the API server's own Service, in the namespace `default`.
const SERVICE: &str = "kubernetes.io/service-name=kubernetes";

/// Knows how kubelets reach the user cluster, while [`Self::keep`] runs.
pub struct Access {
    client: Client,
    options: Options,
    /// URL by which we know the API server.
    own_server: Option<String>,
    cluster_info: Arc<Store<ConfigMap>>,
    endpoints: Arc<Store<EndpointSlice>>,
    /// Why the last try to read either failed.
    failures: Mutex<[Option<RemoteError>; 2]>,
    changed: Notify,
    /// The DNS service, unless flags tell.
    dns: watch::Sender<Dns>,
    /// Whether the endpoints are wanted.
    fallback: watch::Sender<bool>,
    known: watch::Sender<Result<Arc<ClusterAccess>, AccessError>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What is reported by flags.
#[derive(Debug, Clone)]
struct Options {
    /// URL of the API server, instead of the one that is found, unless empty.
    server: String,
    /// None: found.
    dns: Vec<IpAddr>,
    domain: String,
    /// Where our own client's CA is from.
    kubeconfig: String,
    master: String,
}

impl Access {
    /// Nothing is known yet.
    pub fn new(client: Client, own_server: Option<String>, flags: &Flags) -> Self {
        Self {
            client,
            own_server,
            options: Options {
                server: flags.override_bootstrap_kubelet_apiserver.clone(),
                dns: flags.cluster_dns(),
                domain: flags.cluster_domain.clone(),
                kubeconfig: flags.kubeconfig.clone(),
                master: flags.master.clone(),
            },
            cluster_info: Arc::new(Store::new(|_: &ConfigMap| Vec::new())),
            endpoints: Arc::new(Store::new(|_: &EndpointSlice| Vec::new())),
            failures: Mutex::default(),
            changed: Notify::new(),
            dns: watch::Sender::new(Dns::Pending),
            fallback: watch::Sender::new(false),
            known: watch::Sender::new(Err(AccessError::Pending)),
        }
    }

    /// How kubelets reach the user cluster, as far as is known.
    pub fn look(&self) -> Result<Arc<ClusterAccess>, AccessError> {
        self.known.borrow().clone()
    }

    /// Every host, address or name, by which the API server is known here: as flags and our own kubeconfig have it, and as it is
    /// published, whatever kubelets are reported.
    pub fn hosts(&self) -> Result<Vec<String>, AccessError> {
        let failures = self.failures.lock();
        if !self.cluster_info.is_synced() && failures[0].is_none() {
            return Err(AccessError::Pending);
        }
        drop(failures);
        let map = self.cluster_info.get(&Key::new(NAMESPACE, NAME));
        let published = published(map.as_deref()).ok().map(|(server, _)| server);
        let for_kubelets = self.look().ok().map(|access| access.server.clone());
        let urls = [
            Some(self.options.server.clone()),
            published,
            for_kubelets,
            self.own_server.clone(),
        ];
        let mut hosts: Vec<String> = urls.iter().flatten().filter_map(|url| host(url)).collect();
        hosts.sort();
        hosts.dedup();
        Ok(hosts)
    }

    /// Every address by which kubelets may reach the DNS service.
    pub fn dns(&self) -> Vec<IpAddr> {
        let (mut addresses, default) = self.dns_addresses().unwrap_or_default();
        addresses.extend(default);
        addresses
    }

    /// Addresses of the DNS service, and those without looking for it; `None` while it is looked up.
    fn dns_addresses(&self) -> Option<(Vec<IpAddr>, Vec<IpAddr>)> {
        if !self.options.dns.is_empty() {
            return Some((self.options.dns.clone(), self.options.dns.clone()));
        }
        let found = match *self.dns.borrow() {
            Dns::Pending => return None,
            Dns::Absent => dns::DEFAULT,
            Dns::Found(address) => address,
        };
        Some((vec![found], vec![dns::DEFAULT]))
    }

    /// Returns once it is known, or known why not.
    pub async fn looked_up(&self) {
        let is_known = |known: &Result<_, AccessError>| *known != Err(AccessError::Pending);
        // The sender lives in `self`.
        let _ = self.known.subscribe().wait_for(is_known).await;
    }

    /// Keeps it up to date for as long as it is polled, and tells `on_change` when something else is known.
    pub async fn keep(&self, on_change: impl Fn()) {
        let cluster_info: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let of_name = Selector::default().fields(&format!("metadata.name={NAME}"));
        tokio::join!(
            self.follow(cluster_info, of_name, &self.cluster_info, 0),
            self.follow_endpoints(),
            async {
                if self.options.dns.is_empty() {
                    dns::keep(&self.client, &self.dns, || self.changed.notify_one()).await;
                }
            },
            async {
                loop {
                    self.changed.notified().await;
                    if self.refresh().await {
                        on_change();
                    }
                }
            },
        );
    }

    /// Watches the endpoints while they are wanted.
    async fn follow_endpoints(&self) {
        let mut fallback = self.fallback.subscribe();
        loop {
            // The sender lives in `self`.
            let _ = fallback.wait_for(|wanted| *wanted).await;
            let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), "default");
            let of_service = Selector::default().labels(SERVICE);
            tokio::select! {
                () = self.follow(slices, of_service, &self.endpoints, 1) => {}
                _ = fallback.wait_for(|wanted| !*wanted) => {}
            }
        }
    }

    async fn follow<K>(&self, api: Api<K>, config: Selector, store: &Arc<Store<K>>, nth: usize)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync,
    {
        let on = |signal: Signal<'_, K>| {
            let failure = match signal {
                Signal::Failed(error) => {
                    tracing::debug!(kind = %K::kind(&()), %error, "cannot read how kubelets reach the API server");
                    Some(error.clone())
                }
                Signal::Changed(_) | Signal::Synced | Signal::Restored => None,
            };
            self.failures.lock()[nth] = failure;
            self.changed.notify_one();
        };
        reflect(api, config, store.clone(), on).await;
    }

    /// Takes in what was read; whether something else is known now.
    async fn refresh(&self) -> bool {
        let failures = self.failures.lock().clone();
        let [info, endpoints] = failures;
        let info = Seen::new(&self.cluster_info, info, |store| {
            let map = store.get(&Key::new(NAMESPACE, NAME));
            published(map.as_deref())
        });
        let endpoints = Seen::new(&self.endpoints, endpoints, |store| {
            let slices = store.all();
            slices.iter().find_map(|slice| endpoint(slice))
        });
        let own_ca = if needs_fallback(&info) {
            self.own_ca().await
        } else {
            None
        };
        self.fallback.send_if_modified(|wanted| {
            let wants = needs_fallback(&info) && self.options.server.is_empty();
            std::mem::replace(wanted, wants) != wants
        });
        let known = judge(info, endpoints, own_ca, &self.options.server);
        let known = known.and_then(|(server, ca_pem)| {
            let (dns, default_dns) = self.dns_addresses().ok_or(AccessError::Pending)?;
            Ok(Arc::new(ClusterAccess {
                server,
                ca_pem,
                dns,
                default_dns,
                domain: self.options.domain.clone(),
            }))
        });
        self.known.send_if_modified(|before| {
            if *before == known {
                return false;
            }
            match &known {
                Ok(access) => tracing::info!(
                    server = access.server,
                    "using this API server for kubelet bootstrap"
                ),
                Err(error) => tracing::warn!("{error}"),
            }
            *before = known;
            true
        })
    }

    /// The CA by which we know the API server.
    async fn own_ca(&self) -> Option<String> {
        let cluster = UserCluster {
            kubeconfig: &self.options.kubeconfig,
            server: &self.options.master,
        };
        cluster.ca_pem().await.ok().flatten()
    }
}

/// What is known of something that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen<T> {
    Pending,
    Failed(RemoteError),
    Synced(T),
}

impl<T> Seen<T> {
    fn new<K>(store: &Store<K>, failure: Option<RemoteError>, read: impl FnOnce(&Store<K>) -> T) -> Self
    where
        K: Resource<DynamicType = ()> + Clone,
    {
        match failure {
            // What was seen once stays true while the watch is tried again.
            _ if store.is_synced() => Self::Synced(read(store)),
            Some(error) => Self::Failed(error),
            None => Self::Pending,
        }
    }
}

/// Server and CA as published, or why there are none.
type Published = Result<(String, String), String>;

fn published(map: Option<&ConfigMap>) -> Published {
    let map = map.ok_or("it does not exist")?;
    let text = map.data.as_ref().and_then(|data| data.get("kubeconfig"));
    parse(text.ok_or("it has no key kubeconfig")?)
}

/// Whether nothing usable is published. What merely could not be read just now is tried again.
fn needs_fallback(info: &Seen<Published>) -> bool {
    match info {
        Seen::Pending | Seen::Synced(Ok(_)) => false,
        Seen::Failed(error) => error.is_refusal(),
        Seen::Synced(Err(_)) => true,
    }
}

/// Server and CA for kubelets. `server` is that of the flag, or empty.
fn judge(
    info: Seen<Published>,
    endpoints: Seen<Option<SocketAddr>>,
    own_ca: Option<String>,
    server: &str,
) -> Result<(String, String), AccessError> {
    let falls_back = needs_fallback(&info);
    let reported = Some(server)
        .filter(|server| !server.is_empty())
        .map(ToOwned::to_owned);
    let unpublished = match info {
        Seen::Pending => return Err(AccessError::Pending),
        Seen::Synced(Ok((found, ca))) => return Ok((reported.unwrap_or(found), ca)),
        Seen::Synced(Err(why)) => format!("ConfigMap {NAMESPACE}/{NAME}: {why}"),
        Seen::Failed(error) => format!("cannot read ConfigMap {NAMESPACE}/{NAME}: {error}"),
    };
    let unknown = |why: &str| Err(AccessError::Unknown(format!("{unpublished}{why}")));
    if !falls_back {
        return unknown("");
    }
    let Some(ca) = own_ca else {
        return unknown("; and the controller's own kubeconfig has no CA");
    };
    if let Some(server) = reported {
        return Ok((server, ca));
    }
    match endpoints {
        Seen::Pending => Err(AccessError::Pending),
        Seen::Synced(Some(address)) => Ok((format!("https://{address}"), ca)),
        Seen::Synced(None) => {
            unknown("; and the Service default/kubernetes has no ready endpoint with a port named https")
        }
        Seen::Failed(error) => unknown(&format!(
            "; and cannot read the EndpointSlices of default/kubernetes: {error}"
        )),
    }
}

/// The first ready endpoint's address, with the port of the name `https`.
fn endpoint(slice: &EndpointSlice) -> Option<SocketAddr> {
    let mut ports = slice.ports.iter().flatten();
    let https = ports.find(|port| port.name.as_deref() == Some("https"))?;
    let port = u16::try_from(https.port?).ok()?;
    let ready = slice.endpoints.iter().filter(|endpoint| {
        // Unset is ready, as the API has it.
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    let mut addresses = ready.flat_map(|endpoint| &endpoint.addresses);
    addresses.find_map(|address| Some(SocketAddr::new(address.parse().ok()?, port)))
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
    use serde_json::{Value, json};

    use super::*;

    #[rstest::rstest]
    #[case::with_a_port("https://10.0.0.1:6443", Some("10.0.0.1"))]
    #[case::without("https://10.0.0.1/prefix", Some("10.0.0.1"))]
    #[case::ipv6("https://[fd00::1]:6443", Some("fd00::1"))]
    #[case::ipv6_without_a_port("https://[fd00::1]", Some("fd00::1"))]
    #[case::a_name("https://api.example.com:6443", Some("api.example.com"))]
    #[case::nothing("", None)]
    fn a_url_has_a_host(#[case] server: &str, #[case] expected: Option<&str>) {
        assert_eq!(host(server).as_deref(), expected);
    }

    #[test]
    fn server_and_ca_are_read_as_kubeadm_writes_them() {
        let text = "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: https://a:6443\n    certificate-authority-data: Q0E=\n";
        assert_eq!(parse(text), Ok(("https://a:6443".into(), "CA".into())));
        assert!(parse("clusters: []").is_err());
        assert!(parse("").is_err());
    }

    fn refused() -> RemoteError {
        let status = kube::core::Status::failure("no", "Forbidden").with_code(403);
        RemoteError::from(&kube::Error::Api(status.boxed()))
    }

    fn found() -> (String, String) {
        ("https://found".to_owned(), "CA".to_owned())
    }

    fn address() -> SocketAddr {
        "10.0.0.1:6443".parse().unwrap()
    }

    #[rstest::rstest]
    #[case::published(Seen::Synced(Ok(found())), Seen::Pending, "", Ok(("https://found", "CA")))]
    #[case::published_and_reported(Seen::Synced(Ok(found())), Seen::Pending, "https://reported", Ok(("https://reported", "CA")))]
    #[case::absent(
        Seen::Synced(Err("gone".to_owned())), Seen::Synced(Some(address())), "", Ok(("https://10.0.0.1:6443", "own"))
    )]
    #[case::forbidden(Seen::Failed(refused()), Seen::Synced(Some(address())), "", Ok(("https://10.0.0.1:6443", "own")))]
    #[case::absent_and_reported(
        Seen::Synced(Err("gone".to_owned())), Seen::Pending, "https://reported", Ok(("https://reported", "own"))
    )]
    #[case::not_read_yet(Seen::Pending, Seen::Synced(Some(address())), "", Err("being looked up"))]
    #[case::endpoints_not_read_yet(Seen::Synced(Err("gone".to_owned())), Seen::Pending, "", Err("being looked up"))]
    #[case::no_answer_is_no_absence(
        Seen::Failed(RemoteError::other("no answer")),
        Seen::Synced(Some(address())),
        "",
        Err("cannot read ConfigMap kube-public/cluster-info: no answer")
    )]
    #[case::nothing_anywhere(
        Seen::Synced(Err("gone".to_owned())), Seen::Synced(None), "",
        Err("ConfigMap kube-public/cluster-info: gone; and the Service default/kubernetes has no ready endpoint")
    )]
    #[case::endpoints_forbidden(
        Seen::Synced(Err("gone".to_owned())), Seen::Failed(refused()), "",
        Err("and cannot read the EndpointSlices of default/kubernetes: no")
    )]
    fn what_is_not_published_is_found_elsewhere(
        #[case] info: Seen<Published>,
        #[case] endpoints: Seen<Option<SocketAddr>>,
        #[case] server: &str,
        #[case] want: Result<(&str, &str), &str>,
    ) {
        match (judge(info, endpoints, Some("own".to_owned()), server), want) {
            (Ok(found), Ok((server, ca))) => assert_eq!(found, (server.to_owned(), ca.to_owned())),
            (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
            (found, want) => panic!("{found:?} instead of {want:?}"),
        }
    }

    #[test]
    fn without_a_ca_it_is_not_known() {
        let absent = Seen::Synced(Err("gone".to_owned()));
        let error = judge(absent, Seen::Synced(Some(address())), None, "").unwrap_err();
        assert!(error.to_string().contains("own kubeconfig has no CA"), "{error}");
    }

    #[rstest::rstest]
    #[case::the_first_that_is_ready(
        json!([
            {"addresses": ["10.0.0.1"], "conditions": {"ready": false}}, {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
        ]),
        json!([{"name": "other", "port": 1}, {"name": "https", "port": 6443}]), Some("10.0.0.2:6443")
    )]
    #[case::unset_is_ready(json!([{"addresses": ["fd00::1"]}]), json!([{"name": "https", "port": 443}]), Some("[fd00::1]:443"))]
    #[case::no_such_port(json!([{"addresses": ["10.0.0.1"]}]), json!([{"name": "http", "port": 80}]), None)]
    #[case::no_endpoint(json!([]), json!([{"name": "https", "port": 443}]), None)]
    fn an_endpoint_is_ready_and_has_a_port_of_that_name(
        #[case] endpoints: Value,
        #[case] ports: Value,
        #[case] want: Option<&str>,
    ) {
        let slice = json!({"addressType": "IPv4", "metadata": {}, "endpoints": endpoints, "ports": ports});
        let slice = serde_json::from_value(slice).unwrap();
        assert_eq!(endpoint(&slice), want.map(|text| text.parse().unwrap()));
    }
}
