//! The guests of all running VMIs, simulated and real: starts one when a VMI runs, and stops it when the VMI no longer runs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::faults::Faults;
use crate::guest::node::Machine;
use crate::guest::{Guest, GuestState};
use crate::instance;
use crate::instancetype::quantity;
use crate::lock;
use crate::objects::{Kind, deleting, list, text};
use crate::real::{self, GuestExit, Hardware, Host, NetworkCard};
use crate::vm::phase;
use crate::vmi::Power;
use crate::world::{World, claim_names};

/// All guests, by the name of their VM.
#[derive(Debug)]
pub(crate) struct GuestManager {
    running: Mutex<HashMap<String, Running>>,
    states: Arc<Mutex<HashMap<String, GuestState>>>,
    disks: PathBuf,
    boot: Duration,
    kubelet_version: String,
    host: Option<Arc<Host>>,
}

#[derive(Debug)]
struct Running {
    uid: String,
    stop: CancellationToken,
    real: Option<Real>,
}

/// A real guest that was switched on.
#[derive(Debug, Clone)]
struct Real {
    power_off: CancellationToken,
    hardware: Arc<Mutex<Hardware>>,
}

impl GuestManager {
    pub(crate) fn new(
        disks: PathBuf,
        boot: Duration,
        kubelet_version: String,
        host: Option<Arc<Host>>,
    ) -> Self {
        Self {
            running: Mutex::default(),
            states: Arc::default(),
            disks,
            boot,
            kubelet_version,
            host,
        }
    }

    /// The state of the guest of a VM.
    pub(crate) fn state(&self, vm: &str) -> Option<GuestState> {
        lock(&self.states).get(vm).cloned()
    }

    /// Starts or stops the guest according to its VMI; `notify` is called when a real one changes.
    pub(crate) fn tend(
        &self,
        stop: &CancellationToken,
        world: &World,
        vmi: &DynamicObject,
        faults: &Faults,
        notify: &Arc<Notify>,
    ) {
        if faults.real {
            self.tend_real(stop, world, vmi, notify);
        } else {
            self.tend_simulated(stop, world, vmi, faults);
        }
    }

    /// The guest's effect on its VMI.
    pub(crate) fn power(&self, vmi: &DynamicObject, faults: &Faults) -> Power {
        if !faults.real {
            return Power::Simulated;
        }
        let running = lock(&self.running);
        let real = running
            .get(&vmi.name_any())
            .filter(|running| Some(&running.uid) == vmi.metadata.uid.as_ref())
            .and_then(|running| running.real.as_ref());
        Power::Real(real.map(|real| lock(&real.hardware).clone()))
    }

    fn tend_real(&self, stop: &CancellationToken, world: &World, vmi: &DynamicObject, notify: &Arc<Notify>) {
        let (name, uid) = (vmi.name_any(), vmi.uid().unwrap_or_default());
        if phase(vmi) != "Running" {
            return self.stop(&name);
        }
        {
            let running = lock(&self.running);
            if let Some(running) = running.get(&name).filter(|running| running.uid == uid) {
                if let Some(real) = running.real.as_ref().filter(|_| deleting(vmi)) {
                    real.power_off.cancel();
                }
                return;
            }
        }
        let Some(user_data) = user_data(world, vmi).filter(|_| !deleting(vmi)) else {
            return;
        };
        let disk = disk_id(world, vmi).unwrap_or_else(|| uid.clone());
        let (cpus, memory) = instance::size(vmi);
        let guest = real::Guest {
            vm: name.clone(),
            namespace: vmi.namespace().unwrap_or_default(),
            hostname: text(vmi, "/spec/hostname").unwrap_or(&name).to_owned(),
            user_data,
            disks: self.folder(vm_uid(vmi).unwrap_or(&uid)).join(disk),
            uuid: text(vmi, "/spec/domain/firmware/uuid").unwrap_or(&uid).to_owned(),
            cpus,
            memory: mebibytes(&memory),
            card: NetworkCard::of(&uid),
            power_off: CancellationToken::new(),
        };
        self.switch_on(stop.child_token(), uid, guest, Arc::clone(notify));
    }

    fn switch_on(&self, stop: CancellationToken, uid: String, guest: real::Guest, notify: Arc<Notify>) {
        let (name, states) = (guest.vm.clone(), Arc::clone(&self.states));
        let real = Real {
            power_off: guest.power_off.clone(),
            hardware: Arc::default(),
        };
        let hardware = Arc::clone(&real.hardware);
        self.replace(&name, uid, stop.clone(), Some(real));
        let Some(host) = self.host.clone() else {
            let why = "this simulator has no image of real guests (--guest-image)";
            tracing::warn!(vm = name, "{why}");
            lock(&states).insert(name, GuestState::Failed(why.to_owned()));
            lock(&hardware).end = Some(GuestExit::Crashed);
            return notify.notify_one();
        };
        lock(&states).insert(name.clone(), GuestState::Booting);
        let tap = guest.card.tap.clone();
        let inside = host.inside().clone();
        inside.spawn(async move {
            let report = |news| {
                *lock(&hardware) = news;
                notify.notify_one();
            };
            let ended = stop.run_until_cancelled(Box::pin(guest.run(host, report))).await;
            if let Some(Err(error)) = ended {
                tracing::warn!(vm = name, "real guest: {error}");
                lock(&states).insert(name, GuestState::Failed(error.to_string()));
            }
            real::unplug(&tap).await;
        });
    }

    fn tend_simulated(&self, stop: &CancellationToken, world: &World, vmi: &DynamicObject, faults: &Faults) {
        let name = vmi.name_any();
        let uid = vmi.uid().unwrap_or_default();
        let address: Option<IpAddr> =
            text(vmi, "/status/interfaces/0/ipAddress").and_then(|text| text.parse().ok());
        let running = lock(&self.running).get(&name).map(|running| running.uid.clone());
        if phase(vmi) != "Running" || faults.never_joins {
            if running.is_some() {
                self.stop(&name);
            }
            return;
        }
        if running.as_ref() == Some(&uid) {
            return;
        }
        // Without an address the guest has no network, and its kubelet reaches no API server.
        let (Some(address), Some(user_data)) = (address, user_data(world, vmi)) else {
            return;
        };
        let disk = disk_id(world, vmi).unwrap_or_else(|| uid.clone());
        let (cpus, memory) = instance::size(vmi);
        let guest = Guest {
            vm: name.clone(),
            disk: self.folder(vm_uid(vmi).unwrap_or(&uid)).join(disk),
            hostname: text(vmi, "/spec/hostname").unwrap_or(&name).to_owned(),
            user_data,
            machine: Machine {
                address,
                system_uuid: text(vmi, "/spec/domain/firmware/uuid").unwrap_or(&uid).to_owned(),
                boot_id: crate::admission::mutate::random_uuid(),
                kubelet_version: self.kubelet_version.clone(),
                cpus,
                memory,
            },
            boot: self.boot,
        };
        self.start(stop.child_token(), uid, guest);
    }

    fn start(&self, stop: CancellationToken, uid: String, guest: Guest) {
        let (name, states) = (guest.vm.clone(), Arc::clone(&self.states));
        self.replace(&name, uid, stop.clone(), None);
        tokio::spawn(async move {
            let report = |state| drop(lock(&states).insert(name.clone(), state));
            stop.run_until_cancelled(Box::pin(guest.run(report))).await;
        });
    }

    fn replace(&self, vm: &str, uid: String, stop: CancellationToken, real: Option<Real>) {
        let running = Running { uid, stop, real };
        if let Some(old) = lock(&self.running).insert(vm.to_owned(), running) {
            old.stop.cancel();
        }
    }

    /// Switches the guest off at once.
    pub(crate) fn stop(&self, vm: &str) {
        if let Some(running) = lock(&self.running).remove(vm) {
            running.stop.cancel();
        }
    }

    /// The VM is gone, with its disks.
    pub(crate) fn forget(&self, vm: &str, uid: Option<&str>) {
        self.stop(vm);
        lock(&self.states).remove(vm);
        if let Some(uid) = uid {
            crate::runner::remove(&self.folder(uid));
        }
    }

    fn folder(&self, vm_uid: &str) -> PathBuf {
        self.disks.join(vm_uid)
    }
}

fn vm_uid(vmi: &DynamicObject) -> Option<&str> {
    vmi.owner_references().first().map(|owner| owner.uid.as_str())
}

/// A quantity of memory in MiB, rounded down.
fn mebibytes(memory: &str) -> u64 {
    const MEBI: i128 = 1 << 20;
    let bytes = quantity(memory).and_then(|memory| memory.to_bytes_i128());
    // Memory without a size was refused before.
    u64::try_from(bytes.unwrap_or_default() / MEBI).unwrap_or_default()
}

/// A disk is its claim: it survives a restart of the VM, not a new DataVolume.
fn disk_id(world: &World, vmi: &DynamicObject) -> Option<String> {
    world.get(Kind::Pvc, claim_names(vmi).next()?)?.uid()
}

/// The cloud-init volume's source.
fn cloud_init(vmi: &DynamicObject) -> Option<&Value> {
    list(vmi, "/spec/volumes").iter().find_map(|volume| {
        volume
            .get("cloudInitNoCloud")
            .or_else(|| volume.get("cloudInitConfigDrive"))
    })
}

/// Name of the Secret that holds the user data, if it is in one.
pub(crate) fn secret_name(vmi: &DynamicObject) -> Option<&str> {
    cloud_init(vmi)?.pointer("/secretRef/name")?.as_str()
}

fn user_data(world: &World, vmi: &DynamicObject) -> Option<Vec<u8>> {
    let source = cloud_init(vmi)?;
    if let Some(name) = secret_name(vmi) {
        let secret = world.get(Kind::Secret, name)?;
        let encoded = text(secret, "/data/userdata").or_else(|| text(secret, "/data/userData"))?;
        return STANDARD.decode(encoded).ok();
    }
    let plain = source.get("userData").and_then(Value::as_str);
    let encoded = source.get("userDataBase64").and_then(Value::as_str);
    plain
        .map(|text| text.as_bytes().to_vec())
        .or_else(|| STANDARD.decode(encoded?).ok())
}
