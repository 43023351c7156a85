//! Many Machines deleted at once, with a PodDisruptionBudget that allows one disruption, and without one: prints the time and
//! every request by name, and checks that the budget held at every moment. `DRAIN_MACHINES` is how many.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use e2e::{Case, budget, drain::pod, manifest, wait};
use futures::StreamExt as _;
use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::{
    Api, ResourceExt as _,
    api::PostParams,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::task::JoinHandle;

const WAIT_TIMEOUT: Duration = Duration::from_mins(9);

#[tokio::test]
async fn many_nodes_are_drained_at_once_within_their_budgets_and_without_refused_evictions() -> Result<()> {
    let count: usize = std::env::var("DRAIN_MACHINES").map_or(Ok(12), |text| text.parse())?;
    let case = Case::start_alone(testbed::bed::Options::default().on_two_clusters()).await?;
    case.apply(&manifest::machine("stays")).await?;
    case.node_ready("stays").await?;
    for (round, with_budget) in [("free", false), ("budget", true)] {
        let names: Vec<String> = (0..count).map(|index| format!("{round}-{index}")).collect();
        for name in &names {
            case.apply(&manifest::machine(name)).await?;
        }
        for name in &names {
            case.node_ready(name).await?;
            case.runs(pod(name, round, name)).await?;
        }
        case.settled().await;
        let healthy = i32::try_from(count)?;
        let guard = with_budget.then(|| (replace(&case, round), least_healthy(&case, healthy)));
        if with_budget {
            case.budget(round, round, healthy - 1, healthy).await?;
        }
        budget::forget(&case.bed);
        let started = Instant::now();
        for name in &names {
            case.begin_deletion(name).await?;
        }
        for name in &names {
            wait::for_absence(&case.machines(), name, WAIT_TIMEOUT).await?;
        }
        let took = started.elapsed();
        case.settled().await;
        let ledger = budget::Ledger::of_controller(&case.bed);
        let of = |verb: &str, resource: &str, subresource: &str| {
            let entries = ledger.entries.iter();
            let target = entries.map(|(_, request)| &request.target);
            target
                .filter(|t| t.verb == verb && t.resource == resource && t.subresource == subresource)
                .count()
        };
        let evictions = of("create", "pods", "eviction");
        let lists = of("list", "pods", "");
        println!(
            "{count} Machines with a pod each, {round}: {took:?}; {} requests, of these {evictions} evictions and {lists} lists of pods",
            ledger.total()
        );
        for (verb, resource) in [
            ("patch", "machines"),
            ("patch", "nodes"),
            ("delete", "nodes"),
            ("create", "events"),
        ] {
            println!("  {verb} {resource}: {}", of(verb, resource, ""));
        }
        ensure!(evictions >= count && lists == count, "{}", ledger.table());
        // A patch that conflicts with another client's change may be sent twice.
        ensure!(evictions <= count + count / 4 + 1, "{}", ledger.table());
        if let Some((replacing, (least, watching))) = guard {
            replacing.abort();
            watching.abort();
            ensure!(
                least.load(Ordering::SeqCst) >= healthy - 1,
                "the budget was broken"
            );
            case.without_budget(round).await?;
        } else {
            let per_machine = ledger.total() - evictions - lists;
            ensure!(per_machine <= 8 * count, "{}", ledger.table());
        }
    }
    case.delete_machine("stays").await?;
    case.finish(&[]).await
}

/// Replaces each evicted pod on another node, as the pods' controller would.
fn replace(case: &Case, app: &'static str) -> JoinHandle<()> {
    let pods = case.pods();
    let config = watcher::Config::default().labels(&format!("app={app}"));
    tokio::spawn(async move {
        let mut events = watcher(pods.clone(), config).default_backoff().boxed();
        while let Some(event) = events.next().await {
            if let Ok(watcher::Event::Delete(gone)) = event {
                let name = format!("{}-again", gone.name_any());
                let Ok(another) = serde_json::from_value::<Pod>(pod(&name, app, "stays")) else {
                    continue;
                };
                if let Err(error) = pods.create(&PostParams::default(), &another).await {
                    eprintln!("{name} was not made: {error}");
                }
            }
        }
    })
}

/// The fewest healthy pods that the disruption controller ever counts.
fn least_healthy(case: &Case, healthy: i32) -> (Arc<AtomicI32>, JoinHandle<()>) {
    let least = Arc::new(AtomicI32::new(healthy));
    let (budgets, seen): (Api<PodDisruptionBudget>, _) = (case.budgets(), Arc::clone(&least));
    let task = tokio::spawn(async move {
        let config = watcher::Config::default();
        let mut states = watcher(budgets, config)
            .default_backoff()
            .applied_objects()
            .boxed();
        while let Some(state) = states.next().await {
            if let Ok(budget) = state
                && let Some(status) = budget.status
                && status.observed_generation.is_some()
            {
                seen.fetch_min(status.current_healthy, Ordering::SeqCst);
            }
        }
    });
    (least, task)
}
