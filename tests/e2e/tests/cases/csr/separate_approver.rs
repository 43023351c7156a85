//! First client certificates, approved by a process with its own ServiceAccount: the controller creates bootstrap tokens and
//! cannot approve their requests; the approver approves and cannot create tokens.

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Case,
    case::WAIT_TIMEOUT,
    certificates::{self, Ask},
    helm::Helm,
    manifest, wait,
};
use k8s_openapi::api::{
    certificates::v1::{
        CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
    },
    core::v1::{Node, Secret},
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use machinist_shared::api::Machine;
use serde_json::{Value, json};
use testbed::{
    Server,
    bed::{Options, SYSTEM_NAMESPACE},
    binaries::CONTROLLER,
};

use super::reasons;

const APPROVER: &str = "machinist-approver";

#[tokio::test]
async fn the_approver_approves_what_the_controller_cannot() -> Result<()> {
    let case = Case::start_with(Options {
        chart_values: json!({"approver": {"separate": true}}),
        controller_args: vec!["--client-csr-approver=elsewhere".to_owned()],
        ..Options::default()
    })
    .await?;
    case.apply(&manifest::machine("patient")).await?;
    let requests = certificates::requests(&case);
    wait::any(&requests, "first request", WAIT_TIMEOUT, is_for_a_client).await?;
    let mut pending = requests.list(&ListParams::default()).await?.items;
    pending.retain(is_for_a_client);
    let first = pending.pop().context("no request")?;
    ensure!(!certificates::is_approved(&first), "it is approved");

    // RBAC forbids it, and with the right granted, the policy forbids it.
    let controller = holder(&case, CONTROLLER).await?;
    let refused = approve(&controller, &first).await?;
    assert!(
        refused.contains("signer") || refused.contains("forbidden"),
        "{refused}"
    );
    let user = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{CONTROLLER}");
    let mighty = certificates::impersonating(&case, &user, &["system:masters"]).await?;
    let refused = approve(&mighty, &first).await?;
    assert!(refused.contains("machinist-approvals"), "{refused}");

    let (one, other) = (approver(&case, "one").await?, approver(&case, "other").await?);
    one.start().await?;
    case.node_ready("patient").await?;
    let issued = certificates::issued(&case, &first.name_any()).await?;
    assert_eq!(reasons(&issued), ["MachinistApproved"]);

    // Its decisions are those of the controller.
    let mut waiting = manifest::machine("waiting");
    waiting["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&waiting).await?;
    case.condition("waiting", "WaitingForNode").await?;
    let token = certificates::holder_of_token(&case, "waiting").await?;
    for node in ["patient", "unknown"] {
        let request = Ask::client(node).post(&token).await?;
        certificates::wait_for_event(&case, &request, node).await?;
    }
    // A standby takes over.
    other.start().await?;
    one.terminate().await?;
    let request = Ask::client("waiting").post(&token).await?;
    let issued = certificates::issued(&case, &request).await?;
    assert_eq!(reasons(&issued), ["MachinistApproved"]);

    its_token_does_nothing_else(&case).await?;
    for name in ["patient", "waiting"] {
        case.delete_machine(name).await?;
    }
    other.terminate().await?;
    case.finish(&[]).await
}

/// The approver's token reads no Secrets, changes neither Machines nor Nodes, and approves no serving certificate.
async fn its_token_does_nothing_else(case: &Case) -> Result<()> {
    let user = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{APPROVER}");
    let group = format!("system:serviceaccounts:{SYSTEM_NAMESPACE}");
    let client = certificates::impersonating(case, &user, &[&group, "system:authenticated"]).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    let list = secrets.list(&ListParams::default()).await;
    assert!(is_forbidden(&list), "{list:?}");
    let token = secrets.create(&PostParams::default(), &Secret::default()).await;
    assert!(is_forbidden(&token), "{token:?}");
    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let nodes: Api<Node> = Api::all(client.clone());
    let node = nodes.patch("patient", &PatchParams::default(), &label).await;
    assert!(is_forbidden(&node), "{node:?}");
    let machines: Api<Machine> = Api::namespaced(client.clone(), manifest::NAMESPACE);
    let machine = machines.patch("patient", &PatchParams::default(), &label).await;
    assert!(is_forbidden(&machine), "{machine:?}");

    // A request with the address of another node, which the controller does not approve.
    let node = certificates::kubelet_of(case, "patient").await?;
    let request = Ask::serving("patient", "192.0.2.9").post(&node).await?;
    let request = certificates::requests(case).get(&request).await?;
    let refused = approve(&client, &request).await?;
    assert!(
        refused.contains("signer") || refused.contains("forbidden"),
        "{refused}"
    );
    let mighty = certificates::impersonating(case, &user, &["system:masters"]).await?;
    let refused = approve(&mighty, &request).await?;
    assert!(refused.contains("machinist-approvals"), "{refused}");
    Ok(())
}

fn is_for_a_client(request: &CertificateSigningRequest) -> bool {
    request.spec.signer_name == certificates::CLIENT
}

fn is_forbidden<T>(answer: &Result<T, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code == 403)
}

/// Tries to approve a request, and returns the refusal.
async fn approve(client: &Client, request: &CertificateSigningRequest) -> Result<String> {
    let mut approved = request.clone();
    approved.status = Some(CertificateSigningRequestStatus {
        conditions: Some(vec![CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some("Stolen".to_owned()),
            ..CertificateSigningRequestCondition::default()
        }]),
        ..CertificateSigningRequestStatus::default()
    });
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let answer = api
        .replace_subresource("approval", &request.name_any(), &PostParams::default(), &approved)
        .await;
    match answer {
        Err(kube::Error::Api(status)) => Ok(status.message.clone()),
        answer => anyhow::bail!("not refused: {answer:?}"),
    }
}

/// A client with the token of a ServiceAccount of the chart.
async fn holder(case: &Case, account: &str) -> Result<Client> {
    let user = case.bed.user();
    let text = user
        .service_account_kubeconfig(SYSTEM_NAMESPACE, account, user.server())
        .await?;
    let kubeconfig = Kubeconfig::from_yaml(&text)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// An approver with the arguments of its Deployment, not started.
async fn approver(case: &Case, name: &str) -> Result<Server> {
    let client = format!("approver-{name}");
    let server = case.bed.user().proxy().listen_as(&client)?;
    let kubeconfig = case
        .bed
        .user()
        .service_account_kubeconfig(SYSTEM_NAMESPACE, APPROVER, &server)
        .await?;
    let path = case.bed.dir().join(format!("of-{client}.kubeconfig"));
    std::fs::write(&path, kubeconfig)?;
    let mut args = args().await?;
    args.push(format!("--kubeconfig={}", path.display()));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    case.bed.new_controller(&client, &args).await
}

/// The arguments that make a controller the approver.
async fn args() -> Result<Vec<String>> {
    let helm = Helm::alone().await?;
    let objects = helm
        .render(SYSTEM_NAMESPACE, &["--set=approver.separate=true"])
        .await?;
    let deployment = objects
        .iter()
        .find(|object| object["kind"] == "Deployment" && object["metadata"]["name"] == APPROVER)
        .context("there is no Deployment of the approver")?;
    let args = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array();
    let args = args.into_iter().flatten().filter_map(Value::as_str);
    Ok(args
        .filter(|arg| {
            ["--client-csr-approver=", "--leader-election-"]
                .iter()
                .any(|flag| arg.starts_with(flag))
        })
        .map(str::to_owned)
        .collect())
}
