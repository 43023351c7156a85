//! A pool scaled from zero to many Machines and back: its time compared with a client that only does as many writes, the
//! controller's resources, and every request, compared with the budget.
//!
//! `FLEET_SIZES` are the sizes, like `100,500,1000`. `make fleet` runs it with release builds.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use e2e::{
    Case,
    budget::{self, Ledger},
    floor::{self, Writes},
    joins::Joins,
    rollout::deployment,
    usage,
};
use futures::StreamExt as _;
use kube::{
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;
use testbed::{bed::Options, proxy::Target};

/// Writes for a set's Machine.
#[derive(Debug, Clone, Copy)]
struct Budget {
    /// Patches of the Machine itself, if it takes no time.
    of_the_machine: usize,
    /// Those of everything else but statuses of sets and deployments.
    others: usize,
    /// Lists: of the pods of a Node that is drained.
    lists: usize,
}

/// From a Machine's creation to its Node.
const MAKING: Budget = Budget {
    of_the_machine: 5,
    others: 9,
    lists: 0,
};
/// From a Machine's deletion to its removal.
const DELETION: Budget = Budget {
    of_the_machine: 2,
    others: 5,
    lists: 1,
};
/// Another stage of a Machine is reported at most this often.
const PROGRESS_PACE: Duration = Duration::from_secs(3);
/// The status of a set, and of its deployment, is written at most this often, and for a while after the last Machine has
/// joined.
const STATUS_PACE: Duration = Duration::from_millis(400);
const SETTLING: Duration = Duration::from_secs(4);
/// Requests that open an infra cluster and a reference, independent of the number of Machines.
const OPENING: usize = 16;
/// Everything is done long before that.
const WAIT_TIMEOUT: Duration = Duration::from_mins(20);
/// As a small guest boots.
const BOOT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_pool_of_many_is_made_and_deleted_within_its_budget() -> Result<()> {
    let sizes = std::env::var("FLEET_SIZES").unwrap_or_else(|_| "25".to_owned());
    let sizes: Result<Vec<usize>, _> = sizes.split(',').map(str::parse).collect();
    let case = Case::start_alone(Options {
        boot: Some(BOOT),
        progress_report_interval: PROGRESS_PACE,
        ..Options::default().on_two_clusters()
    })
    .await?;
    case.apply(&deployment("pool", 0)).await?;
    // The first one opens the infra cluster and the referenced Secret.
    Step::begin(&case).await?.scale(1).await?.all_joined().await?;
    Step::begin(&case).await?.scale(0).await?.all_gone().await?;

    for size in sizes.context("FLEET_SIZES are numbers")? {
        let step = Step::begin(&case).await?.scale(size).await?;
        let took = step.all_joined().await?;
        step.report(&format!("0 to {size}"), size, took, MAKING).await?;
        let step = Step::begin(&case).await?.scale(0).await?;
        let took = step.all_gone().await?;
        step.report(&format!("{size} to 0"), size, took, DELETION).await?;
    }
    case.delete_deployment("pool").await?;
    case.finish(&[]).await
}

/// One change of the pool's size, and what there was before it.
struct Step<'a> {
    case: &'a Case,
    joins: Joins,
    writes: [Writes; 2],
    cpu: Duration,
    begun: Instant,
    size: usize,
}

impl<'a> Step<'a> {
    async fn begin(case: &'a Case) -> Result<Self> {
        case.settled().await;
        budget::forget(&case.bed);
        Ok(Self {
            case,
            joins: Joins::record(case.bed.user().client()),
            writes: writes(case).await?,
            cpu: usage::cpu(case.bed.controller())?,
            begun: Instant::now(),
            size: 0,
        })
    }

    async fn scale(mut self, size: usize) -> Result<Self> {
        let patch = Patch::Merge(json!({"spec": {"replicas": size}}));
        self.case
            .deployments()
            .patch("pool", &PatchParams::default(), &patch)
            .await?;
        self.size = size;
        Ok(self)
    }

    async fn all_joined(&self) -> Result<Duration> {
        self.joins.many(self.size, WAIT_TIMEOUT).await?;
        Ok(self.begun.elapsed())
    }

    async fn all_gone(&self) -> Result<Duration> {
        let gone = async {
            let mut there = std::collections::BTreeSet::new();
            let mut events = watcher(self.case.machines(), watcher::Config::default())
                .default_backoff()
                .boxed();
            while let Some(event) = events.next().await {
                let whole = matches!(event, Ok(watcher::Event::InitDone | watcher::Event::Delete(_)));
                match event {
                    Ok(watcher::Event::InitApply(machine) | watcher::Event::Apply(machine)) => {
                        there.insert(machine.metadata.name);
                    }
                    Ok(watcher::Event::Delete(machine)) => {
                        there.remove(&machine.metadata.name);
                    }
                    Ok(watcher::Event::Init) => there.clear(),
                    _ => {}
                }
                if whole && there.is_empty() {
                    return;
                }
            }
        };
        tokio::time::timeout(WAIT_TIMEOUT, gone)
            .await
            .context("Machines are left")?;
        Ok(self.begun.elapsed())
    }

    /// Prints time and resources, and compares the requests with their budget.
    async fn report(self, what: &str, size: usize, took: Duration, budget: Budget) -> Result<()> {
        self.case.settled().await;
        let controller = self.case.bed.controller();
        let cpu = usage::cpu(controller)?.saturating_sub(self.cpu);
        let (rss, _) = usage::rss(controller)?;
        let ledger = Ledger::of_controller(&self.case.bed);
        let now = writes(self.case).await?;
        let done = [now[0].since(self.writes[0]), now[1].since(self.writes[1])];
        let clusters = [self.case.bed.user(), self.case.bed.infra()];
        let floor = floor::run([(clusters[0], done[0]), (clusters[1], done[1])]).await?;
        #[allow(clippy::cast_precision_loss, reason = "machines are counted by thousands")]
        let (each, writes) = (|value: f64| value / size as f64, ledger.writes() as f64);
        println!(
            "{what}: {:.1} s (guests boot for {:.0} s); floor for all {} writes of everybody {:.1} s; controller: {:.1} writes and {:.1} ms of CPU for each Machine, {rss} MB RSS",
            took.as_secs_f64(),
            BOOT.as_secs_f64(),
            done[0].total() + done[1].total(),
            floor.as_secs_f64(),
            each(writes),
            each(cpu.as_secs_f64() * 1000.0),
        );
        println!("{}", by_kind(&ledger, size));
        let requests = by_kind(&ledger, size);
        // How often progress is written depends on how long it takes, not on the number of Machines.
        let of = |fits: &dyn Fn(&Target) -> bool| {
            let fitting = ledger.entries.iter().filter(|(_, request)| fits(&request.target));
            fitting.count()
        };
        let statuses = of(&|target| target.subresource == "status");
        let machines = of(&|target| target.verb == "patch" && target.resource == "machines");
        let times = |pace: Duration| usize::try_from((took + SETTLING).as_millis() / pace.as_millis());
        assert!(
            statuses <= 2 * times(STATUS_PACE)?,
            "{what}: {statuses} statuses in {took:?}:\n{requests}"
        );
        assert!(
            machines <= size * (budget.of_the_machine + times(PROGRESS_PACE)?),
            "{what}: more than {budget:?} for each Machine in {took:?}:\n{requests}"
        );
        assert!(
            ledger.writes() - statuses - machines <= size * budget.others + OPENING,
            "{what}: more than {budget:?} for each Machine:\n{requests}"
        );
        assert!(
            ledger.reads() <= size * budget.lists + OPENING,
            "{what}: reads:\n{requests}"
        );
        Ok(())
    }
}

/// A line for each kind of request, with how many there were for each Machine.
fn by_kind(ledger: &Ledger, size: usize) -> String {
    let mut kinds = BTreeMap::<String, usize>::new();
    for (cluster, request) in &ledger.entries {
        let target = &request.target;
        let kind = format!(
            "{cluster} {} {} {}",
            target.verb,
            target.resource_name(),
            request.status
        );
        *kinds.entry(kind).or_default() += 1;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let line = |(kind, count): (String, usize)| {
        #[allow(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
        let each = count as f64 / size as f64;
        format!("  {each:>6.2}  {kind} ({count})")
    };
    kinds.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

async fn writes(case: &Case) -> Result<[Writes; 2]> {
    Ok([
        Writes::so_far(case.bed.user()).await?,
        Writes::so_far(case.bed.infra()).await?,
    ])
}
