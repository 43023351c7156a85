//! Disks on all kinds of storage: claims that CDI fills by temporary claims, volumes that wait for their first consumer,
//! clones, and disks of a VM that a user restarts or deletes.

use anyhow::{Result, ensure};
use e2e::{
    Case,
    case::WAIT_TIMEOUT,
    manifest::{self, virtual_machine},
    wait,
};
use k8s_openapi::api::{
    core::v1::PersistentVolumeClaim,
    storage::v1::{CSIDriver, StorageClass},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
    core::DynamicObject,
};
use rstest::rstest;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testbed::seed::INFRA_NAMESPACE;

#[rstest]
#[case::csi("Immediate", true)]
#[case::first_consumer("WaitForFirstConsumer", false)]
#[case::csi_and_first_consumer("WaitForFirstConsumer", true)]
#[tokio::test]
async fn a_machine_comes_up_on_storage(#[case] mode: &str, #[case] csi: bool) -> Result<()> {
    let case = Case::start().await?;
    storage_class(&case, "other", mode, csi).await?;
    case.apply(&on_class("stored", "other")).await?;
    case.node_ready("stored").await?;
    let disk = case.data_volumes().get("stored").await?;
    ensure!(disk.data["status"]["phase"] == "Succeeded", "{:#}", disk.data);
    let claim = claims(&case).get("stored").await?;
    let spec = claim.spec.unwrap_or_default();
    let filled = spec.data_source_ref.is_some();
    ensure!(filled == csi, "{:?}", spec.data_source_ref);
    ensure!(case.vm_history.uids("stored").len() == 1, "one VM");
    case.delete_machine("stored").await?;
    case.finish(&[]).await
}

/// The volume is provisioned only when a pod uses the claim.
#[tokio::test]
async fn an_unschedulable_vm_is_reported_before_its_volume_is_provisioned() -> Result<()> {
    const CAUSE: &str = "0/3 nodes are available: 3 Insufficient memory.";
    let case = Case::start().await?;
    storage_class(&case, "other", "WaitForFirstConsumer", false).await?;
    let mut machine = on_class("crowded", "other");
    machine["metadata"]["annotations"] = json!({"sim.kubevirt.io/unschedulable": CAUSE});
    case.apply(&machine).await?;
    let message = case.condition("crowded", "Unschedulable").await?;
    ensure!(message.contains(CAUSE), "{message}");
    let claim = claims(&case).get("crowded").await?;
    let phase = claim.status.unwrap_or_default().phase;
    ensure!(phase.as_deref() == Some("Pending"), "{phase:?}");
    case.delete_machine("crowded").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_machine_comes_up_on_a_clone_of_a_claim() -> Result<()> {
    let case = Case::start().await?;
    let golden = json!({
        "metadata": {"name": "golden"},
        "spec": {
            "storageClassName": "standard", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "5Gi"}},
        },
    });
    let golden = serde_json::from_value(golden)?;
    claims(&case).create(&PostParams::default(), &golden).await?;
    let mut machine = on_class("cloned", "standard");
    let disk = &mut virtual_machine(&mut machine)["template"]["primaryDisk"];
    disk["osImage"] = json!("golden");
    disk["source"] = json!("pvc");
    case.apply(&machine).await?;
    case.node_ready("cloned").await?;
    let disk = case.data_volumes().get("cloned").await?;
    let source = &disk.data["spec"]["source"]["pvc"];
    ensure!(source["name"] == "golden", "{source}");
    case.delete_machine("cloned").await?;
    claims(&case).delete("golden", &DeleteParams::default()).await?;
    case.finish(&[]).await
}

/// Users restart a VM with `kubectl delete vmi`.
#[tokio::test]
async fn a_restarted_vm_keeps_its_disk() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&on_class("again", "standard")).await?;
    case.node_ready("again").await?;
    let uid = |object: &DynamicObject| object.uid();
    let (instance, disk) = (
        uid(&case.vmis().get("again").await?),
        uid(&case.data_volumes().get("again").await?),
    );
    case.vmis().delete("again", &DeleteParams::default()).await?;
    let restarted = |vmi: &DynamicObject| vmi.uid() != instance && vmi.data["status"]["phase"] == "Running";
    wait::for_state(&case.vmis(), "again", "running again", WAIT_TIMEOUT, restarted).await?;
    let whole = |machine: &machinist_shared::api::Machine| {
        let status = machine.status.as_ref();
        status
            .is_some_and(|status| status.phase.as_deref() == Some("Running") && status.error_reason.is_none())
    };
    wait::for_state(&case.machines(), "again", "whole again", WAIT_TIMEOUT, whole).await?;
    ensure!(case.vm_history.uids("again").len() == 1, "the VM is the same");
    ensure!(
        uid(&case.data_volumes().get("again").await?) == disk,
        "so is its disk"
    );
    case.delete_machine("again").await?;
    case.finish(&[]).await
}

/// A Machine whose disk is of that class.
fn on_class(name: &str, class: &str) -> Value {
    let mut machine = manifest::machine(name);
    let disk = &mut virtual_machine(&mut machine)["template"]["primaryDisk"];
    disk["storageClassName"] = json!(class);
    disk["storageAccessType"] = json!("ReadWriteOnce");
    machine
}

/// Creates a StorageClass of a provisioner that CDI does not know, with its CSIDriver on request.
async fn storage_class(case: &Case, name: &str, mode: &str, csi: bool) -> Result<()> {
    let provisioner = format!("{name}.example.com");
    if csi {
        create::<CSIDriver>(case, json!({"metadata": {"name": provisioner}, "spec": {}})).await?;
    }
    let class = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
    create::<StorageClass>(case, class).await
}

async fn create<K>(case: &Case, object: Value) -> Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + serde::Serialize,
{
    let api: Api<K> = Api::all(case.bed.infra().client());
    api.create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    Ok(())
}

fn claims(case: &Case) -> Api<PersistentVolumeClaim> {
    Api::namespaced(case.bed.infra().client(), INFRA_NAMESPACE)
}
