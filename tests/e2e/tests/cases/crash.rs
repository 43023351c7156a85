//! The controller killed with SIGKILL after some of its writes, and started again: the same end, and one VM only. Every kill
//! point is tried in process, by `controller/src/machine/decide/tests/kill_points.rs`; here with
//! `MACHINIST_KILL_POINTS=all`, as in `make nightly`.

use std::sync::Arc;

use anyhow::Result;
use e2e::{Case, drain, manifest, wait};
use testbed::{
    bed::{CONTROLLER, MACHINES, Options},
    proxy::WriteFuse,
};

/// More writes than the creation or the deletion of a Machine has: at that point the fuse does not fire, and the loop ends.
const AT_MOST: usize = 20;

/// After the record of where the VM goes, after the VM, and later.
const SOME: [usize; 4] = [1, 3, 5, AT_MOST];

/// The writes after which the controller is killed, from 1; the last is never reached.
fn kill_points() -> Vec<usize> {
    match std::env::var("MACHINIST_KILL_POINTS").as_deref() {
        Ok("all") => (1..=AT_MOST).collect(),
        _ => SOME.to_vec(),
    }
}

#[tokio::test]
async fn a_controller_killed_after_any_write_of_a_machines_creation_leaves_one_vm_and_one_node() -> Result<()>
{
    let case = start().await?;
    for nth in kill_points() {
        let name = format!("made-{nth}");
        let fuse = arm(&case, nth)?;
        case.apply(&manifest::machine(&name)).await?;
        let fired = tokio::select! {
            () = fuse.fired() => true,
            made = made(&case, &name) => { made?; false }
        };
        if fired {
            restart(&case).await?;
        }
        case.node_ready(&name).await?;
        assert_eq!(case.vm_history.uids(&name).len(), 1, "killed after write {nth}");
        disarm(&case);
        case.delete_machine(&name).await?;
        if !fired {
            break;
        }
    }
    case.finish(&[]).await
}

#[tokio::test]
async fn a_controller_killed_after_any_write_of_a_machines_deletion_leaves_nothing() -> Result<()> {
    let case = start().await?;
    // A Node for the pods of the drained ones.
    case.apply(&manifest::machine("stays")).await?;
    case.node_ready("stays").await?;
    case.settled().await;
    let stays = e2e::leaks::leftovers(&case.bed).await?;
    let stays: Vec<&str> = stays.iter().map(String::as_str).collect();
    for nth in kill_points() {
        let name = format!("deleted-{nth}");
        case.apply(&manifest::machine(&name)).await?;
        case.node_ready(&name).await?;
        case.runs(drain::pod(&name, "guest", &name)).await?;
        // Whatever still follows the join comes before the first write of the deletion.
        case.settled().await;
        let fuse = arm(&case, nth)?;
        case.begin_deletion(&name).await?;
        let machines = case.machines();
        let fired = tokio::select! {
            () = fuse.fired() => true,
            gone = wait::for_absence(&machines, &name, e2e::case::WAIT_TIMEOUT) => { gone?; false }
        };
        if fired {
            restart(&case).await?;
        }
        wait::for_absence(&machines, &name, e2e::case::WAIT_TIMEOUT).await?;
        let evictions = case.asked_of_pod(&name);
        assert!(
            evictions
                .iter()
                .all(|asked| asked.target.subresource == "eviction"),
            "{evictions:?}"
        );
        assert!(
            !evictions.is_empty(),
            "the drain is not forgotten, killed after write {nth}"
        );
        e2e::leaks::check(&case.bed, &stays).await?;
        assert_eq!(case.vm_history.uids(&name).len(), 1, "killed after write {nth}");
        disarm(&case);
        if !fired {
            break;
        }
    }
    // The last write removes the Machine, so the kill after it may happen unnoticed.
    restart(&case).await?;
    case.delete_machine("stays").await?;
    case.finish(&[]).await
}

/// Returns when the Machine has its Node and no write is due any more.
async fn made(case: &Case, name: &str) -> Result<()> {
    case.node_ready(name).await?;
    case.settled().await;
    Ok(())
}

/// Without leader election, so that no Lease has to expire after each SIGKILL.
async fn start() -> Result<Case> {
    let controller_args = vec!["--enable-leader-election=false".to_owned()];
    Case::start_with(Options {
        controller_args,
        ..Options::default()
    })
    .await
}

/// SIGKILL at the n-th write, counted over both clusters.
fn arm(case: &Case, nth: usize) -> Result<Arc<WriteFuse>> {
    let fuse = WriteFuse::after(nth, case.bed.controller().killer()?);
    case.bed.user().proxy().arm(CONTROLLER, &fuse);
    case.bed.infra().proxy().arm(MACHINES, &fuse);
    Ok(fuse)
}

fn disarm(case: &Case) {
    case.bed.user().proxy().disarm(CONTROLLER);
    case.bed.infra().proxy().disarm(MACHINES);
}

async fn restart(case: &Case) -> Result<()> {
    // The kernel may still be ending it.
    case.bed.controller().kill();
    case.bed.controller().start().await
}
