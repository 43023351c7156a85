//! Objects of the infra cluster are checked at `kubectl apply`, so that the user sees a mistake then, and not an hour later
//! in a VM that does not start. Prints the latency of the answers.

use std::time::Instant;

use anyhow::Result;
use e2e::{
    Case, infra, manifest,
    manifest::NAMESPACE,
    preflight::{deployment, infra_requests, located, patch, print, start},
};
use machinist_shared::api::names::autoscaler::{CAPACITY, MAX_SIZE, MIN_SIZE};
use rstest::rstest;
use serde_json::{Value, json};
use testbed::bed::MACHINES;

const CLOUD: &str = "providerSpec.value.cloudProviderSpec";

#[tokio::test]
async fn a_missing_object_is_reported_with_existing_ones() -> Result<()> {
    let case = start(&[]).await?;
    let machine = misspelled();
    let refusal = refused(&case, &machine).await?;
    for text in [
        format!(
            "spec.{CLOUD}.virtualMachine.instancetype.name: \"standrad-2\": there is no VirtualMachineClusterInstancetype"
        ),
        "did you mean \"standard-2\"?".to_owned(),
        format!("spec.{CLOUD}.virtualMachine.preference.name: \"socket-advantage\""),
        "did you mean \"sockets-advantage\"?".to_owned(),
        format!("spec.{CLOUD}.virtualMachine.template.primaryDisk.storageClassName: \"standart\""),
        "did you mean \"standard\"?".to_owned(),
    ] {
        assert!(refusal.contains(&text), "no {text:?} in: {refusal}");
    }
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn objects_that_do_not_exist_are_reported_by_the_fields_of_a_deployments_template() -> Result<()> {
    let case = start(&[]).await?;
    let refusal = refused(&case, &deployment("pool", &misspelled())).await?;
    assert!(
        refusal.contains(&format!(
            "spec.template.spec.{CLOUD}.virtualMachine.instancetype.name"
        )),
        "{refusal}"
    );
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn a_preference_that_is_not_in_the_namespace_is_reported() -> Result<()> {
    let case = start(&[]).await?;
    let mut local = manifest::machine("local");
    manifest::virtual_machine(&mut local)["preference"] =
        json!({"name": "mine", "kind": "VirtualMachinePreference"});
    let refusal = refused(&case, &local).await?;
    let reported = format!(
        "spec.{CLOUD}.virtualMachine.preference.name: \"mine\": there is no VirtualMachinePreference"
    );
    assert!(refusal.contains(&reported), "{refusal}");
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn a_secret_for_the_kubeconfig_that_does_not_exist_is_reported() -> Result<()> {
    let case = start(&[]).await?;
    let mut machine = manifest::machine("unkeyed");
    let kubeconfig = &mut machine["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["auth"]["kubeconfig"];
    kubeconfig["secretKeyRef"]["name"] = json!("nowhere");
    let refusal = refused(&case, &machine).await?;
    assert!(refusal.contains(&format!("spec.{CLOUD}.auth.kubeconfig: cannot read key \"kubeconfig\" of Secret kube-system/nowhere: it does not exist")), "{refusal}");
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn a_claim_to_clone_that_does_not_exist_is_reported() -> Result<()> {
    let case = start(&[]).await?;
    let mut machine = manifest::machine("cloned");
    let disk = &mut manifest::virtual_machine(&mut machine)["template"]["primaryDisk"];
    disk["source"] = json!("pvc");
    disk["osImage"] = json!("golden");
    let refusal = refused(&case, &machine).await?;
    assert!(
        refusal.contains("\"golden\": there is no PersistentVolumeClaim of that name"),
        "{refusal}"
    );
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn an_exhausted_quota_is_a_warning() -> Result<()> {
    let case = start(&[]).await?;
    infra::quota(&case, "team", "requests.memory", "10Gi", "1Gi").await?;

    let mut wanted = deployment("pool", &manifest::machine("pool"));
    wanted["spec"]["replicas"] = json!(3);
    let output = case
        .bed
        .user()
        .kubectl(&["apply", "-f", "-"], &wanted.to_string())
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("ResourceQuota team") && said.contains("room for 2 of 3 more VMs"),
        "{said}"
    );
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn a_warm_admission_asks_infra_once_and_a_scaled_deployment_never() -> Result<()> {
    let case = start(&[]).await?;
    case.apply(&manifest::machine("first")).await?;
    print("The first admission", &infra_requests(&case));
    case.bed.infra().proxy().clear_requests();
    case.apply(&manifest::machine("second")).await?;
    let asked: Vec<_> = infra_requests(&case);
    print("The second", &asked);
    assert_eq!(asked, ["create virtualmachines"], "the dry-run alone");

    case.apply(&deployment("pool", &manifest::machine("pool")))
        .await?;
    case.bed.infra().proxy().clear_requests();
    case.bed
        .user()
        .kubectl_ok(
            &[
                "scale",
                "machinedeployment",
                "pool",
                "--replicas=5",
                "--namespace",
                NAMESPACE,
            ],
            "",
        )
        .await?;
    let label = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 6}});
    assert!(patch(&case, "pool", &label).await?.0);
    print("A deployment scaled, and labeled", &infra_requests(&case));
    assert_eq!(infra_requests(&case), Vec::<String>::new());
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn a_node_group_gets_the_capacity_of_its_instancetype() -> Result<()> {
    let case = start(&[]).await?;
    let mut group = deployment("group", &located("group"));
    group["spec"]["replicas"] = json!(0);
    group["metadata"]["annotations"] = json!({MIN_SIZE: "0", MAX_SIZE: "5"});
    let capacity = |stored: &Value| {
        let of = |key| stored["metadata"]["annotations"][format!("{CAPACITY}{key}")].clone();
        [of("cpu"), of("memory"), of("ephemeral-disk")]
    };
    let create = ["create", "-o", "json", "-f", "-"];
    let stored = case.bed.user().kubectl_ok(&create, &group.to_string()).await?;
    assert_eq!(
        capacity(&serde_json::from_str(&stored)?),
        [json!("2"), json!("4Gi"), json!("20Gi")]
    );

    // Once is enough.
    case.bed.infra().proxy().clear_requests();
    let larger = json!({"metadata": {"annotations": {MAX_SIZE: "6"}}});
    assert!(patch(&case, "group", &larger).await?.0);
    assert_eq!(infra_requests(&case), Vec::<String>::new());

    // An infra cluster that does not answer causes no refusal, and the stored capacity stays.
    case.bed.infra().proxy().black_hole(MACHINES);
    group["metadata"]["name"] = json!("later");
    let spec = &mut group["spec"]["template"]["spec"]["providerSpec"]["value"]["cloudProviderSpec"];
    spec["virtualMachine"]["instancetype"]["name"] = json!("never-asked-for");
    let output = case.bed.user().kubectl(&create, &group.to_string()).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("cpu]: is not known yet"), "{said}");
    let stored: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(capacity(&stored), [json!(null), json!(null), json!("20Gi")]);
    case.finish_without_controller(&[]).await
}

#[rstest]
#[case::as_a_warning("warn")]
#[case::as_a_refusal("refuse")]
#[tokio::test]
async fn an_unresponsive_infra_cluster_is_reported_in_time(#[case] mode: &str) -> Result<()> {
    let case = start(&[&format!("--infra-unreachable={mode}")]).await?;
    case.bed.infra().proxy().black_hole(MACHINES);
    let begun = Instant::now();
    let machine = located("patient");
    let output = case
        .bed
        .user()
        .kubectl(&["apply", "-f", "-"], &machine.to_string())
        .await?;
    let took = begun.elapsed();
    let answer = String::from_utf8_lossy(&output.stderr);
    println!("{mode}: answered after {:.1} s: {answer}", took.as_secs_f64());
    assert_eq!(output.status.success(), mode == "warn", "{answer}");
    assert!(
        answer.contains("the infra cluster could not be asked"),
        "{answer}"
    );
    case.finish_without_controller(&[]).await
}

/// A Machine with three misspelled names.
fn misspelled() -> Value {
    let mut machine = manifest::machine("hopeful");
    let vm = manifest::virtual_machine(&mut machine);
    vm["instancetype"]["name"] = json!("standrad-2");
    vm["preference"]["name"] = json!("socket-advantage");
    vm["template"]["primaryDisk"]["storageClassName"] = json!("standart");
    machine
}

async fn refused(case: &Case, object: &Value) -> Result<String> {
    let begun = Instant::now();
    let said = case.refused(object).await?;
    println!(
        "refused after {} ms, kubectl's start included",
        begun.elapsed().as_millis()
    );
    Ok(said)
}
