//! The lifecycle of a release, with a real Helm: a rollback undoes an upgrade, and CRDs and Machines stay when the chart is
//! uninstalled.

use anyhow::{Result, ensure};
use e2e::{
    Case,
    helm::{self, Helm},
    manifest,
};
use k8s_openapi::{
    api::apps::v1::Deployment,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, ResourceExt as _};
use serde_json::Value;
use testbed::bed::{Machinist, Options};

const NAMESPACE: &str = "machinist-system";
/// The pods of the chart do not run here, so no webhook answers for Machines.
const WITHOUT_WEBHOOK: &[&str] = &["--set", "webhook.failurePolicy=Ignore"];

#[tokio::test]
async fn crds_and_machines_survive_every_change_of_the_release() -> Result<()> {
    let case = Case::start_with(Options {
        machinist: Machinist::Absent,
        boot: None,
        ..Options::default()
    })
    .await?;
    let helm = Helm::of(case.bed.user());
    let chart = helm::chart();
    let release = [&["machinist", &*chart, "--namespace", NAMESPACE], WITHOUT_WEBHOOK].concat();

    let notes = helm
        .ok(&[&["install", "--create-namespace"], &*release].concat())
        .await?;
    println!("{notes}");
    for step in [
        "--set placement=anywhere",
        "rollout status deployment/machinist-webhook",
        "examples/infra-rbac.yaml",
    ] {
        assert!(
            notes.contains(step),
            "{step} is not among the next steps: {notes}"
        );
    }
    let first = ReleaseState::read(&case).await?;
    assert_eq!(first.definitions.len(), 3);
    case.apply(&manifest::machine("survivor")).await?;
    let machine = case.machines().get("survivor").await?.uid();

    let changed = [
        "--set",
        "controller.replicas=3",
        "--set",
        "controller.workerCount=7",
    ];
    helm.ok(&[&["upgrade"], &*release, &changed].concat()).await?;
    let second = ReleaseState::read(&case).await?;
    assert_eq!(second.replicas, Some(3));
    assert!(second.args.contains(&"--worker-count=7".to_owned()));
    assert_eq!(second.definitions, first.definitions, "upgraded in place");

    helm.ok(&["rollback", "machinist", "1", "--namespace", NAMESPACE])
        .await?;
    assert_eq!(ReleaseState::read(&case).await?, first);

    let said = helm
        .ok(&["uninstall", "machinist", "--namespace", NAMESPACE])
        .await?;
    ensure!(
        said.contains("machines.cluster.k8s.io"),
        "the remaining objects are not named: {said}"
    );
    assert_eq!(remains(&case, &helm).await?, Vec::<String>::new());
    assert_eq!(definitions(&case).await?, first.definitions);
    assert_eq!(case.machines().get("survivor").await?.uid(), machine);

    helm.ok(&[&["install"], &*release].concat()).await?;
    let last = ReleaseState::read(&case).await?;
    assert_eq!(last.definitions, first.definitions, "adopted again");
    assert_eq!((last.replicas, last.args), (first.replicas, first.args));
    assert_eq!(case.machines().get("survivor").await?.uid(), machine);

    case.machines()
        .delete("survivor", &kube::api::DeleteParams::default())
        .await?;
    case.finish(&[]).await
}

/// The objects of the release on the cluster.
#[derive(Debug, PartialEq, Eq)]
struct ReleaseState {
    replicas: Option<i32>,
    args: Vec<String>,
    /// Name and UID of each CRD.
    definitions: Vec<(String, Option<String>)>,
}

impl ReleaseState {
    async fn read(case: &Case) -> Result<Self> {
        let client = case.bed.user().client();
        let spec = Api::<Deployment>::namespaced(client, NAMESPACE)
            .get("machinist-controller")
            .await?
            .spec
            .unwrap_or_default();
        let containers = spec.template.spec.map(|pod| pod.containers).unwrap_or_default();
        Ok(Self {
            replicas: spec.replicas,
            args: containers
                .into_iter()
                .flat_map(|container| container.args.unwrap_or_default())
                .collect(),
            definitions: definitions(case).await?,
        })
    }
}

async fn definitions(case: &Case) -> Result<Vec<(String, Option<String>)>> {
    let all = Api::<CustomResourceDefinition>::all(case.bed.user().client())
        .list(&kube::api::ListParams::default())
        .await?;
    Ok(all
        .into_iter()
        .filter(|definition| definition.spec.group == "cluster.k8s.io")
        .map(|definition| (definition.name_any(), definition.uid()))
        .collect())
}

/// Rendered objects, without the CRDs, that still exist.
async fn remains(case: &Case, helm: &Helm) -> Result<Vec<String>> {
    let rendered: Vec<Value> = helm
        .render(NAMESPACE, WITHOUT_WEBHOOK)
        .await?
        .into_iter()
        .filter(|object| object["kind"] != "CustomResourceDefinition")
        .collect();
    ensure!(
        rendered.len() > 20,
        "only {} objects were rendered",
        rendered.len()
    );
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": rendered}).to_string();
    let found = case
        .bed
        .user()
        .kubectl_ok(&["get", "--ignore-not-found", "--output=name", "-f", "-"], &list)
        .await?;
    Ok(found.lines().map(str::to_owned).collect())
}
