//! The controller creates and rotates the webhook's certificates with the chart's rights, and no admission fails meanwhile. The
//! API server calls two replicas of the webhook behind their Service.

use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Case,
    case::WAIT_TIMEOUT,
    helm::Helm,
    load::Load,
    manifest,
    replicas::Replica,
    wait,
    webhook_certificates::{
        AUTHORITY, SERVING, accepts, rotate, secrets, served_by_all, start, trusted, trusted_alone,
        trusted_alone_other_than, values,
    },
};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use testbed::bed::{RELEASE, SYSTEM_NAMESPACE};

/// How many clients send requests at a time.
const CLIENTS: usize = 8;

#[tokio::test]
async fn no_admission_fails_while_all_certificates_are_rotated() -> Result<()> {
    let began = Instant::now();
    let case = start().await?;
    let second = case.bed.another_webhook("second-webhook").await?;
    second.start().await?;
    let replicas = [
        Replica::join(&case.bed, SYSTEM_NAMESPACE, case.bed.webhook()).await?,
        Replica::join(&case.bed, SYSTEM_NAMESPACE, &second).await?,
    ];
    let first = trusted_alone(&case).await?;
    println!(
        "served and trusted {:.1} s after the first start of anything",
        began.elapsed().as_secs_f64()
    );
    let set = manifest::machine_set("a", 1);
    // The API server learns of the Service's endpoints after some time.
    let first_taken = async { while Load::once(&case.bed.user().client(), &set).await.is_err() {} };
    tokio::time::timeout(WAIT_TIMEOUT, first_taken)
        .await
        .context("nothing was admitted")?;
    let said = case
        .refused(&json!({
            "apiVersion": "cluster.k8s.io/v1alpha1", "kind": "Machine",
            "metadata": {"name": "bad", "namespace": manifest::NAMESPACE}, "spec": {},
        }))
        .await?;
    assert!(said.contains("is invalid"), "the webhook says so: {said}");

    let load = Load::start(&case.bed.user().client(), CLIENTS, &set)?;
    // Asked for, and deleted: another certificate of the same CA, from the next handshake on.
    let before = replicas[0].served().await?;
    rotate(&case, SERVING).await?;
    let asked_for = served_by_all(&replicas, &before).await?;
    secrets(&case).delete(SERVING, &DeleteParams::default()).await?;
    let remade = served_by_all(&replicas, &asked_for).await?;
    assert_eq!(trusted_alone(&case).await?, first);

    // Another CA: trusted beside the old one, then it signs, then it is trusted alone.
    rotate(&case, AUTHORITY).await?;
    trusted(&case, "by both", |roots| {
        roots.len() == 2 && roots.contains(&first)
    })
    .await?;
    assert_eq!(
        replicas[0].served().await?,
        remade,
        "nothing of the new CA is served before all trust it"
    );
    let of_new = served_by_all(&replicas, &remade).await?;
    let second_ca = trusted_alone_other_than(&case, &first).await?;
    assert!(accepts(&of_new, &second_ca));

    // A deleted CA is replaced in the same way. A replica that restarts meanwhile serves as soon as it is ready.
    secrets(&case).delete(AUTHORITY, &DeleteParams::default()).await?;
    // As with a pod that is deleted, the Service hears of its end later than itself.
    let unlisted = async {
        second.unready().await?;
        replicas[1].ready(false).await
    };
    tokio::try_join!(second.terminate(), unlisted)?;
    second.start().await?;
    replicas[1].ready(true).await?;
    let third_ca = trusted_alone_other_than(&case, &second_ca).await?;
    served_by_all(&replicas, &of_new).await?;

    // Helm does not know of the caBundle, and leaves it alone.
    let mut changed = values();
    changed["webhook"]["timeoutSeconds"] = json!(14);
    case.bed.upgrade_chart(&changed).await?;
    assert_eq!(trusted_alone(&case).await?, third_ca);

    let tally = load
        .end("rotations of both certificates and a restart, two admissions each request")
        .await;
    assert!(tally.failed.is_empty(), "{:?}", tally.failed.first());
    assert!(tally.sent > 100, "{} requests tell little", tally.sent);

    check_events_and_metrics(&case).await?;
    policy(&case).await?;

    // An uninstalled release leaves nothing behind, even if a replica still runs.
    case.bed.user().refuses(&["*"])?;
    let uninstall = ["uninstall", RELEASE, "--namespace", SYSTEM_NAMESPACE];
    Helm::of(case.bed.user()).ok(&uninstall).await?;
    for secret in [AUTHORITY, SERVING] {
        wait::for_absence(&secrets(&case), secret, WAIT_TIMEOUT).await?;
    }
    second.terminate().await?;
    case.finish(&[]).await
}

/// Events report which certificate was created and why, and metrics its expiry.
async fn check_events_and_metrics(case: &Case) -> Result<()> {
    let events = Api::<Event>::namespaced(case.bed.user().client(), SYSTEM_NAMESPACE)
        .list(&ListParams::default())
        .await?;
    let notes: Vec<String> = events.into_iter().filter_map(|event| event.note).collect();
    for said in [
        "made a new CA for the webhook, because the annotation machinist.dev/rotate requested it",
        "made a new CA for the webhook, because it did not exist",
        "issued a new certificate for the webhook, because there is a new CA",
        "issued a new certificate for the webhook, because it did not exist",
    ] {
        ensure!(
            notes.iter().any(|note| note == said),
            "{said:?} is not among {notes:?}"
        );
    }
    let metrics = case.bed.controller().metrics().await?;
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<f64>().ok()
    };
    assert_eq!(value("machinist_webhook_trusted_cas "), Some(1.0));
    let now = SystemTime::UNIX_EPOCH.elapsed()?.as_secs_f64();
    let left = value("machinist_webhook_ca_expires_timestamp_seconds ").context("no expiry")? - now;
    assert!((364.0..=365.0).contains(&(left / 86_400.0)), "{left}");
    Ok(())
}

/// RBAC cannot restrict the names of Secrets that the controller may create: a policy does.
async fn policy(case: &Case) -> Result<()> {
    let secret = |name: &str, labels: Value| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": SYSTEM_NAMESPACE, "labels": labels},
            "stringData": {"tls.crt": "", "tls.key": ""},
        })
    };
    let controller = format!("--as=system:serviceaccount:{SYSTEM_NAMESPACE}:machinist-controller");
    let ours = json!({"machinist.dev/certificate": "serving"});
    let create = ["create", "--dry-run=server", "-f", "-", &controller];
    for (name, labels) in [("other", ours.clone()), (SERVING, json!({}))] {
        let refused = case
            .bed
            .user()
            .kubectl(&create, &secret(name, labels).to_string())
            .await?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(
            said.contains("machinist-webhook-ca and machinist-webhook-cert"),
            "{name}: {said}"
        );
    }
    Ok(())
}
