//! Two controllers: one leads, the other waits, and no Machine notices a change of leader.

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::{Case, case::PATIENCE, manifest, wait};
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::Api;
use testbed::{Testbed, bed::CONTROLLER};

const STANDBY: &str = "standby";
/// A Lease is held for 15 s after its last renewal, and a standby needs up to 2 s more to try.
const LEASE_ENDS: Duration = Duration::from_secs(20);

#[tokio::test]
async fn sigterm_hands_over_at_once() -> Result<()> {
    let case = Case::start().await?;
    let former = leader(&case).await?;
    let standby = case.bed.new_controller(STANDBY, &[]).await?;
    standby.launch()?;
    case.apply(&manifest::machine("before")).await?;
    case.node_ready("before").await?;
    assert_eq!(
        writes(&case.bed, STANDBY, Timestamp::MIN),
        0,
        "a standby writes nothing"
    );

    let begun = Instant::now();
    let status = case.bed.controller().terminate().await?;
    assert!(status.success(), "{status}");
    wait::for_state(&leases(&case), LEASE, "held by the standby", PATIENCE, |lease| {
        !holder(lease).is_empty() && holder(lease) != former
    })
    .await?;
    println!(
        "the standby led {:.1} s after SIGTERM",
        begun.elapsed().as_secs_f64()
    );

    case.apply(&manifest::machine("after")).await?;
    case.node_ready("after").await?;
    for name in ["before", "after"] {
        assert_eq!(case.lives.uids(name).len(), 1, "{name}");
        case.delete_machine(name).await?;
    }
    standby.terminate().await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_leader_that_was_stopped_and_woken_writes_nothing() -> Result<()> {
    let case = Case::start().await?;
    let former = leader(&case).await?;
    let standby = case.bed.new_controller(STANDBY, &[]).await?;
    standby.launch()?;
    // Something to do for whoever believes to lead when it wakes.
    case.bed.controller().stop();
    case.apply(&manifest::machine("worker")).await?;
    wait::for_state(
        &leases(&case),
        LEASE,
        "held by the standby",
        PATIENCE + LEASE_ENDS,
        |lease| holder(lease) != former,
    )
    .await?;
    case.node_ready("worker").await?;
    case.begin_deletion("worker").await?;

    let woken = Timestamp::now();
    case.bed.controller().cont();
    wait::for_absence(&case.machines(), "worker", PATIENCE).await?;
    // One that notices ends itself, to begin anew as a standby.
    let deadline = Instant::now() + PATIENCE;
    while case.bed.controller().is_running() {
        anyhow::ensure!(Instant::now() < deadline, "the former leader still runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(writes(&case.bed, CONTROLLER, woken), 0, "after it woke");
    assert_eq!(case.lives.uids("worker").len(), 1);
    standby.terminate().await?;
    case.finish(&[]).await
}

/// machine-controller's, so that both never run at once.
const LEASE: &str = "machine-controller";

fn leases(case: &Case) -> Api<Lease> {
    Api::namespaced(case.bed.user().client(), "kube-system")
}

/// Waits until somebody leads; who.
async fn leader(case: &Case) -> Result<String> {
    let leads = |lease: &Lease| !holder(lease).is_empty();
    let led = wait::for_state(&leases(case), LEASE, "held", PATIENCE, leads).await?;
    Ok(holder(&led))
}

fn holder(lease: &Lease) -> String {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.clone())
        .unwrap_or_default()
}

/// Writes of a controller on the user cluster since then, but for the Lease. On the infra cluster all controllers are one
/// user, as they should be.
fn writes(bed: &Testbed, client: &str, since: Timestamp) -> usize {
    bed.user()
        .proxy()
        .requests_of(client)
        .iter()
        .filter(|request| {
            request.at > since && request.target.is_write() && request.target.resource != "leases"
        })
        .count()
}
