//! Valid requests of kubelets, which are approved.

use anyhow::Result;
use e2e::{
    Case,
    certificates::{self, Ask, dns, ip},
    manifest,
};
use serde_json::json;

use super::{address, reasons};

#[tokio::test]
async fn each_valid_request_of_a_kubelet_is_issued() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("honest")).await?;
    let mut waiting = manifest::machine("waiting");
    waiting["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&waiting).await?;
    case.node_ready("honest").await?;
    case.condition("waiting", "WaitingForNode").await?;
    let own = address(&case, "honest").await?;
    let node = certificates::kubelet_of(&case, "honest").await?;
    let token = certificates::holder_of_token(&case, "waiting").await?;
    for (client, ask) in honest_requests(&own) {
        let client = if client == "honest" { &node } else { &token };
        let name = ask.post(client).await?;
        let issued = certificates::issued(&case, &name).await?;
        assert_eq!(reasons(&issued), ["MachinistApproved"]);
    }
    // The controller does not approve the renewal of a client certificate: kube-controller-manager does.
    let renewal = Ask::client("honest").post(&node).await?;
    let renewed = certificates::issued(&case, &renewal).await?;
    assert_eq!(reasons(&renewed), ["AutoApproved"]);
    for name in ["honest", "waiting"] {
        case.delete_machine(name).await?;
    }
    case.finish(&[]).await
}

/// Requests of kubelets, by the Machine whose credential they use.
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
