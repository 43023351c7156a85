//! Facts of the infra cluster in the rendered VM: headers of a Secret, access modes of a StorageProfile, the kind of an
//! instancetype that the credential may not read.

use anyhow::Result;
use e2e::{Case, infra, manifest, preflight::kubectl};
use serde_json::{Value, json};
use testbed::{
    bed::{Machinist, Options},
    seed::{INFRA_CLUSTER_ROLE, INFRA_NAMESPACE},
};

#[tokio::test]
async fn headers_and_access_modes_are_read_and_rotated_headers_are_seen() -> Result<()> {
    let case = Case::start_with(Options {
        controller_args: vec!["--infra-facts-ttl=10ms".into()],
        ..Options::default()
    })
    .await?;
    let infra = case.bed.infra();
    let headers = |token: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "headers", "namespace": INFRA_NAMESPACE},
            "stringData": {"x-team": "a\n", "authorization": token},
        })
        .to_string()
    };
    infra
        .kubectl_ok(&["apply", "-f", "-"], &headers("Bearer first"))
        .await?;
    infra::allow_reading_secrets(&case).await?;

    let wanting = |name: &str| {
        let mut machine = manifest::machine(name);
        let disk = &mut manifest::virtual_machine(&mut machine)["template"]["primaryDisk"];
        disk["extraHeadersSecretRef"] = json!("headers");
        machine
    };
    case.apply(&wanting("first")).await?;
    case.node_ready("first").await?;
    let disk = primary_disk(&case, "first").await?;
    assert_eq!(
        disk["source"]["http"]["extraHeaders"],
        json!(["authorization: Bearer first", "x-team: a"]),
        "sorted by name, without the newline at the end"
    );
    assert_eq!(disk["storage"]["accessModes"], json!(["ReadWriteMany"]));

    infra
        .kubectl_ok(&["apply", "-f", "-"], &headers("Bearer second"))
        .await?;
    case.apply(&wanting("second")).await?;
    case.node_ready("second").await?;
    let disk = primary_disk(&case, "second").await?;
    assert_eq!(
        disk["source"]["http"]["extraHeaders"][0],
        "authorization: Bearer second"
    );

    for name in ["first", "second"] {
        case.delete_machine(name).await?;
    }
    case.finish(&["Secret/headers"]).await
}

#[tokio::test]
async fn the_kind_of_an_unreadable_instancetype_is_used_as_written() -> Result<()> {
    let case = Case::start().await?;
    let infra = case.bed.infra();
    let rules = json!([{"op": "test", "path": "/rules/3/apiGroups/0", "value": "instancetype.kubevirt.io"}, {"op": "remove", "path": "/rules/3"}]);
    let patch = [
        "patch",
        "clusterrole",
        INFRA_CLUSTER_ROLE,
        "--type=json",
        "--patch",
        &rules.to_string(),
    ];
    infra.refuses(&[
        "virtualmachineclusterinstancetypes.instancetype.kubevirt.io",
        "virtualmachineclusterpreferences.instancetype.kubevirt.io",
    ])?;
    infra.kubectl_ok(&patch, "").await?;
    case.apply(&manifest::machine("trusting")).await?;
    case.node_ready("trusting").await?;
    let vm = case.vms().get("trusting").await?;
    assert_eq!(
        vm.data["spec"]["instancetype"]["kind"],
        "VirtualMachineClusterInstancetype"
    );
    case.delete_machine("trusting").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_storage_class_without_a_profile_is_reported() -> Result<()> {
    // Without a simulator: CDI creates the profile of a class as soon as it sees the class.
    let case = Case::start_with(Options {
        machinist: Machinist::Webhook,
        boot: None,
        ..Options::default()
    })
    .await?;
    let infra = case.bed.infra();
    let bare = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "bare"},
        "provisioner": "unknown.example.com",
    });
    infra
        .kubectl_ok(&["create", "-f", "-"], &bare.to_string())
        .await?;
    let mut machine = manifest::machine("profiled");
    manifest::virtual_machine(&mut machine)["template"]["secondaryDisks"] =
        json!([{"size": "1Gi", "storageClassName": "standard"}, {"size": "1Gi", "storageClassName": "bare"}]);
    let (taken, said) = kubectl(&case, &["apply", "-f", "-"], &machine).await?;
    let expected =
        "virtualMachine.template.secondaryDisks[1].storageClassName: StorageProfile bare does not exist";
    assert!(!taken && said.contains(expected), "{said}");
    case.finish_without_controller(&[]).await
}

async fn primary_disk(case: &Case, name: &str) -> Result<Value> {
    let vm = case.vms().get(name).await?;
    Ok(vm.data["spec"]["dataVolumeTemplates"][0]["spec"].clone())
}
