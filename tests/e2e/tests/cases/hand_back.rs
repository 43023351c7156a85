//! Back to machine-controller: `kubectl machinist hand-back` leaves a status as machine-controller writes it, and a second
//! move continues with the record.

use anyhow::{Result, ensure};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, plugin, wait};
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use machinist_shared::api::Machine;
use serde_json::{Value, json};
use testbed::binaries;

#[tokio::test]
async fn a_machine_that_goes_back_has_one_condition_ready_and_no_phase() -> Result<()> {
    let case = Case::start().await?;
    tokio::task::spawn_blocking(|| binaries::build(&[binaries::PLUGIN])).await??;
    let mut waiting = manifest::machine("waiting");
    waiting["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&manifest::machine("joined")).await?;
    case.apply(&waiting).await?;
    case.node_ready("joined").await?;
    case.condition("waiting", "WaitingForNode").await?;
    case.settled().await;
    let node = case.nodes().get("joined").await?.uid();

    let (code, said) = plugin::run(&case, &["hand-back"]).await?;
    ensure!(
        code == Some(1) && said.contains("stop it first"),
        "a controller leads: {said}"
    );
    case.bed.controller().terminate().await?;
    let (code, said) = plugin::run(&case, &["hand-back"]).await?;
    ensure!(code == Some(0) && said.contains("2 of 2"), "{said}");
    for (name, conditions) in [
        ("joined", json!([{"type": "Ready", "status": "True"}])),
        ("waiting", Value::Null),
    ] {
        let status = status(&case, name).await?;
        ensure!(types(&status["conditions"]) == types(&conditions), "{status:#}");
        ensure!(
            status["phase"].is_null() && status["failureMessage"].is_null(),
            "{status:#}"
        );
        ensure!(status["providerStatus"]["vmUID"].is_string(), "{status:#}");
    }
    ensure!(status(&case, "joined").await?["nodeRef"]["name"] == "joined");
    let (code, said) = plugin::run(&case, &["hand-back"]).await?;
    ensure!(code == Some(0) && said.contains("0 of 2"), "{said}");

    // As machine-controller does when the kubelet has joined; then once more.
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    case.machines()
        .patch("waiting", &PatchParams::default(), &Patch::Merge(&ready))
        .await?;
    case.bed.controller().start().await?;
    for name in ["joined", "waiting"] {
        let is_complete = |machine: &Machine| {
            let status = serde_json::to_value(&machine.status).unwrap_or_default();
            let types = types(&status["conditions"]);
            types.iter().filter(|kind| *kind == "Ready").count() == 1
                && types.iter().any(|kind| kind == "InfrastructureReady")
                && status["phase"].is_string()
        };
        wait::for_state(&case.machines(), name, "ours again", WAIT_TIMEOUT, is_complete).await?;
        ensure!(
            case.vm_history.uids(name).len() == 1,
            "one VM in the life of {name}"
        );
    }
    ensure!(case.nodes().get("joined").await?.uid() == node, "its Node stays");
    for name in ["joined", "waiting"] {
        case.delete_machine(name).await?;
    }
    case.finish(&[]).await
}

fn types(conditions: &Value) -> Vec<String> {
    let conditions = conditions.as_array().into_iter().flatten();
    let kinds = conditions.filter_map(|condition| condition["type"].as_str());
    kinds.map(str::to_owned).collect()
}

async fn status(case: &Case, name: &str) -> Result<Value> {
    let machine = case.kubectl(&["get", "machine", name, "--output=json"]).await?;
    let mut machine: Value = serde_json::from_str(&machine)?;
    Ok(machine["status"].take())
}
