//! What the cluster-autoscaler makes of the objects of two pools, by the model of its provider.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use e2e::node_groups::{Cluster, DELETE, Group, differing_labels};
use e2e::{Case, case::WAIT_TIMEOUT, rollout::deployment, wait};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use machinist_shared::api::names::autoscaler::{MAX_SIZE, MIN_SIZE};
use serde_json::{Value, json};
use testbed::paths;

const POOLS: [&str; 2] = ["one", "other"];

#[tokio::test]
async fn two_pools_are_groups_with_their_nodes_and_are_balanced_with_the_documented_label() -> Result<()> {
    let case = Case::start().await?;
    for pool in POOLS {
        case.apply(&sized(pool, 0)).await?;
    }
    // From zero: each is a group by its capacity, and its MachineSets, which have copies of the sizes, are none.
    let expected = POOLS.map(|pool| Group {
        id: format!("MachineDeployment/{pool}"),
        bounds: (0, 3),
        capacity: Some(("2".to_owned(), "4Gi".to_owned())),
    });
    case.settled().await;
    let groups = Cluster::read(&case).await?.groups()?;
    ensure!(groups == expected, "{groups:#?}");

    for pool in POOLS {
        case.apply(&sized(pool, 2)).await?;
        case.rollout(pool, "NewMachineSetAvailable").await?;
    }
    case.settled().await;
    let cluster = Cluster::read(&case).await?;
    ensure!(cluster.groups()? == expected);
    let mut ids = BTreeSet::new();
    let mut first = Vec::new();
    for pool in POOLS {
        let group = format!("MachineDeployment/{pool}");
        let nodes = nodes(&case, pool).await?;
        for node in &nodes {
            ensure!(cluster.group_of(node)?.as_deref() == Some(&*group), "{node}");
        }
        let instances = cluster.instances(&group);
        ensure!(instances.len() == 2, "{instances:?}");
        for node in &nodes {
            let id = cluster.node(node)?["spec"]["providerID"]
                .as_str()
                .unwrap_or_default();
            ensure!(
                instances
                    .iter()
                    .any(|instance| id.ends_with(&format!("/{instance}"))),
                "{id}: {instances:?}"
            );
        }
        ids.extend(instances);
        first.extend(nodes.into_iter().take(1));
    }
    ensure!(ids.len() == 4, "every instance has an ID of its own: {ids:?}");

    // Only the owner makes them different, which the document has ignored.
    let (one, other) = (cluster.node(&first[0])?, cluster.node(&first[1])?);
    let documented = documented_label()?;
    let differing = differing_labels(one, other, &[]);
    ensure!(differing == [documented.as_str()], "{differing:?}");
    ensure!(differing_labels(one, other, &[&documented]).is_empty());
    ensure!(
        one["status"]["capacity"] == other["status"]["capacity"],
        "of one size"
    );

    // The mark chooses which goes.
    let marked = &first[0];
    let mark = json!({"metadata": {"annotations": {DELETE: "now"}}});
    case.machines()
        .patch(marked, &PatchParams::default(), &Patch::Merge(&mark))
        .await?;
    case.kubectl(&["scale", "md/one", "--replicas=1"]).await?;
    wait::for_absence(&case.machines(), marked, WAIT_TIMEOUT).await?;
    let cluster = Cluster::read(&case).await?;
    ensure!(cluster.instances("MachineDeployment/one").len() == 1);
    ensure!(cluster.instances("MachineDeployment/other").len() == 2);
    // The deletion of the other waits for the sets and Machines of both.
    case.kubectl(&["delete", "md/one", "--wait=false"]).await?;
    case.delete_deployment("other").await?;
    case.finish(&[]).await
}

fn sized(name: &str, replicas: i32) -> Value {
    let mut pool = deployment(name, replicas);
    pool["metadata"]["annotations"] = json!({MIN_SIZE: "0", MAX_SIZE: "3"});
    pool
}

/// Names of the pool's Nodes, which are its Machines'.
async fn nodes(case: &Case, pool: &str) -> Result<Vec<String>> {
    let selected = ListParams::default().labels(&format!("pool={pool}"));
    let machines = case.machines().list(&selected).await?;
    Ok(machines.iter().map(ResourceExt::name_any).collect())
}

/// The label that docs/autoscaler.md has ignored for the balance of groups.
fn documented_label() -> Result<String> {
    let document = fs::read_to_string(paths::examples().join("../docs/autoscaler.md"))?;
    let (_, rest) = document
        .split_once("`balancing-ignore-label: ")
        .context("it is not documented")?;
    let (label, _) = rest.split_once('`').context("it has no end")?;
    Ok(label.to_owned())
}
