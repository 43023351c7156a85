//! The limit of concurrent drains of a MachineDeployment.

use anyhow::{Result, bail, ensure};
use e2e::{
    case::WAIT_TIMEOUT,
    drain::{is_cordoned, pod},
    rollout, wait,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::ListParams};
use serde_json::json;

use super::{STAYS, finish, hold, with_machines};

#[tokio::test]
async fn a_deployment_with_a_limit_of_one_drains_its_nodes_one_after_the_other() -> Result<()> {
    let case = with_machines(&[STAYS]).await?;
    let mut deployment = rollout::deployment("turns", 3);
    deployment["metadata"]["annotations"] = json!({"machinist.dev/max-concurrent-drains": "1"});
    case.apply(&deployment).await?;
    case.rollout("turns", "NewMachineSetAvailable").await?;
    let ours = ListParams::default().labels("pool=turns");
    let machines = case.machines().list(&ours).await?;
    let mut waiting: Vec<String> = machines.iter().map(kube::ResourceExt::name_any).collect();
    ensure!(waiting.len() == 3, "{waiting:?}");
    for name in &waiting {
        case.runs(pod(name, "turns", name)).await?;
        hold(&case, name, true).await?;
    }
    case.kubectl(&["scale", "md", "turns", "--replicas=0"]).await?;
    while !waiting.is_empty() {
        let mut drained = None;
        let of_turns =
            |pod: &Pod| pod.metadata.deletion_timestamp.is_some() && waiting.contains(&pod.name_any());
        wait::any(&case.pods(), "pod that goes", WAIT_TIMEOUT, of_turns).await?;
        for name in &waiting {
            match case.pods().get(name).await?.metadata.deletion_timestamp {
                Some(_) if drained.is_none() => drained = Some(name.clone()),
                Some(_) => bail!("two Nodes are drained at a time: {drained:?}, {name}"),
                None => {
                    case.condition_with(name, "Deleting", "WaitingForOtherDrains", &["1 at a time"])
                        .await?;
                    ensure!(!is_cordoned(&case.node(name).await?));
                }
            }
        }
        let Some(drained) = drained else {
            bail!("no Node is drained")
        };
        waiting.retain(|name| *name != drained);
        hold(&case, &drained, false).await?;
    }
    case.kubectl(&["delete", "md", "turns", "--wait=false"]).await?;
    wait::for_absence(&case.deployments(), "turns", WAIT_TIMEOUT).await?;
    finish(case).await
}
