//! Nodes that are deleted and register again, and foreign Nodes: each is linked or ignored, and the Machine reports it.

use anyhow::{Context as _, Result};
use e2e::{
    Case,
    case::{WAIT_TIMEOUT, is_ready},
    certificates::{self, Ask},
    manifest, objects, wait,
};
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{Node, Taint},
    events::v1::Event,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
    core::DynamicObject,
};
use machinist_shared::api::Machine;
use serde_json::json;

#[tokio::test]
async fn a_node_that_was_deleted_by_hand_is_linked_again_when_its_kubelet_registers_again() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("worker")).await?;
    let first = case.node_ready("worker").await?;
    case.nodes().delete("worker", &DeleteParams::default()).await?;
    let message = case.condition("worker", "NodeDeleted").await?;
    assert!(message.contains("registers again"), "{message}");
    assert_eq!(node_uid(&case.machines().get("worker").await?), None);

    reboot(&case, "worker").await?;
    let node = wait::for_state(&case.nodes(), "worker", "Ready", WAIT_TIMEOUT, is_ready).await?;
    assert_ne!(node.uid(), node_uid(&first));
    let linked = |machine: &Machine| node_uid(machine).is_some() && node_uid(machine) == node.uid();
    wait::for_state(
        &case.machines(),
        "worker",
        "linked to the new Node",
        WAIT_TIMEOUT,
        linked,
    )
    .await?;
    let event = |event: &Event| event.reason.as_deref() == Some("NodeReplaced");
    wait::any(
        &Api::<Event>::all(case.bed.user().client()),
        "NodeReplaced",
        WAIT_TIMEOUT,
        event,
    )
    .await?;
    let decorated = |node: &Node| {
        node.labels().contains_key("machine-controller/owned-by")
            && node
                .annotations()
                .get("cluster.k8s.io/machine")
                .map(String::as_str)
                == Some("kube-system/worker")
    };
    wait::for_state(&case.nodes(), "worker", "decorated", WAIT_TIMEOUT, decorated).await?;
    assert_eq!(case.vm_history.uids("worker").len(), 1, "the VM is the same");
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_vm_that_comes_back_with_another_address_gets_a_certificate_for_that_and_not_for_the_old_one()
-> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("worker")).await?;
    case.node_ready("worker").await?;
    served(&case, "worker", 1).await?;
    let old = address(&case.machines().get("worker").await?).context("no address")?;
    let node = case.nodes().get("worker").await?.uid();

    reboot(&case, "worker").await?;
    let moved = |machine: &Machine| address(machine).is_some_and(|new| new != old);
    let machine = wait::for_state(
        &case.machines(),
        "worker",
        "at another address",
        WAIT_TIMEOUT,
        moved,
    )
    .await?;
    let new = address(&machine).context("no address")?;
    let known_by =
        |node: &Node| serde_json::to_string(&node.status).is_ok_and(|status| status.contains(&new));
    let after = wait::for_state(
        &case.nodes(),
        "worker",
        "known by its new address",
        WAIT_TIMEOUT,
        known_by,
    )
    .await?;
    assert_eq!(after.uid(), node, "it is the same Node");
    served(&case, "worker", 2).await?;

    let kubelet = certificates::kubelet_of(&case, "worker").await?;
    let outdated = Ask::serving("worker", &old).post(&kubelet).await?;
    certificates::wait_for_event(&case, &outdated, &format!("not the VM's: those are {new}")).await?;
    certificates::requests(&case)
        .delete(&outdated, &DeleteParams::default())
        .await?;
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_foreign_node_of_the_machines_name_is_ignored_until_it_is_deleted() -> Result<()> {
    let case = Case::start().await?;
    let mut machine = manifest::machine("worker");
    machine["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&machine).await?;
    case.condition("worker", "WaitingForNode").await?;
    let token = certificates::holder_of_token(&case, "worker").await?;
    let foreign = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker"}, "spec": {"providerID": "other://x"}});
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &foreign.to_string())
        .await?;
    let before = case.nodes().get("worker").await?;
    let message = case.condition("worker", "NodeNameTaken").await?;
    assert!(message.contains("left alone"), "{message}");

    let request = Ask::client("worker").post(&token).await?;
    certificates::wait_for_event(&case, &request, "does not belong to Machine worker").await?;
    let after = case.nodes().get("worker").await?;
    assert_eq!(
        (after.labels(), after.annotations(), own_taints(&after)),
        (before.labels(), before.annotations(), own_taints(&before))
    );

    // Its owner deletes it. No other event is needed to decide the request.
    case.nodes().delete("worker", &DeleteParams::default()).await?;
    certificates::issued(&case, &request).await?;
    case.condition("worker", "WaitingForNode").await?;
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

/// The taints without those of the node lifecycle controller, which depend on the Node's state.
fn own_taints(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.iter().flat_map(|spec| &spec.taints).flatten();
    taints
        .filter(|taint| !taint.key.starts_with("node.kubernetes.io/"))
        .collect()
}

/// Deletes the VMI, which KubeVirt recreates on the same disk.
async fn reboot(case: &Case, name: &str) -> Result<()> {
    let vmis = objects::infra(case.bed.infra().client(), &objects::virtual_machine_instance());
    let before = vmis.get(name).await?.uid();
    vmis.delete(name, &DeleteParams::default()).await?;
    let is_recreated = |vmi: &DynamicObject| vmi.uid() != before;
    wait::for_state(&vmis, name, "recreated", WAIT_TIMEOUT, is_recreated).await?;
    Ok(())
}

/// Waits until so many serving certificates of the node are issued.
async fn served(case: &Case, node: &str, count: usize) -> Result<()> {
    let requests = certificates::requests(case);
    let user = format!("system:node:{node}");
    let of_node = |request: &CertificateSigningRequest| {
        request.spec.signer_name == certificates::SERVING
            && request.spec.username.as_deref() == Some(&user)
            && certificates::is_issued(request)
    };
    let mut seen = std::collections::BTreeSet::new();
    let listed = requests.list(&ListParams::default()).await?;
    seen.extend(
        listed
            .iter()
            .filter(|request| of_node(request))
            .map(kube::ResourceExt::name_any),
    );
    while seen.len() < count {
        let known = std::sync::Mutex::new(&mut seen);
        wait::any(&requests, "serving certificate", WAIT_TIMEOUT, |request| {
            of_node(request) && known.lock().is_ok_and(|mut seen| seen.insert(request.name_any()))
        })
        .await?;
    }
    Ok(())
}

fn node_uid(machine: &Machine) -> Option<String> {
    machine.status.as_ref()?.node_ref.as_ref()?.uid.clone()
}

/// The first of the Machine's addresses.
fn address(machine: &Machine) -> Option<String> {
    let addresses = machine.status.as_ref()?.addresses.as_ref()?;
    Some(addresses.first()?.address.clone())
}
