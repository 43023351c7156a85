//! The program itself: reports readiness, works, and leaves nothing registered when it is stopped.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; helpers outside of test functions are no exception"
)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use common::{client, diskless, plane};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use kubevirt_sim::objects::{Kind, object, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

#[tokio::test]
async fn the_program_says_ready_runs_vms_and_cleans_up_at_sigterm() {
    let client = client().await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubevirt-sim"))
        .arg("--kubeconfig")
        .arg(plane().await.admin_kubeconfig_path())
        .args([
            "--namespace=program",
            "--boot-seconds=0.2",
            "--import-seconds=0.1",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    let first = tokio::task::spawn_blocking(move || BufReader::new(output).lines().next());
    assert_eq!(first.await.unwrap().unwrap().unwrap(), "ready");
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    assert!(mutating.get_opt("virt-api-program").await.unwrap().is_some());

    let vms: Api<DynamicObject> = Api::namespaced_with(client, "program", &Kind::Vm.resource());
    let vm = object(Kind::Vm, "a", json!({"spec": diskless("Once")}));
    vms.create(&PostParams::default(), &vm).await.unwrap();
    let deadline = tokio::time::Instant::now() + common::TIMEOUT;
    while text(&vms.get("a").await.unwrap(), "/status/printableStatus") != Some("Running") {
        assert!(tokio::time::Instant::now() < deadline, "the VM does not run");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(status.success(), "{status}");
    assert!(mutating.get_opt("virt-api-program").await.unwrap().is_none());
    assert!(validating.get_opt("virt-api-program").await.unwrap().is_none());
}
