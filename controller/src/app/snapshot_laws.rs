//! A snapshot reads and changes nothing: of every reconciler, one that is taken twice is the same, and what is remembered is as
//! before.

use std::ffi::OsString;
use std::future::ready;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::{Request, Response};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use machinist_infra::cache::store::{Key, Store};
use machinist_infra::cache::watch::Event;
use machinist_infra::kube::client::ClientOptions;
use machinist_infra::kube::clock::ServerClock;
use machinist_infra::kube::error::RemoteError;
use machinist_infra::provider::{
    AddressOwner, AdoptParams, BootstrapData, FactError, InfraClient, InfraKey, InstanceView, Provider,
    Unavailable, WatchStatus,
};
use machinist_infra::providers::Providers;
use machinist_shared::provider::{Env, Opaque, Secret};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::autoscaler::NodeGroups;
use crate::bootstrap::Access;
use crate::cache::{CacheSync, References, Stores};
use crate::config::{Flags, Settings};
use crate::context::Context;
use crate::csr::reserved_addresses::Known;
use crate::leader::Fence;
use crate::machine::drain::Drains;
use crate::machine::memory::Memory;
use crate::machine::reconcile::MachineReconciler;
use crate::machine::start_limiter::StartLimiter;
use crate::machine_deployment::MachineDeploymentReconciler;
use crate::machine_set::MachineSetReconciler;
use crate::runtime::kernel::Reconciler;
use crate::runtime::queue::Queues;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;

const NOW: &str = "2027-01-15T08:00:00Z";

/// An infra cluster on which nothing is any more.
#[derive(Debug)]
struct Emptied(InfraKey);

impl InfraClient for Emptied {
    fn key(&self) -> &InfraKey {
        &self.0
    }

    fn namespace_uid(&self) -> Option<String> {
        None
    }

    fn get<'a>(&'a self, _: &'a str, _: &'a [String]) -> BoxFuture<'a, Result<InstanceView, Unavailable>> {
        Box::pin(ready(Ok(InstanceView::default())))
    }

    fn uid_of(&self, _: &str) -> Option<String> {
        None
    }

    fn instances_at_address(&self, _: &str) -> Vec<AddressOwner> {
        Vec::new()
    }

    fn is_absence_conclusive(&self, _: &str) -> bool {
        true
    }

    fn is_watched(&self) -> bool {
        true
    }

    fn removals(&self) -> u64 {
        0
    }

    fn facts<'a>(&'a self, _: &'a Opaque) -> BoxFuture<'a, Result<Opaque, FactError>> {
        Box::pin(ready(Ok(Opaque::new(()))))
    }

    fn create(&self, _: Value) -> BoxFuture<'_, Result<(), RemoteError>> {
        panic!("a snapshot writes")
    }

    fn create_user_data<'a>(&'a self, _: BootstrapData<'a>) -> BoxFuture<'a, Result<(), RemoteError>> {
        panic!("a snapshot writes")
    }

    fn label<'a>(&'a self, _: &'a str, _: AdoptParams<'a>) -> BoxFuture<'a, Result<(), RemoteError>> {
        panic!("a snapshot writes")
    }

    fn delete<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<(), RemoteError>> {
        panic!("a snapshot writes")
    }

    fn recheck_credential(&self) {
        panic!("a snapshot writes")
    }
}

/// The provider of that infra cluster.
#[derive(Debug)]
struct Fake;

impl Provider for Fake {
    fn name(&self) -> &'static str {
        "kubevirt"
    }

    fn watch(&self, _: &Key, _: &Secret, namespace: &str) -> WatchStatus {
        WatchStatus::Open(Arc::new(Emptied(InfraKey {
            server: "https://infra".to_owned(),
            ca_digest: "ca".to_owned(),
            namespace: namespace.to_owned(),
        })))
    }

    fn release_unused(&self, _: &Key) {}

    fn release(&self, _: &Key) {}

    fn users(&self, _: &InfraKey) -> Vec<Key> {
        Vec::new()
    }
}

/// A client of an API server that may not be asked.
fn client() -> Client {
    let answer = |request: Request<Body>| {
        let refused = Response::builder().status(403).body(Body::empty());
        assert_eq!(request.method(), "GET", "a snapshot writes");
        ready(Ok::<_, std::convert::Infallible>(refused.unwrap()))
    };
    Client::new(tower::service_fn(answer), "default")
}

fn apply<K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned>(store: &Store<K>, object: Value) {
    store.apply(Event::Apply(serde_json::from_value(object).unwrap()));
}

fn context(objects: &[Value]) -> (Arc<Context>, Flags) {
    let flags = Flags::read(["machinist-controller"].map(OsString::from))
        .unwrap()
        .flags;
    let stores = Stores::default();
    for object in objects.iter().cloned() {
        match object["kind"].as_str().unwrap() {
            "Machine" => apply(&stores.machines, object),
            "MachineSet" => apply(&stores.machine_sets, object),
            "MachineDeployment" => apply(&stores.machine_deployments, object),
            "Node" => apply(&stores.nodes, object),
            kind => panic!("{kind}"),
        }
    }
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let context = Context {
        client: client(),
        clock: ServerClock::default(),
        stores: Arc::new(stores),
        cache_sync: CacheSync::default(),
        references: References::new(client(), mpsc::unbounded_channel().0),
        infra: Providers::new(vec![Arc::new(Fake)]),
        queues: Queues::default(),
        settings: Arc::new(Settings::of(&flags, "c1".to_owned())),
        env: Env::new(|_| None),
        access: Access::new(client(), None, &flags),
        events: Events::new(client(), "a", metrics.clone()),
        metrics,
        fence: Fence::open(),
    };
    (Arc::new(context), flags)
}

fn machines(context: &Arc<Context>, flags: &Flags) -> MachineReconciler {
    let memory = Memory::new(
        StartLimiter::new(10, 10, None, None),
        Drains::new(client(), mpsc::unbounded_channel().0),
        Known::new(flags.service_cluster_ip_range.clone()),
    );
    MachineReconciler::new(context.clone(), memory, 10)
}

fn object(kind: &str, name: &str, owner: Option<(&str, &str)>, extra: &Value) -> Value {
    let owners = owner.map(|(kind, name)| {
        json!([{"apiVersion": "cluster.k8s.io/v1alpha1", "kind": kind, "name": name, "uid": name, "controller": true}])
    });
    let mut object = json!({"apiVersion": "cluster.k8s.io/v1alpha1", "kind": kind, "metadata": {
        "name": name, "namespace": "ns", "uid": name, "resourceVersion": "1", "generation": 1, "ownerReferences": owners}});
    json_patch::merge(&mut object, extra);
    object
}

/// A MachineDeployment whose six VMs are all missing, and one of whose Machines is being deleted.
fn pool() -> Vec<Value> {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {}});
    let spec =
        json!({"spec": {"replicas": 6, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let mut objects = vec![object("MachineDeployment", "d", None, &spec)];
    let mut set = spec.clone();
    json_patch::merge(&mut set, &json!({"metadata": {"labels": {"a": "b"}}}));
    objects.push(object("MachineSet", "s", Some(("MachineDeployment", "d")), &set));
    for n in 0..7 {
        let name = format!("m-{n}");
        let deleted = (n == 6).then_some(NOW);
        let extra = json!({
            "metadata": {"labels": {"a": "b"}, "creationTimestamp": NOW, "deletionTimestamp": deleted,
                "finalizers": ["machine-delete-finalizer"]},
            "spec": {"providerSpec": {"value": {"cloudProvider": "kubevirt", "operatingSystem": "ubuntu", "cloudProviderSpec": {
                "auth": {"kubeconfig": {"value": "e30="}},
                "virtualMachine": {"template": {"cpus": "1", "memory": "1Gi", "primaryDisk": {
                    "size": "10Gi", "osImage": "http://image", "storageClassName": "fast"}}}}}}},
            "status": {"nodeRef": {"name": name, "uid": name}, "providerStatus": {
                "infrastructure": {"server": "https://infra", "caDigest": "ca", "namespace": "vms"}, "vmUID": format!("v{n}")}},
        });
        objects.push(object("Machine", &name, Some(("MachineSet", "s")), &extra));
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": NOW}]}});
        let mut node = object("Node", &name, None, &ready);
        node["metadata"].as_object_mut().unwrap().remove("namespace");
        objects.push(node);
    }
    objects
}

async fn twice<R: Reconciler + std::fmt::Debug>(
    reconciler: &R,
    key: &Key,
    debug: impl Fn(&R::Snapshot) -> String,
) -> R::Snapshot {
    let now: Timestamp = NOW.parse().unwrap();
    reconciler.note(key, now);
    let before = format!("{reconciler:?}");
    let first = reconciler.snapshot(key, now).await.unwrap();
    let second = reconciler.snapshot(key, now).await.unwrap();
    let (first, second_) = (debug(&first), debug(&second));
    let same = first
        .chars()
        .zip(second_.chars())
        .take_while(|(a, b)| a == b)
        .count();
    let rest = |text: &str| {
        text.chars()
            .skip(same.saturating_sub(60))
            .take(200)
            .collect::<String>()
    };
    assert_eq!(rest(&first), rest(&second_));
    assert_eq!(before, format!("{reconciler:?}"), "it remembers something");
    second
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_taken_twice_is_the_same_and_has_changed_nothing() {
    let (context, flags) = context(&pool());
    let groups = NodeGroups::new(context.clone(), ClientOptions::default());
    let (set, deployment) = (Key::new("ns", "s"), Key::new("ns", "d"));
    let sets = MachineSetReconciler::new(context.clone(), groups.clone());
    assert_eq!(sets.pace(&set), None);
    twice(&sets, &set, |snapshot| format!("{snapshot:?}")).await;
    let deployments = MachineDeploymentReconciler::new(context.clone(), groups);
    twice(&deployments, &deployment, |snapshot| format!("{snapshot:?}")).await;
    let machines = machines(&context, &flags);
    for name in ["m-0", "m-6"] {
        let snapshot = twice(&machines, &Key::new("ns", name), |snapshot| {
            format!("{snapshot:?}")
        })
        .await;
        let plan = machines.decide(&snapshot, NOW.parse().unwrap());
        assert!(
            plan.why.contains("Infrastructure") || name == "m-6",
            "{}",
            plan.why
        );
    }
}
