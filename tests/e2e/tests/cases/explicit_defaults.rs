//! Manifests with explicit defaults, and with fields that belong to another Machine.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::case::WAIT_TIMEOUT;
use e2e::{Case, manifest, osm, preflight, rollout::deployment, wait};
use kube::{ResourceExt, api::ListParams};
use machinist_shared::api::names::annotation;
use machinist_shared::api::{Machine, MachineSet};
use serde_json::{Value, json};
use testbed::bed::Options;

const POOL: &str = "pool";

#[tokio::test]
async fn explicit_defaults_replace_no_machine() -> Result<()> {
    let case = Case::start().await?;
    let mut pool = deployment(POOL, 1);
    case.apply(&pool).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    let made = case.machine_uids().await?;

    let spec = &mut pool["spec"]["template"]["spec"];
    spec["versions"]["kubelet"] = json!("v1.36.3");
    let cloud = &mut spec["providerSpec"]["value"]["cloudProviderSpec"];
    cloud["topologySpreadConstraints"] = json!([{"maxSkew": "1", "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}]);
    cloud["affinity"] = json!({"nodeAffinityPreset": {"type": "", "key": "k"}});
    let vm = &mut cloud["virtualMachine"];
    vm["evictionStrategy"] = json!("External");
    vm["providerNetwork"] = json!({"name": "any"});
    vm["template"]["primaryDisk"]["storageTarget"] = json!("storage");
    vm["template"]["primaryDisk"]["pullMethod"] = json!("node");
    vm["template"]["primaryDisk"]["size"] = json!("20480Mi");
    case.apply(&pool).await?;
    let copied = |set: &MachineSet| {
        let template = serde_json::to_value(&set.spec.template).unwrap_or_default();
        template["spec"]["versions"]["kubelet"] == "v1.36.3"
    };
    wait::any(
        &case.machine_sets(),
        "given the template's bytes",
        WAIT_TIMEOUT,
        copied,
    )
    .await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    case.settled().await;
    assert_eq!(case.machine_uids().await?, made, "no Machine is another");
    assert_eq!(
        case.machine_sets()
            .list(&ListParams::default())
            .await?
            .items
            .len(),
        1
    );

    // A real difference still starts a rollout.
    pool["spec"]["template"]["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["virtualMachine"]["evictionStrategy"] =
        json!("LiveMigrate");
    case.apply(&pool).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    assert_ne!(case.machine_uids().await?, made, "another virtual machine");
    case.kubectl(&["delete", "md", POOL]).await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_copy_of_a_machine_is_refused_and_a_template_keeps_no_provider_id() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("first")).await?;
    case.node_ready("first").await?;
    let has_id = |machine: &Machine| machine.spec.provider_id.is_some();
    let first = wait::for_state(
        &case.machines(),
        "first",
        "given its providerID",
        WAIT_TIMEOUT,
        has_id,
    )
    .await?;
    let id = first.spec.provider_id.context("no providerID")?;

    let mut copy = manifest::machine("second");
    copy["spec"]["providerID"] = json!(id);
    let why = case.refused(&copy).await?;
    assert!(why.contains("spec.providerID"), "{why}");
    assert!(why.contains("is that of Machine kube-system/first"), "{why}");

    let mut pool = deployment(POOL, 1);
    pool["spec"]["template"]["spec"]["providerID"] = json!(id);
    let (taken, said) = preflight::kubectl(&case, &["apply", "-f", "-"], &pool).await?;
    assert!(
        taken && said.contains("spec.template.spec.providerID: removed"),
        "{said}"
    );
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    let stored = case
        .kubectl(&[
            "get",
            "md",
            POOL,
            "-o",
            "jsonpath={.spec.template.spec.providerID}",
        ])
        .await?;
    assert_eq!(stored, "");
    let ids: Vec<_> = case.machines().list(&ListParams::default()).await?.items;
    let ids: Vec<_> = ids
        .into_iter()
        .filter_map(|machine| machine.spec.provider_id)
        .collect();
    assert_eq!(ids.iter().filter(|other| **other == id).count(), 1, "{ids:?}");
    case.kubectl(&["delete", "md", POOL]).await?;
    case.delete_machine("first").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn new_pools_get_the_address_of_the_dns_service_and_older_ones_keep_theirs() -> Result<()> {
    let case = Case::start_alone(Options::default()).await?;
    // As in RKE2.
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "rke2-coredns-rke2-coredns"},
        "spec": {"clusterIP": "10.96.0.77", "ports": [{"name": "udp-53", "port": 53, "protocol": "UDP"}]},
    });
    case.kubectl(&["delete", "service", "kube-dns"]).await?;
    let system = ["--namespace", "kube-system", "apply", "-f", "-"];
    case.bed.user().kubectl_ok(&system, &service.to_string()).await?;
    case.bed.controller().kill();
    case.bed.controller().start().await?;

    case.apply(&deployment(POOL, 1)).await?;
    case.apply(&manifest::machine_set("set", 1)).await?;
    case.apply(&manifest::machine("alone")).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    case.node_ready("alone").await?;
    for machine in names(&case).await? {
        case.node_ready(&machine).await?;
        assert_eq!(dns(&case, &machine).await?, json!(["10.96.0.77"]), "{machine}");
    }

    // A pool of an older version is scaled without a change.
    let sets = case.machine_sets().list(&ListParams::default()).await?;
    let of_pool = sets
        .iter()
        .map(ResourceExt::name_any)
        .find(|name| name.starts_with(POOL));
    let of_pool = of_pool.context("no MachineSet")?;
    let before = names(&case).await?;
    case.kubectl(&[
        "annotate",
        "machineset",
        &of_pool,
        &format!("{}-", annotation::CLUSTER_DNS),
    ])
    .await?;
    case.kubectl(&["scale", "md", POOL, "--replicas=2"]).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    let mut grown = names(&case).await?;
    grown.retain(|name| !before.contains(name));
    let [machine] = &grown[..] else {
        anyhow::bail!("{grown:?} is not one Machine");
    };
    assert_eq!(dns(&case, machine).await?, json!(["10.96.0.10"]));
    case.kubectl(&["delete", "md,machineset,machine", "--all"])
        .await?;
    case.end().await
}

async fn names(case: &Case) -> Result<Vec<String>> {
    let machines = case.machines().list(&ListParams::default()).await?;
    Ok(machines.iter().map(ResourceExt::name_any).collect())
}

/// `clusterDNS` of the kubelet.
async fn dns(case: &Case, machine: &str) -> Result<Value> {
    let user_data = osm::given(case, machine).await?;
    let config: Value = serde_json::from_str(user_data.trim_start_matches("#cloud-config"))?;
    let mut files = config["write_files"].as_array().into_iter().flatten();
    let file = files.find(|file| file["path"] == "/etc/kubernetes/kubelet-config.yaml");
    let content = file
        .and_then(|file| file["content"].as_str())
        .context("no kubelet configuration")?;
    let kubelet: Value = serde_json::from_slice(&STANDARD.decode(content)?)?;
    Ok(kubelet["clusterDNS"].clone())
}
