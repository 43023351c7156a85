//! Two controllers in one cluster, the second with its own name and release: each reconciles its Machines, and no set gets a
//! Machine too many.

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::{
    Case,
    case::WAIT_TIMEOUT,
    helm::{self, Helm},
    manifest, wait,
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use machinist_shared::api::{MachineSet, names::label};
use serde_json::{Value, json};
use testbed::{
    bed::{CONTROLLER, Options},
    seed::INFRA_NAMESPACE,
};

const GREEN: &str = "green";
const GREENS_NAMESPACE: &str = "machinist-green";
const GREENS_USER: &str = "system:serviceaccount:machinist-green:machinist-controller-green";
/// Longer than a controller takes to start with a new Machine.
const A_WHILE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn each_reconciles_its_own_machines_and_one_the_sets() -> Result<()> {
    let case = Case::start_with(Options {
        chart_values: json!({"otherControllers": [GREENS_USER]}),
        ..Options::default()
    })
    .await?;
    // The second release, as Helm installs it beside the first, without adopting objects.
    let helm = Helm::of(case.bed.user());
    let chart = helm::chart();
    let named = helm::file("ci/named-values.yaml");
    let infra = format!("infra.namespace={INFRA_NAMESPACE}");
    let install = ["install", GREEN, &*chart, "--namespace", GREENS_NAMESPACE];
    let values = ["--create-namespace", "--values", &*named, "--set", &*infra];
    helm.ok(&[&install[..], &values].concat()).await?;

    // Before its controller runs, its Machines are not reconciled.
    let mut hers = manifest::machine("hers");
    hers["metadata"]["labels"] = json!({label::CONTROLLER_NAME: GREEN});
    case.apply(&hers).await?;
    case.apply(&manifest::machine("ours")).await?;
    case.node_ready("ours").await?;
    tokio::time::sleep(A_WHILE).await;
    let untouched = case.machines().get("hers").await?;
    assert!(untouched.finalizers().is_empty() && untouched.status.is_none());

    let server = case.bed.user().proxy().listen_as(GREEN)?;
    let kubeconfig = case
        .bed
        .user()
        .service_account_kubeconfig(GREENS_NAMESPACE, "machinist-controller-green", &server)
        .await?;
    let path = case.bed.dir().join("of-green.kubeconfig");
    std::fs::write(&path, kubeconfig)?;
    let mut args = args(&case, &helm).await?;
    args.push(format!("--kubeconfig={}", path.display()));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let green = case.bed.new_controller("green-controller", &args).await?;
    green.launch()?;
    case.node_ready("hers").await?;

    // Both lead, each with its own Lease.
    let leases: Api<Lease> = Api::namespaced(case.bed.user().client(), "kube-system");
    let holder = async |name: &str| -> Result<String> {
        let spec = leases.get(name).await?.spec.unwrap_or_default();
        spec.holder_identity.context("it has no holder")
    };
    assert_ne!(
        holder("machine-controller").await?,
        holder("machine-controller-green").await?
    );

    // A set whose Machines belong to the second controller: the first creates exactly as many as the set requests.
    let mut set = manifest::machine_set("greens", 2);
    set["spec"]["template"]["metadata"]["labels"][label::CONTROLLER_NAME] = json!(GREEN);
    case.apply(&set).await?;
    let sets: Api<MachineSet> = Api::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    let available = |set: &MachineSet| {
        let status = set.status.as_ref();
        status.is_some_and(|status| status.available_replicas == Some(2))
    };
    wait::for_state(&sets, "greens", "available", WAIT_TIMEOUT, available).await?;
    let of_set = ListParams::default().labels("set=greens");
    assert_eq!(case.machines().list(&of_set).await?.items.len(), 2);

    // The second continues with its Machines while the first is stopped; their sets stay unchanged.
    case.bed.controller().terminate().await?;
    case.delete_machine("hers").await?;
    assert_eq!(case.machines().list(&of_set).await?.items.len(), 2);
    // It adopts a Machine whose label changes, with the same VM, until its deletion.
    let relabeled = Patch::Merge(json!({"metadata": {"labels": {label::CONTROLLER_NAME: GREEN}}}));
    case.machines()
        .patch("ours", &PatchParams::default(), &relabeled)
        .await?;
    tokio::time::sleep(A_WHILE).await;
    let kept = case.machines().get("ours").await?;
    assert!(kept.status.is_some_and(|status| status.node_ref.is_some()));
    case.delete_machine("ours").await?;
    assert_eq!(case.vm_history.uids("ours").len(), 1);
    case.bed.controller().start().await?;

    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    sets.patch("greens", &PatchParams::default(), &none).await?;
    let gone = |set: &MachineSet| {
        set.status
            .as_ref()
            .is_some_and(|status| status.replicas == Some(0))
    };
    wait::for_state(&sets, "greens", "empty", WAIT_TIMEOUT, gone).await?;
    for machine in case.machines().list(&of_set).await?.items {
        wait::for_absence(&case.machines(), &machine.name_any(), WAIT_TIMEOUT).await?;
    }
    sets.delete("greens", &kube::api::DeleteParams::default()).await?;
    green.terminate().await?;
    assert_eq!(writes_about_sets(&case, GREEN), Vec::<String>::new());
    // The other controller does write them; otherwise this would check nothing.
    assert!(!writes_about_sets(&case, CONTROLLER).is_empty());
    case.finish(&[]).await
}

/// Writes and attempted writes of a controller that only the controller of the sets may do.
fn writes_about_sets(case: &Case, client: &str) -> Vec<String> {
    let requests = case.bed.user().proxy().requests_of(client);
    let writes = requests.iter().map(|request| &request.target).filter(|target| {
        let makes_machines = target.resource == "machines" && target.verb == "create";
        let of_sets = ["machinesets", "machinedeployments"].contains(&&*target.resource);
        makes_machines || (of_sets && target.is_write())
    });
    writes.map(|target| format!("{target:?}")).collect()
}

/// The arguments of the second controller, as its Deployment has them.
async fn args(case: &Case, helm: &Helm) -> Result<Vec<String>> {
    let named = helm::file("ci/named-values.yaml");
    let objects = helm
        .render(GREENS_NAMESPACE, &["--values", &named])
        .await
        .with_context(|| format!("rendering for {}", case.bed.dir().display()))?;
    let deployment = objects
        .iter()
        .find(|object| object["kind"] == "Deployment")
        .context("there is no Deployment")?;
    let args = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array();
    let args = args.into_iter().flatten().filter_map(Value::as_str);
    Ok(args
        .filter(|arg| {
            ["--name=", "--leader-election-lease=", "--machine-sets="]
                .iter()
                .any(|flag| arg.starts_with(flag))
        })
        .map(str::to_owned)
        .collect())
}
