//! The leak checker finds each kind of leftover, and ignores objects that a case declares as foreign.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{leaks, manifest, secrets::Secrets};
use k8s_openapi::{
    ByteString,
    api::{certificates::v1::CertificateSigningRequest, core::v1::ConfigMap},
};
use kube::{Api, api::PostParams};
use serde_json::json;
use testbed::{
    Testbed,
    bed::{Machinist, Options},
    kubeconfig,
};

/// One leftover of each kind, and objects that are not leaks.
const INFRA: &str = r#"
{"apiVersion":"v1","kind":"List","items":[
 {"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"vm"},
  "spec":{"runStrategy":"Once","template":{"spec":{"domain":{"devices":{}}}}}},
 {"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineInstance","metadata":{"name":"vmi"},
  "spec":{"domain":{"devices":{}}}},
 {"apiVersion":"cdi.kubevirt.io/v1beta1","kind":"DataVolume","metadata":{"name":"dv"},"spec":{}},
 {"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"pvc"},
  "spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}},
 {"apiVersion":"v1","kind":"Secret","metadata":{"name":"user-data"}}
]}"#;
const USER: &str = r#"
{"apiVersion":"v1","kind":"List","items":[
 {"apiVersion":"v1","kind":"Secret","metadata":{"name":"bootstrap-token-abcdef","namespace":"kube-system"},
  "type":"bootstrap.kubernetes.io/token",
  "stringData":{"token-id":"abcdef","token-secret":"0123456789abcdef"}},
 {"apiVersion":"v1","kind":"Secret","metadata":{"name":"foreign","namespace":"kube-system"}},
 {"apiVersion":"v1","kind":"Node","metadata":{"name":"cp-1"}}
]}"#;

/// A request that no approver decides, because its signer is unknown.
fn signing_request() -> Result<CertificateSigningRequest> {
    let key = rcgen::KeyPair::generate()?;
    let pem = rcgen::CertificateParams::default()
        .serialize_request(&key)?
        .pem()?;
    let mut request = CertificateSigningRequest::default();
    request.metadata.name = Some("undecided".into());
    request.spec.signer_name = "example.com/unknown".into();
    request.spec.usages = Some(vec!["client auth".into()]);
    request.spec.request = ByteString(pem.into_bytes());
    Ok(request)
}

#[tokio::test]
async fn every_kind_of_leftover_is_found_and_foreign_objects_are_ignored() -> Result<()> {
    let options = Options {
        machinist: Machinist::Absent,
        boot: None,
        ..Options::default()
    };
    let bed = Testbed::start(options).await?;
    leaks::check(&bed, &[]).await?;
    leaks::check_nothing_was_created(&bed, &[]).await?;

    bed.infra()
        .kubectl_ok(&["create", "--namespace", "machinist-infra", "-f", "-"], INFRA)
        .await?;
    bed.user().kubectl_ok(&["create", "-f", "-"], USER).await?;
    let requests: Api<CertificateSigningRequest> = Api::all(bed.user().client());
    requests
        .create(&PostParams::default(), &signing_request()?)
        .await?;
    let mut found = leaks::leftovers(&bed).await?;
    found.sort();
    let expected = [
        "CertificateSigningRequest/undecided",
        "DataVolume/dv",
        "Node/cp-1",
        "PersistentVolumeClaim/pvc",
        "Secret/bootstrap-token-abcdef",
        "Secret/user-data",
        "VirtualMachine/vm",
        "VirtualMachineInstance/vmi",
    ];
    assert_eq!(found, expected);
    leaks::check(&bed, &expected).await?;
    leaks::check_nothing_was_created(&bed, &expected).await?;
    let error = leaks::check_nothing_was_created(&bed, &expected[1..])
        .await
        .expect_err("there is a request");
    assert!(error.to_string().contains("/undecided"), "{error}");
    // Writes of Machinist's servers go through the proxy.
    let server = bed.user().proxy().listen_as("server")?;
    let server = kubeconfig::client(&bed.user().admin_kubeconfig_for(&server)).await?;
    Api::<ConfigMap>::namespaced(server, "default")
        .create(
            &PostParams::default(),
            &serde_json::from_value(json!({"metadata": {"name": "c"}}))?,
        )
        .await?;
    let error = leaks::check_nothing_was_created(&bed, &expected)
        .await
        .expect_err("there was a write");
    assert!(error.to_string().contains("configmaps"), "{error}");

    bed.user().kubectl_ok(&["delete", "node", "cp-1"], "").await?;
    let error = leaks::check(&bed, &expected)
        .await
        .expect_err("a foreign object is gone");
    assert!(error.to_string().contains("Node/cp-1"), "{error}");
    bed.shut_down().await
}

#[tokio::test]
async fn a_secret_is_found_in_a_log_in_an_event_and_in_a_status() -> Result<()> {
    let options = Options {
        machinist: Machinist::Webhook,
        boot: None,
        ..Options::default()
    };
    let bed = Testbed::start(options).await?;
    let secrets = Secrets::record(bed.user().client(), bed.infra().client());
    secrets.check(&bed).await?;

    bed.user().kubectl_ok(&["create", "-f", "-"], USER).await?;
    let log = bed.dir().join("controller.log");
    std::fs::write(&log, "a token: 0123456789abcdef")?;
    shown(
        &secrets,
        &bed,
        "the log of controller shows a secret: token-secret",
    )
    .await?;
    std::fs::remove_file(&log)?;

    let infra = std::fs::read_to_string(bed.dir().join("machines.kubeconfig"))?;
    let token = infra.lines().find_map(|line| line.trim().strip_prefix("token: "));
    let token = token
        .context("no token in the kubeconfig of the Machines")?
        .trim_matches('"');
    let mut machine = manifest::machine("m");
    machine["status"] = json!({"errorMessage": format!("401 for {token}")});
    bed.user()
        .kubectl_ok(&["create", "-f", "-"], &machine.to_string())
        .await?;
    shown(
        &secrets,
        &bed,
        "Machine/m shows a secret: the kubeconfig machines",
    )
    .await?;
    bed.user()
        .kubectl_ok(
            &["delete", "machine", "m", "--namespace", manifest::NAMESPACE],
            "",
        )
        .await?;

    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Machine", "name": "m", "namespace": "default"},
        "message": "joining with 0123456789abcdef",
    });
    bed.user()
        .kubectl_ok(&["create", "-f", "-"], &event.to_string())
        .await?;
    shown(&secrets, &bed, "Event/e shows a secret: token-secret").await?;
    bed.shut_down().await
}

/// Waits until the record has the new object, and the checker finds it.
async fn shown(secrets: &Secrets, bed: &Testbed, expected: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match secrets.check(bed).await {
            Err(error) if error.to_string().contains(expected) => return Ok(()),
            found => ensure!(Instant::now() < deadline, "{expected}: {found:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
