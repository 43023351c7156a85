//! CertificateSigningRequests that no approver approves: a condition of the Machine names them.

use anyhow::Result;
use e2e::{
    Case,
    case::{WAIT_TIMEOUT, message},
    osm, wait,
};
use machinist_shared::api::Machine;

/// docs/moving.md: nodes of operating-system-manager join by a binding like that of machine-controller.
#[tokio::test]
async fn a_node_of_operating_system_manager_without_its_binding_is_reported_with_its_request() -> Result<()> {
    let case = Case::start().await?;
    osm::install(&case).await?;
    case.kubectl(&["delete", "clusterrolebinding", osm::APPROVED])
        .await?;
    let deployment = osm::deployment(&case, Some("osp-ubuntu")).await?;
    let set = osm::set(&case, "pool-1", "1", Some(&deployment)).await?;
    osm::rotate(&case, "1", "first").await?;
    case.apply(&osm::machine("unapproved", &set)).await?;
    let names_request = |machine: &Machine| {
        message(machine, "WaitingForNode")
            .is_some_and(|said| said.contains("no approver has approved the signing request"))
    };
    wait::for_state(
        &case.machines(),
        "unapproved",
        "named",
        2 * WAIT_TIMEOUT,
        names_request,
    )
    .await?;

    osm::bind_approved(&case).await?;
    case.node_ready("unapproved").await?;
    case.delete_machine("unapproved").await?;
    osm::uninstall(&case).await?;
    case.finish(&[]).await
}
