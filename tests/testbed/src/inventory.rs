//! The inventory of a bed's clusters, so that another case can use the bed once its initial state is restored.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{certificates::v1::CertificateSigningRequest, core::v1::Event};
use kube::{
    Api, Client, Discovery, Error, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject},
    discovery::verbs,
};
use serde_json::{Value, json};

use crate::Testbed;

/// How long deletions may take: namespaces and the garbage collector are the slow ones.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Lists that run at a time.
const CONCURRENCY: usize = 4;

/// Kinds whose objects come and go by themselves.
const EPHEMERAL: &[&str] = &["Event", "Lease", "CertificateSigningRequest"];
/// Kinds and names of objects that Kubernetes or the simulator writes, each at its own time.
const OTHERS: &[(&str, &str)] = &[
    ("ConfigMap", "kube-root-ca.crt"),
    ("ConfigMap", "extension-apiserver-authentication"),
    (
        "ConfigMap",
        "kube-apiserver-legacy-service-account-token-tracking",
    ),
    ("ServiceAccount", "default"),
    // The simulated hosts.
    ("Node", "node1"),
    ("Node", "node2"),
    ("MutatingWebhookConfiguration", "virt-api-machinist-infra"),
    ("ValidatingWebhookConfiguration", "virt-api-machinist-infra"),
];

/// Kinds that take effect some time after they are written, or whose UID other objects contain, such as tokens: a bed on which
/// one of them was changed is discarded.
const IRREPLACEABLE: &[&str] = &[
    "CustomResourceDefinition",
    "Namespace",
    "ServiceAccount",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// Every object of both clusters.
#[derive(Debug, Clone)]
pub struct Inventory(BTreeMap<Key, DynamicObject>);

/// Which object of which cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    cluster: usize,
    kind: String,
    plural: String,
    api_version: String,
    namespace: Option<String>,
    name: String,
}

impl Inventory {
    /// Reads everything.
    pub async fn take(bed: &Testbed) -> Result<Self> {
        let mut objects = BTreeMap::new();
        for (number, client) in clients(bed).into_iter().enumerate() {
            objects.extend(of_cluster(number, &client).await?);
        }
        Ok(Self(objects))
    }

    /// Deletes objects that are not in this inventory, and restores those that were changed or deleted. Returns the remaining
    /// differences, one line each.
    ///
    /// The servers must not run: they would reconcile the changes.
    pub async fn restore(&self, bed: &Testbed) -> Result<Vec<String>> {
        let clients = clients(bed);
        for client in &clients {
            delete_ephemeral(client).await?;
        }
        let deadline = Instant::now() + RESTORE_TIMEOUT;
        loop {
            let now = Self::take(bed).await?;
            let keys = self.differing(&now);
            let is_lost = |key: &&Key| self.0.contains_key(key) && IRREPLACEABLE.contains(&&*key.kind);
            if keys.is_empty() || keys.iter().any(is_lost) || Instant::now() > deadline {
                return Ok(keys.into_iter().map(|key| self.describe(&now, key)).collect());
            }
            for key in keys {
                let Some(client) = clients.get(key.cluster) else {
                    continue;
                };
                match (self.0.get(key), now.0.get(key)) {
                    (Some(before), Some(after)) => key.replace(client, before, after).await?,
                    (Some(before), None) => key.create(client, before).await?,
                    (None, _) => key.delete(client).await?,
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn differing<'a>(&'a self, now: &'a Self) -> Vec<&'a Key> {
        let keys: BTreeSet<_> = self.0.keys().chain(now.0.keys()).collect();
        let written = |inventory: &Self, key: &Key| {
            let object = inventory.0.get(key)?;
            Some(written(&key.kind, object))
        };
        keys.into_iter()
            .filter(|key| written(self, key) != written(now, key))
            .collect()
    }

    fn describe(&self, now: &Self, key: &Key) -> String {
        let what = match (self.0.contains_key(key), now.0.contains_key(key)) {
            (true, true) => "is changed",
            (true, false) => "is gone",
            (false, _) => "is new",
        };
        let namespace = key.namespace.as_deref().unwrap_or("-");
        format!("{} {namespace}/{} {what}", key.kind, key.name)
    }
}

impl Key {
    fn api(&self, client: &Client) -> Api<DynamicObject> {
        let (group, version) = self
            .api_version
            .split_once('/')
            .unwrap_or(("", &self.api_version));
        let kind = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        };
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
            None => Api::all_with(client.clone(), &kind),
        }
    }

    async fn replace(&self, client: &Client, before: &DynamicObject, after: &DynamicObject) -> Result<()> {
        let mut object = before.clone();
        object.metadata.uid.clone_from(&after.metadata.uid);
        object
            .metadata
            .resource_version
            .clone_from(&after.metadata.resource_version);
        let api = self.api(client);
        unless_refused(api.replace(&self.name, &PostParams::default(), &object).await)
    }

    async fn create(&self, client: &Client, before: &DynamicObject) -> Result<()> {
        let mut object = before.clone();
        object.metadata.uid = None;
        object.metadata.resource_version = None;
        unless_refused(self.api(client).create(&PostParams::default(), &object).await)
    }

    async fn delete(&self, client: &Client) -> Result<()> {
        let api = self.api(client);
        let at_once = DeleteParams::default().grace_period(0);
        unless_refused(api.delete(&self.name, &at_once).await)?;
        if self.kind == "Namespace" {
            return Ok(());
        }
        let nothing_holds_it = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        let params = PatchParams::default();
        unless_refused(api.patch(&self.name, &params, &nothing_holds_it).await)
    }
}

/// A refusal is not an error: the next comparison shows the remaining differences.
fn unless_refused<T>(answer: Result<T, Error>) -> Result<()> {
    match answer {
        Err(Error::Api(status)) if (400..500).contains(&status.code) => Ok(()),
        answer => Ok(answer.map(drop)?),
    }
}

/// A client of each cluster.
fn clients(bed: &Testbed) -> Vec<Client> {
    let (user, infra) = (bed.user(), bed.infra());
    let mut clients = vec![user.client()];
    if infra.server() != user.server() {
        clients.push(infra.client());
    }
    clients
}

async fn of_cluster(cluster: usize, client: &Client) -> Result<BTreeMap<Key, DynamicObject>> {
    let discovery = Discovery::new(client.clone()).run_aggregated().await?;
    let kinds: Vec<ApiResource> = discovery
        .groups()
        .flat_map(kube::discovery::ApiGroup::recommended_resources)
        .filter(|(kind, can)| can.supports_operation(verbs::LIST) && !EPHEMERAL.contains(&&*kind.kind))
        .map(|(kind, _)| kind)
        .collect();
    stream::iter(kinds)
        .map(|kind| list(cluster, client, kind))
        .buffer_unordered(CONCURRENCY)
        .try_fold(BTreeMap::new(), async |mut all, some| {
            all.extend(some);
            Ok(all)
        })
        .await
}

async fn list(cluster: usize, client: &Client, kind: ApiResource) -> Result<Vec<(Key, DynamicObject)>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let listed = match api.list(&ListParams::default()).await {
        // A CRD that was deleted since discovery, or one that is not served yet.
        Err(Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        listed => listed.with_context(|| format!("listing {}", kind.plural))?,
    };
    let key = |object: &DynamicObject| Key {
        cluster,
        kind: kind.kind.clone(),
        plural: kind.plural.clone(),
        api_version: kind.api_version.clone(),
        namespace: object.namespace(),
        name: object.name_any(),
    };
    let keyed = listed.into_iter().map(|mut object| {
        object.metadata.managed_fields = None;
        (key(&object), object)
    });
    Ok(keyed
        .filter(|(key, _)| !OTHERS.contains(&(&*key.kind, &*key.name)))
        .collect())
}

/// Labels, annotations and fields without the status, which controllers write.
fn written(kind: &str, object: &DynamicObject) -> Value {
    let mut fields = object.data.clone();
    if let Value::Object(fields) = &mut fields {
        fields.remove("status");
        if fields.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
            fields.remove("rules");
        }
    }
    let uid = ["Namespace", "ServiceAccount"]
        .contains(&kind)
        .then(|| object.uid());
    json!([object.labels(), object.annotations(), fields, uid])
}

/// Events and signing requests: the next case counts its own.
async fn delete_ephemeral(client: &Client) -> Result<()> {
    let (one, all) = (DeleteParams::default(), ListParams::default());
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    requests.delete_collection(&one, &all).await?;
    let events: Api<Event> = Api::all(client.clone());
    let namespaces: BTreeSet<_> = events
        .list_metadata(&all)
        .await?
        .iter()
        .filter_map(kube::ResourceExt::namespace)
        .collect();
    for namespace in namespaces {
        let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
        events.delete_collection(&one, &all).await?;
    }
    Ok(())
}
