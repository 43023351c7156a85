//! The bed of preflight cases: the webhook without a controller, and an infra cluster with KubeVirt.

use anyhow::Result;
use serde_json::{Value, json};
use testbed::bed::{MACHINES, Machinist, Options};

use crate::{Case, manifest, manifest::NAMESPACE};

/// The webhook without a controller, which would create VMs.
pub async fn start(webhook_args: &[&str]) -> Result<Case> {
    Case::start_with(Options {
        machinist: Machinist::Webhook,
        webhook_args: webhook_args.iter().map(ToString::to_string).collect(),
        ..Options::default()
    })
    .await
}

/// A MachineDeployment of such Machines.
pub fn deployment(name: &str, machine: &Value) -> Value {
    let labels = json!({"pool": name});
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineDeployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": machine["spec"]},
        },
    })
}

/// A Machine with its location set, so that admission needs no StorageClass.
pub fn located(name: &str) -> Value {
    let mut machine = manifest::machine(name);
    manifest::virtual_machine(&mut machine)["location"] = json!({"region": "north", "zone": "north-1"});
    machine
}

/// The requests to the infra cluster since the proxy's record was cleared.
pub fn infra_requests(case: &Case) -> Vec<String> {
    let requests = case.bed.infra().proxy().requests_of(MACHINES);
    requests
        .iter()
        .map(|request| format!("{} {}", request.target.verb, request.target.resource))
        .collect()
}

/// Prints requests by name, with their number.
pub fn print(what: &str, infra_requests: &[String]) {
    let mut names: Vec<&String> = infra_requests.iter().collect();
    names.sort();
    names.dedup();
    println!("{what}: {} requests to the infra cluster", infra_requests.len());
    for name in names {
        println!(
            "{:>4}  {name}",
            infra_requests.iter().filter(|asked| *asked == name).count()
        );
    }
}

/// Runs `kubectl` with this on its standard input. Returns whether it succeeded, and its message.
pub async fn kubectl(case: &Case, args: &[&str], stdin: &Value) -> Result<(bool, String)> {
    let output = case.bed.user().kubectl(args, &stdin.to_string()).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.success(), said))
}

/// `kubectl patch` of a MachineDeployment.
pub async fn patch(case: &Case, name: &str, change: &Value) -> Result<(bool, String)> {
    let change = change.to_string();
    let args = [
        "patch",
        "machinedeployment",
        name,
        "--namespace",
        NAMESPACE,
        "--type=merge",
        "--patch",
        &change,
    ];
    kubectl(case, &args, &Value::Null).await
}
