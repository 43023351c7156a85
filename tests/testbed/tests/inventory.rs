//! A bed is restored to its inventory: new objects are deleted, changed or deleted ones are written back, and objects that cannot
//! be replaced are reported.

use anyhow::Result;
use testbed::{
    Testbed,
    bed::{Machinist, Options},
    inventory::Inventory,
};

/// Held by a finalizer that no controller removes.
const NEW: &str = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new","namespace":"default",
  "finalizers":["example.com/holds"]}}"#;

#[tokio::test]
async fn a_bed_is_restored_to_its_inventory() -> Result<()> {
    let bed = Testbed::start(Options {
        machinist: Machinist::Chart,
        boot: None,
        ..Options::default()
    })
    .await?;
    let before = Inventory::take(&bed).await?;
    let user = bed.user();
    user.kubectl_ok(&["create", "-f", "-"], NEW).await?;
    user.kubectl_ok(&["delete", "storageclass", "standard"], "")
        .await?;
    let role = ["kube-public", "cluster-info"];
    let verbs = r#"[{"op": "replace", "path": "/rules/0/verbs", "value": ["list"]}]"#;
    let patch = [
        "patch",
        "role",
        role[1],
        "--namespace",
        role[0],
        "--type=json",
        "-p",
        verbs,
    ];
    user.kubectl_ok(&patch, "").await?;

    assert_eq!(before.restore(&bed).await?, Vec::<String>::new());
    let gone = user
        .kubectl(&["get", "configmap", "new", "--namespace", "default"], "")
        .await?;
    assert!(!gone.status.success(), "what is new is deleted");
    user.kubectl_ok(&["get", "storageclass", "standard"], "").await?;
    let get = [
        "get",
        "role",
        role[1],
        "--namespace",
        role[0],
        "-o",
        "jsonpath={.rules[0].verbs}",
    ];
    assert_eq!(user.kubectl_ok(&get, "").await?, r#"["get"]"#);

    // Its successor has another UID, which tokens contain.
    let account = [
        "delete",
        "serviceaccount",
        "machinist-controller",
        "--namespace",
        "machinist-system",
    ];
    user.kubectl_ok(&account, "").await?;
    let left = before.restore(&bed).await?;
    assert!(
        left.iter().any(|left| left.contains("machinist-controller")),
        "{left:?}"
    );
    bed.shut_down().await
}
