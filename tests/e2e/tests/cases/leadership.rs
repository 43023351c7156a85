//! Two controllers: one leads, the other waits, and no Machine notices a change of leader.

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::{Case, case::WAIT_TIMEOUT, manifest, rollout, wait};
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::Api;
use testbed::{
    Testbed,
    bed::{CONTROLLER, MACHINES},
    proxy::Request,
    server::Server,
};

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
    wait::for_state(
        &leases(&case),
        LEASE,
        "held by the standby",
        WAIT_TIMEOUT,
        |lease| !holder(lease).is_empty() && holder(lease) != former,
    )
    .await?;
    println!(
        "the standby led {:.1} s after SIGTERM",
        begun.elapsed().as_secs_f64()
    );

    case.apply(&manifest::machine("after")).await?;
    case.node_ready("after").await?;
    for name in ["before", "after"] {
        assert_eq!(case.vm_history.uids(name).len(), 1, "{name}");
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
    // Work for the previous leader, in case it still leads after SIGCONT.
    case.bed.controller().stop();
    case.apply(&manifest::machine("worker")).await?;
    let held = "held by the standby";
    let taken = wait::for_state(&leases(&case), LEASE, held, WAIT_TIMEOUT + LEASE_ENDS, |lease| {
        holder(lease) != former
    })
    .await?;
    case.node_ready("worker").await?;

    let woken = wake(&case, &standby, &taken, case.begin_deletion("worker")).await?;

    standby.cont();
    wait::for_absence(&case.machines(), "worker", WAIT_TIMEOUT).await?;
    assert!(
        !infra_writes(&case.bed, woken).is_empty(),
        "the standby deleted the VM"
    );
    assert_eq!(case.vm_history.uids("worker").len(), 1);
    standby.terminate().await?;
    case.finish(&[]).await
}

/// In the middle of its work: by then, the next leader has written what the previous one was about to write.
#[tokio::test]
async fn a_leader_that_was_stopped_in_the_middle_of_its_work_writes_nothing() -> Result<()> {
    let case = Case::start().await?;
    let former = leader(&case).await?;
    let standby = case.bed.new_controller(STANDBY, &[]).await?;
    standby.launch()?;
    case.apply(&rollout::deployment("pool", 20)).await?;
    let is_begun =
        |request: &Request| request.target.resource == "virtualmachines" && request.target.is_write();
    case.bed.infra().proxy().seen(is_begun).await;
    case.bed.controller().stop();
    let held = "held by the standby";
    wait::for_state(&leases(&case), LEASE, held, WAIT_TIMEOUT + LEASE_ENDS, |lease| {
        holder(lease) != former
    })
    .await?;
    case.rollout("pool", "NewMachineSetAvailable").await?;

    let taken = leases(&case).get(LEASE).await?;
    let scale = ["scale", "machinedeployment", "pool", "--replicas=10"];
    let to_do = async { case.kubectl(&scale).await.map(drop) };
    wake(&case, &standby, &taken, to_do).await?;
    standby.cont();
    case.delete_deployment("pool").await?;
    assert_eq!(case.vm_history.with_more_than_one(), Vec::<String>::new());
    standby.terminate().await?;
    case.finish(&[]).await
}

/// Stops the standby, which holds the Lease as it was `taken`, creates work, and continues the previous leader. Returns when.
/// The previous leader must write nothing and exit.
async fn wake(
    case: &Case,
    standby: &Server,
    taken: &Lease,
    to_do: impl Future<Output = Result<()>>,
) -> Result<Timestamp> {
    // Only the previous leader could do the work then, and the standby holds the Lease for 15 s more.
    let before = renewed(taken);
    wait::for_state(&leases(case), LEASE, "renewed", WAIT_TIMEOUT, |lease| {
        renewed(lease) > before
    })
    .await?;
    standby.stop();
    to_do.await?;
    let woken = Timestamp::now();
    case.bed.controller().cont();
    // A leader that has lost the Lease exits, to restart as a standby.
    case.bed.controller().ended().await?;
    assert_eq!(writes(&case.bed, CONTROLLER, woken), 0, "after it woke");
    let on_infra = infra_writes(&case.bed, woken);
    assert!(on_infra.is_empty(), "after it woke: {on_infra:?}");
    Ok(woken)
}

/// The Lease of machine-controller, so that both never run at once.
const LEASE: &str = "machine-controller";

fn leases(case: &Case) -> Api<Lease> {
    Api::namespaced(case.bed.user().client(), "kube-system")
}

/// Waits until a controller leads, and returns its identity.
async fn leader(case: &Case) -> Result<String> {
    let leads = |lease: &Lease| !holder(lease).is_empty();
    let led = wait::for_state(&leases(case), LEASE, "held", WAIT_TIMEOUT, leads).await?;
    Ok(holder(&led))
}

fn holder(lease: &Lease) -> String {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.clone())
        .unwrap_or_default()
}

fn renewed(lease: &Lease) -> Option<Timestamp> {
    let spec = lease.spec.as_ref()?;
    spec.renew_time.as_ref().map(|time| time.0)
}

/// Writes of all controllers on the infra cluster since then. They share one user there.
fn infra_writes(bed: &Testbed, since: Timestamp) -> Vec<String> {
    let requests = bed.infra().proxy().requests_of(MACHINES);
    let writes = requests
        .iter()
        .filter(|request| request.at > since && request.target.is_write());
    writes.map(|request| format!("{:?}", request.target)).collect()
}

/// Writes of a controller on the user cluster since then, without those of the Lease.
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
