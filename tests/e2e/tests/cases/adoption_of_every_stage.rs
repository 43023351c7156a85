//! Adoption of Machines that machine-controller created, in every stage of their life: no VM, disk, Secret or Node is
//! recreated, and only Machinist's labels are added.

use anyhow::{Context as _, Result};
use e2e::{
    Case,
    case::WAIT_TIMEOUT,
    infra,
    machine_controller::{link, plant},
    osm, wait,
};
use kube::{Resource as _, ResourceExt as _, api::ListParams, core::DynamicObject};
use machinist_shared::api::names::label;
use testbed::bed::Options;

#[tokio::test]
async fn machines_of_machine_controller_are_adopted_in_every_stage() -> Result<()> {
    let case = Case::start_with(Options {
        controller_args: vec!["--enable-leader-election=false".to_owned()],
        ..Options::default()
    })
    .await?;
    case.bed.controller().kill();
    osm::install(&case).await?;
    let deployment = osm::deployment(&case, Some("osp-ubuntu")).await?;
    let set = osm::set(&case, "pool-1", "1", Some(&deployment)).await?;
    osm::rotate(&case, "1", "peer").await?;
    let joined = plant(&case, "joined", &set, None).await?;
    let leaving = plant(&case, "leaving", &set, None).await?;
    let importing = plant(&case, "importing", &set, Some(("pvc-pending", "true"))).await?;
    let node = link(&case, "joined", &joined).await?;
    link(&case, "leaving", &leaving).await?;
    case.begin_deletion("leaving").await?;
    let disks = [
        "joined",
        "joined-secondarydisk0",
        "importing",
        "importing-secondarydisk0",
    ];
    let before = uids(&case, &disks).await?;

    case.bed.controller().start().await?;
    wait::for_absence(&case.machines(), "leaving", WAIT_TIMEOUT).await?;
    wait::for_absence(&case.nodes(), "leaving", WAIT_TIMEOUT).await?;
    infra::ready(&case, "joined", "VMRunning").await?;
    let said = infra::ready(&case, "importing", "WaitingForDisk").await?;
    assert!(said.message.contains("importing"), "{}", said.message);
    for (name, planted) in [("joined", &joined), ("importing", &importing)] {
        let labeled = wait::for_state(
            &case.vms(),
            name,
            "labeled",
            WAIT_TIMEOUT,
            |vm: &DynamicObject| vm.labels().contains_key(label::MACHINE_UID),
        )
        .await?;
        assert_eq!(labeled.uid(), planted.vm.uid(), "{name}");
        assert_eq!(labeled.data["spec"], planted.vm.data["spec"], "{name}");
        assert_eq!(labeled.labels()[label::MACHINE_UID], planted.machine);
    }

    // A VM that was starting becomes a Node, with the user data of machine-controller.
    let heal = [
        "annotate",
        "vm",
        "importing",
        "sim.kubevirt.io/pvc-pending=false",
        "--overwrite",
    ];
    let namespace = ["--namespace", testbed::seed::INFRA_NAMESPACE];
    case.bed
        .infra()
        .kubectl_ok(&[&heal[..], &namespace].concat(), "")
        .await?;
    case.node_ready("importing").await?;
    case.settled().await;
    assert_eq!(uids(&case, &disks).await?, before, "the disks are the same");
    for (name, planted) in [("joined", &joined), ("importing", &importing)] {
        let given = case.infra_secrets().get(&planted.secret).await?;
        let data = &given.data.context("no user data")?["userdata"];
        assert!(
            String::from_utf8_lossy(&data.0).contains("node-labels=made=peer"),
            "{name}"
        );
        assert_eq!(
            case.vm_history.uids(name).len(),
            1,
            "one VM in the life of {name}"
        );
        let machine = case.machines().get(name).await?;
        let id = format!("kubermatic://kubevirt/{}", planted.machine);
        assert_eq!(machine.spec.provider_id.as_deref(), Some(id.as_str()));
    }
    let secrets = case.infra_secrets().list_metadata(&ListParams::default()).await?;
    let user_data: Vec<String> = secrets
        .iter()
        .map(|secret| secret.meta().name.clone().unwrap_or_default())
        .filter(|name| name.starts_with("userdata-"))
        .collect();
    assert_eq!(
        user_data.len(),
        2,
        "none beside machine-controller's: {user_data:?}"
    );
    let stayed = case.nodes().get("joined").await?;
    assert_eq!(stayed.uid(), node.uid(), "its Node stays");
    assert_eq!(stayed.spec.context("no spec")?.unschedulable, None);

    for name in ["joined", "importing"] {
        case.delete_machine(name).await?;
    }
    osm::uninstall(&case).await?;
    case.finish(&[]).await
}

async fn uids(case: &Case, disks: &[&str]) -> Result<Vec<Option<String>>> {
    let mut uids = Vec::new();
    for name in disks {
        uids.push(case.data_volumes().get(name).await?.uid());
    }
    Ok(uids)
}
