//! Answers of admission reveal of Secrets, and through a credential, only what its holder may know.

use anyhow::{Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use e2e::{
    Case, infra, manifest,
    manifest::NAMESPACE,
    objects,
    preflight::{deployment, kubectl, located, patch, start},
};
use kube::{Api, api::PostParams, core::DynamicObject};
use serde_json::{Value, json};
use testbed::{bed::MACHINES, seed::INFRA_ACCOUNT};

const APPLY: [&str; 3] = ["apply", "-f", "-"];
const MISSING: &str = "there is no Secret of that name";

/// Admission has checked that the author may read the Secret that holds the kubeconfig.
#[tokio::test]
async fn a_missing_infra_secret_is_reported_to_an_author_who_may_read_the_kubeconfig() -> Result<()> {
    let case = start(&[]).await?;
    infra::allow_reading_secrets(&case).await?;
    let (taken, warning) = kubectl(&case, &APPLY, &downloading("asked")).await?;
    assert!(
        taken && warning.contains("dataVolumeSecretRef") && warning.contains(MISSING),
        "{warning}"
    );
    case.finish_without_controller(&[]).await
}

/// No right is checked: the author has the kubeconfig.
#[tokio::test]
async fn a_missing_infra_secret_is_reported_to_an_author_who_writes_the_kubeconfig() -> Result<()> {
    let case = start(&[]).await?;
    infra::allow_reading_secrets(&case).await?;
    let text = infra::kubeconfig_of(&case, INFRA_ACCOUNT, MACHINES).await?;
    let mut machine = downloading("inline");
    *infra::kubeconfig_in(&mut machine) = json!({"value": BASE64_STANDARD.encode(text)});
    let (taken, warning) = kubectl(&case, &APPLY, &machine).await?;
    assert!(taken && warning.contains(MISSING), "{warning}");
    case.finish_without_controller(&[]).await
}

/// The author's right to read the kubeconfig was not checked: an update checks only rights to new references.
#[tokio::test]
async fn a_missing_infra_secret_is_not_reported_to_the_author_of_an_update() -> Result<()> {
    let case = start(&[]).await?;
    infra::allow_reading_secrets(&case).await?;
    let mut pool = deployment("pool", &located("pool"));
    pool["spec"]["replicas"] = json!(0);
    case.apply(&pool).await?;
    let disk = json!({"dataVolumeSecretRef": "elsewhere"});
    let change = json!({"spec": {"template": {"spec": {"providerSpec": {"value": {"cloudProviderSpec": {
        "virtualMachine": {"template": {"primaryDisk": disk}},
    }}}}}}});
    let (taken, warning) = patch(&case, "pool", &change).await?;
    assert!(taken && !warning.contains(MISSING), "{warning}");
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn a_junk_token_learns_nothing_from_answers_to_a_valid_one() -> Result<()> {
    let case = start(&[]).await?;
    let text = infra::kubeconfig_of(&case, INFRA_ACCOUNT, MACHINES).await?;
    let mut machine = located("good");
    *infra::kubeconfig_in(&mut machine) = json!({"value": BASE64_STANDARD.encode(&text)});
    // All existing objects are cached now.
    manifest::virtual_machine(&mut machine)["instancetype"]["name"] = json!("standrad-2");
    let said = case.refused(&machine).await?;
    assert!(said.contains("did you mean \"standard-2\"?"), "{said}");

    let mut config: Value = serde_saphyr::from_str(&text)?;
    config["users"][0]["user"] = json!({"token": "junk"});
    *infra::kubeconfig_in(&mut machine) = json!({"value": BASE64_STANDARD.encode(config.to_string())});
    let said = case.refused(&machine).await?;
    assert!(
        said.contains("auth.kubeconfig: the infra cluster does not accept its credential"),
        "{said}"
    );
    for name in ["there is no", "did you mean", "sockets-advantage"] {
        assert!(!said.contains(name), "{name}: {said}");
    }
    // Nor does it learn of existing objects.
    manifest::virtual_machine(&mut machine)["instancetype"]["name"] = json!("standard-2");
    let said = case.refused(&machine).await?;
    assert!(said.contains("does not accept its credential"), "{said}");
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn values_behind_references_are_judged_each_by_its_field_and_not_shown() -> Result<()> {
    let case = start(&[]).await?;
    let values = [
        "memory=0",
        "size=0Gi",
        "image=ftp://images.example.com/u.img",
        "access=RWX",
    ];
    let literals = values.map(|value| format!("--from-literal={value}"));
    let create = ["create", "secret", "generic", "sizes", "--namespace", NAMESPACE];
    let create: Vec<&str> = create
        .into_iter()
        .chain(literals.iter().map(String::as_str))
        .collect();
    case.bed.user().kubectl_ok(&create, "").await?;

    let from = |key: &str| json!({"secretKeyRef": {"namespace": NAMESPACE, "name": "sizes", "key": key}});
    let mut machine = located("referring");
    let vm = manifest::virtual_machine(&mut machine);
    vm["instancetype"] = Value::Null;
    vm["preference"] = Value::Null;
    vm["template"]["cpus"] = json!("2");
    vm["template"]["memory"] = from("memory");
    let disk = &mut vm["template"]["primaryDisk"];
    disk["size"] = from("size");
    disk["osImage"] = from("image");
    disk["storageAccessType"] = from("access");
    disk["pullMethod"] = from("nothing");
    let said = case.refused(&machine).await?;
    let template = "cloudProviderSpec.virtualMachine.template";
    for field in [
        "memory",
        "primaryDisk.size",
        "primaryDisk.osImage",
        "primaryDisk.storageAccessType",
    ] {
        assert!(
            said.contains(&format!("{template}.{field}: key ")),
            "no {field} in {said}"
        );
    }
    assert!(
        said.contains("primaryDisk.pullMethod: cannot read key \"nothing\""),
        "{said}"
    );
    assert!(!said.contains("RWX") && !said.contains("ftp://"), "{said}");
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn a_secret_wins_over_a_config_map_and_that_over_the_value() -> Result<()> {
    let case = start(&[]).await?;
    values(&case, "secret", "memory=0").await?;
    values(&case, "configmap", "memory=-1Gi").await?;
    let behind = json!({"namespace": NAMESPACE, "name": "values", "key": "memory"});
    let mut memory = json!({"value": "4Gi", "configMapKeyRef": behind, "secretKeyRef": behind});
    for first in ["Secret", "ConfigMap"] {
        let said = case.refused(&sized(&memory)).await?;
        let rejection = format!("template.memory: key \"memory\" of {first} kube-system/values: ");
        assert!(said.contains(&rejection), "{first}: {said}");
        memory["secretKeyRef"] = Value::Null;
    }
    memory["configMapKeyRef"] = Value::Null;
    case.apply(&sized(&memory)).await?;
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn a_bad_boolean_behind_a_reference_is_refused() -> Result<()> {
    let case = start(&[]).await?;
    values(&case, "configmap", "queues=yes").await?;
    let mut machine = located("queueing");
    manifest::virtual_machine(&mut machine)["enableNetworkMultiQueue"] =
        json!({"configMapKeyRef": {"namespace": NAMESPACE, "name": "values", "key": "queues"}});
    let api =
        Api::<DynamicObject>::namespaced_with(case.bed.user().client(), NAMESPACE, &objects::ours("Machine"));
    let refused = api
        .create(&PostParams::default(), &serde_json::from_value(machine)?)
        .await;
    let Err(kube::Error::Api(status)) = refused else {
        bail!("not refused: {refused:?}");
    };
    let all = status.details.map(|details| details.causes).unwrap_or_default();
    let [only] = all.as_slice() else {
        bail!("not one cause: {all:?}");
    };
    assert_eq!(
        (only.reason.as_str(), only.field.as_str(), only.message.as_str()),
        (
            "FieldValueInvalid",
            "spec.providerSpec.value.cloudProviderSpec.virtualMachine.enableNetworkMultiQueue",
            "key \"queues\" of ConfigMap kube-system/values is not a boolean; write true or false"
        )
    );
    case.finish_without_controller(&[]).await
}

/// A Machine whose disk is downloaded with a Secret that the infra cluster does not have.
fn downloading(name: &str) -> Value {
    let mut machine = located(name);
    manifest::virtual_machine(&mut machine)["template"]["primaryDisk"]["dataVolumeSecretRef"] =
        json!("nowhere");
    machine
}

/// Creates the Secret or ConfigMap `values`.
async fn values(case: &Case, kind: &str, literal: &str) -> Result<()> {
    let kind = if kind == "secret" {
        vec!["secret", "generic"]
    } else {
        vec![kind]
    };
    let literal = format!("--from-literal={literal}");
    let create = [
        &["create"],
        &kind[..],
        &["values", "--namespace", NAMESPACE, &literal],
    ]
    .concat();
    case.bed.user().kubectl_ok(&create, "").await?;
    Ok(())
}

/// A Machine with that memory.
fn sized(memory: &Value) -> Value {
    let mut machine = located("sized");
    let vm = manifest::virtual_machine(&mut machine);
    vm["instancetype"] = Value::Null;
    vm["preference"] = Value::Null;
    vm["template"]["cpus"] = json!("2");
    vm["template"]["memory"] = memory.clone();
    machine
}
