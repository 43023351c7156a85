//! A control plane for all tests of a binary, a simulator for each, and a record of everything that was watched.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod recorded;

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::KubeConfigOptions;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use kubevirt_sim::objects::{Kind, object, text};
use kubevirt_sim::{Options, Simulator};
use serde_json::{Value, json};
use testbed::ControlPlane;
use testbed::control_plane::Options as PlaneOptions;
use tokio::task::JoinHandle;

/// Longer than anything takes on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(1);

/// One control plane for all tests; it plays both clusters. It ends with the process.
static PLANE: LazyLock<ControlPlane> = LazyLock::new(|| {
    // The plane's own tasks must outlive the runtime of the test that happens to come first.
    let start = std::thread::spawn(|| {
        let runtime = Box::leak(Box::new(tokio::runtime::Runtime::new().unwrap()));
        let options = PlaneOptions {
            name: "kubevirt-sim".into(),
            ..PlaneOptions::infra()
        };
        runtime.block_on(ControlPlane::start(options)).unwrap()
    });
    start.join().unwrap()
});

/// The control plane.
pub(crate) async fn plane() -> &'static ControlPlane {
    tokio::task::spawn_blocking(|| &*PLANE).await.unwrap()
}

/// One change of one object.
#[derive(Debug, Clone)]
pub(crate) struct WatchedChange {
    pub(crate) kind: Kind,
    pub(crate) object: DynamicObject,
    pub(crate) gone: bool,
}

impl WatchedChange {
    pub(crate) fn status(&self) -> Value {
        self.object.data.get("status").cloned().unwrap_or_default()
    }
}

/// A namespace with a simulator, and all its watch events.
pub(crate) struct TestNamespace {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) simulator: Simulator,
    record: Arc<Mutex<Vec<WatchedChange>>>,
    watches: Vec<JoinHandle<()>>,
}

impl TestNamespace {
    pub(crate) async fn start(namespace: &str) -> Self {
        Self::with(Options::new(namespace)).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let client = client().await;
        let namespace = options.namespace.clone();
        let simulator = Simulator::start(client.clone(), options).await.unwrap();
        let record: Arc<Mutex<Vec<WatchedChange>>> = Arc::default();
        let mut watches = Vec::new();
        for kind in [Kind::Vm, Kind::Vmi, Kind::DataVolume, Kind::Pvc] {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &kind.resource());
            let record = Arc::clone(&record);
            let (ready, started) = tokio::sync::oneshot::channel();
            watches.push(tokio::spawn(async move {
                let mut ready = Some(ready);
                let mut changes = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
                while let Some(change) = changes.next().await {
                    let (object, gone) = match change {
                        Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                            (object, false)
                        }
                        Ok(watcher::Event::Delete(object)) => (object, true),
                        Ok(watcher::Event::InitDone) => {
                            ready.take().map(|ready| ready.send(()));
                            continue;
                        }
                        _ => continue,
                    };
                    record.lock().unwrap().push(WatchedChange { kind, object, gone });
                }
            }));
            started.await.unwrap();
        }
        Self {
            client,
            namespace,
            simulator,
            record,
            watches,
        }
    }

    pub(crate) async fn stop(self) {
        self.simulator.stop().await;
        self.watches.iter().for_each(JoinHandle::abort);
    }

    pub(crate) fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind.resource())
    }

    pub(crate) async fn create(
        &self,
        kind: Kind,
        name: &str,
        content: Value,
    ) -> Result<DynamicObject, kube::Error> {
        self.api(kind)
            .create(&PostParams::default(), &object(kind, name, content))
            .await
    }

    pub(crate) async fn create_vm(&self, name: &str, spec: Value) -> DynamicObject {
        self.create(Kind::Vm, name, json!({"spec": spec})).await.unwrap()
    }

    pub(crate) async fn delete(&self, kind: Kind, name: &str) {
        self.api(kind)
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// Switches a fault of a VM on or off (`false`).
    pub(crate) async fn fault(&self, vm: &str, fault: &str, value: &str) {
        let patch = json!({"metadata": {"annotations": {format!("sim.kubevirt.io/{fault}"): value}}});
        self.api(Kind::Vm)
            .patch(vm, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub(crate) fn record(&self) -> Vec<WatchedChange> {
        self.record.lock().unwrap().clone()
    }

    pub(crate) fn seen(&self, kind: Kind, name: &str) -> Vec<WatchedChange> {
        self.record()
            .into_iter()
            .filter(|seen| seen.kind == kind && seen.object.name_any() == name)
            .collect()
    }

    /// Waits until a fitting object has been seen, at any time.
    pub(crate) async fn saw(&self, what: &str, fits: impl Fn(&WatchedChange) -> bool) -> WatchedChange {
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        loop {
            if let Some(seen) = self.record().into_iter().find(&fits) {
                return seen;
            }
            if tokio::time::Instant::now() > deadline {
                let last: Vec<Value> = [Kind::Vm, Kind::Vmi, Kind::DataVolume, Kind::Pvc]
                    .into_iter()
                    .filter_map(|kind| self.record().into_iter().rfind(|seen| seen.kind == kind))
                    .map(|seen| json!({"kind": format!("{:?}", seen.kind), "status": seen.status()}))
                    .collect();
                panic!("never saw {what}; last: {last:#?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn saw_vm(&self, name: &str, printable: &str) -> WatchedChange {
        self.saw(&format!("VM {name} {printable}"), |seen| {
            seen.kind == Kind::Vm
                && seen.object.name_any() == name
                && text(&seen.object, "/status/printableStatus") == Some(printable)
        })
        .await
    }

    /// Waits until the VM has this status now.
    pub(crate) async fn vm_is(&self, name: &str, printable: &str) -> DynamicObject {
        self.is(Kind::Vm, name, printable, |vm| {
            text(vm, "/status/printableStatus") == Some(printable)
        })
        .await
    }

    pub(crate) async fn is(
        &self,
        kind: Kind,
        name: &str,
        what: &str,
        fits: impl Fn(&DynamicObject) -> bool,
    ) -> DynamicObject {
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        loop {
            let found = self.api(kind).get_opt(name).await.unwrap();
            if let Some(object) = found.as_ref().filter(|object| fits(object)) {
                return object.clone();
            }
            let status = found.map(|object| object.data["status"].clone());
            assert!(
                tokio::time::Instant::now() < deadline,
                "{kind:?} {name} is not {what}: {status:#?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn gone(&self, kind: Kind, name: &str) {
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        while self.api(kind).get_opt(name).await.unwrap().is_some() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{kind:?} {name} is still there"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A client of this test's own runtime.
pub(crate) async fn client() -> Client {
    let plane = plane().await;
    let kubeconfig = kube::config::Kubeconfig::read_from(plane.admin_kubeconfig_path()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// The distinct values that a field went through, in order.
pub(crate) fn course(seen: &[WatchedChange], pointer: &str) -> Vec<String> {
    let mut values: Vec<String> = seen
        .iter()
        .filter(|seen| !seen.gone)
        .map(|seen| text(&seen.object, pointer).unwrap_or_default().to_owned())
        .collect();
    values.dedup();
    values
}

/// The spec of a VM with a disk of its name, as machine controllers write it.
pub(crate) fn spec(name: &str, secret: Option<&str>) -> Value {
    let mut spec = json!({
        "runStrategy": "Once",
        "dataVolumeTemplates": [{
            "metadata": {"name": name},
            "spec": {
                "source": {"http": {"url": "http://images.test/ubuntu.img"}},
                "storage": {
                    "storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "10Gi"}},
                },
            },
        }],
        "template": {
            "metadata": {"labels": {"kubevirt.io/vm": name}, "annotations": {}},
            "spec": {
                "evictionStrategy": "External",
                "terminationGracePeriodSeconds": 30,
                "networks": [{"name": "default", "pod": {}}],
                "domain": {
                    "devices": {
                        "interfaces": [{"name": "default", "bridge": {}}],
                        "disks": [{"name": "datavolumedisk", "disk": {"bus": "virtio"}}],
                    },
                    "resources": {
                        "requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "2Gi"},
                    },
                },
                "volumes": [{"name": "datavolumedisk", "dataVolume": {"name": name}}],
            },
        },
    });
    if let Some(secret) = secret {
        let volumes = spec["template"]["spec"]["volumes"].as_array_mut().unwrap();
        volumes.push(json!({"name": "cloudinitdisk", "cloudInitNoCloud": {"secretRef": {"name": secret}}}));
        let disks = spec["template"]["spec"]["domain"]["devices"]["disks"]
            .as_array_mut()
            .unwrap();
        disks.push(json!({"name": "cloudinitdisk", "disk": {"bus": "virtio"}}));
    }
    spec
}

/// The spec of a VM without DataVolumes.
pub(crate) fn diskless(strategy: &str) -> Value {
    let mut spec = spec("none", None);
    spec["runStrategy"] = json!(strategy);
    spec.as_object_mut().unwrap().remove("dataVolumeTemplates");
    spec["template"]["spec"]["volumes"] =
        json!([{"name": "datavolumedisk", "containerDisk": {"image": "registry.test/ubuntu"}}]);
    spec
}
