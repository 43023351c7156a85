//! Executes the plans of the components: one task per VM, VMI, DataVolume and claim, triggered by watches and timers.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, DynamicObject, EvictParams, PostParams, Preconditions};
use kube::core::TypeMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::faults::Faults;
use crate::guests::GuestManager;
use crate::hosts::{Hosts, handler, pod, volume};
use crate::instancetype;
use crate::objects::{Kind, StatusIn, list, object, stamp, text};
use crate::options::Options;
use crate::plan::{self, Clock, Plan, Write};
use crate::world::{Key, World, claim_names};
use crate::{data_volume, lock, storage_profile, vm, vmi};

/// Backoff after a conflict.
const CONFLICT: Duration = Duration::from_millis(20);
/// Backoff after another error of a write.
const FAILURE: Duration = Duration::from_millis(500);

/// The simulated components.
pub(crate) struct Runner {
    pub(crate) client: Client,
    pub(crate) options: Options,
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) guests: GuestManager,
    pub(crate) stop: CancellationToken,
    actors: Mutex<HashMap<Key, Arc<Notify>>>,
    /// Where only the hosts are simulated.
    hosts: Option<Hosts>,
}

/// What one task remembers; of one object only, not of its successor of the same name.
struct Actor {
    uid: Option<String>,
    clock: Clock,
    memory: vm::Memory,
    address: Option<String>,
    over_quota: Option<String>,
}

impl Runner {
    pub(crate) fn new(
        client: Client,
        options: Options,
        world: Arc<Mutex<World>>,
        guests: GuestManager,
        hosts: Option<Hosts>,
    ) -> Arc<Self> {
        let (stop, actors) = (CancellationToken::new(), Mutex::default());
        Arc::new(Self {
            client,
            options,
            world,
            guests,
            stop,
            actors,
            hosts,
        })
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        self.api_with(self.client.clone(), kind)
    }

    fn api_with(&self, client: Client, kind: Kind) -> Api<DynamicObject> {
        if kind.namespaced() {
            Api::namespaced_with(client, &self.options.namespace, &kind.resource())
        } else {
            Api::all_with(client, &kind.resource())
        }
    }

    /// For writes of an object: a VMI is its virt-handler's.
    fn api_for(&self, kind: Kind, object: &DynamicObject) -> Api<DynamicObject> {
        let handler = self.hosts.as_ref().filter(|_| kind == Kind::Vmi);
        let handler = handler.and_then(|hosts| hosts.handler(text(object, "/status/nodeName")?));
        self.api_with(handler.unwrap_or(&self.client).clone(), kind)
    }

    /// Watches a kind for ever; `synced` fires when the first list is in.
    pub(crate) async fn watch(self: Arc<Self>, kind: Kind, synced: oneshot::Sender<()>) {
        let mut synced = Some(synced);
        let mut listed = BTreeSet::new();
        let changes = watcher(self.api(kind), watcher::Config::default()).default_backoff();
        let mut changes = std::pin::pin!(changes);
        while let Some(change) = self.stop.run_until_cancelled(changes.next()).await.flatten() {
            match change {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    listed.insert(object.name_any());
                    self.learn(kind, object);
                }
                Ok(watcher::Event::InitDone) => {
                    let gone = lock(&self.world).retain(kind, &listed);
                    for name in &gone {
                        self.changed(kind, name);
                    }
                    if let Some(synced) = synced.take() {
                        // The receiver is gone if the start was aborted.
                        let _ = synced.send(());
                    }
                }
                Ok(watcher::Event::Apply(object)) => self.learn(kind, object),
                Ok(watcher::Event::Delete(object)) => {
                    let name = object.name_any();
                    let before = {
                        let mut world = lock(&self.world);
                        let before = world.concerned(kind, &name);
                        world.forget(kind, &name, object.uid().as_deref());
                        before
                    };
                    for key in &before {
                        self.wake(key);
                    }
                    self.changed(kind, &name);
                }
                Err(error) => tracing::debug!(?kind, %error, "watch"),
            }
        }
    }

    fn learn(self: &Arc<Self>, kind: Kind, mut object: DynamicObject) {
        let name = object.name_any();
        prepare(kind, &mut object);
        if lock(&self.world).learn(kind, object) {
            self.changed(kind, &name);
        }
    }

    fn changed(self: &Arc<Self>, kind: Kind, name: &str) {
        let concerned = {
            let world = lock(&self.world);
            let mut concerned = world.concerned(kind, name);
            if self.hosts.is_some() {
                concerned.extend(world.concerned_on_hosts(kind));
            }
            concerned
        };
        for key in &concerned {
            self.wake(key);
        }
    }

    fn wake(self: &Arc<Self>, key: &Key) {
        let mut actors = lock(&self.actors);
        if let Some(notify) = actors.get(key) {
            notify.notify_one();
        } else if lock(&self.world).get(key.0, &key.1).is_some() {
            let notify = Arc::new(Notify::new());
            actors.insert(key.clone(), Arc::clone(&notify));
            let runner = Arc::clone(self);
            let key = key.clone();
            tokio::spawn(async move {
                let stop = runner.stop.clone();
                stop.run_until_cancelled(runner.act(key, notify)).await;
            });
        }
    }

    async fn act(self: Arc<Self>, key: Key, notify: Arc<Notify>) {
        let mut actor = Actor::new(None);
        loop {
            let Some(plan) = self.plan(&key, &mut actor, &notify) else {
                if self.retire(&key, &actor) {
                    return;
                }
                continue;
            };
            if plan.writes.is_empty() {
                match plan.again {
                    // The object is reconciled after a notification, and after the wait.
                    Some(wait) => drop(tokio::time::timeout(wait, notify.notified()).await),
                    None => notify.notified().await,
                }
                continue;
            }
            for write in plan.writes {
                if let Err(error) = self.perform(write).await {
                    actor.over_quota = over_quota(&error);
                    let conflict =
                        matches!(&error, kube::Error::Api(status) if matches!(status.code, 404 | 409));
                    if !conflict {
                        tracing::warn!(kind = ?key.0, name = key.1, %error, "write failed");
                    }
                    tokio::time::sleep(if conflict { CONFLICT } else { FAILURE }).await;
                    break;
                }
            }
        }
    }

    /// Ends the task of an object that is gone; false if it has come back in the meantime.
    fn retire(&self, key: &Key, actor: &Actor) -> bool {
        let mut actors = lock(&self.actors);
        if lock(&self.world).get(key.0, &key.1).is_some() {
            return false;
        }
        actors.remove(key);
        drop(actors);
        match key.0 {
            Kind::Vmi => self.guests.stop(&key.1),
            Kind::Vm => self.guests.forget(&key.1, actor.uid.as_deref()),
            _ => {}
        }
        true
    }

    /// The plan of the component that is responsible for this object; `None` if the object is gone.
    fn plan(&self, key: &Key, actor: &mut Actor, notify: &Arc<Notify>) -> Option<Plan> {
        let now = Timestamp::now();
        let mut world = lock(&self.world);
        let (kind, name) = (key.0, &key.1);
        let object = Arc::clone(world.get(kind, name)?);
        if actor.uid != object.uid() {
            if kind == Kind::Vm && actor.uid.is_some() {
                self.guests.forget(name, actor.uid.as_deref());
            }
            *actor = Actor::new(object.uid());
        }
        actor.clock.tick(Instant::now());
        if let Some(hosts) = &self.hosts {
            return Some(self.plan_on(hosts, &mut world, kind, &object, actor, notify, now));
        }
        Some(match kind {
            Kind::Vm => Self::plan_vm(&world, &object, actor, now),
            Kind::Vmi => {
                let address = actor.address.get_or_insert_with(|| world.fresh_address()).clone();
                let faults = world
                    .get(Kind::Vm, name)
                    .map(|vm| Faults::of(vm))
                    .unwrap_or_default();
                // The state of the guest is read first, because the plan depends on it.
                self.guests.tend(&self.stop, &world, &object, &faults, notify);
                self.plan_vmi(&world, &object, &faults, actor, &address, now)
            }
            Kind::DataVolume => {
                let faults = Faults::of(world.vm_of(&object).unwrap_or(&object));
                let source = text(&object, "/spec/source/pvc/name");
                let elsewhere = text(&object, "/spec/source/pvc/namespace")
                    .is_some_and(|namespace| namespace != self.options.namespace);
                let claim = world.get(Kind::Pvc, name).map(AsRef::as_ref);
                let prime = claim.and_then(|claim| world.get(Kind::Pvc, &data_volume::prime_name(claim)));
                let seen = data_volume::DataVolumeInputs {
                    data_volume: &object,
                    claim,
                    class: world.class_of(&object),
                    consumer: world.has_consumer(name),
                    prime: prime.map(AsRef::as_ref),
                    over_quota: actor.over_quota.as_deref(),
                    source_exists: elsewhere
                        || source.is_none_or(|name| world.get(Kind::Pvc, name).is_some()),
                    faults: &faults,
                    import: self.options.import,
                };
                data_volume::sync(&seen, &mut actor.clock, now)
            }
            Kind::StorageClass => {
                let profile = world.get(Kind::StorageProfile, name);
                storage_profile::sync(&object, profile.map(AsRef::as_ref))
            }
            Kind::Pvc => {
                let used = world
                    .all(Kind::Vmi)
                    .any(|vmi| claim_names(vmi).any(|claim| claim == name));
                data_volume::release_claim(&object, used)
            }
            _ => Plan::idle(),
        })
    }

    /// What the hosts do about an object.
    #[allow(
        clippy::too_many_arguments,
        reason = "everything that a component of a host may look at"
    )]
    fn plan_on(
        &self,
        hosts: &Hosts,
        world: &mut World,
        kind: Kind,
        object: &DynamicObject,
        actor: &mut Actor,
        notify: &Arc<Notify>,
        now: Timestamp,
    ) -> Plan {
        let name = object.name_any();
        match kind {
            Kind::Pvc => {
                let faults = world.faults_of_claim(object);
                let volume = world.get(Kind::Volume, &volume::name_for(object));
                volume::provision(object, volume.map(AsRef::as_ref), &faults)
            }
            Kind::Volume => volume::reclaim(object),
            Kind::Pod => {
                let address = actor.address.get_or_insert_with(|| world.fresh_address()).clone();
                let node = world.node_for(object, hosts.names());
                let claims = pod::claim_names(object).map(|claim| world.get(Kind::Pvc, claim).cloned());
                let seen = pod::PodInputs {
                    pod: object,
                    node,
                    claims: claims.collect(),
                    secrets: pod::secret_names(object)
                        .all(|secret| world.get(Kind::Secret, secret).is_some()),
                    over: world.is_over(object),
                    faults: &world.faults_of_pod(object),
                    options: &self.options,
                    address: &address,
                };
                pod::sync(&seen, &mut actor.clock, now)
            }
            Kind::Vmi => {
                let faults = world.faults_of_vm(&name);
                self.guests.tend(&self.stop, world, object, &faults, notify);
                let pod = world.launcher(object).cloned();
                let address = pod.as_deref().and_then(|pod| text(pod, "/status/podIP"));
                let seen = vmi::VmiInputs {
                    vmi: object,
                    disks: disks(world, object),
                    secret: true,
                    faults: &faults,
                    options: &self.options,
                    host: text(object, "/status/nodeName").unwrap_or_default(),
                    address: address.unwrap_or_default(),
                    power: self.guests.power(object, &faults),
                };
                handler::sync(&seen, pod.as_deref(), &mut actor.clock, now)
            }
            _ => Plan::idle(),
        }
    }

    fn plan_vm(world: &World, object: &DynamicObject, actor: &mut Actor, now: Timestamp) -> Plan {
        let disks = list(object, "/spec/dataVolumeTemplates").iter().map(|template| {
            let name = template
                .pointer("/metadata/name")
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default();
            (template, world.get(Kind::DataVolume, name).cloned())
        });
        let own = |vmi: &&Arc<DynamicObject>| {
            vmi.owner_references()
                .iter()
                .any(|owner| Some(&owner.uid) == object.metadata.uid.as_ref())
        };
        let seen = vm::VmInputs {
            vm: object,
            vmi: world
                .get(Kind::Vmi, &object.name_any())
                .filter(own)
                .map(AsRef::as_ref),
            disks: disks.collect(),
            found: instancetype::find(world, object),
        };
        vm::sync(&seen, &mut actor.memory, now)
    }

    fn plan_vmi(
        &self,
        world: &World,
        object: &DynamicObject,
        faults: &Faults,
        actor: &mut Actor,
        address: &str,
        now: Timestamp,
    ) -> Plan {
        let seen = vmi::VmiInputs {
            vmi: object,
            disks: disks(world, object),
            secret: crate::guests::secret_name(object)
                .is_none_or(|name| world.get(Kind::Secret, name).is_some()),
            faults,
            options: &self.options,
            host: world.host(),
            address,
            power: self.guests.power(object, faults),
        };
        vmi::sync(&seen, &mut actor.clock, now)
    }

    async fn perform(self: &Arc<Self>, write: Write) -> Result<(), kube::Error> {
        let params = PostParams::default();
        let (kind, written) = match write {
            Write::Create(kind, object) => match self.api(kind).create(&params, &object).await {
                Err(kube::Error::Api(status)) if kind == Kind::Revision && status.code == 409 => {
                    return Ok(());
                }
                other => {
                    let created = other?;
                    if kind != Kind::Revision {
                        self.learn(kind, created);
                    }
                    return Ok(());
                }
            },
            Write::Event {
                kind,
                about,
                class,
                reason,
                message,
            } => {
                let content = plan::event(kind, &about, class, reason, &message, &stamp(Timestamp::now()));
                let mut event = object(Kind::Event, "", content);
                event.metadata.name = None;
                event.metadata.generate_name = Some(format!("{}.", about.name_any()));
                // As in KubeVirt, a failed Event is ignored.
                if let Err(error) = self.api(Kind::Event).create(&params, &event).await {
                    tracing::debug!(%error, "event lost");
                }
                return Ok(());
            }
            Write::Bind(pod, node) => {
                let name = pod.name_any();
                let binding = serde_json::json!({
                    "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "uid": pod.uid()},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node},
                });
                let bound = self
                    .api(Kind::Pod)
                    .create_subresource::<_, serde_json::Value>("binding", &name, &params, &binding)
                    .await;
                return bound.map(drop);
            }
            Write::Evict(pod) => {
                let name = pod.name_any();
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.options.namespace);
                return match pods.evict(&name, &EvictParams::default()).await {
                    // Refused: a drain tries again.
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 429) => {
                        tracing::info!(pod = name, answer = status.message, "eviction");
                        Ok(())
                    }
                    answer => answer.map(drop),
                };
            }
            Write::Update(kind, object) => (kind, self.put(kind, object, StatusIn::Object).await),
            Write::Status(kind, object) => (kind, self.put(kind, object, kind.status_in()).await),
            Write::Delete(kind, object) => {
                let only_this = Preconditions {
                    uid: object.uid(),
                    resource_version: None,
                };
                let params = DeleteParams::default().preconditions(only_this);
                let params = if kind == Kind::Pod {
                    params.grace_period(0)
                } else {
                    params
                };
                let name = object.name_any();
                match self.api(kind).delete(&name, &params).await {
                    Ok(answer) => {
                        if let Some(object) = answer.left() {
                            self.relearn(kind, object);
                        }
                        return Ok(());
                    }
                    Err(error) => (kind, Err((error, name, object.uid()))),
                }
            }
        };
        match written {
            Ok(object) => self.relearn(kind, object),
            Err((error, name, uid)) => {
                if matches!(&error, kube::Error::Api(status) if status.code == 404) {
                    lock(&self.world).forget(kind, &name, uid.as_deref());
                    self.changed(kind, &name);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    async fn put(
        &self,
        kind: Kind,
        object: DynamicObject,
        place: StatusIn,
    ) -> Result<DynamicObject, (kube::Error, String, Option<String>)> {
        let (name, api, params) = (
            object.name_any(),
            self.api_for(kind, &object),
            PostParams::default(),
        );
        let answer = match place {
            StatusIn::Subresource => api.replace_status(&name, &params, &object).await,
            StatusIn::Object => api.replace(&name, &params, &object).await,
        };
        answer.map_err(|error| (error, name, object.uid()))
    }

    /// Stores the answer to a write, unless the watch has already reported the deletion.
    fn relearn(self: &Arc<Self>, kind: Kind, object: DynamicObject) {
        let known = lock(&self.world).get(kind, &object.name_any()).is_some();
        if known {
            self.learn(kind, object);
        }
    }
}

impl Actor {
    fn new(uid: Option<String>) -> Self {
        Self {
            uid,
            clock: Clock::new(Instant::now()),
            memory: vm::Memory::default(),
            address: None,
            over_quota: None,
        }
    }
}

/// The API server's message if a ResourceQuota is exceeded.
fn over_quota(error: &kube::Error) -> Option<String> {
    match error {
        kube::Error::Api(status) if status.code == 403 && status.message.contains("exceeded quota") => {
            Some(status.message.clone())
        }
        _ => None,
    }
}

/// Objects in lists have no type, and managed fields are not used.
fn prepare(kind: Kind, object: &mut DynamicObject) {
    let resource = kind.resource();
    object.types = Some(TypeMeta {
        api_version: resource.api_version,
        kind: resource.kind,
    });
    object.metadata.managed_fields = None;
}

fn disks(world: &World, vmi: &DynamicObject) -> Vec<vmi::Disk> {
    let volumes = list(vmi, "/spec/volumes").iter().filter_map(|volume| {
        let data_volume = volume
            .pointer("/dataVolume/name")
            .and_then(serde_json::Value::as_str);
        let claim = volume
            .pointer("/persistentVolumeClaim/claimName")
            .and_then(serde_json::Value::as_str);
        let name = data_volume.or(claim)?;
        let disk = world.get(Kind::DataVolume, name).cloned();
        Some(vmi::Disk {
            volume: volume["name"].as_str()?.to_owned(),
            claim: name.to_owned(),
            is_data_volume: data_volume.is_some(),
            class: disk
                .as_deref()
                .map(|disk| world.class_of(disk))
                .unwrap_or_default(),
            data_volume: disk,
            pvc: world.get(Kind::Pvc, name).cloned(),
        })
    });
    volumes.collect()
}

/// Removes a folder of guests' disks; what cannot be removed is left to the operating system.
pub(crate) fn remove(folder: &PathBuf) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::debug!(folder = %folder.display(), %error, "disk not removed");
    }
}
