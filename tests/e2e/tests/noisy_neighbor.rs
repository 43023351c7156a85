//! The effect on other pools of a pool with a million replicas, none of which ever becomes a Node: the latency of admission,
//! and the time from an event of a VM to the Machine's status, before and during it. The leader must keep its Lease.
//!
//! `NOISY_NEIGHBOR_SECONDS` is how long each of both is measured, `NOISY_NEIGHBOR_ROUNDS` how often, alternating: the medians of
//! the rounds are printed. `NOISY_NEIGHBOR_ARGS` are arguments of the controller.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, wait};
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject},
    runtime::{WatchStreamExt as _, watcher},
};
use machinist_shared::api::{Machine, MachineSet};
use serde_json::json;
use testbed::bed::Options;
use tokio::{sync::Notify, task::JoinHandle};

/// Machines of other pools.
const SOUND: usize = 10;
/// From one sample to the next.
const PACE: Duration = Duration::from_millis(100);
/// The measurement before the large pool takes no longer than this.
const BEFORE: Duration = Duration::from_mins(1);
/// How long the deletion of the pool may take.
const END: Duration = Duration::from_mins(8);
/// `--max-starting-machines`, as it is by default.
const LIMIT: usize = 2000;

#[tokio::test]
async fn a_pool_of_a_million_replicas_does_not_slow_down_others() -> Result<()> {
    let seconds = std::env::var("NOISY_NEIGHBOR_SECONDS").unwrap_or_else(|_| "30".to_owned());
    let time = Duration::from_secs(seconds.parse().context("NOISY_NEIGHBOR_SECONDS is a number")?);
    let rounds = std::env::var("NOISY_NEIGHBOR_ROUNDS").unwrap_or_else(|_| "1".to_owned());
    let rounds: usize = rounds.parse().context("NOISY_NEIGHBOR_ROUNDS is a number")?;
    let args = std::env::var("NOISY_NEIGHBOR_ARGS").unwrap_or_default();
    let case = Case::start_alone(Options {
        controller_args: args.split_whitespace().map(str::to_owned).collect(),
        ..Options::default().on_two_clusters()
    })
    .await?;
    case.apply(&manifest::machine_set("sound", u32::try_from(SOUND)?))
        .await?;
    let is_ready = |machine: &&Machine| {
        machine
            .status
            .as_ref()
            .is_some_and(|status| status.node_ref.is_some())
    };
    let all = |machines: &[&Machine]| {
        machines
            .iter()
            .copied()
            .filter(|machine| is_ready(machine))
            .count()
            == SOUND
    };
    let sound = wait::for_all(&case.machines(), "all joined", WAIT_TIMEOUT, all).await?;
    let sound: Vec<String> = sound.iter().map(Machine::name_any).collect();
    case.settled().await;
    let leader = lease(&case).await?;

    let mut phases = Vec::new();
    for round in 1..=rounds {
        let before = measure(&case, &sound, time.min(BEFORE)).await?;
        let mut flood = manifest::machine_set("flood", 1_000_000);
        flood["spec"]["template"]["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
        case.apply(&flood).await?;
        let beside = measure(&case, &sound, time).await?;
        let vms = number(&case.vms()).await?;
        let machines = number(&case.machines()).await?;
        println!("round {round}: {machines} Machines and {vms} VMs {time:?} after a million were asked for");
        ensure!(vms <= LIMIT + SOUND, "{vms} VMs");
        ensure!(lease(&case).await? == leader, "another leads");
        for (what, times) in [("before", &before), ("beside", &beside)] {
            println!("round {round}, {what}: {times}");
        }
        phases.push((before, beside));
        if round < rounds {
            end(&case).await?;
        }
    }
    for (what, of) in [
        (
            "admission",
            (|times| &times.admission) as fn(&Latencies) -> &Vec<Duration>,
        ),
        ("from event to status", |times| &times.reported),
    ] {
        let median = |share: usize| {
            let of_phase = |phase: fn(&(Latencies, Latencies)) -> &Latencies| {
                let mut all: Vec<f64> = phases.iter().map(|both| at(of(phase(both)), share)).collect();
                all.sort_by(f64::total_cmp);
                f64::midpoint(all[(all.len() - 1) / 2], all[all.len() / 2])
            };
            (of_phase(|both| &both.0), of_phase(|both| &both.1))
        };
        let ((p50, p50_beside), (p99, p99_beside)) = (median(50), median(99));
        println!(
            "{what}, medians of {rounds} rounds: p50 {p50:.0} ms and {p50_beside:.0} ms, p99 {p99:.0} ms and {p99_beside:.0} ms, \
             ratio of p99 {:.1}",
            p99_beside / p99
        );
    }
    case.bed.shut_down().await
}

/// The leader, and how often it has changed.
async fn lease(case: &Case) -> Result<(Option<String>, Option<i32>)> {
    let leases: Api<Lease> = Api::namespaced(case.bed.user().client(), "kube-system");
    let spec = leases.get("machine-controller").await?.spec.unwrap_or_default();
    Ok((spec.holder_identity, spec.lease_transitions))
}

/// Deletes the pool, and waits until nothing of it is left.
async fn end(case: &Case) -> Result<()> {
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    let sets: Api<MachineSet> = Api::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    sets.patch("flood", &PatchParams::default(), &none).await?;
    let until = Instant::now() + END;
    while number(&case.vms()).await?.max(number(&case.machines()).await?) > SOUND {
        ensure!(Instant::now() < until, "the pool is still there after {END:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    case.settled().await;
    Ok(())
}

async fn number<K>(api: &Api<K>) -> Result<usize>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    Ok(api.list_metadata(&ListParams::default()).await?.items.len())
}

/// Sorted times, and how many admissions were refused with the advice to try again.
struct Latencies {
    admission: Vec<Duration>,
    refused: usize,
    reported: Vec<Duration>,
}

/// In milliseconds.
fn at(times: &[Duration], percent: usize) -> f64 {
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, times) in [
            ("admission", &self.admission),
            ("from event to status", &self.reported),
        ] {
            let (p50, p90, p99) = (at(times, 50), at(times, 90), at(times, 99));
            write!(
                f,
                "{what} p50 {p50:.0} p90 {p90:.0} p99 {p99:.0} ms of {}, ",
                times.len()
            )?;
        }
        write!(f, "{} refused with a retry", self.refused)
    }
}

async fn measure(case: &Case, sound: &[String], time: Duration) -> Result<Latencies> {
    let until = Instant::now() + time;
    let ((admission, refused), reported) =
        tokio::try_join!(admissions(case, until), events(case, sound, until))?;
    let sorted = |mut times: Vec<Duration>| {
        times.sort();
        times
    };
    Ok(Latencies {
        admission: sorted(admission),
        refused,
        reported: sorted(reported),
    })
}

/// How long the API server takes to admit a Machine that is not stored.
async fn admissions(case: &Case, until: Instant) -> Result<(Vec<Duration>, usize)> {
    let machine: DynamicObject = serde_json::from_value(manifest::machine("admitted"))?;
    let kind = ApiResource::erase::<Machine>(&());
    let machines = Api::namespaced_with(case.bed.user().client(), manifest::NAMESPACE, &kind);
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let (mut times, mut refused) = (Vec::new(), 0);
    while Instant::now() < until {
        let begun = Instant::now();
        match machines.create(&dry, &machine).await {
            Ok(_) => times.push(begun.elapsed()),
            // A refusal with the advice to retry counts separately.
            Err(error) if error.to_string().contains("try again") => {
                if refused == 0 {
                    println!("{error}");
                }
                refused += 1;
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(PACE).await;
    }
    Ok((times, refused))
}

/// The time from a change of a VM's pause to the Machine's condition.
async fn events(case: &Case, sound: &[String], until: Instant) -> Result<Vec<Duration>> {
    let vmis = Shown::record(case.vmis(), |vmi| {
        let conditions = vmi.data["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition["type"] == "Paused" && condition["status"] == "True")
    });
    let machines = Shown::record(case.machines(), |machine| {
        e2e::case::message(machine, "VMPaused").is_some()
    });
    let mut times = Vec::new();
    let mut pauses = true;
    while Instant::now() < until {
        for name in sound {
            let pause = json!({"metadata": {"annotations": {"sim.kubevirt.io/paused": pauses.to_string()}}});
            case.vms()
                .patch(name, &PatchParams::default(), &Patch::Merge(pause))
                .await?;
            let (began, ended) = tokio::try_join!(vmis.shows(name, pauses), machines.shows(name, pauses))?;
            times.push(ended.saturating_duration_since(began));
            tokio::time::sleep(PACE).await;
        }
        pauses = !pauses;
    }
    Ok(times)
}

/// The state of objects, and since when.
struct Shown {
    seen: Arc<(Mutex<HashMap<String, (bool, Instant)>>, Notify)>,
    task: JoinHandle<()>,
}

impl Shown {
    fn record<K>(api: Api<K>, what: impl Fn(&K) -> bool + Send + 'static) -> Self
    where
        K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        let seen = Arc::new((Mutex::new(HashMap::new()), Notify::new()));
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut objects = watcher(api, watcher::Config::default())
                .default_backoff()
                .applied_objects()
                .boxed();
            while let Some(object) = objects.next().await {
                let Ok(object) = object else { continue };
                let shows = what(&object);
                let mut seen = record.0.lock().unwrap_or_else(PoisonError::into_inner);
                let known = seen.entry(object.name_any()).or_insert((shows, Instant::now()));
                if known.0 != shows {
                    *known = (shows, Instant::now());
                }
                record.1.notify_waiters();
            }
        });
        Self { seen, task }
    }

    /// Waits until the object of that name has the state, and returns since when.
    async fn shows(&self, name: &str, what: bool) -> Result<Instant> {
        let shown = async {
            loop {
                let changed = self.seen.1.notified();
                let known = self
                    .seen
                    .0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get(name)
                    .copied();
                if let Some((_, since)) = known.filter(|(shows, _)| *shows == what) {
                    return since;
                }
                changed.await;
            }
        };
        tokio::time::timeout(WAIT_TIMEOUT, shown)
            .await
            .with_context(|| format!("{name} does not show it"))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.task.abort();
    }
}
