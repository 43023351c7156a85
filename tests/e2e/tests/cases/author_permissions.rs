//! The author of a reference to a Secret needs the right to read it, because the controller reads it on the author's behalf.

use anyhow::{Context as _, Result};
use e2e::{Case, manifest, manifest::NAMESPACE};
use rstest::rstest;
use serde_json::{Value, json};
use testbed::bed::{Machinist, Options};

/// The refusal does not depend on whether the Secret exists.
#[rstest]
#[case::machine(machine("machine"), "spec")]
#[case::machine_set(templated("MachineSet", "set"), "spec.template.spec")]
#[case::machine_deployment(templated("MachineDeployment", "deployment"), "spec.template.spec")]
#[tokio::test]
async fn a_reference_to_a_secret_that_the_author_may_not_read_is_refused(
    #[case] object: Value,
    #[case] spec: &str,
) -> Result<()> {
    let case = Box::pin(start()).await?;
    let answer = as_jane(&case, "create", &object).await?.unwrap_or_default();
    let field = format!("{spec}.providerSpec.value.cloudProviderSpec.clusterName.secretKeyRef");
    assert!(answer.contains(&field), "{answer}");
    assert!(
        answer.contains("user \"jane\" cannot get Secret kube-system/treasure"),
        "{answer}"
    );
    assert!(!answer.contains("exist"), "{answer}");
    case.finish_without_controller(&[]).await
}

/// Another user, who may read the Secret, has created the deployment.
#[tokio::test]
async fn an_author_may_scale_a_deployment_with_a_reference_and_add_no_other_reference() -> Result<()> {
    let case = Box::pin(start()).await?;
    treasure(&case).await?;
    let mut deployment = templated("MachineDeployment", "shared");
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &deployment.to_string())
        .await?;
    deployment["spec"]["replicas"] = json!(3);
    assert_eq!(
        as_jane(&case, "replace", &deployment).await?,
        None,
        "she may scale it"
    );
    let spec = &mut deployment["spec"]["template"]["spec"]["providerSpec"]["value"]["cloudProviderSpec"];
    spec["projectID"] = spec["clusterName"].clone();
    let answer = as_jane(&case, "replace", &deployment).await?.unwrap_or_default();
    assert!(
        answer.contains("cloudProviderSpec.projectID.secretKeyRef"),
        "{answer}"
    );
    assert!(!answer.contains("clusterName"), "{answer}");
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn the_right_to_read_a_secret_allows_a_reference_and_the_bypass_annotation_does_not() -> Result<()> {
    let case = Box::pin(start()).await?;
    treasure(&case).await?;
    let mut machine = machine("machine");
    let reference = machine["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["clusterName"].take();
    machine["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["clusterName"] = json!("plain");
    assert_eq!(
        as_jane(&case, "create", &machine).await?,
        None,
        "without the reference she may"
    );
    machine["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["clusterName"] = reference;
    machine["metadata"]["annotations"] = json!({"kubermatic.io/bypass-no-spec-mutation-requirement": "true"});
    let answer = as_jane(&case, "replace", &machine).await?.unwrap_or_default();
    assert!(
        answer.contains("cannot get Secret kube-system/treasure"),
        "{answer}"
    );

    grant(
        &case,
        "read-treasure",
        &["--verb=get", "--resource=secrets", "--resource-name=treasure"],
    )
    .await?;
    assert_eq!(as_jane(&case, "replace", &machine).await?, None);
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn an_adopted_cluster_only_gets_warnings() -> Result<()> {
    let case = Case::start_with(Options {
        machinist: Machinist::Webhook,
        boot: None,
        webhook_args: vec!["--reference-access-check=warn".to_owned()],
        ..Options::default()
    })
    .await?;
    let_jane_write(&case).await?;
    let output = case
        .bed
        .user()
        .kubectl(
            &["create", "--as=jane", "-f", "-"],
            &machine("machine").to_string(),
        )
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("Warning: ") && said.contains("cannot get Secret"),
        "{said}"
    );
    case.finish_without_controller(&[]).await
}

/// The annotations for manual decisions override the ownership rules of VMs.
#[rstest]
#[case::of_a_machine(manifest::machine("machine"), "/metadata")]
#[case::of_a_template(templated("MachineDeployment", "deployment"), "/spec/template/metadata")]
#[tokio::test]
async fn annotations_for_manual_decisions_need_the_right_to_adopt(
    #[case] mut object: Value,
    #[case] metadata: &str,
    #[values("adopt-vm-uid", "abandon-vm-uid", "accept-infrastructure")] annotation: &str,
) -> Result<()> {
    let case = Box::pin(start()).await?;
    let spec = object.pointer_mut("/spec/template/spec").map(Value::take);
    if let Some(mut spec) = spec {
        spec["providerSpec"]["value"]["cloudProviderSpec"]["clusterName"] = json!("plain");
        object["spec"]["template"]["spec"] = spec;
    }
    let metadata = object.pointer_mut(metadata).context("no metadata")?;
    metadata["annotations"] = json!({format!("machinist.dev/{annotation}"): "some-uid"});
    let answer = as_jane(&case, "create", &object).await?.unwrap_or_default();
    assert!(
        answer.contains("may \"adopt\" machines.cluster.k8s.io"),
        "{answer}"
    );

    let adopt = ["--verb=adopt", "--resource=machines.cluster.k8s.io"];
    grant(&case, "adopt", &adopt).await?;
    assert_eq!(as_jane(&case, "create", &object).await?, None);
    case.finish_without_controller(&[]).await
}

async fn start() -> Result<Case> {
    let options = Options {
        machinist: Machinist::Webhook,
        boot: None,
        ..Options::default()
    };
    let case = Case::start_with(options).await?;
    let_jane_write(&case).await?;
    Ok(case)
}

/// The referenced Secret.
async fn treasure(case: &Case) -> Result<()> {
    let create = [
        "create",
        "secret",
        "generic",
        "treasure",
        "--namespace",
        NAMESPACE,
        "--from-literal=gold=nugget",
    ];
    case.bed.user().kubectl_ok(&create, "").await?;
    Ok(())
}

/// Jane may write Machines and read the kubeconfig's Secret, and nothing else.
async fn let_jane_write(case: &Case) -> Result<()> {
    let kinds =
        "--resource=machines.cluster.k8s.io,machinesets.cluster.k8s.io,machinedeployments.cluster.k8s.io";
    grant(case, "write-machines", &["--verb=get,create,update", kinds]).await?;
    let secret = format!("--resource-name={}", testbed::seed::INFRA_SECRET);
    grant(
        case,
        "read-kubeconfig",
        &["--verb=get", "--resource=secrets", &secret],
    )
    .await
}

async fn grant(case: &Case, name: &str, rights: &[&str]) -> Result<()> {
    let user = case.bed.user();
    let role = ["create", "role", name, "--namespace", NAMESPACE];
    user.kubectl_ok(&[&role[..], rights].concat(), "").await?;
    let role = format!("--role={name}");
    let binding = [
        "create",
        "rolebinding",
        name,
        "--namespace",
        NAMESPACE,
        "--user=jane",
        &role,
    ];
    user.kubectl_ok(&binding, "").await?;
    Ok(())
}

/// A Machine whose VM would get a Secret's content as a label.
fn machine(name: &str) -> Value {
    let mut machine = manifest::machine(name);
    machine["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["clusterName"] =
        json!({"secretKeyRef": {"namespace": NAMESPACE, "name": "treasure", "key": "gold"}});
    machine
}

fn templated(kind: &str, name: &str) -> Value {
    let labels = json!({"pool": name});
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": machine(name)["spec"]},
        },
    })
}

/// The refusal of the request as Jane; `None` if it succeeds.
async fn as_jane(case: &Case, verb: &str, object: &Value) -> Result<Option<String>> {
    let output = case
        .bed
        .user()
        .kubectl(&[verb, "--as=jane", "-f", "-"], &object.to_string())
        .await?;
    Ok((!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned()))
}
