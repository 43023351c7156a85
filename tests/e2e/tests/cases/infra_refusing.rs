//! An infra cluster that refuses connections: the Machine reports it, and continues at once when it is back.

use std::time::Instant;

use anyhow::Result;
use e2e::{Case, infra};
use testbed::{bed::MACHINES, seed::INFRA_SECRET};

#[tokio::test]
async fn refused_connections_are_reported_and_recovery_is_immediate() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&infra::machine("worker", INFRA_SECRET)).await?;
    case.node_ready("worker").await?;
    let proxy = case.bed.infra().proxy();
    proxy.refuse(MACHINES);
    let said = infra::reachable(&case, "worker", "Unreachable").await?;
    assert!(
        said.message.contains("reset") || said.message.contains("cannot be reached"),
        "{}",
        said.message
    );
    proxy.heal(MACHINES);
    let begun = Instant::now();
    infra::reachable(&case, "worker", "Reachable").await?;
    println!(
        "reachable {:.1} s after it answers again",
        begun.elapsed().as_secs_f64()
    );
    // The watches work again: the deletion of the VM is observed.
    case.delete_machine("worker").await?;
    assert_eq!(case.vm_history.uids("worker").len(), 1);
    case.finish(&[]).await
}
