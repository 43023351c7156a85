//! Checks that the objects exist that a spec names on the infra cluster, and lists alternatives.

use std::time::Duration;

use futures::future;
use k8s_openapi::api::core::v1::{Node, Pod, ResourceQuota};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use machinist_shared::api::field::{ErrorKind, Report, did_you_mean};
use machinist_shared::api::quantity;
use machinist_shared::kubevirt::spec::Matcher;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::request::PreflightRequest;
use super::requirements::{Kind, Requirement, Severity, instancetype_kinds, requirements};
use super::unreachable::{Unreachable, refused, within};
use crate::cache::ttl::TtlMap;
use crate::kube::client::is_object_name;
use crate::kube::error::RemoteError;

/// How long the result that an object exists, or is forbidden, is cached.
const TTL: Duration = Duration::from_mins(1);
/// Maximum number of existing names in a message.
const MAX_SHOWN: usize = 10;
/// With more nodes, there are no capacity hints.
const MAX_NODES: u32 = 100;
/// With more pods, existing pods do not count.
const MAX_PODS: u32 = 2000;
/// Selects pods that use capacity of a node.
const SCHEDULED: &str = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";

/// Cached objects, reduced to the relevant fields.
#[derive(Debug, Default)]
pub(super) struct Existence {
    known: TtlMap<Named, Cached>,
    quotas: CachedList<ResourceQuota>,
    nodes: CachedList<Node>,
    pod_requests: CachedList<PodRequests>,
}

/// A list; `None` if the credential lacks the permission.
type CachedList<T> = TtlMap<(), Option<Vec<T>>>;

/// The requests of a pod on a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PodRequests {
    pub(super) node: String,
    pub(super) memory: f64,
    pub(super) cpu: f64,
}

/// Objects found during the checks.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// `spec` of the instancetype.
    pub(super) instancetype: Value,
}

/// An object that a spec names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Named {
    kind: Kind,
    name: String,
}

/// A cached lookup. Missing objects are not cached, so that they are found as soon as they exist.
#[derive(Debug, Clone)]
enum Cached {
    /// It exists, with its relevant fields.
    There(Value),
    /// The credential lacks the permission to read it.
    Hidden,
}

/// The result of looking up a name.
enum Lookup {
    /// It exists with this kind, with its relevant fields.
    There(Kind, Value),
    /// The credential lacks the permission to read it.
    Hidden,
    /// It is missing; the existing alternatives.
    Missing(Vec<String>),
}

impl Existence {
    /// `spec` of an instancetype, if the credential can read it.
    pub(super) async fn instancetype(
        &self,
        client: &Client,
        namespace: &str,
        matcher: &Matcher,
    ) -> Result<Option<Value>, RemoteError> {
        for kind in instancetype_kinds(matcher) {
            if let Some(Cached::There(spec)) = self.get(client, namespace, kind, &matcher.name).await? {
                return Ok(Some(spec));
            }
        }
        Ok(None)
    }

    /// A StorageClass, if the credential can read it.
    pub(super) async fn storage_class(
        &self,
        client: &Client,
        name: &str,
    ) -> Result<Option<Value>, RemoteError> {
        match self.get(client, "", Kind::StorageClass, name).await? {
            Some(Cached::There(class)) => Ok(Some(class)),
            Some(Cached::Hidden) | None => Ok(None),
        }
    }

    /// Adds an error for each missing name, even if other lookups time out. `None` if further checks are pointless.
    pub(super) async fn check(
        &self,
        client: &Client,
        request: &PreflightRequest<'_>,
        deadline: Instant,
        report: &mut Report,
    ) -> Result<Option<Found>, Unreachable> {
        let requirements = requirements(request);
        let looks = requirements.iter().map(|requirements| {
            within(
                deadline,
                self.look(client, request.namespace, requirements, deadline),
            )
        });
        let (mut found, mut failed) = (Found::default(), None);
        for (requirements, look) in requirements.iter().zip(future::join_all(looks).await) {
            match look {
                Ok(Ok(Lookup::There(kind, spec))) => {
                    warn_kind_mismatch(requirements, kind, request, report);
                    if kind.is_instancetype() {
                        found.instancetype = spec;
                    }
                }
                Ok(Ok(Lookup::Hidden)) => {}
                Ok(Ok(Lookup::Missing(others))) => match requirements.weight {
                    Severity::Error => {
                        report.error(
                            &requirements.path,
                            ErrorKind::NotFound,
                            missing(requirements, &others),
                        );
                    }
                    Severity::Warning => report.warn(&requirements.path, missing(requirements, &others)),
                },
                Ok(Err(error)) => failed = failed.or(Some(Ok(error))),
                Err(late) => failed = failed.or(Some(Err(late))),
            }
        }
        match failed {
            None => Ok(Some(found)),
            Some(error) => refused(request, &error?, report).map(|()| None),
        }
    }

    async fn look(
        &self,
        client: &Client,
        namespace: &str,
        requirements: &Requirement,
        deadline: Instant,
    ) -> Result<Lookup, RemoteError> {
        let mut hidden = false;
        for kind in &requirements.kinds {
            match self.get(client, namespace, *kind, &requirements.name).await? {
                Some(Cached::There(spec)) => return Ok(Lookup::There(*kind, spec)),
                // Not every credential can read it; KubeVirt checks it later.
                Some(Cached::Hidden) => hidden = true,
                None => {}
            }
        }
        if hidden {
            return Ok(Lookup::Hidden);
        }
        let mut others = Vec::new();
        for kind in requirements.kinds.iter().filter(|kind| **kind != Kind::Secret) {
            let (api, all) = (kind.api(client, namespace), ListParams::default());
            // Without the permission to list, or without time left, the error has no alternatives.
            if let Ok(Ok(list)) = within(deadline, api.list_metadata(&all)).await {
                others.extend(list.items.iter().map(ResourceExt::name_any));
            }
        }
        Ok(Lookup::Missing(others))
    }

    /// One object, from the cache or the API server; `None` if it does not exist.
    async fn get(
        &self,
        client: &Client,
        namespace: &str,
        kind: Kind,
        name: &str,
    ) -> Result<Option<Cached>, RemoteError> {
        let named = Named {
            kind,
            name: name.to_owned(),
        };
        if let Some(known) = self.known.get(&named) {
            return Ok(Some(known));
        }
        let known = match ask(client, namespace, kind, name).await {
            Ok(Some(value)) => Cached::There(value),
            Ok(None) => return Ok(None),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            Err(kube::Error::Api(status)) if status.code == 403 => Cached::Hidden,
            Err(error) => return Err(RemoteError::from(&error)),
        };
        self.known.insert(named, known.clone(), TTL);
        Ok(Some(known))
    }

    /// Checks that the claim that the primary disk is cloned from exists, if the credential can list claims.
    pub(super) async fn check_claim(
        &self,
        client: &Client,
        request: &PreflightRequest<'_>,
        vm: &Value,
        report: &mut Report,
    ) -> Result<(), RemoteError> {
        let source = &vm["spec"]["dataVolumeTemplates"][0]["spec"]["source"]["pvc"];
        let (Some(namespace), Some(name)) = (source["namespace"].as_str(), source["name"].as_str()) else {
            return Ok(());
        };
        let full = format!("{namespace}/{name}");
        if self.get(client, namespace, Kind::Claim, &full).await?.is_some() {
            return Ok(());
        }
        let others = Kind::Claim
            .api(client, namespace)
            .list_metadata(&ListParams::default())
            .await;
        let others: Vec<String> = others
            .map(|list| list.items.iter().map(ResourceExt::name_any).collect())
            .unwrap_or_default();
        let hint = did_you_mean(name, others.iter().map(String::as_str));
        let template = request.path.child("virtualMachine").child("template");
        let text = format!(
            "{name:?}: there is no PersistentVolumeClaim of that name in namespace {namespace} of the infra cluster{hint}"
        );
        let path = template.child("primaryDisk").child("osImage");
        report.error(&path, ErrorKind::NotFound, text);
        Ok(())
    }

    /// The ResourceQuotas of the namespace; `None` if the credential cannot list them.
    pub(super) async fn quotas(&self, client: &Client, namespace: &str) -> Option<Vec<ResourceQuota>> {
        let api = Api::<ResourceQuota>::namespaced(client.clone(), namespace);
        cached_list(&self.quotas, &api, &ListParams::default(), |it| it).await
    }

    /// The nodes; `None` if the credential cannot list them, or there are too many.
    pub(super) async fn nodes(&self, client: &Client) -> Option<Vec<Node>> {
        let api = Api::<Node>::all(client.clone());
        let nodes = cached_list(&self.nodes, &api, &ListParams::default().limit(MAX_NODES), |it| {
            it
        })
        .await;
        nodes.filter(|nodes| nodes.len() < MAX_NODES as usize)
    }

    /// The requests of the pods of all namespaces; `None` if the credential cannot list them, or there are too many.
    pub(super) async fn pod_requests(&self, client: &Client) -> Option<Vec<PodRequests>> {
        let api = Api::<Pod>::all(client.clone());
        let scheduled = ListParams::default().fields(SCHEDULED).limit(MAX_PODS);
        let pod_requests = cached_list(&self.pod_requests, &api, &scheduled, |pod| requests_of(&pod)).await;
        pod_requests.filter(|pods| pods.len() < MAX_PODS as usize)
    }
}

/// The relevant fields of an object; `None` if it does not exist.
async fn ask(client: &Client, namespace: &str, kind: Kind, name: &str) -> kube::Result<Option<Value>> {
    // A malformed name cannot exist, and must not become part of a request.
    if !name.split('/').all(is_object_name) || !(namespace.is_empty() || is_object_name(namespace)) {
        return Ok(None);
    }
    let api = kind.api(client, namespace);
    match kind {
        Kind::Secret => api.get_metadata(name).await.map(|_| Some(Value::Null)),
        Kind::Claim => {
            // Other code needs only list and watch for claims, so the name is searched in the list.
            let name = name.rsplit('/').next().unwrap_or(name);
            let named = ListParams::default().fields(&format!("metadata.name={name}"));
            let list = api.list_metadata(&named).await?;
            Ok((!list.items.is_empty()).then_some(Value::Null))
        }
        Kind::StorageClass => api.get(name).await.map(|class| Some(class.data)),
        _ => {
            let object = api.get(name).await?;
            Ok(Some(object.data.get("spec").cloned().unwrap_or_default()))
        }
    }
}

fn requests_of(pod: &Pod) -> PodRequests {
    let spec = pod.spec.as_ref();
    let containers = || spec.into_iter().flat_map(|spec| &spec.containers);
    let sum = |resource: &str| {
        let requests = containers().filter_map(|container| container.resources.as_ref()?.requests.as_ref());
        let overhead = spec.and_then(|spec| spec.overhead.as_ref());
        let amounts = requests
            .chain(overhead)
            .filter_map(|requests| requests.get(resource));
        amounts.filter_map(|amount| quantity::parse(&amount.0)).sum()
    };
    PodRequests {
        node: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        memory: sum("memory"),
        cpu: sum("cpu"),
    }
}

/// The relevant fields of a list, from the cache or the API server.
async fn cached_list<K, T>(
    memory: &CachedList<T>,
    api: &Api<K>,
    params: &ListParams,
    of: impl Fn(K) -> T,
) -> Option<Vec<T>>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    T: Clone,
{
    if let Some(list) = memory.get(&()) {
        return list;
    }
    let list = match api.list(params).await {
        Ok(list) => Some(list.items.into_iter().map(of).collect::<Vec<T>>()),
        Err(kube::Error::Api(status)) if status.code == 403 => None,
        // The next attempt may succeed.
        Err(_) => return None,
    };
    memory.insert((), list.clone(), TTL);
    list
}

/// machine-controller ignores the kind of an instancetype; the warning names the kind that is used.
fn warn_kind_mismatch(
    requirements: &Requirement,
    found: Kind,
    request: &PreflightRequest<'_>,
    report: &mut Report,
) {
    let asked = request.spec.instancetype.as_ref().map(|it| it.kind.as_str());
    if !found.is_instancetype() || asked.is_none_or(|asked| asked.is_empty() || asked == found.text()) {
        return;
    }
    let kind = request
        .path
        .child("virtualMachine")
        .child("instancetype")
        .child("kind");
    let text = format!(
        "there is no {} {:?} on the infra cluster; the {} of that name is used",
        asked.unwrap_or_default(),
        requirements.name,
        found.text()
    );
    report.warn(&kind, text);
}

fn missing(requirements: &Requirement, others: &[String]) -> String {
    let kinds: Vec<_> = requirements.kinds.iter().map(|kind| kind.text()).collect();
    let kinds = kinds.join(" or ");
    let hint = did_you_mean(&requirements.name, others.iter().map(String::as_str));
    let text = format!(
        "{:?}: there is no {kinds} of that name on the infra cluster{hint}",
        requirements.name
    );
    let shown: Vec<_> = others.iter().take(MAX_SHOWN).map(String::as_str).collect();
    match others.len() {
        0 => text,
        all if all > MAX_SHOWN => format!(
            "{text}; there are: {} and {} more",
            shown.join(", "),
            all - MAX_SHOWN
        ),
        _ => format!("{text}; there are: {}", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use machinist_shared::api::field::FieldPath;

    use super::*;

    #[test]
    fn a_missing_name_is_reported_with_those_that_exist() {
        let requirements = Requirement {
            path: FieldPath::new("x"),
            kinds: vec![Kind::Instancetype, Kind::ClusterInstancetype],
            name: "standrad-2".to_owned(),
            weight: Severity::Error,
        };
        assert_eq!(
            missing(&requirements, &["standard-2".to_owned(), "large".to_owned()]),
            "\"standrad-2\": there is no VirtualMachineInstancetype or VirtualMachineClusterInstancetype of that name on \
             the infra cluster; did you mean \"standard-2\"?; there are: standard-2, large"
        );
        let many: Vec<String> = (0..12).map(|i| format!("other{i}")).collect();
        assert!(missing(&requirements, &many).ends_with("other9 and 2 more"));
        assert!(missing(&requirements, &[]).ends_with("on the infra cluster"));
    }
}
