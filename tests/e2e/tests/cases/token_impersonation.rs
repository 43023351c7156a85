//! A Machine's bootstrap token yields a certificate for that Machine's node and for no other, although the approver of
//! kube-controller-manager runs, too.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, manifest::NAMESPACE, wait};
use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};
use machinist_shared::api::names::TOKEN_SECRET_TYPE;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::json;

#[tokio::test]
async fn a_machines_token_gets_no_certificate_for_another_nodes_name() -> Result<()> {
    let case = Case::start().await?;
    // Its guest does not use the token.
    let mut machine = manifest::machine("honest");
    machine["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&machine).await?;
    case.condition("honest", "WaitingForNode").await?;
    let stolen = as_holder_of(&case, &token(&case).await?)?;
    let requests = Api::<CertificateSigningRequest>::all(case.bed.user().client());

    let for_another = request(&stolen, "cp-1").await?;
    // The approver of kube-controller-manager works: it approves the same request for a group that it trusts.
    let trusted = as_holder_of(&case, &trusted_token(&case).await?)?;
    let by_kubernetes = request(&trusted, "cp-1").await?;
    let by_kubernetes = approved(&requests, &by_kubernetes).await?;
    assert_eq!(reason(&by_kubernetes), "AutoApproved");
    // Machinist's approver works, too.
    let for_itself = request(&stolen, "honest").await?;
    let for_itself = approved(&requests, &for_itself).await?;
    assert_eq!(reason(&for_itself), "MachinistApproved");

    // Both requests are newer, so both approvers have passed over the first one.
    let passed_over = requests.get(&for_another).await?;
    assert_eq!(reason(&passed_over), "", "{passed_over:?} is decided");
    requests.delete(&for_another, &DeleteParams::default()).await?;
    case.bed
        .user()
        .kubectl_ok(
            &[
                "delete",
                "secret",
                "bootstrap-token-truste",
                "--namespace",
                "kube-system",
            ],
            "",
        )
        .await?;
    case.delete_machine("honest").await?;
    case.finish(&[]).await
}

/// The one bootstrap token there is, as a bearer token.
async fn token(case: &Case) -> Result<String> {
    let secrets = Api::<Secret>::namespaced(case.bed.user().client(), NAMESPACE);
    let of_tokens = ListParams::default().fields(&format!("type={TOKEN_SECRET_TYPE}"));
    let listed = secrets.list(&of_tokens).await?;
    let [secret] = listed.items.as_slice() else {
        anyhow::bail!("{} tokens for one Machine", listed.items.len());
    };
    let data = secret.data.as_ref().context("an empty token")?;
    let part = |key: &str| -> Result<String> {
        Ok(String::from_utf8(
            data.get(key).context("half a token")?.0.clone(),
        )?)
    };
    Ok(format!("{}.{}", part("token-id")?, part("token-secret")?))
}

/// A token as kubeadm makes them: its group may have any node's certificate.
async fn trusted_token(case: &Case) -> Result<String> {
    let group = "system:bootstrappers:trusted";
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": TOKEN_SECRET_TYPE,
        "metadata": {"name": "bootstrap-token-truste", "namespace": "kube-system"},
        "stringData": {
            "token-id": "truste", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "auth-extra-groups": group,
        },
    });
    let user = case.bed.user();
    user.kubectl_ok(&["create", "-f", "-"], &secret.to_string())
        .await?;
    for (name, role) in [
        ("may-ask", "system:node-bootstrapper"),
        (
            "is-approved",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        ),
    ] {
        let (role, group) = (format!("--clusterrole={role}"), format!("--group={group}"));
        user.kubectl_ok(&["create", "clusterrolebinding", name, &role, &group], "")
            .await?;
    }
    Ok("truste.0123456789abcdef".to_owned())
}

fn as_holder_of(case: &Case, token: &str) -> Result<Client> {
    let user = case.bed.user();
    let mut config = Config::new(user.server().parse()?);
    config.root_cert = Some(vec![user.ca().der().to_vec()]);
    config.auth_info.token = Some(token.to_owned().into());
    Ok(Client::try_from(config)?)
}

/// Requests the client certificate of a node as kubelets do, and returns the request's name.
async fn request(holder: &Client, node: &str) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{node}"));
    let pem = params.serialize_request(&KeyPair::generate()?)?.pem()?;
    let request = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("node-csr-".into()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: "kubernetes.io/kube-apiserver-client-kubelet".into(),
            usages: Some(vec!["digital signature".into(), "client auth".into()]),
            extra: Some(BTreeMap::new()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let made = Api::all(holder.clone())
        .create(&PostParams::default(), &request)
        .await?;
    Ok(made.name_any())
}

async fn approved(
    requests: &Api<CertificateSigningRequest>,
    name: &str,
) -> Result<CertificateSigningRequest> {
    wait::for_state(requests, name, "approved", WAIT_TIMEOUT, |request| {
        !reason(request).is_empty()
    })
    .await
}

/// Of its only condition; empty while it is undecided.
fn reason(request: &CertificateSigningRequest) -> &str {
    let conditions = request
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    match conditions {
        Some([condition]) => condition.reason.as_deref().unwrap_or_default(),
        _ => "",
    }
}
