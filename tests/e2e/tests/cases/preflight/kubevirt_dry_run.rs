//! Rejections of KubeVirt, found by a dry run of the VM's creation and reported by the fields of the Machine.

use anyhow::{Context as _, Result};
use e2e::{
    Case, manifest,
    preflight::{infra_requests, kubectl, start},
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
};
use serde_json::{Value, json};

const VALUE: &str = "spec.providerSpec.value";

#[tokio::test]
async fn a_requirement_of_the_preference_that_the_instancetype_does_not_meet() -> Result<()> {
    let case = start(&[]).await?;
    let preference = json!({
        "apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineClusterPreference",
        "metadata": {"name": "demanding"}, "spec": {"requirements": {"cpu": {"guest": 4}}},
    });
    case.bed
        .infra()
        .kubectl_ok(&["create", "-f", "-"], &preference.to_string())
        .await?;
    let mut machine = manifest::machine("small");
    manifest::virtual_machine(&mut machine)["preference"]["name"] = json!("demanding");
    let said = case.refused(&machine).await?;
    let rejection = format!("{VALUE}.cloudProviderSpec.virtualMachine.instancetype: KubeVirt rejects this");
    assert!(said.contains(&rejection), "{said}");
    assert!(said.contains("preference requires 4 vCPU"), "{said}");
    assert!(infra_requests(&case).contains(&"create virtualmachines".to_owned()));
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn ignition_where_its_gate_is_closed() -> Result<()> {
    let case = start(&[]).await?;
    let mut machine = manifest::machine("flatcar");
    machine["spec"]["providerSpec"]["value"]["operatingSystem"] = json!("flatcar");
    machine["spec"]["providerSpec"]["value"]["operatingSystemSpec"] = json!({});
    let said = case.refused(&machine).await?;
    let rejection = format!("{VALUE}.operatingSystem: KubeVirt rejects this");
    assert!(said.contains(&rejection), "{said}");
    assert!(said.contains("ExperimentalIgnitionSupport"), "{said}");

    // coreos-cloudinit reads it without the feature gate.
    machine["spec"]["providerSpec"]["value"]["operatingSystemSpec"]["provisioningUtility"] =
        json!("cloud-init");
    case.apply(&machine).await?;
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn an_unknown_field_is_a_warning_and_the_rest_is_validated() -> Result<()> {
    let case = start(&[]).await?;
    forget_field(&case, "evictionStrategy").await?;
    let mut machine = manifest::machine("modern");
    manifest::virtual_machine(&mut machine)["evictionStrategy"] = json!("LiveMigrate");
    let apply = ["apply", "--dry-run=server", "-f", "-"];
    let warned = |said: &str| {
        said.contains("the infra cluster's KubeVirt does not know a field of the VM")
            && said.contains("evictionStrategy")
    };
    // The API server serves a schema some moments after it was stored, and reports that nowhere.
    let mut said = String::new();
    for _ in 0..100 {
        let taken;
        (taken, said) = kubectl(&case, &apply, &machine).await?;
        assert!(taken, "{said}");
        if warned(&said) {
            break;
        }
    }
    assert!(warned(&said), "{said}");

    // Ignoring one field does not disable the other checks.
    machine["spec"]["providerSpec"]["value"]["operatingSystem"] = json!("flatcar");
    machine["spec"]["providerSpec"]["value"]["operatingSystemSpec"] = json!({});
    let said = case.refused(&machine).await?;
    assert!(
        said.contains("ExperimentalIgnitionSupport") && warned(&said),
        "{said}"
    );
    case.finish_without_controller(&[]).await
}

/// Removes this field of a VMI's spec from the infra cluster's schema, as an older KubeVirt has it.
async fn forget_field(case: &Case, field: &str) -> Result<()> {
    let crds: Api<DynamicObject> = Api::all_with(
        case.bed.infra().client(),
        &ApiResource::erase::<CustomResourceDefinition>(&()),
    );
    let name = "virtualmachines.kubevirt.io";
    let mut crd = crds.get(name).await?;
    let properties = "/schema/openAPIV3Schema/properties/spec/properties/template/properties/spec/properties";
    let versions = crd.data["spec"]["versions"]
        .as_array_mut()
        .context("no versions")?;
    for version in versions {
        let of_vmi = version.pointer_mut(properties).and_then(Value::as_object_mut);
        of_vmi
            .context("no schema")?
            .remove(field)
            .context("no such field")?;
    }
    let patch = Patch::Merge(json!({"spec": {"versions": crd.data["spec"]["versions"]}}));
    crds.patch(name, &PatchParams::default(), &patch).await?;
    Ok(())
}
