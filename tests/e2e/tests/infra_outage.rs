//! Two infra clusters, one of them gone for a while, and its credential rotated meanwhile: the other's Machines go on as
//! before, and nothing is lost. Prints how long the other's take with and without the outage.

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::{Case, infra};
use futures::future::try_join_all;
use testbed::{
    bed::MACHINES,
    seed::{INFRA_ACCOUNT, INFRA_SECRET},
};

/// The other infra cluster: another address, for which everything is kept apart.
const OTHER: &str = "other-machines";
const OTHER_SECRET: &str = "other-infra";

/// Machines of each round, on each of the two.
const EACH: usize = 8;

#[tokio::test]
async fn one_that_is_gone_slows_no_other_and_loses_nothing() -> Result<()> {
    let case = Case::start().await?;
    let (user, proxy) = (case.bed.user().client(), case.bed.infra().proxy());
    let other = infra::kubeconfig_of(&case, INFRA_ACCOUNT, OTHER).await?;
    infra::store(user.clone(), OTHER_SECRET, &other).await?;

    // Both are opened before anything is measured.
    try_join_all([
        joined(&case, "a-0", INFRA_SECRET),
        joined(&case, "b-0", OTHER_SECRET),
    ])
    .await?;
    let names = |letter: &str, round: usize| -> Vec<String> {
        (0..EACH).map(|n| format!("{letter}-{round}-{n}")).collect()
    };
    let (a, b) = (names("a", 1), names("b", 1));
    all_joined(&case, &a, INFRA_SECRET).await?;
    let without = all_joined(&case, &b, OTHER_SECRET).await?;

    proxy.black_hole(MACHINES);
    let (stuck, free) = (names("a", 2), names("b", 2));
    // Admission asks the infra cluster, too, and says in time that it could not.
    let applied = try_join_all(stuck.iter().map(|name| apply(&case, name, INFRA_SECRET)));
    let (_, with) = tokio::try_join!(applied, all_joined(&case, &free, OTHER_SECRET))?;
    for name in stuck.iter().chain(&a) {
        let said = infra::reachable(&case, name, "Unreachable").await?;
        assert!(said.message.contains("no answer within"), "{}", said.message);
        assert_eq!(said.status, "False");
    }
    let rotated = infra::account(&case, "rotated", MACHINES).await?;
    infra::store(user, INFRA_SECRET, &rotated).await?;
    // What is deleted there stays until somebody can tell that its VM is gone.
    case.begin_deletion(&a[0]).await?;
    let blocked = case.condition(&a[0], "DeletionBlocked").await?;
    assert!(blocked.contains("nobody can tell"), "{blocked}");

    proxy.heal(MACHINES);
    let begun = Instant::now();
    try_join_all(stuck.iter().map(|name| case.node_ready(name))).await?;
    let converged = begun.elapsed();
    e2e::wait::for_absence(&case.machines(), &a[0], e2e::case::PATIENCE).await?;
    for name in a.iter().skip(1) {
        infra::reachable(&case, name, "Reachable").await?;
    }

    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    println!(
        "{EACH} Machines of the other from apply to Node, median: {:.2} s without the outage, {:.2} s with it, ratio {:.2}; the \
         {EACH} that waited for its end had their Nodes {:.1} s later",
        median(&without),
        median(&with),
        median(&with) / median(&without),
        converged.as_secs_f64()
    );
    let first = ["a-0".to_owned(), "b-0".to_owned()];
    for name in first.iter().chain(&a).chain(&b).chain(&stuck).chain(&free) {
        assert_eq!(
            case.lives.uids(name).len(),
            1,
            "{name}: one VM in a Machine's life"
        );
    }
    let left = first.iter().chain(&a[1..]).chain(&b).chain(&stuck).chain(&free);
    try_join_all(left.map(|name| case.delete_machine(name))).await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn one_that_refuses_connections_is_said_so_and_is_back_at_once() -> Result<()> {
    let case = Case::start().await?;
    joined(&case, "worker", INFRA_SECRET).await?;
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
    assert_eq!(case.lives.uids("worker").len(), 1);
    case.finish(&[]).await
}

async fn apply(case: &Case, name: &str, secret: &str) -> Result<()> {
    case.apply(&infra::machine(name, secret)).await?;
    Ok(())
}

/// Applies a Machine and waits for its Node; how long that took.
async fn joined(case: &Case, name: &str, secret: &str) -> Result<Duration> {
    let begun = Instant::now();
    apply(case, name, secret).await?;
    case.node_ready(name).await?;
    Ok(begun.elapsed())
}

async fn all_joined(case: &Case, names: &[String], secret: &str) -> Result<Vec<Duration>> {
    try_join_all(names.iter().map(|name| joined(case, name, secret))).await
}
