//! The laws of rollouts on a real API server, while the controller is killed repeatedly during its writes.
//!
//! `MACHINIST_LAWS_MACHINES` is the size of the pool, `MACHINIST_LAWS_SEED` repeats the kills of an earlier run.

use std::collections::hash_map::RandomState;
use std::env;
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Case,
    laws::{Bounds, Laws},
    rollout::deployment,
    wait,
};
use kube::{ResourceExt as _, api::ListParams};
use machinist_shared::api::MachineDeployment;
use serde_json::{Value, json};
use testbed::{
    bed::{CONTROLLER, MACHINES, Options},
    proxy::WriteFuse,
};

const POOL: &str = "pool";

/// Half a minute on two cores; `make nightly` takes more.
const DEFAULT_SIZE: usize = 20;

/// For a pool of 50 on a busy machine, with a controller that is killed all the time.
const WAIT_TIMEOUT: Duration = Duration::from_mins(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_makes_a_rollout_break_its_limits() -> Result<()> {
    let size = of_environment("MACHINIST_LAWS_MACHINES")?.unwrap_or(DEFAULT_SIZE);
    let seed = of_environment("MACHINIST_LAWS_SEED")?.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("{size} Machines; MACHINIST_LAWS_SEED={seed}");
    let case = Case::start_with(Options {
        boot: Some(Duration::from_secs(1)),
        controller_args: vec!["--enable-leader-election=false".to_owned()],
        ..Options::default()
    })
    .await?;
    let (surge, unavailable) = (size.div_ceil(5), size.div_ceil(10));
    let mut pool = deployment(POOL, i32::try_from(size)?);
    pool["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": surge, "maxUnavailable": unavailable});
    pool["spec"]["revisionHistoryLimit"] = 3.into();
    case.apply(&pool).await?;
    done(&case, size, WAIT_TIMEOUT).await?;

    let bounds = Bounds {
        most: size + surge,
        least: size - unavailable,
    };
    let laws = Laws::watch(&case, bounds);
    let (began, mut dice) = (Instant::now(), RandomSequence(seed));
    let rollouts = async {
        // Another template, a third one during that rollout, and a rollback.
        kubelet(&case, &mut pool, "1.35.2").await?;
        updated(&case, size / 3).await?;
        kubelet(&case, &mut pool, "1.34.1").await?;
        updated(&case, size / 3).await?;
        kubelet(&case, &mut pool, "1.36.3").await?;
        done(&case, size, WAIT_TIMEOUT).await
    };
    let mut kills = 0;
    {
        tokio::pin!(rollouts);
        loop {
            let fuse = WriteFuse::after(dice.below(2 * size) + 1, case.bed.controller().killer()?);
            case.bed.user().proxy().arm(CONTROLLER, &fuse);
            case.bed.infra().proxy().arm(MACHINES, &fuse);
            tokio::select! {
                end = &mut rollouts => break end?,
                () = fuse.fired() => {
                    kills += 1;
                    // The kernel may still be ending it.
                    case.bed.controller().kill();
                    case.bed.controller().start().await?;
                }
            }
        }
    }
    case.bed.user().proxy().disarm(CONTROLLER);
    case.bed.infra().proxy().disarm(MACHINES);
    let (took, result) = (began.elapsed(), laws.stop());
    println!(
        "{kills} kills in {took:.1?}; {} to {} Machines, {bounds:?}; at most {} sets",
        result.least.unwrap_or_default(),
        result.most,
        result.sets
    );
    ensure!(
        result.violations.is_empty(),
        "MACHINIST_LAWS_SEED={seed}: {}",
        result.violations.join("\n")
    );
    assert!(kills > 0, "nothing was tried");
    assert!(result.most > size && result.sets >= 3, "nothing was rolled");

    if !case.bed.controller().is_running() {
        case.bed.controller().start().await?;
    }
    // The result of a VM's creation is unknown after a kill: the VM may appear within a minute.
    for machine in case.machines().list(&ListParams::default()).await? {
        if machine.metadata.deletion_timestamp.is_some() {
            wait::for_absence(&case.machines(), &machine.name_any(), WAIT_TIMEOUT * 2).await?;
        }
    }
    case.settled().await;
    assert_eq!(case.machine_uids().await?.len(), size);
    assert_eq!(
        case.vm_history.with_more_than_one(),
        [""; 0],
        "each Machine had one VM"
    );
    case.kubectl(&["scale", "md", POOL, "--replicas=0"]).await?;
    done(&case, 0, WAIT_TIMEOUT).await?;
    case.delete_deployment(POOL).await?;
    case.finish(&[]).await
}

/// A random sequence that is the same for one seed: SplitMix64.
pub(super) struct RandomSequence(pub(super) u64);

impl RandomSequence {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let limit = u64::try_from(limit.max(1)).unwrap_or(u64::MAX);
        usize::try_from((mixed ^ (mixed >> 31)) % limit).unwrap_or_default()
    }
}

/// A number from the environment, if it is set.
pub(super) fn of_environment<T>(name: &str) -> Result<Option<T>>
where
    T: std::str::FromStr<Err = std::num::ParseIntError>,
{
    let text = env::var(name).ok();
    let number = text.map(|text| text.parse().with_context(|| format!("{name}={text}")));
    number.transpose()
}

async fn kubelet(case: &Case, pool: &mut Value, version: &str) -> Result<()> {
    pool["spec"]["template"]["spec"]["versions"]["kubelet"] = version.into();
    case.apply(pool).await.map(drop)
}

/// Waits until so many Machines of the current template are there.
async fn updated(case: &Case, count: usize) -> Result<()> {
    let fits = |md: &MachineDeployment| {
        let status = md.status.clone().unwrap_or_default();
        let updated = usize::try_from(status.updated_replicas.unwrap_or_default()).unwrap_or_default();
        status.observed_generation == md.metadata.generation && updated >= count
    };
    let what = format!("{count} updated");
    wait::for_state(&case.deployments(), POOL, &what, WAIT_TIMEOUT, fits)
        .await
        .map(drop)
}

/// Waits until the rollout is done.
async fn done(case: &Case, size: usize, timeout: Duration) -> Result<()> {
    let size = i32::try_from(size)?;
    let fits = |md: &MachineDeployment| {
        let status = md.status.clone().unwrap_or_default();
        let counts = [
            status.replicas,
            status.updated_replicas,
            status.available_replicas,
        ];
        status.observed_generation == md.metadata.generation
            && md.spec.replicas == Some(size)
            && counts.map(Option::unwrap_or_default) == [size; 3]
    };
    wait::for_state(&case.deployments(), POOL, "rolled out", timeout, fits)
        .await
        .map(drop)
}
