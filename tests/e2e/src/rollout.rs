//! MachineDeployments in cases: manifests, conditions, and the extremes of a rollout.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use machinist_shared::api::{Machine, MachineDeployment, MachineSet};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{Case, case::WAIT_TIMEOUT, manifest, wait};

/// A pool of Machines like [`manifest::machine`].
pub fn deployment(name: &str, replicas: i32) -> Value {
    let machine = manifest::machine(name);
    let labels = json!({"pool": name});
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1",
        "kind": "MachineDeployment",
        "metadata": {"name": name, "namespace": manifest::NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": machine["spec"]},
        },
    })
}

impl Case {
    /// The MachineDeployments.
    pub fn deployments(&self) -> Api<MachineDeployment> {
        Api::namespaced(self.bed.user().client(), manifest::NAMESPACE)
    }

    /// The MachineSets.
    pub fn machine_sets(&self) -> Api<MachineSet> {
        Api::namespaced(self.bed.user().client(), manifest::NAMESPACE)
    }

    /// Waits until the deployment's `Progressing` has this reason for its current spec, and returns its message.
    pub async fn rollout(&self, name: &str, reason: &str) -> Result<String> {
        let found = |deployment: &MachineDeployment| progress(deployment, reason).is_some();
        let waited = wait::for_state(&self.deployments(), name, reason, WAIT_TIMEOUT * 2, found).await;
        let deployment = match waited {
            Ok(deployment) => deployment,
            Err(error) => {
                let machines = self.machines().list(&ListParams::default()).await?;
                let shown: Result<Vec<_>> = machines.iter().map(wait::shown).collect();
                return Err(error.context(shown?.join("\n")));
            }
        };
        Ok(progress(&deployment, reason).unwrap_or_default())
    }

    /// kubectl, in the namespace of the Machines.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", manifest::NAMESPACE];
        all.extend(args);
        self.bed.user().kubectl_ok(&all, "").await
    }

    /// UIDs of the existing Machines, by name.
    pub async fn machine_uids(&self) -> Result<HashMap<String, String>> {
        let machines = self.machines().list(&ListParams::default()).await?;
        let uids = machines.items.into_iter();
        uids.map(|machine| {
            Ok((
                machine.name_any(),
                machine.uid().context("a Machine without UID")?,
            ))
        })
        .collect()
    }

    /// Deletes the deployment as kubectl does, and waits until its sets and Machines are gone.
    pub async fn delete_deployment(&self, name: &str) -> Result<()> {
        self.kubectl(&["delete", "md", name, "--wait=false"]).await?;
        wait::for_absence(&self.deployments(), name, WAIT_TIMEOUT * 2).await?;
        for set in self.machine_sets().list(&ListParams::default()).await? {
            wait::for_absence(&self.machine_sets(), &set.name_any(), WAIT_TIMEOUT).await?;
        }
        for machine in self.machine_uids().await?.keys() {
            wait::for_absence(&self.machines(), machine, WAIT_TIMEOUT).await?;
        }
        Ok(())
    }
}

fn progress(deployment: &MachineDeployment, reason: &str) -> Option<String> {
    let status = deployment.status.as_ref()?;
    if status.observed_generation != deployment.metadata.generation {
        return None;
    }
    let conditions = status.conditions.iter().flatten();
    let found = conditions
        .into_iter()
        .find(|found| found.type_ == "Progressing" && found.reason.as_deref() == Some(reason))?;
    Some(found.message.clone().unwrap_or_default())
}

/// The extremes of a rollout, as a watch shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extremes {
    /// The maximum of Machines that all sets together requested at one time.
    pub most_wanted: i32,
    /// The minimum of Machines at one time that had a Node and were not being deleted.
    pub least_joined: usize,
}

/// Watches a rollout until it is stopped.
pub struct Watched {
    extremes: Arc<Mutex<Extremes>>,
    tasks: [JoinHandle<()>; 2],
}

impl Watched {
    /// Watches from now on.
    pub fn start(case: &Case) -> Self {
        let extremes = Arc::new(Mutex::new(Extremes {
            most_wanted: 0,
            least_joined: usize::MAX,
        }));
        let wanted = follow(
            case.machine_sets(),
            |set: &MachineSet| set.spec.replicas.unwrap_or_default(),
            {
                let extremes = extremes.clone();
                move |sizes| {
                    let mut extremes = extremes.lock().unwrap_or_else(PoisonError::into_inner);
                    extremes.most_wanted = extremes.most_wanted.max(sizes.sum::<i32>());
                }
            },
        );
        let joined = follow(case.machines(), has_joined, {
            let extremes = extremes.clone();
            move |joined| {
                let mut extremes = extremes.lock().unwrap_or_else(PoisonError::into_inner);
                extremes.least_joined = extremes.least_joined.min(joined.filter(|joined| *joined).count());
            }
        });
        Self {
            extremes,
            tasks: [tokio::spawn(wanted), tokio::spawn(joined)],
        }
    }

    /// The observations so far.
    pub fn stop(self) -> Extremes {
        for task in &self.tasks {
            task.abort();
        }
        *self.extremes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the Machines that are not being deleted.
pub struct MachineMaximum {
    most: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl MachineMaximum {
    /// Counts from now on.
    pub fn start(case: &Case) -> Self {
        let most = Arc::new(AtomicUsize::new(0));
        let vm_history = |machine: &Machine| machine.metadata.deletion_timestamp.is_none();
        let counted = follow(case.machines(), vm_history, {
            let most = most.clone();
            move |vm_history| {
                most.fetch_max(
                    vm_history.filter(|vm_history| *vm_history).count(),
                    Ordering::Relaxed,
                );
            }
        });
        Self {
            most,
            task: tokio::spawn(counted),
        }
    }

    /// The maximum at one time.
    pub fn most(self) -> usize {
        self.task.abort();
        self.most.load(Ordering::Relaxed)
    }
}

pub(crate) fn has_joined(machine: &Machine) -> bool {
    let joined = machine
        .status
        .as_ref()
        .is_some_and(|status| status.node_ref.is_some());
    joined && machine.metadata.deletion_timestamp.is_none()
}

/// Stores the result of `fact` for each object, and calls `on` with all of them after every event.
pub(crate) async fn follow<K, T>(
    api: Api<K>,
    fact: impl Fn(&K) -> T,
    on: impl Fn(&mut dyn Iterator<Item = T>),
) where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
    T: Clone,
{
    let mut facts: HashMap<String, T> = HashMap::new();
    let mut listing = true;
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => {
                listing = true;
                facts.clear();
            }
            Ok(watcher::Event::InitDone) => listing = false,
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                facts.insert(object.name_any(), fact(&object));
            }
            Ok(watcher::Event::Delete(object)) => drop(facts.remove(&object.name_any())),
            // Broken watches are opened again.
            Err(_) => continue,
        }
        if !listing {
            on(&mut facts.values().cloned());
        }
    }
}
