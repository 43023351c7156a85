//! Writes of the simulator, compared with recorded ones of KubeVirt: order and whole status objects.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; helpers outside of test functions are no exception"
)]

mod common;

use common::recorded::assert_recorded;
use common::{TestNamespace, WatchedChange, course, diskless, spec};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use kubevirt_sim::objects::{Kind, find_condition, list, text};
use rstest::rstest;
use serde_json::{Value, json};

fn is_phase(name: &'static str, phase: &'static str) -> impl Fn(&WatchedChange) -> bool {
    move |seen| {
        seen.kind == Kind::Vmi
            && seen.object.name_any() == name
            && text(&seen.object, "/status/phase") == Some(phase)
    }
}

fn ready(seen: &WatchedChange) -> bool {
    find_condition(list(&seen.object, "/status/conditions"), "Ready")
        .is_some_and(|ready| ready["status"] == "True")
}

#[allow(clippy::too_many_lines, reason = "one life in one test")]
#[tokio::test]
async fn a_vm_comes_up_and_goes_down_as_recorded() {
    let scene = TestNamespace::start("seq-once").await;
    let secret = json!({"stringData": {"userdata": "#cloud-config\n"}});
    scene.create(Kind::Secret, "userdata", secret).await.unwrap();
    let vm = scene.create_vm("once", spec("once", Some("userdata"))).await;
    let template = &vm.data["spec"]["template"];
    assert_eq!(template["spec"]["architecture"], "amd64");
    assert_eq!(template["spec"]["domain"]["machine"]["type"], "q35");
    assert_eq!(
        template["spec"]["domain"]["firmware"]["uuid"]
            .as_str()
            .unwrap()
            .len(),
        36
    );
    assert_eq!(
        template["metadata"]["annotations"]["kubevirt.io/pci-topology-version"],
        "v3"
    );

    let running = scene
        .saw("a ready VM", |seen| seen.kind == Kind::Vm && ready(seen))
        .await;
    assert_recorded(&running.status(), "vm-running");
    let changes = scene.seen(Kind::Vm, "once");
    let first = changes
        .iter()
        .find(|seen| seen.object.data.get("status").is_some())
        .unwrap();
    assert_recorded(&first.status(), "vm-first");
    let order = ["", "Stopped", "Provisioning", "Starting", "Running"];
    assert_eq!(course(&changes, "/status/printableStatus"), order);
    assert_recorded(
        &scene.saw_vm("once", "Provisioning").await.status(),
        "vm-provisioning",
    );
    let starting = scene
        .saw("a VM whose VMI is scheduling", |seen| {
            text(&seen.object, "/status/printableStatus") == Some("Starting")
                && list(&seen.object, "/status/conditions").len() == 2
        })
        .await;
    assert_recorded(&starting.status(), "vm-starting");
    for seen in &changes {
        let status = seen.status();
        assert_ne!(status.get("created"), Some(&json!(false)), "absent, never false");
        assert_ne!(status.get("ready"), Some(&json!(false)), "absent, never false");
        let printed = text(&seen.object, "/status/printableStatus");
        if matches!(printed, Some("Stopped" | "Provisioning")) {
            assert!(
                status.get("created").is_none() && status.get("runStrategy").is_none(),
                "{status:#}"
            );
        }
    }
    // Starting is first written without `created`; Running first without `ready`.
    let first_of = |printed: &str| {
        changes
            .iter()
            .find(|seen| text(&seen.object, "/status/printableStatus") == Some(printed))
            .unwrap()
            .status()
    };
    assert!(first_of("Starting").get("created").is_none());
    assert!(first_of("Running").get("ready").is_none());

    let instances = scene.seen(Kind::Vmi, "once");
    let order = ["", "Pending", "Scheduling", "Scheduled", "Running"];
    assert_eq!(course(&instances, "/status/phase"), order);
    assert_recorded(
        &scene.saw("pending", is_phase("once", "Pending")).await.status(),
        "vmi-pending",
    );
    assert_recorded(
        &scene
            .saw("scheduling", is_phase("once", "Scheduling"))
            .await
            .status(),
        "vmi-scheduling",
    );
    assert_recorded(
        &scene
            .saw("scheduled", is_phase("once", "Scheduled"))
            .await
            .status(),
        "vmi-scheduled",
    );
    let up = scene
        .saw("a ready VMI", |seen| seen.kind == Kind::Vmi && ready(seen))
        .await;
    assert_recorded(&up.status(), "vmi-running");

    let disk = scene.seen(Kind::DataVolume, "once");
    let phases = course(&disk, "/status/phase");
    assert_eq!(
        phases,
        ["", "Pending", "ImportScheduled", "ImportInProgress", "Succeeded"]
    );
    let bound = find_condition(list(&disk[1].object, "/status/conditions"), "Bound").unwrap();
    assert_eq!(
        (&bound["status"], &bound["reason"]),
        (&json!("False"), &json!("NotFound"))
    );
    let progress = course(&disk, "/status/progress");
    assert!(
        progress.contains(&"50.00%".to_owned()) && progress.last().unwrap() == "100.0%",
        "{progress:?}"
    );
    let owner = &disk[0].object.owner_references()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.controller),
        ("VirtualMachine", Some(true))
    );
    let claim = scene.seen(Kind::Pvc, "once");
    assert_eq!(claim[0].object.owner_references()[0].kind, "DataVolume");

    scene.delete(Kind::Vm, "once").await;
    scene.gone(Kind::Vm, "once").await;
    scene.gone(Kind::DataVolume, "once").await;
    scene.gone(Kind::Pvc, "once").await;
    deletion_went_as_recorded(&scene).await;
    scene.stop().await;
}

/// Makes a StorageClass, and the CSIDriver of its provisioner.
async fn storage_class(scene: &TestNamespace, name: &str, mode: &str, csi: bool) {
    let params = PostParams::default();
    let provisioner = format!("{name}.example.com");
    let class = json!({
        "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode,
    });
    let classes: Api<StorageClass> = Api::all(scene.client.clone());
    classes
        .create(&params, &serde_json::from_value(class).unwrap())
        .await
        .unwrap();
    if csi {
        let driver = json!({"metadata": {"name": provisioner}, "spec": {}});
        let drivers: Api<CSIDriver> = Api::all(scene.client.clone());
        drivers
            .create(&params, &serde_json::from_value(driver).unwrap())
            .await
            .unwrap();
    }
}

#[rstest]
#[case::csi("csi", "Immediate", true,
    &["", "Pending", "ImportScheduled", "ImportInProgress", "Succeeded"], &["", "Pending", "Scheduling"])]
#[case::first_consumer("wffc", "WaitForFirstConsumer", false,
    &["", "Pending", "WaitForFirstConsumer", "ImportScheduled", "ImportInProgress", "Succeeded"],
    &["", "Pending", "Scheduling"])]
#[case::csi_and_first_consumer("csi-wffc", "WaitForFirstConsumer", true,
    &["", "Pending", "PendingPopulation", "ImportScheduled", "ImportInProgress", "Succeeded"],
    &["", "Pending", "Scheduling"])]
#[tokio::test]
async fn disks_come_up_as_their_storage_class_has_it(
    #[case] class: &str,
    #[case] mode: &str,
    #[case] csi: bool,
    #[case] disk_course: &[&str],
    #[case] instance_course: &[&str],
) {
    let scene = TestNamespace::start(&format!("seq-{class}")).await;
    storage_class(&scene, class, mode, csi).await;
    let mut spec = spec("disk", None);
    spec["dataVolumeTemplates"][0]["spec"]["storage"]["storageClassName"] = json!(class);
    scene.create_vm("disk", spec).await;
    scene
        .saw("a ready VM", |seen| seen.kind == Kind::Vm && ready(seen))
        .await;
    let disks = scene.seen(Kind::DataVolume, "disk");
    assert_eq!(course(&disks, "/status/phase"), disk_course);
    let instances = scene.seen(Kind::Vmi, "disk");
    assert_eq!(course(&instances, "/status/phase")[..3], *instance_course);
    let says = |seen: &WatchedChange, kind: &str, status: &str| {
        find_condition(list(&seen.object, "/status/conditions"), kind)
            .is_some_and(|condition| condition["status"] == status)
    };
    let during_import =
        |seen: &&WatchedChange| text(&seen.object, "/status/phase") == Some("ImportInProgress");
    let bound_then = disks
        .iter()
        .filter(during_import)
        .all(|seen| says(seen, "Bound", "True"));
    assert_eq!(bound_then, !csi, "a populated claim is bound in the end only");
    assert!(disks.last().is_some_and(|seen| says(seen, "Bound", "True")));
    let primes = scene.record();
    let prime = primes
        .iter()
        .find(|seen| seen.object.name_any().starts_with("prime-"));
    assert_eq!(prime.is_some(), csi, "CDI fills a claim of its own");
    let provisioning = instances.iter().any(|seen| says(seen, "Provisioning", "True"));
    assert_eq!(provisioning, mode == "WaitForFirstConsumer" && !csi);
    let unfilled = instances.iter().any(|seen| {
        text(&seen.object, "/status/phase") == Some("Scheduling") && says(seen, "DataVolumesReady", "False")
    });
    assert_eq!(unfilled, mode == "WaitForFirstConsumer" && csi);
    scene.stop().await;
}

async fn deletion_went_as_recorded(scene: &TestNamespace) {
    scene
        .saw("the claim go", |seen| seen.kind == Kind::Pvc && seen.gone)
        .await;
    let record = scene.record();
    let gone = record.iter().filter(|seen| seen.gone).map(|seen| seen.kind);
    let (mut own, mut disks): (Vec<Kind>, Vec<Kind>) = (Vec::new(), Vec::new());
    for kind in gone {
        if matches!(kind, Kind::Vm | Kind::Vmi) {
            own.push(kind);
        } else {
            disks.push(kind);
        }
    }
    assert_eq!(own, [Kind::Vmi, Kind::Vm], "the VM goes after its VMI");
    assert_eq!(
        disks,
        [Kind::DataVolume, Kind::Pvc],
        "the claim goes after its DataVolume"
    );
    let mut dying = scene.seen(Kind::Vm, "once");
    dying.retain(|seen| seen.object.metadata.deletion_timestamp.is_some());
    let course_of_vm = course(&dying, "/status/printableStatus");
    assert_eq!(
        course_of_vm,
        ["Running", "Terminating"],
        "the first change still shows the old status"
    );
    let terminating = dying
        .iter()
        .find(|seen| text(&seen.object, "/status/printableStatus") == Some("Terminating"))
        .unwrap();
    let status = before_its_pod_ends(without_data_volume(terminating.status()));
    assert_recorded(&status, "vm-terminating");
    let mut dying = scene.seen(Kind::Vmi, "once");
    dying.retain(|seen| seen.object.metadata.deletion_timestamp.is_some());
    assert_eq!(course(&dying, "/status/phase"), ["Running", "Succeeded"]);
    let terminating = |seen: &WatchedChange| {
        find_condition(list(&seen.object, "/status/conditions"), "Ready")
            .is_some_and(|ready| ready["reason"] == "PodTerminating")
    };
    assert!(
        dying
            .iter()
            .any(|seen| terminating(seen) && text(&seen.object, "/status/phase") == Some("Running"))
    );
    let finalizers: Vec<usize> = dying.iter().map(|seen| seen.object.finalizers().len()).collect();
    assert!(
        finalizers.windows(2).all(|pair| pair[0] >= pair[1]),
        "{finalizers:?}"
    );
    let last = dying.iter().rfind(|seen| seen.object.finalizers().len() == 1);
    let last = last.map(|seen| seen.object.finalizers());
    assert_eq!(
        last,
        Some(["kubevirt.io/foregroundDeleteVirtualMachine".to_owned()].as_slice())
    );
}

/// The status without what a DataVolume adds to it: some of those recorded had a disk with none behind it.
fn without_data_volume(mut status: Value) -> Value {
    let conditions = status["conditions"].as_array_mut().unwrap();
    conditions.retain(|condition| condition["type"] != "DataVolumesReady");
    for volume in status["volumeStatus"].as_array_mut().into_iter().flatten() {
        volume
            .as_object_mut()
            .unwrap()
            .remove("persistentVolumeClaimInfo");
    }
    status
}

/// A VM mirrors its VMI. Where the pod was faster than the VM controller, the VM shows the pod's end already, unlike
/// the recording.
fn before_its_pod_ends(mut status: Value) -> Value {
    let conditions = status["conditions"].as_array_mut().unwrap();
    let ending = conditions
        .iter_mut()
        .find(|condition| condition["type"] == "Ready" && condition["reason"] == "PodTerminating");
    if let Some(ready) = ending.and_then(Value::as_object_mut) {
        ready.remove("reason");
        ready.remove("message");
        ready.insert("status".to_owned(), json!("True"));
        status["ready"] = json!(true);
    }
    status
}

#[test]
fn everything_that_was_recorded_is_compared() {
    let tests = [include_str!("sequences.rs"), include_str!("faults.rs")].concat();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded");
    let mut forgotten = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().display().to_string();
        if !tests.contains(&format!("\"{name}\"")) {
            forgotten.push(name);
        }
    }
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

#[tokio::test]
async fn an_external_eviction_is_reported_as_recorded() {
    let scene = TestNamespace::start("seq-evict").await;
    let secret = json!({"stringData": {"userdata": "#cloud-config\n"}});
    scene.create(Kind::Secret, "userdata", secret).await.unwrap();
    let mut spec = spec("once", Some("userdata"));
    spec["template"]["spec"]["evictionStrategy"] = json!("External");
    scene.create_vm("once", spec).await;
    scene
        .saw("a ready VM", |seen| seen.kind == Kind::Vm && ready(seen))
        .await;
    scene.fault("once", "evacuate", "true").await;
    let marked = scene
        .saw("a marked VMI", |seen| {
            seen.kind == Kind::Vmi && text(&seen.object, "/status/evacuationNodeName").is_some()
        })
        .await;
    assert_recorded(&without_data_volume(marked.status()), "vmi-evacuating");
    let reported = scene
        .saw("a VM that says so", |seen| {
            seen.kind == Kind::Vm
                && find_condition(list(&seen.object, "/status/conditions"), "EvictionRequested").is_some()
        })
        .await;
    assert_recorded(&without_data_volume(reported.status()), "vm-evacuating");
    scene.stop().await;
}

#[tokio::test]
async fn a_vm_deleted_while_provisioning_is_gone_at_once() {
    let scene = TestNamespace::start("seq-early").await;
    let mut spec = spec("early", None);
    spec["template"]["metadata"]["annotations"] = json!({"sim.kubevirt.io/pvc-pending": "true"});
    scene.create_vm("early", spec).await;
    scene.saw_vm("early", "Provisioning").await;
    scene
        .saw("a pending claim", |seen| {
            seen.kind == Kind::DataVolume && text(&seen.object, "/status/phase") == Some("Pending")
        })
        .await;
    scene.delete(Kind::Vm, "early").await;
    scene.gone(Kind::Vm, "early").await;
    scene.gone(Kind::Pvc, "early").await;
    assert!(
        !course(&scene.seen(Kind::Vm, "early"), "/status/printableStatus")
            .contains(&"Terminating".to_owned())
    );
    assert!(scene.seen(Kind::Vmi, "early").is_empty());
    scene.stop().await;
}

#[tokio::test]
async fn a_missing_claim_is_reported_as_recorded_and_heals() {
    let scene = TestNamespace::start("seq-pvc").await;
    let mut spec = diskless("Once");
    spec["template"]["spec"]["volumes"] =
        json!([{"name": "datavolumedisk", "persistentVolumeClaim": {"claimName": "nopvc"}}]);
    scene.create_vm("g", spec).await;
    assert_recorded(
        &scene.vm_is("g", "ErrorPvcNotFound").await.data["status"],
        "vm-pvc-not-found",
    );
    let vmi = scene.api(Kind::Vmi).get("g").await.unwrap();
    assert_recorded(&vmi.data["status"], "vmi-pvc-missing");
    let claim =
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    scene.create(Kind::Pvc, "nopvc", claim).await.unwrap();
    scene.vm_is("g", "Running").await;
    scene.stop().await;
}

#[tokio::test]
async fn an_unknown_instancetype_is_reported_as_recorded_and_heals() {
    let scene = TestNamespace::start("seq-type").await;
    let mut spec = diskless("Once");
    spec["instancetype"] = json!({"name": "nope", "kind": "VirtualMachineInstancetype"});
    spec["template"]["spec"]["domain"]
        .as_object_mut()
        .unwrap()
        .remove("resources");
    scene.create_vm("typed", spec).await;
    let vm = scene
        .is(Kind::Vm, "typed", "failing", |vm| {
            find_condition(list(vm, "/status/conditions"), "Failure").is_some()
        })
        .await;
    assert_recorded(&vm.data["status"], "vm-no-instancetype");
    let content = json!({"spec": {"cpu": {"guest": 3}, "memory": {"guest": "3Gi"}}});
    scene.create(Kind::Instancetype, "nope", content).await.unwrap();
    let vm = scene.vm_is("typed", "Running").await;
    assert!(find_condition(list(&vm, "/status/conditions"), "Failure").is_none());
    assert_eq!(vm.data["status"]["instancetypeRef"]["name"], "nope");
    let vmi = scene.api(Kind::Vmi).get("typed").await.unwrap();
    assert_eq!(vmi.data["spec"]["domain"]["cpu"]["sockets"], 3);
    assert_eq!(vmi.annotations()["kubevirt.io/instancetype-name"], "nope");
    scene.stop().await;
}

#[tokio::test]
async fn what_virt_api_and_cdi_refuse_later_shows_as_a_failure() {
    let scene = TestNamespace::start("seq-refused").await;
    let mut memoryless = diskless("Once");
    memoryless["template"]["spec"]["domain"]["resources"] = json!({"requests": {"memory": "0"}});
    scene.create_vm("memoryless", memoryless).await;
    let mut bad_url = spec("bad-url", None);
    bad_url["dataVolumeTemplates"][0]["spec"]["source"] = json!({"http": {"url": "ubuntu.img"}});
    scene.create_vm("bad-url", bad_url).await;
    for (name, file) in [
        ("memoryless", "vm-vmi-refused"),
        ("bad-url", "vm-data-volume-refused"),
    ] {
        let failing = |vm: &kube::api::DynamicObject| {
            find_condition(list(vm, "/status/conditions"), "Failure").is_some()
        };
        let vm = scene.is(Kind::Vm, name, "failing", failing).await;
        assert_recorded(&vm.data["status"], file);
    }
    scene.stop().await;
}

#[tokio::test]
async fn a_data_volume_without_an_owner_is_adopted_and_dies_with_the_vm() {
    let scene = TestNamespace::start("seq-adopt").await;
    let template = spec("adopted", None)["dataVolumeTemplates"][0]["spec"].clone();
    scene
        .create(Kind::DataVolume, "adopted", json!({"spec": template}))
        .await
        .unwrap();
    let done = |disk: &kube::api::DynamicObject| text(disk, "/status/phase") == Some("Succeeded");
    let before = scene.is(Kind::DataVolume, "adopted", "Succeeded", done).await;
    scene.create_vm("adopted", spec("adopted", None)).await;
    scene.vm_is("adopted", "Running").await;
    let after = scene.api(Kind::DataVolume).get("adopted").await.unwrap();
    assert_eq!(after.uid(), before.uid());
    assert_eq!(after.owner_references()[0].kind, "VirtualMachine");
    scene.delete(Kind::Vm, "adopted").await;
    scene.gone(Kind::DataVolume, "adopted").await;
    scene.stop().await;
}

#[tokio::test]
async fn a_missing_cloud_init_secret_is_not_reported() {
    let scene = TestNamespace::start("seq-secret").await;
    scene.create_vm("silent", spec("silent", Some("not-there"))).await;
    scene.saw("scheduling", is_phase("silent", "Scheduling")).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let vm = scene.vm_is("silent", "Starting").await;
    let kinds: Vec<&str> = list(&vm, "/status/conditions")
        .iter()
        .map(|condition| condition["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["Ready", "DataVolumesReady"], "no condition says why");
    let secret = json!({"stringData": {"userdata": "#cloud-config\n"}});
    scene.create(Kind::Secret, "not-there", secret).await.unwrap();
    scene.vm_is("silent", "Running").await;
    scene.stop().await;
}
