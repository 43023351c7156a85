//! A cluster without `kube-public/cluster-info`, as managed clusters are: a condition of the Machine names what is missing, and
//! the Machine continues when it exists. With the API server's URL from a flag, kubelets get the CA that the controller uses.

use anyhow::Result;
use e2e::{Case, manifest};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};

const NAME: &str = "cluster-info";

#[tokio::test]
async fn missing_cluster_info_is_reported_or_replaced_by_a_flag() -> Result<()> {
    let case = Case::start().await?;
    let maps: Api<ConfigMap> = Api::namespaced(case.bed.user().client(), "kube-public");
    let published = maps.get(NAME).await?;
    maps.delete(NAME, &DeleteParams::default()).await?;
    case.bed.controller().terminate().await?;

    // The first controller has a flag with the API server's address for guests; this one does not. The Service of the API
    // server has no endpoints here, because loopback addresses are not allowed.
    let without_address = ["--override-bootstrap-kubelet-apiserver="];
    let controller = case
        .bed
        .new_controller("without-address", &without_address)
        .await?;
    controller.start().await?;
    case.apply(&manifest::machine("worker")).await?;
    let said = case.condition("worker", "BootstrapFailed").await?;
    let missing = "ConfigMap kube-public/cluster-info: it does not exist; and the Service default/kubernetes has no ready endpoint";
    assert!(said.contains(missing), "{said}");
    let published = ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            ..ObjectMeta::default()
        },
        ..published
    };
    maps.create(&PostParams::default(), &published).await?;
    case.node_ready("worker").await?;
    assert_eq!(case.vm_history.uids("worker").len(), 1);
    controller.terminate().await?;

    maps.delete(NAME, &DeleteParams::default()).await?;
    case.bed.controller().start().await?;
    case.apply(&manifest::machine("second")).await?;
    case.node_ready("second").await?;
    for name in ["worker", "second"] {
        case.delete_machine(name).await?;
    }
    case.finish(&[]).await
}
