//! A kubeconfig that suddenly names another infra cluster, or an infra cluster that lost its objects: nothing is created there,
//! and nothing is deleted.

use anyhow::Result;
use e2e::{Case, infra, manifest, objects, wait};
use futures::future::try_join_all;
use kube::api::{DeleteParams, ListParams};
use machinist_shared::api::{Machine, names::annotation::ACCEPT_INFRASTRUCTURE};
use testbed::{
    ControlPlane,
    bed::MACHINES,
    control_plane,
    seed::{self, INFRA_ACCOUNT, INFRA_NAMESPACE, INFRA_SECRET},
};

#[tokio::test]
async fn a_kubeconfig_that_points_to_an_empty_cluster_creates_and_deletes_nothing() -> Result<()> {
    let case = Case::start().await?;
    let names = ["first", "second"];
    for name in names {
        case.apply(&manifest::machine(name)).await?;
        case.node_ready(name).await?;
    }
    let user = case.bed.user().client();
    let right = infra::kubeconfig_of(&case, INFRA_ACCOUNT, MACHINES).await?;
    let empty = ControlPlane::start(control_plane::Options {
        dir: Some(case.bed.dir().join("empty")),
        ..control_plane::Options::infra()
    })
    .await?;
    seed::infra(&empty).await?;
    let wrong = empty
        .service_account_kubeconfig(INFRA_NAMESPACE, INFRA_ACCOUNT, empty.server())
        .await?;

    infra::store(user.clone(), INFRA_SECRET, &wrong).await?;
    for name in names {
        let said = infra::ready(&case, name, "InfrastructureChanged").await?;
        assert!(said.message.contains("another cluster"), "{}", said.message);
        assert!(said.message.contains(ACCEPT_INFRASTRUCTURE), "{}", said.message);
    }
    case.begin_deletion("second").await?;
    let blocked = case.condition("second", "DeletionBlocked").await?;
    assert!(blocked.contains("now leads to"), "{blocked}");
    case.settled().await;
    for kind in [objects::virtual_machine(), objects::data_volume()] {
        let there = objects::infra(empty.client(), &kind)
            .list(&ListParams::default())
            .await?;
        assert_eq!(
            there.items.len(),
            0,
            "nothing is made in a cluster that is another"
        );
    }
    for name in names {
        let vm = case.vms().get(name).await?;
        assert_eq!(vm.metadata.deletion_timestamp, None, "nothing is deleted");
        case.nodes().get(name).await?;
    }

    infra::store(user, INFRA_SECRET, &right).await?;
    infra::ready(&case, "first", "VMRunning").await?;
    wait::for_absence(&case.machines(), "second", e2e::case::WAIT_TIMEOUT).await?;
    for name in names {
        assert_eq!(case.vm_history.uids(name).len(), 1, "one VM in a Machine's life");
    }
    case.delete_machine("first").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn the_mass_loss_guard_halts_when_many_vms_vanish_at_once() -> Result<()> {
    let case = Case::start().await?;
    let names: Vec<String> = (0..6).map(|n| format!("worker-{n}")).collect();
    for name in names.iter().map(String::as_str).chain(["healthy"]) {
        case.apply(&manifest::machine(name)).await?;
    }
    try_join_all(names.iter().map(|name| case.node_ready(name))).await?;
    case.node_ready("healthy").await?;
    case.settled().await;

    // As after the restore of a backup that is older than the VMs: same address, same namespace, no VMs.
    let proxy = case.bed.infra().proxy();
    proxy.refuse(MACHINES);
    infra::reachable(&case, &names[0], "Unreachable").await?;
    for name in &names {
        case.vms().delete(name, &DeleteParams::default()).await?;
    }
    for name in &names {
        wait::for_absence(&case.vms(), name, e2e::case::WAIT_TIMEOUT).await?;
    }
    proxy.heal(MACHINES);
    for name in &names {
        let said = infra::ready(&case, name, "InfrastructureChanged").await?;
        let holders = "kube-system/worker-0, kube-system/worker-1, kube-system/worker-2 and 3 more";
        for part in ["6 of the 7 VMs on record", holders] {
            assert!(said.message.contains(part), "{}", said.message);
        }
    }
    case.apply(&manifest::machine("new")).await?;
    infra::ready(&case, "new", "InfrastructureChanged").await?;
    case.begin_deletion(&names[5]).await?;
    case.condition(&names[5], "DeletionBlocked").await?;
    // A Machine whose VM exists can be deleted.
    case.delete_machine("healthy").await?;
    case.settled().await;
    let there = case.vms().list(&ListParams::default()).await?;
    assert_eq!(there.items.len(), 0, "nothing is created");
    for name in &names {
        case.nodes().get(name).await?;
        assert_eq!(case.vm_history.uids(name).len(), 1, "nothing is recreated");
    }

    // An annotation confirms one VM after the other as gone. With the last, the guard opens, also for the Machine that is being
    // deleted.
    let uid = infra_namespace(&case).await?;
    for name in &names[..5] {
        let annotation = format!("{ACCEPT_INFRASTRUCTURE}={uid}");
        let annotate = [
            "annotate",
            "machine",
            name,
            "--namespace",
            manifest::NAMESPACE,
            &annotation,
        ];
        case.bed.user().kubectl_ok(&annotate, "").await?;
    }
    wait::for_absence(&case.machines(), &names[5], e2e::case::WAIT_TIMEOUT).await?;
    case.node_ready("new").await?;
    for name in &names[..5] {
        infra::ready(&case, name, "VMRunning").await?;
        assert_eq!(case.vm_history.uids(name).len(), 2, "recreated once");
    }
    let left = names[..5].iter().map(String::as_str).chain(["new"]);
    try_join_all(left.map(|name| case.delete_machine(name))).await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_vm_that_is_deleted_repeatedly_blocks_no_other_machine() -> Result<()> {
    let case = Case::start().await?;
    let recorded = |machine: &Machine| {
        let status = serde_json::to_value(&machine.status).unwrap_or_default();
        status["providerStatus"]["vmUID"].as_str().map(str::to_owned)
    };
    for name in ["flapping", "calm"] {
        case.apply(&manifest::machine(name)).await?;
    }
    case.node_ready("calm").await?;
    let mut last = None;
    for _ in 0..6 {
        let is_new = |machine: &Machine| recorded(machine).is_some_and(|uid| Some(uid) != last);
        let machine = wait::for_state(
            &case.machines(),
            "flapping",
            "with another VM",
            e2e::case::WAIT_TIMEOUT,
            is_new,
        )
        .await?;
        last = recorded(&machine);
        case.vms().delete("flapping", &DeleteParams::default()).await?;
    }
    case.apply(&manifest::machine("new")).await?;
    case.node_ready("new").await?;
    for name in ["calm", "new"] {
        case.delete_machine(name).await?;
    }
    case.node_ready("flapping").await?;
    case.delete_machine("flapping").await?;
    case.finish(&[]).await
}

async fn infra_namespace(case: &Case) -> Result<String> {
    let get = [
        "get",
        "namespace",
        INFRA_NAMESPACE,
        "--output",
        "jsonpath={.metadata.uid}",
    ];
    case.bed.infra().kubectl_ok(&get, "").await
}
