//! Checks that the objects exist that a spec names on the infra cluster, and lists alternatives.

use std::sync::Arc;
use std::time::Duration;

use futures::future;
use k8s_openapi::api::core::v1::{Node, Pod, ResourceQuota};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client, Resource, ResourceExt};
use machinist_shared::api::did_you_mean::did_you_mean;
use machinist_shared::api::field::{ErrorKind, FieldPath, Report};
use machinist_shared::api::quantity;
use machinist_shared::kubevirt::spec::Matcher;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::request::PreflightRequest;
use super::requirements::{Kind, Requirement, Severity, instancetype_kinds, requirements};
use super::server_limiter::ServerLimiter;
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

/// Annotation of a StorageProfile: CDI creates no smaller claim.
const MINIMUM_SIZE: &str = "cdi.kubevirt.io/minimumSupportedPvcSize";
/// More than CDI adds for a file system by default, which is 6 %.
const FILE_SYSTEM_OVERHEAD: f64 = 0.25;

/// Cached objects, reduced to the relevant fields.
#[derive(Debug)]
pub(super) struct Existence {
    /// Limiter of the server, which records each response.
    limiter: Arc<ServerLimiter>,
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
    /// Checks on the server behind that limiter.
    pub(super) fn of(limiter: Arc<ServerLimiter>) -> Self {
        Self {
            limiter,
            known: TtlMap::default(),
            quotas: TtlMap::default(),
            nodes: TtlMap::default(),
            pod_requests: TtlMap::default(),
        }
    }

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
        let answer = ask(client, namespace, kind, name).await;
        if matches!(answer, Ok(_) | Err(kube::Error::Api(_))) {
            self.limiter.answered();
        }
        let known = match answer {
            Ok(Some(value)) => Cached::There(value),
            Ok(None) => return Ok(None),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            Err(kube::Error::Api(status)) if status.code == 403 => Cached::Hidden,
            Err(error) => return Err(RemoteError::from(&error)),
        };
        self.known.insert(named, known.clone(), TTL);
        Ok(Some(known))
    }

    /// Checks that the claim that the primary disk is cloned from exists and fits into the disk, if the credential can list claims.
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
        let disk = request
            .path
            .child("virtualMachine")
            .child("template")
            .child("primaryDisk");
        let full = format!("{namespace}/{name}");
        match self.get(client, namespace, Kind::Claim, &full).await? {
            Some(Cached::There(size)) => {
                let Some(shrinks) = Shrinking::of(&size, request) else {
                    return Ok(());
                };
                let has_minimum = self
                    .has_minimum(client, &request.spec.primary_disk.storage_class)
                    .await?;
                shrinks.report(&full, has_minimum, &disk.child("size"), report);
                return Ok(());
            }
            Some(Cached::Hidden) => return Ok(()),
            None => {}
        }
        let others = Kind::Claim
            .api(client, namespace)
            .list_metadata(&ListParams::default())
            .await;
        let others: Vec<String> = others
            .map(|list| list.items.iter().map(ResourceExt::name_any).collect())
            .unwrap_or_default();
        let hint = did_you_mean(name, others.iter().map(String::as_str));
        let text = format!(
            "{name:?}: there is no PersistentVolumeClaim of that name in namespace {namespace} of the infra cluster{hint}"
        );
        report.error(&disk.child("osImage"), ErrorKind::NotFound, text);
        Ok(())
    }

    /// Whether CDI may create claims of that StorageClass larger than requested; true if the credential cannot read it.
    async fn has_minimum(&self, client: &Client, storage_class: &str) -> Result<bool, RemoteError> {
        match self.get(client, "", Kind::StorageProfile, storage_class).await? {
            Some(Cached::There(minimum)) => Ok(!minimum.is_null()),
            Some(Cached::Hidden) => Ok(true),
            None => Ok(false),
        }
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
            let list = api.list(&named).await?;
            let size =
                |claim: &DynamicObject| claim.data.pointer("/spec/resources/requests/storage").cloned();
            Ok(list.items.first().map(|claim| size(claim).unwrap_or_default()))
        }
        Kind::StorageProfile => {
            let profile = api.get_metadata(name).await?;
            let minimum = profile.annotations().get(MINIMUM_SIZE);
            Ok(Some(
                minimum.map_or(Value::Null, |minimum| Value::from(minimum.as_str())),
            ))
        }
        Kind::StorageClass => api.get(name).await.map(|class| Some(class.data)),
        _ => {
            let object = api.get(name).await?;
            Ok(Some(object.data.get("spec").cloned().unwrap_or_default()))
        }
    }
}

/// A clone into a disk that is smaller than the claim, which CDI refuses for good.
struct Shrinking {
    /// What the claim asks for.
    source: String,
    /// What the disk asks for.
    target: String,
    /// CDI adds room for a file system to a disk whose claim it makes itself, and that may do.
    may_fit: bool,
}

impl Shrinking {
    fn of(source: &Value, request: &PreflightRequest<'_>) -> Option<Self> {
        let (source, target) = (source.as_str()?, request.spec.primary_disk.size.as_str());
        let (wanted, size) = (quantity::parse(source)?, quantity::parse(target)?);
        (size < wanted).then(|| Self {
            source: source.to_owned(),
            target: target.to_owned(),
            may_fit: !request.spec.storage_target_pvc && size * (1.0 + FILE_SYSTEM_OVERHEAD) >= wanted,
        })
    }

    fn report(&self, claim: &str, has_minimum: bool, path: &FieldPath, report: &mut Report) {
        let Self {
            source,
            target,
            may_fit,
        } = self;
        let text = format!(
            "{target:?} is smaller than the PersistentVolumeClaim {claim} that it is cloned from; CDI needs {source} or more"
        );
        if *may_fit || has_minimum {
            report.warn(path, text);
        } else {
            report.invalid(path, text);
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

    use machinist_shared::kubevirt::resolved::{Disk, ResolvedSpec};
    use rstest::rstest;
    use serde_json::json;

    use super::super::request::fixture::request;
    use super::*;

    #[rstest]
    #[case::equal("5Gi", "5Gi", false, false, None)]
    #[case::larger("5Gi", "10Gi", false, false, None)]
    #[case::equal_in_other_units("5Gi", "5120Mi", true, false, None)]
    #[case::unknown("", "1Gi", true, false, None)]
    #[case::much_smaller("5Gi", "1Gi", false, false, Some("error"))]
    #[case::in_decimal_units("10Gi", "10G", true, false, Some("error"))]
    #[case::by_a_file_systems_overhead("5691918450", "5Gi", false, false, Some("warning"))]
    #[case::by_an_overhead_that_nobody_adds("5691918450", "5Gi", true, false, Some("error"))]
    #[case::below_the_least_of_a_class("50Gi", "10Gi", false, true, Some("warning"))]
    fn a_clone_needs_room(
        #[case] source: &str,
        #[case] target: &str,
        #[case] storage_target_pvc: bool,
        #[case] has_minimum: bool,
        #[case] want: Option<&str>,
    ) {
        let spec = ResolvedSpec {
            primary_disk: Disk {
                size: target.to_owned(),
                ..Disk::default()
            },
            storage_target_pvc,
            ..ResolvedSpec::default()
        };
        let request = request(&spec);
        let mut report = Report::new();
        if let Some(shrinks) = Shrinking::of(&json!(source), &request) {
            shrinks.report("images/golden", has_minimum, &FieldPath::new("size"), &mut report);
        }
        let found = match (report.errors.len(), report.warnings.len()) {
            (0, 0) => None,
            (1, 0) => Some("error"),
            (0, 1) => Some("warning"),
            _ => panic!("{report:?}"),
        };
        assert_eq!(found, want);
    }

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
