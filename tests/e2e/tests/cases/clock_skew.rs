//! A controller whose clock is wrong.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Case,
    case::{WAIT_TIMEOUT, is_ready},
    certificates, manifest, wait,
};
use kube::{ResourceExt as _, api::ListParams};
use machinist_shared::api::Machine;
use testbed::bed::Options;

/// Long enough for a simulated guest to join on a busy machine.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_clock_that_is_40_minutes_behind_makes_no_difference() -> Result<()> {
    let case = started(-40 * 60, &[]).await?;
    case.apply(&manifest::machine("worker")).await?;
    case.node_ready("worker").await?;
    case.settled().await;
    assert_eq!(case.vm_history.uids("worker").len(), 1);
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_clock_ahead_by_more_than_the_join_timeout_fails_no_machine() -> Result<()> {
    let case = started(3 * 60, &["--join-cluster-timeout=20s"]).await?;
    // A new leader grants every Machine some time, whatever the clocks show. The clocks matter only after that time.
    case.apply(&manifest::machine("first")).await?;
    case.node_ready("first").await?;
    tokio::time::sleep(JOIN_TIMEOUT).await;
    case.delete_machine("first").await?;
    case.apply(&manifest::machine_set("workers", 1)).await?;
    wait::any(&case.nodes(), "Ready Node", WAIT_TIMEOUT, is_ready).await?;
    case.settled().await;
    let machines = case.machines().list(&ListParams::default()).await?.items;
    let names: Vec<_> = machines.iter().map(Machine::name_any).collect();
    assert_eq!(case.vm_history.names().len(), 2, "{names:?}");
    assert_eq!(names.len(), 1);
    let machine = names.first().context("no Machine")?;
    assert_eq!(case.vm_history.uids(machine).len(), 1);
    case.kubectl(&["delete", "machineset", "workers", "--wait=false"])
        .await?;
    wait::for_absence(&case.machines(), machine, WAIT_TIMEOUT).await?;
    wait::for_absence(&case.machine_sets(), "workers", WAIT_TIMEOUT).await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_clock_that_is_two_hours_ahead_blocks_and_is_reported() -> Result<()> {
    let case = started(2 * 3600, &[]).await?;
    case.apply(&manifest::machine("worker")).await?;
    let message = case.condition("worker", "ClockSkew").await?;
    ensure!(
        message.contains("min behind that of the machine-controller"),
        "{message}"
    );
    case.settled().await;
    assert!(case.vm_history.names().is_empty());
    assert!(certificates::tokens(&case).await?.is_empty());
    let metrics = case.bed.controller().metrics().await?;
    let skew = metrics
        .lines()
        .find_map(|line| line.strip_prefix("machinist_clock_skew_seconds "));
    let skew: f64 = skew.context("no metric")?.parse()?;
    ensure!((-7202.0..=-7198.0).contains(&skew), "{skew} s");
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

/// A bed with a controller whose clock is so many seconds ahead.
async fn started(seconds: i64, args: &[&str]) -> Result<Case> {
    Case::start_alone(Options {
        controller_clock: seconds,
        controller_args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..Options::default()
    })
    .await
}
