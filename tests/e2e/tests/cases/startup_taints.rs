//! Other controllers remove taints from Nodes: startup taints are not added again, and others are added again with growing
//! backoff.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, wait};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use testbed::bed::CONTROLLER;

const CILIUM: &str = "node.cilium.io/agent-not-ready";
const NAMED: &str = "example.com/warming-up";
/// Of every Machine of the cases.
const ORDINARY: &str = "dedicated";

#[tokio::test]
async fn a_removed_taint_is_not_added_again_or_with_growing_backoff() -> Result<()> {
    let case = Case::start().await?;
    let mut machine = manifest::machine("tainted");
    machine["metadata"]["annotations"] = json!({"machinist.dev/startup-taints": NAMED});
    if let Some(taints) = machine["spec"]["taints"].as_array_mut() {
        taints.extend([CILIUM, NAMED].map(|key| json!({"key": key, "value": "true", "effect": "NoExecute"})));
    }
    case.bed.user().proxy().clear_requests();
    let agent = Agent::start(case.nodes());
    case.apply(&machine).await?;
    case.node_ready("tainted").await?;
    // It gives up after the third time.
    let is_contested =
        |event: &Value| event["reason"] == "NodeContested" && event["regarding"]["name"] == "tainted";
    let events: Api<k8s_openapi::api::events::v1::Event> =
        Api::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    let is_contested = |event: &k8s_openapi::api::events::v1::Event| {
        serde_json::to_value(event).is_ok_and(|event| is_contested(&event))
    };
    wait::any(&events, "Event about the taint", WAIT_TIMEOUT, is_contested).await?;
    agent.task.abort();
    let back = |node: &Node| has(node, ORDINARY);
    let node = wait::for_state(&case.nodes(), "tainted", "tainted again", WAIT_TIMEOUT, back).await?;
    ensure!(!has(&node, CILIUM) && !has(&node, NAMED), "{node:?}");
    case.settled().await;
    let taken = agent.taken();
    ensure!(
        taken.get(CILIUM) == Some(&1) && taken.get(NAMED) == Some(&1),
        "{taken:?}"
    );
    ensure!(
        taken.get(ORDINARY).is_some_and(|times| (3..=4).contains(times)),
        "{taken:?}"
    );
    let requests = case.bed.user().proxy().requests_of(CONTROLLER);
    let writes = requests
        .iter()
        .filter(|request| request.target.verb == "patch" && request.target.resource == "nodes");
    // Its labels, and the taint as often as it was removed.
    ensure!(writes.clone().count() <= 6, "{} writes", writes.count());
    case.delete_machine("tainted").await?;
    case.finish(&[]).await
}

fn has(node: &Node, key: &str) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().any(|taint| taint.key == key)
}

/// Removes taints from Nodes as soon as it sees them.
struct Agent {
    task: tokio::task::JoinHandle<()>,
    taken: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Agent {
    fn start(nodes: Api<Node>) -> Self {
        let taken: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let record = taken.clone();
        let task = tokio::spawn(async move {
            let events = watcher(nodes.clone(), watcher::Config::default()).default_backoff();
            let mut states = events.applied_objects().boxed();
            while let Some(state) = states.next().await {
                let Ok(node) = state else { continue };
                let spec = node.spec.clone().unwrap_or_default();
                let (gone, left): (Vec<_>, Vec<_>) = spec
                    .taints
                    .unwrap_or_default()
                    .into_iter()
                    .partition(|taint| [CILIUM, NAMED, ORDINARY].contains(&taint.key.as_str()));
                if gone.is_empty() {
                    continue;
                }
                let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": left}});
                // A conflict shows by the next event which client was faster.
                if nodes
                    .patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
                    .await
                    .is_ok()
                {
                    let mut taken = record.lock().unwrap_or_else(PoisonError::into_inner);
                    for taint in gone {
                        *taken.entry(taint.key).or_default() += 1;
                    }
                }
            }
        });
        Self { task, taken }
    }

    fn taken(&self) -> BTreeMap<String, usize> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
