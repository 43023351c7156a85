//! Real guests that are killed or panic: the resulting status of the VMI, and that they leave nothing behind.
//!
//! Runs only where `MACHINIST_GUEST=1` asks for it (`make test-guest`): it needs the guests' image and root.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; helpers outside of test functions are no exception"
)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{TIMEOUT, TestNamespace, client, course, diskless, plane};
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use kubevirt_sim::objects::{Kind, object, text};
use kubevirt_sim::{Options, real};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{GuestNetwork, paths};

/// A network of guests, and a folder for their consoles.
struct Place {
    network: GuestNetwork,
    consoles: TempDir,
}

impl Place {
    /// `None` where real guests are not requested or not possible.
    fn find() -> Option<Self> {
        if std::env::var_os("MACHINIST_GUEST").is_none_or(|value| value != "1") {
            println!("not run: MACHINIST_GUEST is not 1; `make test-guest` sets it");
            return None;
        }
        if let Some(obstacle) = GuestNetwork::obstacle() {
            println!(
                "\n*** SKIPPED: no real guest was started, for this machine forbids it: {obstacle} ***\n"
            );
            return None;
        }
        Some(Self {
            network: GuestNetwork::create().unwrap(),
            consoles: tempfile::tempdir().unwrap(),
        })
    }

    fn options(&self, namespace: &str) -> Options {
        Options {
            real: Some(real::Options {
                image: paths::guest_image(),
                network: self.network.path(),
                consoles: self.consoles.path().to_owned(),
            }),
            ..Options::new(namespace)
        }
    }

    fn console(&self, vm: &str) -> String {
        let text = std::fs::read(self.consoles.path().join(format!("{vm}.log")));
        String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
    }
}

/// A VM without disks of its own, with a real guest.
fn vm(memory: &str) -> Value {
    let mut spec = diskless("Once");
    let template = &mut spec["template"];
    template["metadata"]["annotations"]["sim.kubevirt.io/guest"] = json!("real");
    template["spec"]["domain"]["resources"] = json!({"requests": {"memory": memory}});
    let volumes = template["spec"]["volumes"].as_array_mut().unwrap();
    volumes.push(json!({"name": "cloudinitdisk", "cloudInitNoCloud": {"userData": "#cloud-config\n{}\n"}}));
    spec
}

/// The process that has this word on its command line, which is not a launcher of it.
fn process_with(word: &str) -> Option<Pid> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let found = processes.into_iter().find(|process| {
        std::fs::read(process.path().join("cmdline")).is_ok_and(|line| {
            line.split(|byte| *byte == 0)
                .any(|found| found == word.as_bytes())
        })
    })?;
    found.file_name().to_str()?.parse().ok().map(Pid::from_raw)
}

fn uuid(vmi: &DynamicObject) -> String {
    text(vmi, "/spec/domain/firmware/uuid").unwrap().to_owned()
}

/// Polls until the condition holds: processes do not report their start and exit.
async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_guest_whose_process_is_killed_or_whose_kernel_panics_fails_its_vmi() {
    let Some(place) = Place::find() else { return };
    let scene = TestNamespace::with(place.options("real-ends")).await;
    scene.create_vm("killed", vm("256Mi")).await;
    // Enough for the kernel, but not for what the initrd has in it.
    scene.create_vm("panics", vm("80Mi")).await;
    let running = |vmi: &DynamicObject| text(vmi, "/status/phase") == Some("Running");
    let vmi = scene.is(Kind::Vmi, "killed", "Running", running).await;
    let pid = eventually("no QEMU has the VMI's UUID", || process_with(&uuid(&vmi))).await;
    kill(pid, Signal::SIGKILL).unwrap();
    for name in ["killed", "panics"] {
        let failed = |vmi: &DynamicObject| text(vmi, "/status/phase") == Some("Failed");
        let vmi = scene.is(Kind::Vmi, name, "Failed", failed).await;
        // Recorded: a failed guest that had run leaves its VM Stopped, not in CrashLoopBackOff.
        scene.vm_is(name, "Stopped").await;
        let phases = course(&scene.seen(Kind::Vmi, name), "/status/phase");
        assert!(
            phases.ends_with(&["Running".to_owned(), "Failed".to_owned()]),
            "{phases:?}"
        );
        assert!(process_with(&uuid(&vmi)).is_none(), "{name} still runs");
    }
    let console = place.console("panics");
    assert!(console.contains("Kernel panic"), "{console}");
    scene.stop().await;
}

#[tokio::test]
async fn a_guest_ends_with_a_simulator_that_is_killed() {
    let Some(place) = Place::find() else { return };
    let options = place.options("real-orphan").real.unwrap();
    let mut simulator = Command::new(env!("CARGO_BIN_EXE_kubevirt-sim"))
        .args(["--namespace=real-orphan", "--boot-seconds=0.2", "--kubeconfig"])
        .arg(plane().await.admin_kubeconfig_path())
        .arg("--guest-image")
        .arg(options.image)
        .arg("--guest-network")
        .arg(options.network)
        .arg("--consoles")
        .arg(options.consoles)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = simulator.stdout.take().unwrap();
    let first = tokio::task::spawn_blocking(move || BufReader::new(output).lines().next());
    assert_eq!(first.await.unwrap().unwrap().unwrap(), "ready");

    let vms: Api<DynamicObject> = Api::namespaced_with(client().await, "real-orphan", &Kind::Vm.resource());
    let vm = object(Kind::Vm, "orphan", json!({"spec": vm("256Mi")}));
    let vm = vms.create(&PostParams::default(), &vm).await.unwrap();
    let uuid = text(&vm, "/spec/template/spec/domain/firmware/uuid").unwrap();
    eventually("no QEMU has the VM's UUID", || process_with(uuid)).await;
    let leases = format!(
        "--dhcp-leasefile={}",
        place.consoles.path().join("leases").display()
    );
    assert!(
        process_with(&leases).is_some(),
        "the DHCP server is known by its leases"
    );

    simulator.kill().unwrap();
    simulator.wait().unwrap();
    for word in [uuid, &leases] {
        let gone = || process_with(word).is_none().then_some(());
        eventually("a process outlives the simulator", gone).await;
    }
}
