//! Forged requests: none of them is approved.

use anyhow::{Result, bail};
use e2e::{
    Case,
    case::WAIT_TIMEOUT,
    certificates::{self, Ask, dns, ip, subject},
    infra, manifest, wait,
};
use kube::{Client, api::DeleteParams};
use machinist_shared::api::{Machine, names::condition};
use rcgen::{CustomExtension, DnType, SanType};
use serde_json::json;

use super::{address, reasons};

/// The result of a forged request.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// It is not approved, and an Event on the Machine says why.
    Reported(&'static str),
    /// Its requester has no Machine, so it is not approved and not reported.
    Silent,
    /// The API server rejects it.
    Rejected,
}

struct Forged {
    what: &'static str,
    ask: Ask,
    end: Outcome,
}

/// Changes a valid request into a forged one.
fn forged(what: &'static str, mut ask: Ask, end: Outcome, change: impl FnOnce(&mut Ask)) -> Forged {
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

/// By the node `honest`, which tries to impersonate others.
fn by_the_node(own: &str, victims: &str) -> Vec<Forged> {
    use Outcome::{Rejected, Reported, Silent};
    let forged =
        |what, end, change: &dyn Fn(&mut Ask)| forged(what, Ask::serving("honest", own), end, change);
    let san = |san: SanType| move |ask: &mut Ask| ask.params.subject_alt_names.push(san.clone());
    vec![
        forged("another node's name", Reported("DNS name"), &san(dns("victim"))),
        forged(
            "the API server's name",
            Reported("DNS name"),
            &san(dns("kubernetes.default.svc")),
        ),
        forged(
            "the address of another Machine",
            Reported("not the VM's"),
            &san(ip(victims)),
        ),
        forged("loopback", Reported("not the VM's"), &san(ip("127.0.0.1"))),
        forged(
            "a URI",
            Reported("URI"),
            &san(certificates::uri("spiffe://honest")),
        ),
        forged(
            "an e-mail address",
            Reported("e-mail"),
            &san(certificates::email("a@b.example")),
        ),
        forged("no name at all", Reported("neither"), &|ask| {
            ask.params.subject_alt_names.clear();
        }),
        forged("both usages", Reported("usages"), &|ask| {
            ask.usages(&["digital signature", "server auth", "client auth"]);
        }),
        forged("no server auth", Reported("usages"), &|ask| {
            ask.usages(&["digital signature"]);
        }),
        forged("to be a CA", Reported("2.5.29.19"), &to_be_a_ca),
        forged(
            "another organization, too",
            Reported("two organizations"),
            &two_organizations,
        ),
        forged("a certificate for ten years", Reported("a year"), &|ask| {
            ask.spec.expiration_seconds = Some(10 * 31_536_000);
        }),
        forged("another PEM block, too", Reported("PEM"), &|ask| {
            ask.pem = |pem| format!("{pem}{pem}");
        }),
        forged("with bytes after the end", Reported("PEM"), &|ask| {
            ask.pem = |pem| format!("{pem}trailing");
        }),
        forged("the whole certificate of another node", Rejected, &|ask| {
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
    use Outcome::{Reported, Silent};
    let forged = |what, end, change: &dyn Fn(&mut Ask)| forged(what, Ask::client("waiting"), end, change);
    vec![
        forged(
            "the client certificate of another Machine",
            Reported("bound to Machine waiting"),
            &|ask| {
                ask.params.distinguished_name = subject("system:nodes", "system:node:victim");
            },
        ),
        forged(
            "the client certificate of a master",
            Reported("organization"),
            &|ask| {
                ask.params.distinguished_name = subject("system:cluster-admins", "system:node:waiting");
            },
        ),
        forged(
            "an organization more",
            Reported("two organizations"),
            &two_organizations,
        ),
        forged("a name in a client certificate", Reported("2.5.29.17"), &|ask| {
            ask.params.subject_alt_names.push(dns("kubernetes"));
        }),
        forged("a CA that signs clients", Reported("2.5.29.19"), &to_be_a_ca),
        forged("a client certificate that serves", Reported("usages"), &|ask| {
            ask.usages(&["digital signature", "client auth", "server auth"]);
        }),
        forged("two requests in one", Reported("PEM"), &|ask| {
            ask.pem = |pem| format!("{pem}{pem}");
        }),
        forged("a client certificate for ten years", Reported("a year"), &|ask| {
            ask.spec.expiration_seconds = Some(10 * 31_536_000);
        }),
        forged("a serving certificate with a token", Silent, &|ask| {
            *ask = Ask::serving("waiting", "10.200.0.1");
        }),
    ]
}

#[tokio::test]
async fn no_forged_request_in_a_nodes_name_is_approved() -> Result<()> {
    let case = Case::start().await?;
    for name in ["honest", "victim"] {
        case.apply(&manifest::machine(name)).await?;
    }
    for name in ["honest", "victim"] {
        case.node_ready(name).await?;
    }
    let (own, victims) = (address(&case, "honest").await?, address(&case, "victim").await?);
    let node = certificates::kubelet_of(&case, "honest").await?;
    let ungrouped = certificates::impersonating(
        &case,
        "system:node:honest",
        &["system:masters", "system:authenticated"],
    )
    .await?;
    let admin = case.bed.user().client();
    let honest = || Ask::serving("honest", &own);
    let mut forgeries: Vec<(&Client, Forged)> = Vec::new();
    forgeries.extend(
        by_the_node(&own, &victims)
            .into_iter()
            .map(|forged| (&node, forged)),
    );
    forgeries.push((
        &ungrouped,
        forged(
            "in the node's name without its group",
            honest(),
            Outcome::Reported("group system:nodes"),
            |_| {},
        ),
    ));
    forgeries.push((&admin, forged("by an admin", honest(), Outcome::Silent, |_| {})));
    assert!(forgeries.len() >= 15);
    let pending = post(&forgeries).await?;

    let refused = |machine: &Machine| {
        infra::condition_of(machine, condition::SERVING_CERTIFICATE).reason == "CertificateRefused"
    };
    wait::for_state(
        &case.machines(),
        "honest",
        "refused a certificate",
        WAIT_TIMEOUT,
        refused,
    )
    .await?;
    are_not_approved(&case, &pending, (honest(), &node)).await?;
    earlier_refusals_are_forgotten(&case, &node, &own).await?;
    delete(&case, &pending).await?;
    for name in ["honest", "victim"] {
        case.delete_machine(name).await?;
    }
    case.finish(&[]).await
}

#[tokio::test]
async fn no_forged_request_with_a_bootstrap_token_is_approved() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("victim")).await?;
    let mut waiting = manifest::machine("waiting");
    waiting["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&waiting).await?;
    case.node_ready("victim").await?;
    case.condition("waiting", "WaitingForNode").await?;
    let token = certificates::holder_of_token(&case, "waiting").await?;
    let forgeries: Vec<_> = by_the_token()
        .into_iter()
        .map(|forged| (&token, forged))
        .collect();
    let pending = post(&forgeries).await?;
    are_not_approved(&case, &pending, (Ask::client("waiting"), &token)).await?;
    delete(&case, &pending).await?;
    for name in ["victim", "waiting"] {
        case.delete_machine(name).await?;
    }
    case.finish(&[]).await
}

/// A forged request that the API server has accepted.
struct Pending {
    what: &'static str,
    name: String,
    end: Outcome,
}

/// Creates the requests, and returns those that the API server has accepted.
async fn post(forgeries: &[(&Client, Forged)]) -> Result<Vec<Pending>> {
    let mut pending = Vec::new();
    for (client, Forged { what, ask, end }) in forgeries {
        match (ask.post(client).await, end) {
            (Err(kube::Error::Api(status)), Outcome::Rejected) => {
                println!("{what}: rejected: {}", status.message);
            }
            (Ok(name), Outcome::Rejected) => bail!("{what}: {name} was taken"),
            (Ok(name), &end) => {
                println!("{what}: {name}");
                pending.push(Pending { what, name, end });
            }
            (Err(error), _) => bail!("{what}: {error}"),
        }
    }
    Ok(pending)
}

/// Fails if a request is approved, or not reported as it should be. Both approvers have seen all of them once they have
/// approved later requests: Machinist's the `honest` one, and kube-controller-manager's a renewal.
async fn are_not_approved(case: &Case, pending: &[Pending], honest: (Ask, &Client)) -> Result<()> {
    let (ask, client) = honest;
    let last = ask.post(client).await?;
    let issued = certificates::issued(case, &last).await?;
    assert_eq!(reasons(&issued), ["MachinistApproved"]);
    let victim = certificates::kubelet_of(case, "victim").await?;
    let renewal = Ask::client("victim").post(&victim).await?;
    let renewed = certificates::issued(case, &renewal).await?;
    assert_eq!(reasons(&renewed), ["AutoApproved"]);
    for Pending { what, name, end } in pending {
        if let Outcome::Reported(why) = end {
            certificates::wait_for_event(case, name, why).await?;
        }
        let request = certificates::requests(case).get(name).await?;
        assert_eq!(reasons(&request), [""; 0], "{what}");
        assert!(!certificates::is_issued(&request), "{what}");
    }
    Ok(())
}

async fn delete(case: &Case, pending: &[Pending]) -> Result<()> {
    for request in pending {
        certificates::requests(case)
            .delete(&request.name, &DeleteParams::default())
            .await?;
    }
    Ok(())
}

/// A refusal is forgotten once a later request of the kubelet is issued; creation times are whole seconds.
async fn earlier_refusals_are_forgotten(case: &Case, node: &Client, own: &str) -> Result<()> {
    let is_quiet = |machine: &Machine| {
        infra::condition_of(machine, condition::SERVING_CERTIFICATE) == infra::ConditionState::default()
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
    tokio::time::timeout(WAIT_TIMEOUT, asks_again).await?
}
