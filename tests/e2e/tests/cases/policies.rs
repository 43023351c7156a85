//! The chart's two ValidatingAdmissionPolicies: which Secrets Machinist's ServiceAccount may write, and which users may write
//! the fields of the controller.

use std::time::Duration;

use anyhow::{Result, bail};
use e2e::{Case, manifest, manifest::NAMESPACE};
use k8s_openapi::jiff::Timestamp;
use rstest::rstest;
use serde_json::{Value, json};
use testbed::bed::{Machinist, Options};

const CONTROLLER: &str = "system:serviceaccount:machinist-system:machinist-controller";
const PEER: &str = "system:serviceaccount:kube-system:machine-controller";
const GROUP: &str = "system:bootstrappers:machinist:machine";

#[tokio::test]
async fn our_service_account_creates_no_secrets_but_its_tokens() -> Result<()> {
    let case = Box::pin(start()).await?;
    let own = token("aaaaaa", |_| {});
    assert_eq!(
        try_as(&case, CONTROLLER, "create", &own).await?,
        None,
        "its own tokens"
    );
    for (what, secret) in [
        (
            "another group as well",
            token("bbbbbb", |token| {
                token["stringData"]["auth-extra-groups"] =
                    json!(format!("{GROUP},system:bootstrappers:kubeadm"));
            }),
        ),
        (
            "another group",
            token("bbbbbb", |token| {
                token["stringData"]["auth-extra-groups"] = json!("system:bootstrappers:kubeadm");
            }),
        ),
        (
            "a token that never expires",
            token("bbbbbb", |token| {
                token["stringData"]
                    .as_object_mut()
                    .map(|data| data.remove("expiration"));
            }),
        ),
        (
            "a token whose expiration is empty, which is the same",
            token("bbbbbb", |token| token["stringData"]["expiration"] = json!("")),
        ),
        (
            "a token for more than an hour",
            token("bbbbbb", |token| {
                token["stringData"]["expiration"] = in_minutes(62);
            }),
        ),
        (
            "a token for more than an hour that says it was created later",
            token("bbbbbb", |token| {
                token["stringData"]["expiration"] = json!("2099-01-01T00:00:00Z");
                token["metadata"]["creationTimestamp"] = json!("2099-01-01T00:00:00Z");
                token["metadata"]["managedFields"] = forged_managers();
            }),
        ),
        (
            "an expiration that is no time as the controller writes it",
            token("bbbbbb", |token| {
                token["stringData"]["expiration"] = json!("2099");
            }),
        ),
        (
            "no label",
            token("bbbbbb", |token| token["metadata"]["labels"] = json!({})),
        ),
        (
            "a token that signs",
            token("bbbbbb", |token| {
                token["stringData"]["usage-bootstrap-signing"] = json!("true");
            }),
        ),
        (
            "another type",
            token("bbbbbb", |token| token["type"] = json!("Opaque")),
        ),
        (
            "a ServiceAccount's token",
            token("bbbbbb", |token| {
                token["type"] = json!("kubernetes.io/service-account-token");
                token["metadata"]["annotations"] = json!({"kubernetes.io/service-account.name": "default"});
            }),
        ),
        (
            "another namespace",
            token("bbbbbb", |token| {
                token["metadata"]["namespace"] = json!("default");
            }),
        ),
    ] {
        let said = try_as(&case, CONTROLLER, "create", &secret).await?;
        refused(what, said.as_deref(), "machinist-secrets")?;
    }
    case.finish_without_controller(&["Secret/bootstrap-token-aaaaaa"])
        .await
}

/// It deletes its own tokens, and turns none of them into another Secret.
#[tokio::test]
async fn our_service_account_changes_and_deletes_no_secrets_but_its_tokens() -> Result<()> {
    let case = Box::pin(start()).await?;
    let own = token("aaaaaa", |_| {});
    assert_eq!(
        try_as(&case, CONTROLLER, "create", &own).await?,
        None,
        "its own tokens"
    );
    let foreign = token("cccccc", |token| {
        token["stringData"]["auth-extra-groups"] = json!("system:bootstrappers:kubeadm");
    });
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &foreign.to_string())
        .await?;
    for (what, verb, secret) in [
        ("changing another's", "replace", token("cccccc", |_| {})),
        ("deleting another's", "delete", foreign),
        (
            "turning its own",
            "replace",
            token("aaaaaa", |token| {
                token["stringData"]["auth-extra-groups"] = json!("system:bootstrappers:kubeadm");
            }),
        ),
    ] {
        let said = try_as(&case, CONTROLLER, verb, &secret).await?;
        refused(what, said.as_deref(), "machinist-secrets")?;
    }
    assert_eq!(
        try_as(&case, CONTROLLER, "delete", &own).await?,
        None,
        "it deletes its own"
    );
    case.finish_without_controller(&["Secret/bootstrap-token-cccccc"])
        .await
}

/// However often a token is extended, each time it is for an hour at most.
#[tokio::test]
async fn our_service_account_extends_its_tokens_by_an_hour_at_most() -> Result<()> {
    let case = Box::pin(start()).await?;
    assert_eq!(
        try_as(&case, CONTROLLER, "create", &token("aaaaaa", |_| {})).await?,
        None
    );
    let extend = |expiration: Value| json!({"stringData": {"expiration": expiration}});
    let far = json!("2099-01-01T00:00:00Z");
    let mut forged = extend(far.clone());
    forged["metadata"]["managedFields"] = forged_managers();
    let mut reset = extend(far.clone());
    reset["metadata"]["managedFields"] = json!([{}]);
    for (what, patch) in [
        ("for ever", extend(far.clone())),
        ("for more than an hour", extend(in_minutes(62))),
        ("by another expiration that is none", extend(json!(""))),
        ("without one", json!({"data": {"expiration": null}})),
        ("as if a field manager had done so later", forged),
        ("as if no field manager had", reset),
    ] {
        let said = extend_as(&case, &["--type=merge", "--patch", &patch.to_string()]).await?;
        refused(what, said.as_deref(), "machinist-secrets")?;
    }
    let forged = token("aaaaaa", |token| {
        token["stringData"]["expiration"] = far.clone();
        token["metadata"]["managedFields"] = forged_managers();
    });
    let said = try_as(&case, CONTROLLER, "replace", &forged).await?;
    refused("replacing it", said.as_deref(), "machinist-secrets")?;

    // Other clients may have labeled it, and it may have been extended before.
    let label = [
        "label",
        "secret",
        "bootstrap-token-aaaaaa",
        "-n",
        "kube-system",
        "a=b",
    ];
    case.bed.user().kubectl_ok(&label, "").await?;
    for minutes in [45, 57] {
        let patch = extend(in_minutes(minutes)).to_string();
        let said = extend_as(&case, &["--type=merge", "--patch", &patch]).await?;
        assert_eq!(said, None, "{minutes} minutes from now");
    }
    // A write that keeps the expiration is not an extension.
    let patch = json!({"metadata": {"labels": {"a": "c"}}}).to_string();
    assert_eq!(
        extend_as(&case, &["--type=merge", "--patch", &patch]).await?,
        None
    );
    case.finish_without_controller(&["Secret/bootstrap-token-aaaaaa"])
        .await
}

#[rstest]
#[case::node_ref("nodeRef", json!({"kind": "Node", "name": "cp-1"}))]
#[case::record("providerStatus", json!({"vmUID": "1"}))]
#[tokio::test]
async fn only_the_controller_and_machine_controller_write_their_fields(
    #[case] field: &str,
    #[case] value: Value,
) -> Result<()> {
    let case = Box::pin(start()).await?;
    let mut machine = manifest::machine("m");
    machine["status"] = json!({field: value});
    let said = try_as(&case, "admin", "create", &machine).await?;
    refused("creating", said.as_deref(), "machinist-machine-status")?;

    machine["status"] = json!({"phase": "Running"});
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &machine.to_string())
        .await?;
    let forged = json!({"status": {field: value}}).to_string();
    refused(
        "patching",
        patch_as(&case, "admin", &forged).await?.as_deref(),
        "machinist-machine-status",
    )?;
    // Other fields can be written by every user with the right to write Machines.
    let harmless = json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Failed"}}).to_string();
    assert_eq!(patch_as(&case, "admin", &harmless).await?, None);
    for controller in [CONTROLLER, PEER] {
        assert_eq!(patch_as(&case, controller, &forged).await?, None, "{controller}");
    }
    // Also beside a field that the controller wrote.
    let harmless = json!({"metadata": {"labels": {"a": "c"}}}).to_string();
    assert_eq!(patch_as(&case, "admin", &harmless).await?, None);
    let erased = json!({"status": {field: null}}).to_string();
    refused(
        "erasing",
        patch_as(&case, "admin", &erased).await?.as_deref(),
        "machinist-machine-status",
    )?;
    case.finish_without_controller(&[]).await
}

/// The chart, without a controller that would reconcile the written objects.
async fn start() -> Result<Case> {
    let case = Case::start_with(Options {
        machinist: Machinist::Webhook,
        boot: None,
        ..Options::default()
    })
    .await?;
    // The API server enforces new policies after a moment, and no event reports when.
    let forbidden = token("aaaaaa", |token| token["metadata"]["labels"] = json!({})).to_string();
    let user = format!("--as={CONTROLLER}");
    let probe = [
        "create",
        "--dry-run=server",
        &user,
        "--as-group=system:masters",
        "-f",
        "-",
    ];
    for _ in 0..300 {
        if said(&case, &probe, &forbidden).await?.is_some() {
            return Ok(case);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("the policies are not in force")
}

/// A bootstrap token as the controller creates it, with a change.
fn token(id: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut token = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {
            "name": format!("bootstrap-token-{id}"), "namespace": "kube-system",
            "labels": {"machinist.dev/machine-uid": "0"},
        },
        "stringData": {
            "token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "auth-extra-groups": GROUP, "expiration": in_minutes(30),
        },
    });
    change(&mut token);
    token
}

/// A time from now, as tokens have it.
fn in_minutes(minutes: u64) -> Value {
    let then = Timestamp::now() + Duration::from_secs(60 * minutes);
    json!(format!("{then:.0}"))
}

/// Field managers that claim to have written the expiration in the far future.
fn forged_managers() -> Value {
    json!([{
        "manager": "kubectl-patch", "operation": "Update", "apiVersion": "v1", "time": "2099-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {"f:expiration": {}}, "f:metadata": {"f:labels": {"f:machinist.dev/machine-uid": {}}}},
    }])
}

/// The refusal of a patch of the token `aaaaaa`.
async fn extend_as(case: &Case, patch: &[&str]) -> Result<Option<String>> {
    let user = format!("--as={CONTROLLER}");
    let target = ["patch", "secret", "bootstrap-token-aaaaaa", "-n", "kube-system"];
    said(
        case,
        &[&target[..], &[&user, "--as-group=system:masters"], patch].concat(),
        "",
    )
    .await
}

/// The refusal of `verb` of an object by a user whom RBAC allows it; `None` if it succeeds.
async fn try_as(case: &Case, user: &str, verb: &str, object: &Value) -> Result<Option<String>> {
    let user = format!("--as={user}");
    said(
        case,
        &[verb, &user, "--as-group=system:masters", "-f", "-"],
        &object.to_string(),
    )
    .await
}

async fn patch_as(case: &Case, user: &str, patch: &str) -> Result<Option<String>> {
    let user = format!("--as={user}");
    let target = ["patch", "machine", "m", "--namespace", NAMESPACE, "--type=merge"];
    said(
        case,
        &[
            &target[..],
            &[&user, "--as-group=system:masters", "--patch", patch],
        ]
        .concat(),
        "",
    )
    .await
}

async fn said(case: &Case, args: &[&str], stdin: &str) -> Result<Option<String>> {
    let output = case.bed.user().kubectl(args, stdin).await?;
    Ok((!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn refused(what: &str, said: Option<&str>, policy: &str) -> Result<()> {
    match said {
        Some(said) if said.contains(policy) => Ok(()),
        Some(said) => bail!("{what}: refused by another policy: {said}"),
        None => bail!("{what}: taken"),
    }
}
