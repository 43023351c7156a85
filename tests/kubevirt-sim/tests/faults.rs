//! Each fault that a test can switch on, KubeVirt's report of it, and the recovery where KubeVirt recovers.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; helpers outside of test functions are no exception"
)]

mod common;

use common::recorded::assert_recorded;
use common::{TestNamespace, course, diskless, spec};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use kubevirt_sim::objects::{Kind, find_condition, list, text};
use serde_json::{Value, json};

fn with_fault(mut spec: Value, fault: &str, value: &str) -> Value {
    spec["template"]["metadata"]["annotations"][format!("sim.kubevirt.io/{fault}")] = json!(value);
    spec
}

fn condition<'a>(object: &'a DynamicObject, kind: &str) -> Option<&'a Value> {
    find_condition(list(object, "/status/conditions"), kind)
}

#[tokio::test]
async fn faults_before_the_guest_runs_are_reported_and_heal() {
    let scene = TestNamespace::start("fault-heal").await;
    let cases = [
        ("unschedulable", "no room", "ErrorUnschedulable"),
        ("image-pull", "true", "ErrImagePull"),
        ("import-failing", "404 Not Found", "DataVolumeError"),
        ("pvc-pending", "true", "Provisioning"),
    ];
    for (fault, value, _) in cases {
        scene
            .create_vm(fault, with_fault(spec(fault, None), fault, value))
            .await;
    }
    for (fault, _, printed) in cases {
        scene.vm_is(fault, printed).await;
    }
    assert_recorded(
        &scene.vm_is("import-failing", "DataVolumeError").await.data["status"],
        "vm-data-volume-error",
    );
    for (fault, file) in [
        ("unschedulable", "vm-unschedulable"),
        ("image-pull", "vm-err-image-pull"),
    ] {
        let name = format!("plain-{fault}");
        scene
            .create_vm(&name, with_fault(diskless("Once"), fault, "true"))
            .await;
        let reported = |vm: &DynamicObject| {
            text(vm, "/status/printableStatus").is_some_and(|text| text.starts_with("Err"))
        };
        assert_recorded(
            &scene.is(Kind::Vm, &name, "in error", reported).await.data["status"],
            file,
        );
    }
    let unschedulable = scene.vm_is("unschedulable", "ErrorUnschedulable").await;
    assert_eq!(
        condition(&unschedulable, "PodScheduled").unwrap()["message"],
        "no room"
    );
    let failing = |disk: &DynamicObject| {
        condition(disk, "Running")
            .is_some_and(|running| running["reason"] == "Error" && running["message"] == "404 Not Found")
    };
    scene
        .is(Kind::DataVolume, "import-failing", "failing", failing)
        .await;
    // The importer is started again, works for a moment and fails again.
    let works = |disk: &DynamicObject| {
        disk.data["status"]["restartCount"] == 1
            && condition(disk, "Running").is_some_and(|running| running["status"] == "True")
    };
    scene
        .is(Kind::DataVolume, "import-failing", "started again", works)
        .await;
    scene
        .is(Kind::DataVolume, "import-failing", "failing again", failing)
        .await;
    let pending = |claim: &DynamicObject| text(claim, "/status/phase") == Some("Pending");
    scene.is(Kind::Pvc, "pvc-pending", "Pending", pending).await;
    for (fault, ..) in cases {
        scene.fault(fault, fault, "false").await;
    }
    for (fault, ..) in cases {
        let vm = scene.vm_is(fault, "Running").await;
        assert!(condition(&vm, "PodScheduled").is_none() && condition(&vm, "Synchronized").is_none());
    }
    scene.stop().await;
}

#[tokio::test]
async fn a_quota_on_claims_is_reported_by_disk_and_vm_and_heals() {
    let scene = TestNamespace::start("fault-quota").await;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"persistentvolumeclaims": "0"}},
    });
    let quotas: Api<ResourceQuota> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let quota = serde_json::from_value(quota).unwrap();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    // No controller writes it here, and without it the quota allows nothing to be judged.
    let status = json!({"status": {
        "hard": {"persistentvolumeclaims": "0"}, "used": {"persistentvolumeclaims": "0"},
    }});
    let params = PatchParams::default();
    quotas
        .patch_status("none", &params, &Patch::Merge(status))
        .await
        .unwrap();
    scene.create_vm("greedy", spec("greedy", None)).await;
    let refused = |vm: &DynamicObject| condition(vm, "Failure").is_some();
    let vm = scene.is(Kind::Vm, "greedy", "refused", refused).await;
    let failure = condition(&vm, "Failure").unwrap();
    assert_eq!(failure["reason"], "FailedCreate");
    let message = failure["message"].as_str().unwrap();
    let begins = "Error encountered while creating DataVolumes: DataVolume greedy importer is not running due to an error: ";
    assert!(
        message.starts_with(begins) && message.contains("exceeded quota"),
        "{message}"
    );
    assert_eq!(text(&vm, "/status/printableStatus"), Some("Provisioning"));
    let disk = scene.api(Kind::DataVolume).get("greedy").await.unwrap();
    for (kind, reason) in [
        ("Bound", "ErrExceededQuota"),
        ("Ready", "ErrExceededQuota"),
        ("Running", ""),
    ] {
        let said = condition(&disk, kind).unwrap();
        assert_eq!(
            (&said["status"], &said["reason"]),
            (&json!("False"), &json!(reason)),
            "{kind}"
        );
    }
    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    let vm = scene.vm_is("greedy", "Running").await;
    assert!(condition(&vm, "Failure").is_none());
    scene.stop().await;
}

#[tokio::test]
async fn a_deleted_instance_stays_as_long_as_its_pod_and_is_replaced() {
    let scene = TestNamespace::start("fault-pod").await;
    scene
        .create_vm("again", with_fault(spec("again", None), "slow-pod", "1"))
        .await;
    scene.vm_is("again", "Running").await;
    let first = scene.api(Kind::Vmi).get("again").await.unwrap();
    scene.delete(Kind::Vmi, "again").await;
    let ended = |vmi: &DynamicObject| {
        vmi.metadata.deletion_timestamp.is_some() && text(vmi, "/status/phase") == Some("Succeeded")
    };
    let began = std::time::Instant::now();
    scene.is(Kind::Vmi, "again", "final and there", ended).await;
    scene.vm_is("again", "Stopped").await;
    let new = |vmi: &DynamicObject| vmi.metadata.uid != first.metadata.uid;
    scene.is(Kind::Vmi, "again", "a new one", new).await;
    assert!(began.elapsed() >= std::time::Duration::from_millis(900));
    scene.vm_is("again", "Running").await;
    scene.stop().await;
}

#[tokio::test]
async fn a_failed_import_stays_failed() {
    let scene = TestNamespace::start("fault-import").await;
    scene
        .create_vm(
            "failed",
            with_fault(spec("failed", None), "import-failed", "true"),
        )
        .await;
    scene.vm_is("failed", "DataVolumeError").await;
    scene.fault("failed", "import-failed", "false").await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let disk = scene.api(Kind::DataVolume).get("failed").await.unwrap();
    assert_eq!(text(&disk, "/status/phase"), Some("Failed"));
    scene.vm_is("failed", "DataVolumeError").await;
    scene.stop().await;
}

#[tokio::test]
async fn the_end_of_the_guest_follows_the_run_strategy() {
    let scene = TestNamespace::start("fault-end").await;
    for strategy in ["Once", "Always", "RerunOnFailure"] {
        for fault in ["poweroff", "crash"] {
            let name = format!("{}-{fault}", strategy.to_lowercase());
            scene
                .create_vm(&name, with_fault(diskless(strategy), fault, "true"))
                .await;
        }
    }
    let uids = |name: &str| {
        let mut uids: Vec<_> = scene
            .seen(Kind::Vmi, name)
            .iter()
            .map(|seen| seen.object.uid())
            .collect();
        uids.dedup();
        uids.len()
    };
    for (name, phase) in [("once-poweroff", "Succeeded"), ("once-crash", "Failed")] {
        let ended = |vm: &DynamicObject| {
            text(vm, "/status/printableStatus") == Some("Stopped") && vm.data["status"]["created"] == true
        };
        let vm = scene.is(Kind::Vm, name, "stopped for good", ended).await;
        assert!(vm.data["status"].get("ready").is_none());
        if name == "once-poweroff" {
            let settled = |vm: &DynamicObject| {
                condition(vm, "Ready").is_some_and(|ready| ready["reason"] == "PodTerminating")
            };
            let vm = scene.is(Kind::Vm, name, "settled", settled).await;
            let mut status = vm.data["status"].clone();
            // This one has no disks, the recorded one had.
            let ready = json!({"lastProbeTime": null, "lastTransitionTime": null, "status": "True",
                "type": "DataVolumesReady", "reason": "AllDVsReady", "message": "All of the VMI's DVs are bound and ready"});
            status["conditions"].as_array_mut().unwrap().push(ready);
            assert_recorded(&status, "vm-powered-off");
        }
        let over = |vmi: &DynamicObject| text(vmi, "/status/phase") == Some(phase);
        scene.is(Kind::Vmi, name, phase, over).await;
    }
    for name in ["always-poweroff", "always-crash", "rerunonfailure-crash"] {
        let timeout = tokio::time::Instant::now() + common::TIMEOUT;
        while uids(name) < 2 {
            assert!(
                tokio::time::Instant::now() < timeout,
                "{name} was not started again"
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    scene.gone(Kind::Vmi, "rerunonfailure-poweroff").await;
    let stopped = |vm: &DynamicObject| {
        text(vm, "/status/printableStatus") == Some("Stopped") && vm.data["status"].get("created").is_none()
    };
    scene
        .is(
            Kind::Vm,
            "rerunonfailure-poweroff",
            "stopped without a VMI",
            stopped,
        )
        .await;
    assert_eq!(
        (
            uids("once-poweroff"),
            uids("once-crash"),
            uids("rerunonfailure-poweroff")
        ),
        (1, 1, 1)
    );
    let once = scene.api(Kind::Vmi).get("once-poweroff").await.unwrap();
    assert_eq!(condition(&once, "Ready").unwrap()["reason"], "PodTerminating");
    scene.stop().await;
}

#[tokio::test]
async fn a_crash_before_the_guest_ever_ran_backs_off() {
    let scene = TestNamespace::start("fault-crash").await;
    for strategy in ["Once", "Always"] {
        let name = strategy.to_lowercase();
        scene
            .create_vm(&name, with_fault(diskless(strategy), "crash", "before-running"))
            .await;
        let vm = scene.saw_vm(&name, "CrashLoopBackOff").await.object;
        let failure = &vm.data["status"]["startFailure"];
        assert_eq!(failure["consecutiveFailCount"], 1);
        assert!(failure["retryAfterTimestamp"].is_string() && failure["lastFailedVMIUID"].is_string());
        if strategy == "Always" {
            assert_recorded(&vm.data["status"], "vm-crash-loop");
        }
    }
    scene.gone(Kind::Vmi, "always").await;
    let vmi = scene.api(Kind::Vmi).get("once").await.unwrap();
    assert_eq!(text(&vmi, "/status/phase"), Some("Failed"));
    scene.stop().await;
}

#[tokio::test]
async fn an_eviction_follows_the_strategy_of_the_vm() {
    let scene = TestNamespace::start("fault-evict").await;
    for strategy in ["External", "LiveMigrate", "None"] {
        for mode in ["ReadWriteOnce", "ReadWriteMany"] {
            let name = format!("{}-{}", strategy.to_lowercase(), mode.to_lowercase());
            let mut spec = spec(&name, None);
            spec["template"]["spec"]["evictionStrategy"] = json!(strategy);
            spec["dataVolumeTemplates"][0]["spec"]["storage"]["accessModes"] = json!([mode]);
            scene.create_vm(&name, spec).await;
        }
    }
    let names = [
        "external-readwriteonce",
        "livemigrate-readwriteonce",
        "livemigrate-readwritemany",
        "none-readwriteonce",
    ];
    for name in names {
        scene.vm_is(name, "Running").await;
        scene.fault(name, "evacuate", "true").await;
    }
    let marked = |vmi: &DynamicObject| text(vmi, "/status/evacuationNodeName") == Some("node1");
    scene
        .is(Kind::Vmi, "external-readwriteonce", "marked", marked)
        .await;
    let mirrored = |vm: &DynamicObject| condition(vm, "EvictionRequested").is_some();
    scene
        .is(Kind::Vm, "external-readwriteonce", "marked", mirrored)
        .await;
    let moved = |vmi: &DynamicObject| {
        text(vmi, "/status/nodeName") == Some("node2")
            && vmi.data["status"].get("evacuationNodeName").is_none()
    };
    scene
        .is(Kind::Vmi, "livemigrate-readwritemany", "moved", moved)
        .await;
    assert!(
        course(
            &scene.seen(Kind::Vm, "livemigrate-readwritemany"),
            "/status/printableStatus"
        )
        .contains(&"Migrating".to_owned())
    );
    let gone = |vmi: &DynamicObject| text(vmi, "/status/phase") == Some("Failed");
    scene.is(Kind::Vmi, "none-readwriteonce", "evicted", gone).await;
    let stuck = scene
        .api(Kind::Vmi)
        .get("livemigrate-readwriteonce")
        .await
        .unwrap();
    assert!(
        stuck.data["status"].get("evacuationNodeName").is_none(),
        "the eviction is refused without a mark"
    );
    scene.fault("external-readwriteonce", "evacuate", "false").await;
    let cleared = |vmi: &DynamicObject| vmi.data["status"].get("evacuationNodeName").is_none();
    scene
        .is(Kind::Vmi, "external-readwriteonce", "unmarked", cleared)
        .await;
    scene.stop().await;
}

#[tokio::test]
async fn a_guest_may_have_no_address_pause_and_take_long_to_go() {
    let scene = TestNamespace::start("fault-rest").await;
    scene
        .create_vm("quiet", with_fault(diskless("Once"), "no-ip", "true"))
        .await;
    scene
        .create_vm("slow", with_fault(diskless("Once"), "slow-delete", "2"))
        .await;
    scene
        .create_vm("paused", with_fault(diskless("Once"), "paused", "PausedIOError"))
        .await;
    let ready = |vm: &DynamicObject| vm.data["status"]["ready"] == true;
    scene.is(Kind::Vm, "quiet", "ready", ready).await;
    let vmi = scene.api(Kind::Vmi).get("quiet").await.unwrap();
    assert!(
        text(&vmi, "/status/interfaces/0/ipAddress").is_none(),
        "Running and Ready without an address"
    );
    scene.fault("quiet", "no-ip", "false").await;
    let addressed = |vmi: &DynamicObject| text(vmi, "/status/interfaces/0/ipAddress").is_some();
    scene.is(Kind::Vmi, "quiet", "addressed", addressed).await;
    let paused = scene.vm_is("paused", "Paused").await;
    assert_eq!(condition(&paused, "Paused").unwrap()["reason"], "PausedIOError");
    scene.vm_is("slow", "Running").await;
    let begin = tokio::time::Instant::now();
    scene.delete(Kind::Vm, "slow").await;
    scene.vm_is("slow", "Terminating").await;
    scene.gone(Kind::Vm, "slow").await;
    assert!(begin.elapsed() >= std::time::Duration::from_secs(2));
    scene.stop().await;
}

#[tokio::test]
async fn a_vmi_deleted_behind_its_vm_comes_back_and_a_changed_template_asks_for_a_restart() {
    let scene = TestNamespace::start("fault-behind").await;
    scene.create_vm("again", diskless("Once")).await;
    scene.vm_is("again", "Running").await;
    let patch = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 7}}}});
    let api = scene.api(Kind::Vm);
    api.patch("again", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let asks = |vm: &DynamicObject| condition(vm, "RestartRequired").is_some();
    scene.is(Kind::Vm, "again", "RestartRequired", asks).await;
    let first = scene.api(Kind::Vmi).get("again").await.unwrap().uid();
    scene.delete(Kind::Vmi, "again").await;
    let second = |vmi: &DynamicObject| vmi.uid() != first && text(vmi, "/status/phase") == Some("Running");
    scene.is(Kind::Vmi, "again", "a new one", second).await;
    let calm = |vm: &DynamicObject| condition(vm, "RestartRequired").is_none();
    scene.is(Kind::Vm, "again", "restarted", calm).await;
    scene.stop().await;
}
