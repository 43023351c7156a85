//! Certificates nobody has to think about: the controller makes and rotates them, under the chart's own rights, and no
//! admission fails meanwhile. The API server calls two replicas of the webhook behind their Service.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use e2e::{Case, case::PATIENCE, helm::Helm, load::Load, manifest, replicas::Replica, wait};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    core::v1::Secret,
    events::v1::Event,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use machinist_certs::{Bundle, Root};
use serde_json::{Value, json};
use testbed::{
    CertManager,
    bed::{Options, RELEASE, SYSTEM_NAMESPACE},
};

const AUTHORITY: &str = "machinist-webhook-ca";
const SERVING: &str = "machinist-webhook-cert";
const SERVICE: &str = "machinist-webhook.machinist-system.svc";
/// One that defaults and one that validates, for each of three kinds.
const WEBHOOKS: usize = 6;
/// How many ask at a time.
const CLIENTS: usize = 8;

fn values() -> Value {
    // On a busy machine a handshake takes its time: what is counted are failures of trust.
    json!({"webhook": {"url": "", "caBundle": "", "timeoutSeconds": 15}})
}

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
    // The API server learns of the Service's endpoints when it does.
    let first_taken = async { while Load::once(&case.bed.user().client(), &set).await.is_err() {} };
    tokio::time::timeout(PATIENCE, first_taken)
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
    assert!(second_ca.accepts(&of_new, SERVICE, SystemTime::now()));

    // A CA that is lost is replaced in the same way. A replica that begins anew meanwhile serves as soon as it is ready.
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

    told(&case).await?;
    policy(&case).await?;

    // Nothing is left of a release that is uninstalled, whoever still runs.
    case.bed.user().refuses(&["*"])?;
    let uninstall = ["uninstall", RELEASE, "--namespace", SYSTEM_NAMESPACE];
    Helm::of(case.bed.user()).ok(&uninstall).await?;
    for secret in [AUTHORITY, SERVING] {
        wait::for_absence(&secrets(&case), secret, PATIENCE).await?;
    }
    second.terminate().await?;
    case.finish(&[]).await
}

/// Another value, and cert-manager has the certificates: it takes CA and certificate as they are, and renews them. The
/// controller lets go.
#[tokio::test]
async fn cert_manager_takes_the_certificates_over_and_renews_them() -> Result<()> {
    let case = start().await?;
    let replicas = [Replica::join(&case.bed, SYSTEM_NAMESPACE, case.bed.webhook()).await?];
    let ours = trusted_alone(&case).await?;
    let before = replicas[0].served().await?;
    let set = manifest::machine_set("a", 1);
    let first_taken = async { while Load::once(&case.bed.user().client(), &set).await.is_err() {} };
    tokio::time::timeout(PATIENCE, first_taken)
        .await
        .context("nothing was admitted")?;
    let load = Load::start(&case.bed.user().client(), CLIENTS, &set)?;

    let cert_manager = CertManager::start(&case.bed).await?;
    let mut chosen = values();
    chosen["webhook"]["certificate"] = json!({"mode": "certManager"});
    // Its pods begin anew with the flags of the mode.
    case.bed.controller().terminate().await?;
    case.bed.upgrade_chart(&chosen).await?;
    let controller = case
        .bed
        .new_controller("without-certificates", &["--webhook-serving-secret="])
        .await?;
    controller.start().await?;
    let ready = ["--for=condition=Ready", "--timeout=60s", "certificate", "--all"];
    let wait = [&["wait", "--namespace", SYSTEM_NAMESPACE], &ready[..]].concat();
    case.bed.user().kubectl_ok(&wait, "").await?;
    assert_eq!(replicas[0].served().await?, before, "it is good for long");
    nothing_failed(load, "cert-manager taking over").await?;

    // Lost, and so issued anew, by the CA of cert-manager's, which is trusted beside ours.
    secrets(&case).delete(SERVING, &DeleteParams::default()).await?;
    let of_theirs = served_by_all(&replicas, &before).await?;
    let accepts = |leaf: &[u8], root: &Root| root.accepts(leaf, SERVICE, SystemTime::now());
    let both = trusted(&case, "by both", |roots| {
        roots.contains(&ours) && roots.iter().any(|root| accepts(&of_theirs, root))
    });
    let both = both.await?;
    let load = Load::start(&case.bed.user().client(), CLIENTS, &set)?;
    secrets(&case).delete(SERVING, &DeleteParams::default()).await?;
    let renewed = served_by_all(&replicas, &of_theirs).await?;
    case.bed.user().kubectl_ok(&wait, "").await?;
    nothing_failed(load, "a certificate that cert-manager issued anew").await?;
    assert!(both.iter().any(|root| accepts(&renewed, root)));
    cert_manager.terminate().await?;
    controller.terminate().await?;
    case.finish(&[]).await
}

async fn nothing_failed(load: Load, what: &str) -> Result<()> {
    let tally = load.end(what).await;
    assert!(tally.failed.is_empty(), "{:?}", tally.failed.first());
    ensure!(tally.sent > 0, "nothing was sent");
    Ok(())
}

async fn start() -> Result<Case> {
    Case::start_with(Options {
        boot: None,
        chart_values: values(),
        webhook_args: [
            &format!("--tls-secret={SYSTEM_NAMESPACE}/{SERVING}"),
            // There is no KubeVirt, and nobody else is to be asked: an admission depends on the webhook alone.
            "--infra-unreachable=off",
            "--reference-access-check=off",
        ]
        .map(ToString::to_string)
        .into(),
        controller_args: [
            &format!("--webhook-serving-secret={SYSTEM_NAMESPACE}/{SERVING}"),
            "--webhook-certificate-overlap=3s",
        ]
        .map(ToString::to_string)
        .into(),
        ..Options::default()
    })
    .await
}

fn secrets(case: &Case) -> Api<Secret> {
    Api::namespaced(case.bed.user().client(), SYSTEM_NAMESPACE)
}

/// `kubectl annotate secret NAME machinist.dev/rotate=`.
async fn rotate(case: &Case, secret: &str) -> Result<()> {
    let annotate = json!({"metadata": {"annotations": {"machinist.dev/rotate": ""}}});
    secrets(case)
        .patch(secret, &PatchParams::default(), &Patch::Merge(annotate))
        .await?;
    Ok(())
}

/// Waits until all replicas show the same certificate, and another than this.
async fn served_by_all(replicas: &[Replica], old: &[u8]) -> Result<Vec<u8>> {
    let all = async {
        loop {
            let mut shown = BTreeSet::new();
            for replica in replicas {
                shown.insert(replica.served().await?);
            }
            if shown.len() == 1
                && let Some(new) = shown.pop_first().filter(|new| new != old)
            {
                return Ok(new);
            }
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .context("not all replicas serve with a new certificate")?
}

/// Waits until every webhook of both configurations trusts the same roots, and `fits` holds for them.
async fn trusted(case: &Case, what: &str, fits: impl Fn(&BTreeSet<Root>) -> bool) -> Result<BTreeSet<Root>> {
    let client = case.bed.user().client();
    let same = |bundles: Vec<Option<Vec<u8>>>| -> Option<BTreeSet<Root>> {
        let roots = |pem: Option<Vec<u8>>| Bundle::from_pem(&pem.unwrap_or_default()).roots;
        let roots: Vec<_> = bundles.into_iter().map(roots).collect();
        let first = roots.first()?.clone();
        (roots.len() == WEBHOOKS / 2 && roots.iter().all(|other| *other == first)).then_some(first)
    };
    let of_mutating = |found: &MutatingWebhookConfiguration| {
        let webhooks = found.webhooks.iter().flatten();
        same(
            webhooks
                .map(|webhook| Some(webhook.client_config.ca_bundle.clone()?.0))
                .collect(),
        )
    };
    let of_validating = |found: &ValidatingWebhookConfiguration| {
        let webhooks = found.webhooks.iter().flatten();
        same(
            webhooks
                .map(|webhook| Some(webhook.client_config.ca_bundle.clone()?.0))
                .collect(),
        )
    };
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let found = wait::for_state(&validating, "machinist", what, PATIENCE, |found| {
        of_validating(found).is_some_and(|roots| fits(&roots))
    })
    .await?;
    let wanted = of_validating(&found);
    wait::for_state(&mutating, "machinist", what, PATIENCE, |found| {
        of_mutating(found) == wanted
    })
    .await?;
    wanted.context("they trust the same")
}

async fn trusted_alone(case: &Case) -> Result<Root> {
    let mut roots = trusted(case, "trusting one CA", |roots| roots.len() == 1).await?;
    roots.pop_first().context("there is one")
}

async fn trusted_alone_other_than(case: &Case, old: &Root) -> Result<Root> {
    let fits = |roots: &BTreeSet<Root>| roots.len() == 1 && !roots.contains(old);
    let mut roots = trusted(case, "trusting the new CA alone", fits).await?;
    roots.pop_first().context("there is one")
}

/// Events say what was made and why, and metrics how long it is good.
async fn told(case: &Case) -> Result<()> {
    let events = Api::<Event>::namespaced(case.bed.user().client(), SYSTEM_NAMESPACE)
        .list(&ListParams::default())
        .await?;
    let notes: Vec<String> = events.into_iter().filter_map(|event| event.note).collect();
    for said in [
        "made a new CA for the webhook, because the annotation machinist.dev/rotate asked for it",
        "made a new CA for the webhook, because there was none",
        "issued a new certificate for the webhook, because there is a new CA",
        "issued a new certificate for the webhook, because there was none",
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

/// RBAC cannot name the Secrets that the controller may create: a policy does.
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
