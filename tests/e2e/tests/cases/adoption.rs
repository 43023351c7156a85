//! Adoption of Machines and VMs that machine-controller created, if the VM belongs to the Machine. Foreign VMs are not adopted.

use anyhow::Result;
use e2e::{Case, case::WAIT_TIMEOUT, infra, manifest, wait};
use k8s_openapi::api::rbac::v1::Role;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
    core::DynamicObject,
};
use machinist_shared::api::names::{annotation, label};
use serde_json::{Value, json};
use testbed::{
    bed::Options,
    seed::{INFRA_ACCOUNT, INFRA_NAMESPACE},
};

const PEER: &str = "--as=system:serviceaccount:kube-system:machine-controller";

#[tokio::test]
async fn what_machine_controller_leaves_is_adopted_and_no_node_rolls() -> Result<()> {
    let case = start().await?;
    let names = ["stays", "goes", "unlabeled"];
    for name in names {
        case.apply(&manifest::machine(name)).await?;
    }
    for name in names {
        case.node_ready(name).await?;
    }
    case.settled().await;
    case.bed.controller().kill();
    let mut before = Vec::new();
    for name in names {
        leave_as_the_peer_does(&case, name).await?;
        before.push(case.nodes().get(name).await?.uid());
    }
    case.begin_deletion("goes").await?;
    // A kubeconfig as machine-controller has it: VMs can be created and deleted, and not patched.
    case.bed.infra().refuses(&["virtualmachines.kubevirt.io"])?;
    let granted = may_patch_vms(&case, false).await?;

    case.bed.controller().start().await?;
    wait::for_absence(&case.machines(), "goes", WAIT_TIMEOUT).await?;
    wait::for_absence(&case.nodes(), "goes", WAIT_TIMEOUT).await?;
    for name in ["stays", "unlabeled"] {
        let machine = wait::for_state(&case.machines(), name, "on record", WAIT_TIMEOUT, |machine| {
            recorded_vm(machine).is_some()
        })
        .await?;
        let vm = case.vms().get(name).await?;
        assert_eq!(recorded_vm(&machine), vm.uid(), "the record says which VM it is");
        assert_eq!(
            vm.labels().get(label::MACHINE_UID),
            None,
            "no credential may patch it"
        );
        infra::ready(&case, name, "VMRunning").await?;
        let said = case.describe(name).await?;
        assert!(said.contains("Adopted"), "{said}");
    }

    // Deleted by the record alone, without the label.
    case.delete_machine("unlabeled").await?;
    // The label follows soon after the right is there.
    may_patch_vms(&case, granted).await?;
    wait::for_state(
        &case.vms(),
        "stays",
        "labeled",
        WAIT_TIMEOUT,
        |vm: &DynamicObject| vm.labels().contains_key(label::MACHINE_UID),
    )
    .await?;
    case.settled().await;
    assert_eq!(
        case.nodes().get("stays").await?.uid(),
        before[0],
        "its Node stays"
    );
    for name in names {
        assert_eq!(
            case.vm_history.uids(name).len(),
            1,
            "one VM in the life of {name}"
        );
    }
    case.delete_machine("stays").await?;
    case.finish(&[]).await
}

/// After the restore of a user cluster, a Machine has another UID than the label of its VM has.
#[tokio::test]
async fn the_vm_of_a_restored_machine_is_adopted_by_an_annotation() -> Result<()> {
    let case = start().await?;
    case.apply(&manifest::machine("restored")).await?;
    case.node_ready("restored").await?;
    case.settled().await;

    case.bed.controller().kill();
    leave_as_the_peer_does(&case, "restored").await?;
    label_vm(&case, "restored", &json!("00000000-0000-0000-0000-000000000000")).await?;
    case.bed.controller().start().await?;
    let said = infra::ready(&case, "restored", "VMNameTaken").await?;
    let vm = case.vms().get("restored").await?;
    let uid = vm.uid().unwrap_or_default();
    assert!(
        said.message.contains(&format!("{}={uid}", annotation::ADOPT_VM)),
        "{}",
        said.message
    );
    assert_eq!(vm.metadata.deletion_timestamp, None, "it is left alone");
    let adopt = format!("{}={uid}", annotation::ADOPT_VM);
    let annotate = [
        "annotate",
        "machine",
        "restored",
        "--namespace",
        manifest::NAMESPACE,
        &adopt,
    ];
    case.bed.user().kubectl_ok(&annotate, "").await?;
    infra::ready(&case, "restored", "VMRunning").await?;
    assert_eq!(case.vm_history.uids("restored").len(), 1);
    case.delete_machine("restored").await?;
    case.finish(&[]).await
}

/// Another client deletes the VM, and its disk terminates slowly: the controller waits for its end and does not reuse it.
#[tokio::test]
async fn a_vm_is_recreated_when_the_disk_of_the_previous_one_is_gone() -> Result<()> {
    let case = start().await?;
    case.apply(&manifest::machine("recreated")).await?;
    case.node_ready("recreated").await?;
    case.settled().await;

    hold_disk(&case, "recreated", &json!(["example.com/slow"])).await?;
    case.vms().delete("recreated", &DeleteParams::default()).await?;
    let said = infra::ready(&case, "recreated", "WaitingForDisks").await?;
    assert!(said.message.contains("recreated"), "{}", said.message);
    assert_eq!(
        case.vm_history.uids("recreated").len(),
        1,
        "no VM is made beside the old disk"
    );
    hold_disk(&case, "recreated", &Value::Null).await?;
    infra::ready(&case, "recreated", "VMRunning").await?;
    assert_eq!(case.vm_history.uids("recreated").len(), 2, "recreated once");
    case.delete_machine("recreated").await?;
    case.finish(&[]).await
}

/// Without leader election, so that no Lease has to expire after each SIGKILL.
async fn start() -> Result<Case> {
    let controller_args = vec!["--enable-leader-election=false".to_owned()];
    Case::start_with(Options {
        controller_args,
        ..Options::default()
    })
    .await
}

fn recorded_vm(machine: &machinist_shared::api::Machine) -> Option<String> {
    let status = serde_json::to_value(&machine.status).ok()?;
    status
        .pointer("/providerStatus/vmUID")?
        .as_str()
        .map(str::to_owned)
}

/// Removes what only Machinist writes: record, conditions and phase of the Machine, and Machinist's labels of the VM.
async fn leave_as_the_peer_does(case: &Case, name: &str) -> Result<()> {
    let status = json!({"status": {"providerStatus": null, "phase": null,
        "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null}]}})
    .to_string();
    let patch = [
        "patch",
        "machine",
        name,
        "--namespace",
        manifest::NAMESPACE,
        "--type=merge",
        PEER,
        "--as-group=system:masters",
        "--patch",
        &status,
    ];
    case.bed.user().kubectl_ok(&patch, "").await?;
    label_vm(case, name, &Value::Null).await
}

async fn label_vm(case: &Case, name: &str, machine_uid: &Value) -> Result<()> {
    let labels = json!({"metadata": {"labels": {label::MACHINE_UID: machine_uid, label::CLUSTER_UID: null}}});
    case.vms()
        .patch(name, &PatchParams::default(), &Patch::Merge(labels))
        .await?;
    Ok(())
}

async fn hold_disk(case: &Case, name: &str, finalizers: &Value) -> Result<()> {
    let patch = json!({"metadata": {"finalizers": finalizers}});
    case.data_volumes()
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

/// Sets whether the Role of the Machines' kubeconfig allows to patch VMs. Returns whether it did before.
async fn may_patch_vms(case: &Case, may: bool) -> Result<bool> {
    let roles: Api<Role> = Api::namespaced(case.bed.infra().client(), INFRA_NAMESPACE);
    let mut role = roles.get(INFRA_ACCOUNT).await?;
    let mut might = false;
    for rule in role.rules.iter_mut().flatten() {
        let about_vms = rule
            .resources
            .iter()
            .flatten()
            .any(|resource| resource == "virtualmachines");
        if about_vms {
            might |= rule.verbs.iter().any(|verb| verb == "patch");
            rule.verbs.retain(|verb| verb != "patch");
            if may {
                rule.verbs.push("patch".to_owned());
            }
        }
    }
    let patch = json!({"rules": role.rules});
    roles
        .patch(INFRA_ACCOUNT, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(might)
}
