//! As many Machines as a large cluster has, all of them running: a starting controller writes nothing. Prints the time to sync
//! the caches, memory, idle cost, and the time from an event on the infra cluster to the Machine's condition.
//!
//! One Machine is created normally. The others are copies of it and its objects, without simulated guests: that many guests
//! would overload a small machine. `LARGE_CLUSTER_MACHINES` is how many; `make many` runs it with
//! release builds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Case,
    budget::{self, Ledger},
    case::message,
    manifest::{self, NAMESPACE},
    objects, usage,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use kube::{
    Api, Client, Config, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, DynamicObject},
    runtime::{WatchStreamExt as _, watcher},
};
use machinist_shared::api::Machine;
use serde_json::json;
use testbed::{bed::Options, seed::INFRA_NAMESPACE};

/// The Machine that all others are copies of; no other text looks like its name.
const ORIGIN: &str = "many-00000";
/// Requests of this test in flight.
const AT_ONCE: usize = 64;
/// Machines with an event on the infra cluster.
const EVENTS: usize = 200;
/// From one event to the next: more events at a time would measure the load of the machine.
const PACE: Duration = Duration::from_millis(25);
/// While nothing happens.
const IDLE: Duration = Duration::from_secs(30);
/// Everything is done long before that.
const WAIT_TIMEOUT: Duration = Duration::from_mins(5);

#[tokio::test]
async fn a_controller_that_starts_beside_many_machines_writes_nothing() -> Result<()> {
    let many = std::env::var("LARGE_CLUSTER_MACHINES").unwrap_or_else(|_| "150".to_owned());
    let many: usize = many.parse().context("LARGE_CLUSTER_MACHINES is a number")?;
    let case = Case::start_alone(Options {
        controller_args: vec!["--enable-leader-election=false".to_owned()],
        ..Options::default().on_two_clusters()
    })
    .await?;
    case.apply(&manifest::machine(ORIGIN)).await?;
    case.node_ready(ORIGIN).await?;
    case.settled().await;
    let origin = Original::read(&case).await?;
    leave_alone(&case).await?;
    let begun = Instant::now();
    stream::iter(1..many)
        .map(|number| origin.plant(number))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    println!(
        "{many} Machines planted in {:.0} s",
        begun.elapsed().as_secs_f64()
    );

    let controller = case.bed.controller();
    budget::forget(&case.bed);
    let begun = Instant::now();
    controller.start().await?;
    let ready = begun.elapsed();
    // Every Machine once, and once more when its infra cluster is open.
    all_decided(&case, many).await?;
    let (decided, cpu) = (begun.elapsed(), usage::cpu(controller)?);
    let (now, most) = usage::rss(controller)?;
    println!(
        "started beside {many} Machines: ready after {:.2} s, all decided after {:.2} s, {:.1} s of CPU, {now} MB RSS, {most} MB at most",
        ready.as_secs_f64(),
        decided.as_secs_f64(),
        cpu.as_secs_f64()
    );
    let passes = ReconcileCounts::count(&case).await?;
    tokio::time::sleep(IDLE).await;
    let idle = usage::cpu(controller)?.saturating_sub(cpu);
    let (now, most) = usage::rss(controller)?;
    println!(
        "idle for {IDLE:?}: {:.2} % of a core, {:.0} passes, {now} MB RSS, {most} MB at most",
        idle.as_secs_f64() / IDLE.as_secs_f64() * 100.0,
        ReconcileCounts::count(&case).await?.made - passes.made
    );
    let ledger = Ledger::of_controller(&case.bed);
    assert_eq!(ledger.writes(), 0, "a start writes nothing:\n{}", ledger.table());

    let conditions = ConditionTimes::record(case.bed.user().client(), "VMPaused").await?;
    let step = (many / EVENTS).max(1);
    let names: Vec<String> = (0..many).step_by(step).map(name).collect();
    let mut times = origin.pause(&names, &conditions).await?;
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!(
        "from the infra cluster's answer to the Machine's status, {} samples: p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, longest {:.0} ms",
        times.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    );
    let ledger = Ledger::of_controller(&case.bed);
    let written = (ledger.entries.iter())
        .filter(|(_, request)| request.target.resource == "machines" && request.target.is_write());
    assert_eq!(
        written.count(),
        names.len(),
        "one patch for each:\n{}",
        ledger.table()
    );
    // The copies are deleted with the bed.
    case.bed.shut_down().await
}

fn name(number: usize) -> String {
    format!("many-{number:05}")
}

/// No other client changes the copies: there are no controllers, no guests, no admission.
async fn leave_alone(case: &Case) -> Result<()> {
    case.bed.controller().kill();
    case.bed.simulator().context("no simulator")?.kill();
    for cluster in [case.bed.user(), case.bed.infra()] {
        cluster.kill_controller_manager();
        let kinds =
            "validatingwebhookconfigurations,mutatingwebhookconfigurations,validatingadmissionpolicybindings";
        cluster.kubectl_ok(&["delete", kinds, "--all"], "").await?;
    }
    Ok(())
}

/// Who may write the status of Machines, beside Machinist itself.
async fn peer(case: &Case) -> Result<Client> {
    let admin = Kubeconfig::read_from(case.bed.user().admin_kubeconfig_path())?;
    let mut config = Config::from_custom_kubeconfig(admin, &KubeConfigOptions::default()).await?;
    config.auth_info.impersonate = Some("system:serviceaccount:kube-system:machine-controller".to_owned());
    config.auth_info.impersonate_groups = Some(vec!["system:masters".to_owned()]);
    Ok(Client::try_from(config)?)
}

/// Waits until every Machine was reconciled, once more when its infra cluster was open, and the queue is empty.
async fn all_decided(case: &Case, many: usize) -> Result<()> {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let passes = ReconcileCounts::count(case).await?;
        #[expect(clippy::cast_precision_loss, reason = "Machines are counted by thousands")]
        let whole = passes.made >= 2.0 * many as f64;
        if whole && passes.due == 0.0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not all were decided: {passes:?}");
        // No event reports a change of a metric.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reconciliations of Machines, by the controller's metrics.
#[derive(Debug)]
struct ReconcileCounts {
    /// Since it was started.
    made: f64,
    /// Of all kinds, waiting.
    due: f64,
}

impl ReconcileCounts {
    async fn count(case: &Case) -> Result<Self> {
        let metrics = case.bed.controller().metrics().await?;
        let sum = |start: &str| -> f64 {
            let lines = metrics.lines().filter(|line| line.starts_with(start));
            lines
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum()
        };
        Ok(Self {
            made: sum("machinist_reconciles_total{controller=\"machine\""),
            due: sum("machinist_queue_depth"),
        })
    }
}

/// The Machine that others are copied from, with all that belongs to it.
struct Original {
    machines: Api<DynamicObject>,
    nodes: Api<DynamicObject>,
    /// VirtualMachine, VirtualMachineInstance, DataVolume, claim: in the order in which they are made.
    infra: Vec<(Api<DynamicObject>, DynamicObject)>,
    machine: DynamicObject,
    node: DynamicObject,
    address: String,
}

impl Original {
    async fn read(case: &Case) -> Result<Self> {
        let (user, infra) = (case.bed.user().client(), case.bed.infra().client());
        let machines: Api<DynamicObject> =
            Api::namespaced_with(peer(case).await?, NAMESPACE, &objects::ours("Machine"));
        let nodes = Api::all_with(user, &ApiResource::erase::<Node>(&()));
        let kinds = [
            objects::virtual_machine(),
            objects::virtual_machine_instance(),
            objects::data_volume(),
            ApiResource::erase::<PersistentVolumeClaim>(&()),
        ];
        let mut things = Vec::new();
        for kind in kinds {
            let api: Api<DynamicObject> = Api::namespaced_with(infra.clone(), INFRA_NAMESPACE, &kind);
            let thing = api.get(ORIGIN).await?;
            things.push((api, thing));
        }
        let machine = machines.get(ORIGIN).await?;
        let address = machine.data["status"]["addresses"][0]["address"].as_str();
        Ok(Self {
            address: address.context("no address")?.to_owned(),
            node: nodes.get(ORIGIN).await?,
            machine,
            machines,
            nodes,
            infra: things,
        })
    }

    /// A copy of everything, under another name, with another address and UIDs of its own.
    async fn plant(&self, number: usize) -> Result<()> {
        let mut texts = vec![
            (ORIGIN.to_owned(), name(number)),
            (
                self.address.clone(),
                format!(
                    "10.{}.{}.{}",
                    100 + number / 65536,
                    number / 256 % 256,
                    number % 256
                ),
            ),
        ];
        let machine = create(&self.machines, &self.machine, &mut texts).await?;
        for (api, thing) in &self.infra {
            let made = create(api, thing, &mut texts).await?;
            let status = copy(thing, &texts)?.data["status"].take();
            if made.data.get("status") != Some(&status) {
                let patch = json!({"status": status});
                api.patch_status(&made.name_any(), &PatchParams::default(), &Patch::Merge(patch))
                    .await?;
            }
        }
        create(&self.nodes, &self.node, &mut texts).await?;
        // Now all UIDs are known.
        let mut whole = copy(&self.machine, &texts)?;
        let patch = json!({"spec": whole.data["spec"].take(), "status": whole.data["status"].take()});
        self.machines
            .patch(&machine.name_any(), &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// Pauses these guests one after the other, and returns how long each Machine took to report it.
    async fn pause(&self, names: &[String], conditions: &ConditionTimes) -> Result<Vec<Duration>> {
        let (instances, origin) = &self.infra[1];
        let mut conditions = origin.data["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions.push(json!({
            "type": "Paused", "status": "True", "reason": "PausedIOError", "message": "VMI was paused",
            "lastProbeTime": null, "lastTransitionTime": null,
        }));
        let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
        let mut begun = BTreeMap::new();
        for name in names {
            instances.patch(name, &PatchParams::default(), &patch).await?;
            begun.insert(name, Instant::now());
            tokio::time::sleep(PACE).await;
        }
        let mut times = Vec::new();
        for (name, begun) in begun {
            times.push(conditions.when(name).await?.saturating_duration_since(begun));
        }
        Ok(times)
    }
}

/// The object with these texts for those.
fn copy(object: &DynamicObject, texts: &[(String, String)]) -> Result<DynamicObject> {
    let mut text = serde_json::to_string(object)?;
    for (from, to) in texts {
        text = text.replace(from, to);
    }
    Ok(serde_json::from_str(&text)?)
}

/// Makes a copy; its UID stands for the original's from then on.
async fn create(
    api: &Api<DynamicObject>,
    object: &DynamicObject,
    texts: &mut Vec<(String, String)>,
) -> Result<DynamicObject> {
    let mut fresh = copy(object, texts)?;
    let meta = fresh.meta_mut();
    meta.uid = None;
    meta.resource_version = None;
    meta.managed_fields = None;
    let made = api.create(&PostParams::default(), &fresh).await?;
    let uids = (object.uid().context("no UID")?, made.uid().context("no UID")?);
    texts.push(uids);
    Ok(made)
}

/// When each Machine first had a condition of that reason, by one watch for all of them.
struct ConditionTimes {
    seen: Arc<RecordedTimes>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct RecordedTimes {
    times: Mutex<BTreeMap<String, Instant>>,
    more: tokio::sync::Notify,
    /// The first list is complete.
    listed: tokio::sync::Notify,
}

impl ConditionTimes {
    /// Returns when it sees everything: to read the first list of thousands takes seconds.
    async fn record(user: Client, reason: &'static str) -> Result<Self> {
        let seen = Arc::<RecordedTimes>::default();
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let machines = Api::<Machine>::namespaced(user, NAMESPACE);
            let mut events = watcher(machines, watcher::Config::default())
                .default_backoff()
                .boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::InitDone) => record.listed.notify_one(),
                    Ok(watcher::Event::Apply(machine)) if message(&machine, reason).is_some() => {
                        let mut times = record.times.lock().unwrap_or_else(PoisonError::into_inner);
                        times.entry(machine.name_any()).or_insert_with(Instant::now);
                        record.more.notify_waiters();
                    }
                    _ => {}
                }
            }
        });
        tokio::time::timeout(WAIT_TIMEOUT, seen.listed.notified())
            .await
            .context("the Machines cannot be listed")?;
        Ok(Self { seen, task })
    }

    async fn when(&self, name: &str) -> Result<Instant> {
        let wait = async {
            loop {
                let more = self.seen.more.notified();
                tokio::pin!(more);
                more.as_mut().enable();
                let known = self
                    .seen
                    .times
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get(name)
                    .copied();
                match known {
                    Some(known) => return known,
                    None => more.await,
                }
            }
        };
        tokio::time::timeout(WAIT_TIMEOUT, wait)
            .await
            .with_context(|| format!("{name} has no such condition"))
    }
}

impl Drop for ConditionTimes {
    fn drop(&mut self) {
        self.task.abort();
    }
}
