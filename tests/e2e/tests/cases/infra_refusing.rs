//! An infra cluster that refuses connections: the Machine says so, and goes on at once when it is back.

use std::time::Instant;

use anyhow::Result;
use e2e::{Case, infra};
use testbed::{bed::MACHINES, seed::INFRA_SECRET};

#[tokio::test]
async fn one_that_refuses_connections_is_said_so_and_is_back_at_once() -> Result<()> {
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
    // The watches are whole again: the end of the VM is seen.
    case.delete_machine("worker").await?;
    assert_eq!(case.vm_history.uids("worker").len(), 1);
    case.finish(&[]).await
}
