//! A Machine, end to end: applied, joined, deleted, with every request of the controller counted.

use std::time::Duration;

use anyhow::Result;
use e2e::{Case, budget, manifest, wait};
use kube::ResourceExt as _;
use serde_json::json;
use testbed::bed::Options;

/// Requests of one standalone Machine from `kubectl apply` to its Node, and from `kubectl delete` to its removal. Twelve
/// create it, and one approves the serving certificate of its kubelet. Its Node's pods are listed once for the drain, and
/// watched from then on.
const CREATE_BUDGET: usize = 13;
const DELETE_BUDGET: usize = 8 + 1;

#[tokio::test]
async fn a_machine_becomes_a_node_within_its_budget_and_leaves_nothing() -> Result<()> {
    let case = warmed_up().await?;
    budget::forget(&case.bed);
    let mut worker = manifest::machine("worker-1");
    worker["spec"]["versions"]["kubelet"] = "1.35.2".into();
    case.apply(&worker).await?;
    let machine = case.node_ready("worker-1").await?;
    case.settled().await;
    let created = budget::Ledger::of_controller(&case.bed);
    println!("From apply to Node:\n{}", created.table());
    // A write too many usually shows in an Event.
    let events = ["get", "events", "--namespace", manifest::NAMESPACE];
    println!("{}", case.bed.user().kubectl_ok(&events, "").await?);

    let approvals = created
        .entries
        .iter()
        .filter(|(_, request)| request.target.subresource == "approval");
    assert_eq!(
        approvals.count(),
        2,
        "a client and a serving certificate:\n{}",
        created.table()
    );

    // The Node has what the Machine's spec requests.
    let node = case.nodes().get("worker-1").await?;
    assert_eq!(node.labels().get("pool").map(String::as_str), Some("workers"));
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    assert!(
        taints
            .iter()
            .any(|taint| taint.key == "dedicated" && taint.effect == "NoSchedule"),
        "{taints:?}"
    );
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    assert_eq!(info.map(|info| info.kubelet_version.as_str()), Some("v1.35.2"));
    let provider_id = node.spec.as_ref().and_then(|spec| spec.provider_id.clone());
    assert!(provider_id.is_some(), "the Node has no providerID");
    assert_eq!(
        machine.spec.provider_id, provider_id,
        "the Machine and its Node are known by one providerID"
    );
    assert_eq!(
        node.annotations()
            .get("cluster.k8s.io/machine")
            .map(String::as_str),
        Some("kube-system/worker-1")
    );

    budget::forget(&case.bed);
    case.delete_machine("worker-1").await?;
    case.settled().await;
    let deleted = budget::Ledger::of_controller(&case.bed);
    println!("From delete to nothing:\n{}", deleted.table());
    wait::for_absence(&case.nodes(), "worker-1", e2e::case::WAIT_TIMEOUT).await?;

    assert_eq!(
        [
            created.asked("list"),
            created.asked("get"),
            created.asked("watch")
        ],
        [const { Vec::<String>::new() }; 3],
        "reads in the steady state:\n{}",
        created.table()
    );
    let drained = vec!["pods /".to_owned()];
    assert_eq!(
        [
            deleted.asked("list"),
            deleted.asked("get"),
            deleted.asked("watch")
        ],
        [drained.clone(), Vec::new(), drained],
        "reads in the steady state:\n{}",
        deleted.table()
    );
    assert!(
        created.total() <= CREATE_BUDGET,
        "over budget:\n{}",
        created.table()
    );
    assert!(
        deleted.total() <= DELETE_BUDGET,
        "over budget:\n{}",
        deleted.table()
    );
    assert!(takes_user_data_back(&deleted), "{}", deleted.table());
    assert_eq!(
        case.vm_history.uids("worker-1").len(),
        1,
        "one VM in a Machine's life"
    );

    case.delete_machine("worker-0").await?;
    case.finish(&[]).await
}

/// Whether the user data is deleted and the deletion is recorded.
fn takes_user_data_back(deleted: &budget::Ledger) -> bool {
    let asked = deleted.asked("delete");
    let ours = |asked: &&String| asked.starts_with("secrets machinist-infra/userdata-");
    asked.iter().filter(ours).count() == 1
}

/// The new reference is listed and watched, and nothing else.
#[tokio::test]
async fn a_new_reference_of_a_machine_costs_one_list_and_one_watch() -> Result<()> {
    let case = warmed_up().await?;
    let names = [
        "create",
        "configmap",
        "names",
        "--namespace",
        manifest::NAMESPACE,
        "--from-literal=cluster=north",
    ];
    case.bed.user().kubectl_ok(&names, "").await?;
    let mut worker = manifest::machine("worker-1");
    worker["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["clusterName"] =
        json!({"configMapKeyRef": {"namespace": manifest::NAMESPACE, "name": "names", "key": "cluster"}});
    budget::forget(&case.bed);
    case.apply(&worker).await?;
    case.node_ready("worker-1").await?;
    case.settled().await;
    let referring = budget::Ledger::of_controller(&case.bed);
    let names = vec!["configmaps kube-system/names".to_owned()];
    assert_eq!(
        [
            referring.asked("list"),
            referring.asked("get"),
            referring.asked("watch")
        ],
        [names.clone(), Vec::new(), names],
        "reads of one new reference:\n{}",
        referring.table()
    );
    case.delete_machine("worker-1").await?;
    case.delete_machine("worker-0").await?;
    case.finish(&[]).await
}

/// A case with the Machine `worker-0`: the first one opens the infra cluster and the referenced Secret.
async fn warmed_up() -> Result<Case> {
    let case = Case::start_with(Options {
        // The default settings of users: the test counts how often progress is written.
        progress_report_interval: Duration::from_secs(3),
        ..Options::default()
    })
    .await?;
    case.apply(&manifest::machine("worker-0")).await?;
    case.node_ready("worker-0").await?;
    case.settled().await;
    Ok(case)
}
