//! KubeVirt as a provider: instances are VirtualMachines, an [`InfraClient`] is for a namespace of an infra cluster,
//! and its cache are the pooled stores.

pub mod facts;
pub mod objects;
pub mod orphans;
pub mod pool;
pub mod preflight;
mod user_data;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicObject};
use machinist_shared::api::names::{CONTROLLER, label};
use machinist_shared::kubevirt::observed::find;
use machinist_shared::kubevirt::root_cause::{Reason, VmView as CauseOf, root_cause};
use machinist_shared::provider::{Opaque, Secret};
use serde_json::{Value, json};

use crate::cache::store::{Key, Store};
use crate::kube::error::RemoteError;
use crate::kubevirt::objects::{Cached, DataVolume, Vm, Vmi};
use crate::kubevirt::pool::{Access, InfraPool, Kind, OpenInfra, read_one};
use crate::provider::concurrency_limit::ConcurrencyLimit;
use crate::provider::{
    AddressOwner, AdoptParams, BootstrapData, Disk, Eviction, FactError, Guest, InfraClient, InfraKey,
    Instance, InstanceState, InstanceView, NotWatched, Orphan, Provider, Unavailable, Unwatched, WatchStatus,
};

impl Provider for InfraPool {
    fn orphans(&self, cluster_uid: &str, lives: &dyn Fn(&str) -> bool) -> Vec<Orphan> {
        Self::orphans(self, cluster_uid, lives)
    }

    fn name(&self) -> &'static str {
        "kubevirt"
    }

    fn state_reasons(&self) -> Vec<String> {
        Reason::ALL.iter().map(|reason| format!("{reason:?}")).collect()
    }

    fn watch(&self, user: &Key, credential: &Secret, namespace: &str) -> WatchStatus {
        let read = self.read(credential.expose());
        let kubeconfig = match read.as_ref() {
            Ok(kubeconfig) => kubeconfig,
            Err(error) => return WatchStatus::Unusable(format!("auth.kubeconfig: {error}")),
        };
        match self.access(user, kubeconfig, namespace) {
            Access::Open(open) => WatchStatus::Open(Arc::new(open)),
            Access::Opening => WatchStatus::Opening,
            Access::Failed(error) => WatchStatus::Failed {
                why: format!("{}: {error}", kubeconfig.server()),
                refused: error.is_refusal(),
            },
        }
    }

    fn release_unused(&self, user: &Key) {
        Self::release_unused(self, user);
    }

    fn release(&self, user: &Key) {
        Self::release(self, user);
    }

    fn users(&self, place: &InfraKey) -> Vec<Key> {
        Self::users(self, place)
    }

    fn concurrency_limit(&self, user: &Key) -> Option<Arc<ConcurrencyLimit>> {
        Self::concurrency_limit(self, user)
    }

    fn has_instance_elsewhere(&self, user: &Key, but: &InfraKey, uid: &str) -> bool {
        Self::has_instance_elsewhere(self, user, but, uid)
    }

    fn count(&self) -> (usize, usize) {
        Self::count(self)
    }
}

impl InfraClient for OpenInfra {
    fn key(&self) -> &InfraKey {
        Self::key(self)
    }

    fn namespace_uid(&self) -> Option<String> {
        Self::namespace_uid(self)
    }

    fn get<'a>(
        &'a self,
        name: &'a str,
        disks: &'a [String],
    ) -> BoxFuture<'a, Result<InstanceView, Unavailable>> {
        Box::pin(get(self, name, disks))
    }

    fn uid_of(&self, name: &str) -> Option<String> {
        let vm = self.vms().get(&Key::new(&self.key().namespace, name))?;
        vm.metadata.uid.clone()
    }

    fn instances_at_address(&self, address: &str) -> Vec<AddressOwner> {
        let vmis = self.vmis().by_index(address).into_iter();
        vmis.filter_map(|vmi| {
            Some(AddressOwner {
                name: vmi.metadata.name.clone()?,
                proven: vmi.proven_addresses().iter().any(|own| own == address),
            })
        })
        .collect()
    }

    fn is_absence_conclusive(&self, name: &str) -> bool {
        Self::is_absence_conclusive(self, name)
    }

    fn is_watched(&self) -> bool {
        self.missing().is_empty()
    }

    fn removals(&self) -> u64 {
        self.vms().removals()
    }

    fn facts<'a>(&'a self, needed: &'a Opaque) -> BoxFuture<'a, Result<Opaque, FactError>> {
        Box::pin(facts(self, needed))
    }

    fn create(&self, instance: Value) -> BoxFuture<'_, Result<(), RemoteError>> {
        Box::pin(create(self, instance))
    }

    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(find_vm(self, name))
    }

    fn saw_deletion(&self, name: &str) -> bool {
        self.vms().saw_deletion(&Key::new(&self.key().namespace, name))
    }

    fn verify_cached<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, RemoteError>> {
        Box::pin(verify_cached(self, name))
    }

    fn create_user_data<'a>(
        &'a self,
        user_data: BootstrapData<'a>,
    ) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(create_user_data(self, user_data))
    }

    fn delete_user_data<'a>(&'a self, user_data: &'a str) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(delete_user_data(self, user_data))
    }

    fn label<'a>(&'a self, name: &'a str, label: AdoptParams<'a>) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(put_labels(self, name, label))
    }

    fn delete<'a>(&'a self, name: &'a str, uid: &'a str) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(delete(self, name, uid))
    }

    fn confirm_eviction<'a>(
        &'a self,
        name: &'a str,
        uid: &'a str,
        host: &'a str,
    ) -> BoxFuture<'a, Result<bool, RemoteError>> {
        Box::pin(confirm_eviction(self, name, uid, host))
    }

    fn recheck_credential(&self) {
        Self::recheck_credential(self);
    }
}

async fn get(open: &OpenInfra, name: &str, disks: &[String]) -> Result<InstanceView, Unavailable> {
    let (unwatched, again) = unwatched(open, name, disks).await?;
    let at = |name: &str| Key::new(&open.key().namespace, name);
    complete(open, name, disks).await.map_err(|error| Unavailable {
        why: format!("{}: {error}", open.key().server),
        again: UNREADABLE_RETRY,
    })?;
    if open.is_unreadable(name) {
        return Err(Unavailable {
            why: format!(
                "{}: the VirtualMachine {name} cannot be read; see the log",
                open.key().server
            ),
            again: UNREADABLE_RETRY,
        });
    }
    let volumes: Vec<_> = disks
        .iter()
        .filter_map(|disk| open.data_volumes().get(&at(disk)))
        .collect();
    let claims = disks.iter().filter_map(|disk| open.claims().get(&at(disk)));
    let claims = claims.map(|claim| Disk {
        kind: "PersistentVolumeClaim",
        metadata: claim.metadata.clone(),
    });
    let vmi = open.vmis().get(&at(name));
    let vm = open.vms().get(&at(name));
    Ok(InstanceView {
        guest: vmi.as_ref().map(|vmi| Guest {
            started: vmi.status.has_run(),
            addresses: vmi.status.addresses(),
            proven_addresses: vmi.proven_addresses(),
            eviction: eviction(vmi),
            instance: owner(vmi),
            host: Some(vmi.status.node_name.clone()).filter(|host| !host.is_empty()),
        }),
        instance: vm.map(|vm| Arc::new(instance(&vm, vmi.as_deref(), &volumes))),
        disks: volumes
            .iter()
            .map(|volume| Disk {
                kind: "DataVolume",
                metadata: volume.metadata.clone(),
            })
            .chain(claims)
            .collect(),
        unwatched,
        again,
    })
}

/// How long until an undecodable object is read again without an event.
const UNREADABLE_RETRY: Duration = Duration::from_secs(30);

/// Reads an object again that was reduced before a Machine with its name was known.
async fn complete(open: &OpenInfra, name: &str, disks: &[String]) -> Result<(), RemoteError> {
    let own = [name.to_owned()];
    reread(open, Kind::Vm, open.vms(), &own).await?;
    reread(open, Kind::Vmi, open.vmis(), &own).await?;
    reread(open, Kind::DataVolume, open.data_volumes(), disks).await
}

async fn reread<K: Cached>(
    open: &OpenInfra,
    kind: Kind,
    store: &Store<K>,
    names: &[String],
) -> Result<(), RemoteError> {
    for name in names {
        let key = Key::new(&open.key().namespace, name);
        if store.get(&key).is_some_and(|object| object.is_reduced())
            && let Some(whole) = ask(open, kind, name).await?
        {
            store.completed(whole);
        }
    }
    Ok(())
}

/// UID of the VM that a VMI belongs to. One whose VM was deleted without it has none.
fn owner(vmi: &Vmi) -> Option<String> {
    let owners = vmi.metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    controllers.next().map(|owner| owner.uid.clone())
}

/// KubeVirt's eviction marks on a VMI. Only `External` requires an action of others: deleting a VMI that is being
/// migrated would interrupt its migration.
fn eviction(vmi: &Vmi) -> Eviction {
    let (status, strategy) = (&vmi.status, vmi.spec.eviction_strategy.as_str());
    let host = &status.evacuation_node_name;
    // A VMI keeps its mark for a while after it has left.
    let marked = !host.is_empty() && *host == status.node_name && !status.is_final();
    match strategy {
        "External" if marked => Eviction::Wanted {
            uid: vmi.metadata.uid.clone().unwrap_or_default(),
            host: host.clone(),
        },
        "LiveMigrate" | "LiveMigrateIfPossible" if marked => Eviction::Moving { host: host.clone() },
        "LiveMigrate" => find(&status.conditions, "LiveMigratable", "False")
            .map_or(Eviction::None, |found| {
                Eviction::Impossible(found.message.clone())
            }),
        _ => Eviction::None,
    }
}

async fn confirm_eviction(open: &OpenInfra, name: &str, uid: &str, host: &str) -> Result<bool, RemoteError> {
    let wanted = Eviction::Wanted {
        uid: uid.to_owned(),
        host: host.to_owned(),
    };
    let stays = |vmi: &Vmi| vmi.metadata.deletion_timestamp.is_none() && eviction(vmi) == wanted;
    let found: Option<Vmi> = ask(open, Kind::Vmi, name).await?;
    Ok(found.as_ref().is_some_and(stays))
}

/// Reads the object with that name from the API server.
async fn ask<K: Cached>(open: &OpenInfra, kind: Kind, name: &str) -> Result<Option<K>, RemoteError> {
    let api: Api<K> = Api::namespaced(open.client().clone(), &open.key().namespace);
    let found = read_one(&api, name, open.missing().forbids(kind)).await;
    found.map_err(|error| RemoteError::from(&error))
}

async fn facts(open: &OpenInfra, needed: &Opaque) -> Result<Opaque, FactError> {
    let needed = needed.of().ok_or_else(|| FactError::Remote {
        kind: "what",
        name: "the spec needs".to_owned(),
        error: RemoteError::other("the facts belong to another provider"),
    })?;
    let cache = open.facts();
    let namespace = &open.key().namespace;
    let facts = cache.get(open.credential_digest(), open.client(), namespace, needed);
    Ok(Opaque::new(facts.await?))
}

async fn create(open: &OpenInfra, instance: Value) -> Result<(), RemoteError> {
    let resource = ApiResource::erase::<Vm>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(open.client().clone(), &open.key().namespace, &resource);
    let object: DynamicObject = serde_json::from_value(instance).map_err(kube::Error::SerdeError)?;
    let params = PostParams {
        field_manager: Some(CONTROLLER.to_owned()),
        ..PostParams::default()
    };
    let created = api.create(&params, &object).await?;
    // As the watch does.
    match serde_json::to_value(&created).and_then(serde_json::from_value::<Vm>) {
        Ok(vm) => open.vms().written(vm),
        Err(error) => tracing::warn!(%error, "the created VirtualMachine cannot be read"),
    }
    Ok(())
}

async fn find_vm(open: &OpenInfra, name: &str) -> Result<(), RemoteError> {
    let found: Option<Vm> = ask(open, Kind::Vm, name).await?;
    if let Some(vm) = found {
        open.vms().written(vm);
    }
    Ok(())
}

async fn verify_cached(open: &OpenInfra, name: &str) -> Result<bool, RemoteError> {
    let vm = reread_version(open, Kind::Vm, open.vms(), name).await?;
    let vmi = reread_version(open, Kind::Vmi, open.vmis(), name).await?;
    Ok(vm && vmi)
}

/// Reads the object with that name into the cache; returns whether it had that version.
async fn reread_version<K: Cached>(
    open: &OpenInfra,
    kind: Kind,
    store: &Store<K>,
    name: &str,
) -> Result<bool, RemoteError> {
    let key = Key::new(&open.key().namespace, name);
    let version = |object: &K| object.meta().resource_version.clone();
    let (before, known) = (
        store.get(&key).and_then(|object| version(&object)),
        store.latest_version(&key),
    );
    let found: Option<K> = ask(open, kind, name).await?;
    let is_same = before == found.as_ref().and_then(version);
    store.observed(&key, found, known);
    Ok(is_same)
}

async fn create_user_data(open: &OpenInfra, user_data: BootstrapData<'_>) -> Result<(), RemoteError> {
    let api = Api::namespaced(open.client().clone(), &open.key().namespace);
    let secret = user_data::secret(user_data);
    match api.create(&PostParams::default(), &secret).await {
        // The name contains the Machine's UID and the token's ID: an existing Secret is Machinist's own, from before a
        // crash.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// Garbage collection would delete it as well, but at an unknown time.
async fn delete_user_data(open: &OpenInfra, user_data: &str) -> Result<(), RemoteError> {
    let api: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(open.client().clone(), &open.key().namespace);
    // As above, the name can only be Machinist's own.
    match api.delete(user_data, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        // machine-controller's kubeconfigs lack the permission.
        Err(kube::Error::Api(status)) if status.code == 403 => {
            tracing::debug!(
                secret = user_data,
                "left to garbage collection: {}",
                status.message
            );
            Ok(())
        }
        other => Ok(other.map(drop)?),
    }
}

async fn put_labels(open: &OpenInfra, name: &str, label: AdoptParams<'_>) -> Result<(), RemoteError> {
    let labels: Value = label
        .labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    let patch = json!({"metadata": {
        "uid": label.uid,
        "resourceVersion": label.resource_version,
        "labels": labels,
    }});
    let params = PatchParams {
        field_manager: Some(CONTROLLER.to_owned()),
        ..PatchParams::default()
    };
    let labeled = vms(open).patch(name, &params, &Patch::Merge(&patch)).await?;
    open.vms().written(labeled);
    Ok(())
}

async fn delete(open: &OpenInfra, name: &str, uid: &str) -> Result<(), RemoteError> {
    let preconditions = Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    };
    let params = DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    match vms(open).delete(name, &params).await {
        Ok(either) => {
            match either.left() {
                Some(vm) if vm.metadata.deletion_timestamp.is_some() => open.vms().written(vm),
                _ => open.vms().deleted(&Key::new(&open.key().namespace, name), uid),
            }
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn vms(open: &OpenInfra) -> Api<Vm> {
    Api::namespaced(open.client().clone(), &open.key().namespace)
}

/// Polls the kinds that the credential may not watch, if any.
async fn unwatched(
    open: &OpenInfra,
    name: &str,
    disks: &[String],
) -> Result<(Option<Unwatched>, Option<Duration>), Unavailable> {
    if open.missing().is_empty() {
        return Ok((None, None));
    }
    let (seen, again) = open.poll(name, disks).await;
    match seen {
        Ok(seen) => {
            let unwatched = Unwatched {
                why: if open.missing().is_forbidden() {
                    NotWatched::Forbidden(open.missing().to_string())
                } else {
                    NotWatched::TooLarge
                },
                unseen_disks: seen.unseen_disks,
            };
            Ok((Some(unwatched), Some(again)))
        }
        Err(error) => {
            let server = &open.key().server;
            let why = if open.missing().is_forbidden() {
                format!(
                    "{server}: the credential may neither watch ({}) nor get: {error}",
                    open.missing()
                )
            } else {
                format!(
                    "{server}: it has too many objects to watch, and they cannot be read one by one: {error}"
                )
            };
            Err(Unavailable { why, again })
        }
    }
}

/// A VM as an instance, with the state of its VMI and disks.
pub fn instance(vm: &Vm, vmi: Option<&Vmi>, volumes: &[Arc<DataVolume>]) -> Instance {
    let name = vm.metadata.name.as_deref().unwrap_or_default();
    let disks: Vec<_> = volumes
        .iter()
        .map(|volume| {
            (
                volume.metadata.name.as_deref().unwrap_or_default(),
                &volume.status,
            )
        })
        .collect();
    let cause = root_cause(CauseOf {
        name,
        run_strategy: vm.spec.run_strategy.as_deref().unwrap_or("Once"),
        vm: &vm.status,
        vmi: vmi.map(|vmi| &vmi.status),
        is_vmi_deleting: vmi.is_some_and(|vmi| vmi.metadata.deletion_timestamp.is_some()),
        disks: &disks,
    });
    let labels = vm.metadata.labels.as_ref();
    let labeled = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let made_by_peer =
        labeled(label::KUBEVIRT_VM) == Some(name) && labeled(label::ROLE) == Some(label::ROLE_WORKER);
    Instance {
        metadata: vm.metadata.clone(),
        user_data: vm.user_data_secret().map(str::to_owned),
        made_by_peer_for: made_by_peer.then(|| labeled(label::CLUSTER_NAME).unwrap_or_default().to_owned()),
        system_uuid: vm.firmware_uuid().map(str::to_owned),
        state: InstanceState {
            ready: cause.is_ready(),
            terminal: cause.is_terminal(),
            progress: cause.is_progress(),
            is_retry: cause.is_retry,
            is_unconfirmed: cause.is_unconfirmed,
            reason: format!("{:?}", cause.reason),
            message: cause.message,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::its_vm(json!([{"apiVersion": "v", "kind": "k", "name": "o", "uid": "o"},
        {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "a", "uid": "v1", "controller": true}]), Some("v1"))]
    #[case::no_owner(Value::Null, None)]
    fn a_guest_belongs_to_its_vm(#[case] owners: Value, #[case] expected: Option<&str>) {
        let vmi = json!({"metadata": {"name": "a", "ownerReferences": owners}});
        assert_eq!(owner(&serde_json::from_value(vmi).unwrap()).as_deref(), expected);
    }

    #[rstest]
    #[case::no_eviction("External", json!({"nodeName": "a"}), Eviction::None)]
    #[case::it_must_be_deleted("External", json!({"nodeName": "a", "evacuationNodeName": "a"}),
        Eviction::Wanted { uid: "u".into(), host: "a".into() })]
    #[case::it_has_left("External", json!({"nodeName": "b", "evacuationNodeName": "a"}), Eviction::None)]
    #[case::it_has_ended(
        "External", json!({"nodeName": "a", "evacuationNodeName": "a", "phase": "Succeeded"}), Eviction::None)]
    #[case::kubevirt_moves_it("LiveMigrate", json!({"nodeName": "a", "evacuationNodeName": "a"}),
        Eviction::Moving { host: "a".into() })]
    #[case::kubevirt_moves_it_if_it_can("LiveMigrateIfPossible", json!({"nodeName": "a", "evacuationNodeName": "a"}),
        Eviction::Moving { host: "a".into() })]
    #[case::it_cannot_be_moved(
        "LiveMigrate", json!({"nodeName": "a", "conditions": [{"type": "LiveMigratable", "status": "False", "message": "not shared"}]}),
        Eviction::Impossible("not shared".into()))]
    #[case::it_need_not_be_moved(
        "External", json!({"nodeName": "a", "conditions": [{"type": "LiveMigratable", "status": "False"}]}), Eviction::None)]
    #[case::without_a_strategy("", json!({"nodeName": "a", "evacuationNodeName": "a"}), Eviction::None)]
    fn a_host_that_is_drained(#[case] strategy: &str, #[case] status: Value, #[case] expected: Eviction) {
        let vmi = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"evictionStrategy": strategy}, "status": status});
        assert_eq!(eviction(&serde_json::from_value(vmi).unwrap()), expected);
    }
}
