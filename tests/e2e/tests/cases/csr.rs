//! Certificates of kubelets through the real signers of kube-controller-manager, whose own approver runs: what an honest
//! kubelet asks for is issued, and what a forger asks for is not.

use anyhow::Result;
use e2e::{
    Case,
    case::PATIENCE,
    certificates::{self, Ask, dns, ip, subject},
    infra, manifest, wait,
};
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{Node, Secret},
    rbac::v1::{ClusterRole, PolicyRule},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use machinist_shared::names::condition;
use rcgen::{CustomExtension, DnType, SanType};
use serde_json::json;
use testbed::proxy::Request;

/// What becomes of a forged request.
#[derive(Debug, Clone, Copy)]
enum End {
    /// It is not approved, and an Event on the Machine says why.
    Told(&'static str),
    /// It is nobody's whom we know, so it is not approved and nothing is said.
    Silent,
    /// The API server does not even take it.
    NotTaken,
}

struct Forged {
    what: &'static str,
    ask: Ask,
    end: End,
}

/// Changes an honest request into a forged one.
fn forged(what: &'static str, mut ask: Ask, end: End, change: impl FnOnce(&mut Ask)) -> Forged {
    change(&mut ask);
    Forged { what, ask, end }
}

fn to_be_a_ca(ask: &mut Ask) {
    let flag = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x03, 0x01, 0x01, 0xff]);
    ask.params.custom_extensions.push(flag);
}

fn two_organizations(ask: &mut Ask) {
    let organization = DnType::CustomDnType(vec![2, 5, 4, 10]);
    ask.params.distinguished_name.push(organization, "system:masters");
}

/// By the node `honest` itself, which could want to pass for others.
fn by_the_node(own: &str, victims: &str) -> Vec<Forged> {
    use End::{NotTaken, Silent, Told};
    let forged =
        |what, end, change: &dyn Fn(&mut Ask)| forged(what, Ask::serving("honest", own), end, change);
    let san = |san: SanType| move |ask: &mut Ask| ask.params.subject_alt_names.push(san.clone());
    vec![
        forged("another node's name", Told("DNS name"), &san(dns("victim"))),
        forged(
            "the API server's name",
            Told("DNS name"),
            &san(dns("kubernetes.default.svc")),
        ),
        forged(
            "the address of another Machine",
            Told("not the VM's"),
            &san(ip(victims)),
        ),
        forged("loopback", Told("not the VM's"), &san(ip("127.0.0.1"))),
        forged("a URI", Told("URI"), &san(certificates::uri("spiffe://honest"))),
        forged(
            "an e-mail address",
            Told("e-mail"),
            &san(certificates::email("a@b.example")),
        ),
        forged("no name at all", Told("neither"), &|ask| {
            ask.params.subject_alt_names.clear();
        }),
        forged("both usages", Told("usages"), &|ask| {
            ask.usages(&["digital signature", "server auth", "client auth"]);
        }),
        forged("no server auth", Told("usages"), &|ask| {
            ask.usages(&["digital signature"]);
        }),
        forged("to be a CA", Told("2.5.29.19"), &to_be_a_ca),
        forged(
            "another organization, too",
            Told("two organizations"),
            &two_organizations,
        ),
        forged("a certificate for ten years", Told("a year"), &|ask| {
            ask.spec.expiration_seconds = Some(10 * 31_536_000);
        }),
        forged("another PEM block, too", Told("PEM"), &|ask| {
            ask.pem = |pem| format!("{pem}{pem}");
        }),
        forged("with bytes after the end", Told("PEM"), &|ask| {
            ask.pem = |pem| format!("{pem}trailing");
        }),
        forged("the whole certificate of another node", NotTaken, &|ask| {
            ask.params.distinguished_name = subject("system:nodes", "system:node:victim");
        }),
        forged("of the signer for API clients", Silent, &|ask| {
            "kubernetes.io/kube-apiserver-client".clone_into(&mut ask.spec.signer_name);
            ask.usages(&["digital signature", "client auth"]);
        }),
    ]
}

/// With the bootstrap token of Machine `waiting`.
fn by_the_token() -> Vec<Forged> {
    use End::{Silent, Told};
    let forged = |what, end, change: &dyn Fn(&mut Ask)| forged(what, Ask::client("waiting"), end, change);
    vec![
        forged(
            "the client certificate of another Machine",
            Told("bound to Machine waiting"),
            &|ask| {
                ask.params.distinguished_name = subject("system:nodes", "system:node:victim");
            },
        ),
        forged(
            "the client certificate of a master",
            Told("organization"),
            &|ask| {
                ask.params.distinguished_name = subject("system:cluster-admins", "system:node:waiting");
            },
        ),
        forged(
            "an organization more",
            Told("two organizations"),
            &two_organizations,
        ),
        forged("a name in a client certificate", Told("2.5.29.17"), &|ask| {
            ask.params.subject_alt_names.push(dns("kubernetes"));
        }),
        forged("a CA that signs clients", Told("2.5.29.19"), &to_be_a_ca),
        forged("a client certificate that serves", Told("usages"), &|ask| {
            ask.usages(&["digital signature", "client auth", "server auth"]);
        }),
        forged("two requests in one", Told("PEM"), &|ask| {
            ask.pem = |pem| format!("{pem}{pem}");
        }),
        forged("a client certificate for ten years", Told("a year"), &|ask| {
            ask.spec.expiration_seconds = Some(10 * 31_536_000);
        }),
        forged("a serving certificate with a token", Silent, &|ask| {
            *ask = Ask::serving("waiting", "10.200.0.1");
        }),
    ]
}

#[tokio::test]
async fn no_forged_request_is_approved_and_each_honest_one_is_issued() -> Result<()> {
    let case = Case::start().await?;
    for name in ["honest", "victim"] {
        case.apply(&manifest::machine(name)).await?;
    }
    let mut waiting = manifest::machine("waiting");
    waiting["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&waiting).await?;
    for name in ["honest", "victim"] {
        case.node_ready(name).await?;
    }
    case.condition("waiting", "WaitingForNode").await?;
    let (own, victims) = (address(&case, "honest").await?, address(&case, "victim").await?);
    let node = certificates::kubelet_of(&case, "honest").await?;
    let token = certificates::holder_of_token(&case, "waiting").await?;
    let ungrouped = certificates::impersonating(
        &case,
        "system:node:honest",
        &["system:masters", "system:authenticated"],
    )
    .await?;
    let admin = case.bed.user().client();

    let mut forgeries: Vec<(&Client, Forged)> = Vec::new();
    forgeries.extend(
        by_the_node(&own, &victims)
            .into_iter()
            .map(|forged| (&node, forged)),
    );
    forgeries.extend(by_the_token().into_iter().map(|forged| (&token, forged)));
    let honest = || Ask::serving("honest", &own);
    forgeries.push((
        &ungrouped,
        forged(
            "in the node's name without its group",
            honest(),
            End::Told("group system:nodes"),
            |_| {},
        ),
    ));
    forgeries.push((&admin, forged("by an admin", honest(), End::Silent, |_| {})));
    assert!(forgeries.len() >= 15);
    let mut pending = Vec::new();
    for (who, Forged { what, ask, end }) in &forgeries {
        match (ask.post(who).await, end) {
            (Err(kube::Error::Api(status)), End::NotTaken) => {
                println!("{what}: not taken: {}", status.message);
            }
            (Ok(name), End::NotTaken) => anyhow::bail!("{what}: {name} was taken"),
            (Ok(name), end) => {
                println!("{what}: {name}");
                pending.push((*what, name, *end));
            }
            (Err(error), _) => anyhow::bail!("{what}: {error}"),
        }
    }

    let refused = |machine: &machinist_shared::api::Machine| {
        infra::said(machine, condition::SERVING_CERTIFICATE).reason == "CertificateRefused"
    };
    wait::for_state(
        &case.machines(),
        "honest",
        "refused a certificate",
        PATIENCE,
        refused,
    )
    .await?;

    // Whoever looks at requests has passed over the forged ones by the time that these are issued.
    for (who, ask) in honest_requests(&own) {
        let who = if who == "honest" { &node } else { &token };
        let name = ask.post(who).await?;
        let issued = certificates::issued(&case, &name).await?;
        assert_eq!(reasons(&issued), ["MachinistApproved"]);
    }
    // Its own renewal is not ours to approve, and is approved nevertheless.
    let renewal = Ask::client("honest").post(&node).await?;
    let renewed = certificates::issued(&case, &renewal).await?;
    assert_eq!(reasons(&renewed), ["AutoApproved"]);
    for (what, name, end) in &pending {
        if let End::Told(why) = end {
            certificates::told(&case, name, why).await?;
        }
        let request = certificates::requests(&case).get(name).await?;
        assert_eq!(reasons(&request), [""; 0], "{what}");
        assert!(!certificates::is_issued(&request), "{what}");
    }
    what_came_before_is_forgotten(&case, &node, &own).await?;
    for (_, name, _) in &pending {
        certificates::requests(&case)
            .delete(name, &DeleteParams::default())
            .await?;
    }
    for name in ["honest", "victim", "waiting"] {
        case.delete_machine(name).await?;
    }
    case.finish(&[]).await
}

/// What a kubelet asked for before it got what it asked for last is forgotten; creation times are whole seconds.
async fn what_came_before_is_forgotten(case: &Case, node: &Client, own: &str) -> Result<()> {
    let is_quiet = |machine: &machinist_shared::api::Machine| {
        infra::said(machine, condition::SERVING_CERTIFICATE) == infra::Said::default()
    };
    let asks_again = async {
        loop {
            let name = Ask::serving("honest", own).post(node).await?;
            certificates::issued(case, &name).await?;
            if is_quiet(&case.machines().get("honest").await?) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, asks_again).await?
}

/// What kubelets ask for, by who asks.
fn honest_requests(own: &str) -> Vec<(&'static str, Ask)> {
    let serving = || Ask::serving("honest", own);
    let mut by_rsa = serving();
    by_rsa.usages(&["key encipherment", "digital signature", "server auth"]);
    let mut by_name = serving();
    by_name.params.subject_alt_names = vec![dns("honest")];
    let mut by_address = serving();
    by_address.params.subject_alt_names = vec![ip(own)];
    let mut for_a_day = serving();
    for_a_day.spec.expiration_seconds = Some(86_400);
    let mut client_by_rsa = Ask::client("waiting");
    client_by_rsa.usages(&["key encipherment", "digital signature", "client auth"]);
    vec![
        ("honest", serving()),
        ("honest", by_rsa),
        ("honest", by_name),
        ("honest", by_address),
        ("honest", for_a_day),
        ("waiting", Ask::client("waiting")),
        ("waiting", client_by_rsa),
    ]
}

/// Requests that are sound when they are made, and not any more when they are judged.
#[tokio::test]
async fn what_is_not_true_any_more_when_a_request_is_judged_is_not_approved() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("denied")).await?;
    for name in ["expired", "deleted"] {
        let mut machine = manifest::machine(name);
        machine["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
        case.apply(&machine).await?;
    }
    case.node_ready("denied").await?;
    case.condition("expired", "WaitingForNode").await?;
    case.condition("deleted", "WaitingForNode").await?;
    let own = address(&case, "denied").await?;
    let node = certificates::kubelet_of(&case, "denied").await?;
    let (expired, deleted) = (
        certificates::holder_of_token(&case, "expired").await?,
        certificates::holder_of_token(&case, "deleted").await?,
    );
    case.settled().await;
    case.bed.controller().terminate().await?;

    let denied = Ask::serving("denied", &own).post(&node).await?;
    case.bed
        .user()
        .kubectl_ok(&["certificate", "deny", &denied], "")
        .await?;
    let too_late = Ask::client("expired").post(&expired).await?;
    let token = certificates::token_of(&case, "expired").await?;
    let secrets = Api::<Secret>::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    let past = json!({"stringData": {"expiration": "2020-01-01T00:00:00Z"}});
    secrets
        .patch(&token.name_any(), &PatchParams::default(), &Patch::Merge(past))
        .await?;
    let outlived = Ask::client("deleted").post(&deleted).await?;
    case.begin_deletion("deleted").await?;
    // The API server itself knows a token for ten seconds after it has expired.
    let later_still = Ask::client("expired").post(&expired).await.ok();

    case.bed.controller().start().await?;
    wait::for_absence(&case.machines(), "deleted", PATIENCE).await?;
    case.condition("expired", "BootstrapTokenExpired").await?;
    // Asked for after all of them.
    let sentinel = Ask::serving("denied", &own).post(&node).await?;
    certificates::issued(&case, &sentinel).await?;
    for name in [&denied, &too_late, &outlived].into_iter().chain(&later_still) {
        let request = certificates::requests(&case).get(name).await?;
        assert!(!certificates::is_approved(&request), "{name}: {request:?}");
        certificates::requests(&case)
            .delete(name, &DeleteParams::default())
            .await?;
    }
    for name in ["denied", "expired"] {
        case.delete_machine(name).await?;
    }
    case.finish(&[]).await
}

/// A request of a Node whose VM's address another Node claims is held until that one is gone.
#[tokio::test]
async fn an_address_that_another_node_has_is_nobodys() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("worker")).await?;
    case.node_ready("worker").await?;
    let own = address(&case, "worker").await?;
    let kubelet = certificates::kubelet_of(&case, "worker").await?;
    let other = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cp-1"}});
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &other.to_string())
        .await?;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": own}]}});
    Api::<Node>::all(case.bed.user().client())
        .patch_status("cp-1", &PatchParams::default(), &Patch::Merge(status))
        .await?;
    let request = Ask::serving("worker", &own).post(&kubelet).await?;
    certificates::told(&case, &request, "Node cp-1 has, too").await?;
    case.nodes().delete("cp-1", &DeleteParams::default()).await?;
    certificates::issued(&case, &request).await?;
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

/// A guest agent may claim any address; one that Services get is no node's.
#[tokio::test]
async fn an_address_from_a_range_of_services_is_no_nodes() -> Result<()> {
    let case = Case::start().await?;
    case.bed.controller().terminate().await?;
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "vms"},
        "spec": {"cidrs": ["10.200.0.0/16"]}});
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &range.to_string())
        .await?;
    // The ranges are read when it begins to lead.
    case.bed.controller().start().await?;
    case.apply(&manifest::machine("worker")).await?;
    let message = case.condition("worker", "CertificateRefused").await?;
    assert!(
        message.contains("which the range of Services 10.200.0.0/16 has, too"),
        "{message}"
    );
    case.delete_machine("worker").await?;
    let of_node = |request: &CertificateSigningRequest| request.spec.signer_name == certificates::SERVING;
    for request in certificates::requests(&case).list(&ListParams::default()).await? {
        if of_node(&request) {
            assert!(!certificates::is_approved(&request), "{request:?}");
            certificates::requests(&case)
                .delete(&request.name_any(), &DeleteParams::default())
                .await?;
        }
    }
    case.finish(&[]).await
}

/// Nothing tells of an approval that failed for the moment: it is tried again by itself.
#[tokio::test]
async fn a_client_request_whose_approval_failed_is_approved_as_soon_as_it_can_be() -> Result<()> {
    let case = Case::start().await?;
    let mut waiting = manifest::machine("waiting");
    waiting["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&waiting).await?;
    case.condition("waiting", "WaitingForNode").await?;
    let token = certificates::holder_of_token(&case, "waiting").await?;
    let roles = Api::<ClusterRole>::all(case.bed.user().client());
    let role = roles.get("machinist-controller").await?;
    let granting = |rules: &Option<Vec<PolicyRule>>| Patch::Merge(json!({"rules": rules}));
    let mut fewer = role.rules.clone();
    if let Some(rules) = &mut fewer {
        rules.retain(|rule| rule.verbs != ["approve"]);
    }
    let patch = PatchParams::default();
    roles
        .patch("machinist-controller", &patch, &granting(&fewer))
        .await?;

    // The API server learns of a change of rights by a watch of its own; until then, it lets requests be approved.
    let refused = loop {
        let name = Ask::client("waiting").post(&token).await?;
        let refusal = |request: &Request| {
            request.status == 403 && request.target.subresource == "approval" && request.target.name == name
        };
        tokio::select! {
            issued = certificates::issued(&case, &name) => drop(issued?),
            _ = case.bed.user().proxy().seen(refusal) => break name,
        }
    };
    roles
        .patch("machinist-controller", &patch, &granting(&role.rules))
        .await?;
    certificates::issued(&case, &refused).await?;
    case.delete_machine("waiting").await?;
    case.finish(&[]).await
}

/// The address by which the infra cluster knows a Machine's VM.
async fn address(case: &Case, machine: &str) -> Result<String> {
    let machine = case.machines().get(machine).await?;
    let status = serde_json::to_value(&machine.status)?;
    let address = status["addresses"][0]["address"].as_str();
    Ok(address.unwrap_or_default().to_owned())
}

/// Of all conditions.
fn reasons(request: &CertificateSigningRequest) -> Vec<&str> {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .filter_map(|condition| condition.reason.as_deref())
        .collect()
}
