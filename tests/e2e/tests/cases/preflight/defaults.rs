//! Defaults that admission reads from the infra cluster: region and zone of a Node from the StorageClass of its disk, and
//! the kind of an existing instancetype.

use anyhow::Result;
use e2e::{
    Case, manifest,
    manifest::NAMESPACE,
    preflight::{deployment, infra_requests, kubectl, located, patch, print, start},
};
use machinist_shared::api::names::label;
use serde_json::{Value, json};
use testbed::bed::MACHINES;

const APPLY: [&str; 3] = ["apply", "-f", "-"];
const ZONE: &str = "north-1";

#[tokio::test]
async fn a_nodes_zone_comes_from_its_storage_class_and_no_update_changes_it() -> Result<()> {
    let case = start(&[]).await?;
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "zoned"},
        "provisioner": "simulated.csi.kubevirt.io",
        "allowedTopologies": [{"matchLabelExpressions": [{"key": label::ZONE, "values": [ZONE]}]}],
    });
    case.bed
        .infra()
        .kubectl_ok(&["create", "-f", "-"], &class.to_string())
        .await?;
    let mut machine = manifest::machine("zoned");
    let disk = &mut manifest::virtual_machine(&mut machine)["template"]["primaryDisk"];
    disk["storageClassName"] = json!("zoned");
    disk["storageAccessType"] = json!("ReadWriteOnce");
    case.apply(&machine).await?;
    let stored = stored(&case, "machine", "zoned").await?;
    assert_eq!(stored["spec"]["metadata"]["labels"][label::ZONE], ZONE);

    let pool = deployment("zoned", &machine);
    case.apply(&pool).await?;
    let labels = async || {
        let stored = self::stored(&case, "machinedeployment", "zoned").await?;
        anyhow::Ok(stored["spec"]["template"]["spec"]["metadata"]["labels"].clone())
    };
    assert_eq!(labels().await?[label::ZONE], ZONE);

    // The manifest again, as a whole, and with another label: the zone is copied without a request to the infra cluster.
    case.bed.infra().proxy().clear_requests();
    let mut replaced = pool.clone();
    replaced["spec"]["template"]["spec"]["metadata"]["labels"]["rack"] = json!("1");
    for manifest in [&pool, &replaced] {
        let (taken, said) = kubectl(&case, &["replace", "-f", "-"], manifest).await?;
        assert!(taken, "{said}");
        assert_eq!(labels().await?[label::ZONE], ZONE);
    }
    print("Updates of what is on the Node only", &infra_requests(&case));
    assert_eq!(infra_requests(&case), Vec::<String>::new());

    // A zone that the author sets is kept.
    let other = json!({"spec": {"template": {"spec": {"metadata": {"labels": {label::ZONE: "north-2"}}}}}});
    assert!(patch(&case, "zoned", &other).await?.0);
    assert_eq!(labels().await?[label::ZONE], "north-2");

    // While the infra cluster does not answer, a pool without a zone is refused, because it would never get one. A pool with
    // a location is admitted.
    case.bed.infra().proxy().black_hole(MACHINES);
    let (taken, said) = kubectl(&case, &APPLY, &deployment("later", &manifest::machine("later"))).await?;
    assert!(!taken, "{said}");
    assert!(
        said.contains("the region and zone of its disks are unknown"),
        "{said}"
    );
    // A change of the StorageClass is refused as well: the stored zone is not that of the new class.
    let other = |vm: Value| json!({"spec": {"template": {"spec": {"providerSpec": {"value": {"cloudProviderSpec": {"virtualMachine": vm}}}}}}});
    let class = json!({"primaryDisk": {"storageClassName": "standard"}});
    let (taken, said) = patch(&case, "zoned", &other(json!({"template": class}))).await?;
    assert!(!taken, "{said}");
    assert!(
        said.contains("the region and zone of its disks are unknown"),
        "{said}"
    );
    let south = json!({"region": "south", "zone": "south-1"});
    let (taken, said) = patch(
        &case,
        "zoned",
        &other(json!({"template": class, "location": south})),
    )
    .await?;
    assert!(taken, "{said}");
    assert_eq!(labels().await?[label::ZONE], "south-1");
    let (taken, said) = kubectl(&case, &APPLY, &deployment("later", &located("later"))).await?;
    assert!(taken, "{said}");
    assert!(said.contains("the infra cluster could not be asked"), "{said}");
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn an_instancetype_of_the_other_kind_is_used_with_a_warning() -> Result<()> {
    let case = start(&[]).await?;
    let mut machine = manifest::machine("mistaken");
    manifest::virtual_machine(&mut machine)["instancetype"]["kind"] = json!("virtualmachineinstancetypes");
    let (taken, said) = kubectl(&case, &APPLY, &machine).await?;
    assert!(taken, "{said}");
    let warning = "there is no VirtualMachineInstancetype \"standard-2\" on the infra cluster; the \
                   VirtualMachineClusterInstancetype of that name is used";
    assert!(said.contains(warning), "{said}");
    case.finish_without_controller(&[]).await
}

async fn stored(case: &Case, kind: &str, name: &str) -> Result<Value> {
    let get = ["get", kind, name, "--namespace", NAMESPACE, "-o", "json"];
    Ok(serde_json::from_str(
        &case.bed.user().kubectl_ok(&get, "").await?,
    )?)
}
