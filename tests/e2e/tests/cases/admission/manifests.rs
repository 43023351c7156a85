//! Manifests that a user applies, and the output of `kubectl explain`.

use anyhow::{Result, ensure};
use e2e::rules::machine;
use testbed::paths;

use super::Admission;

#[tokio::test]
async fn five_mistakes_are_reported_at_once() -> Result<()> {
    let admission = Admission::start().await?;
    let file = paths::examples().join("bad-machine.yaml");
    let printed = admission
        .kubectl(&["apply", "-f", &file.to_string_lossy()], "")
        .await?;
    ensure!(
        !printed.success && printed.out.is_empty(),
        "it was taken: {}",
        printed.out
    );
    println!("{}", printed.err);
    let causes = printed.err.lines().filter(|line| line.starts_with("* ")).count();
    ensure!(causes == 5, "{causes} causes: {}", printed.err);
    for part in [
        "spec.versions.kubelet: must be set",
        "spec.providerSpec.value.sshPublicKey: unknown field \"sshPublicKey\"; did you mean \"sshPublicKeys\"?",
        "spec.providerSpec.value.operatingSystem: \"ubunut\" is not supported; allowed: \"ubuntu\", ",
        "spec.providerSpec.value.cloudProviderSpec.virtualMachine.evictionStrategy: \"LiveMigration\" is not supported",
        "did you mean \"LiveMigrate\"?",
        "spec.providerSpec.value.cloudProviderSpec.virtualMachine.template.primaryDisk.size: \"10Gb\" is not a quantity",
    ] {
        ensure!(printed.err.contains(part), "{part:?} is not in: {}", printed.err);
    }
    admission.end().await
}

#[tokio::test]
async fn the_examples_are_admitted_and_applied_again_without_a_change() -> Result<()> {
    let admission = Admission::start().await?;
    for (file, plural, name) in [
        ("kubevirt-machine.yaml", "machines", "my-machine"),
        (
            "kubevirt-machinedeployment.yaml",
            "machinedeployments",
            "my-machines",
        ),
    ] {
        let path = paths::examples().join(file);
        let args = ["apply", "-f", &path.to_string_lossy()];
        let tried = admission
            .kubectl(&[&args[..], &["--dry-run=server"]].concat(), "")
            .await?;
        ensure!(
            tried.success && tried.out.contains("(server dry run)"),
            "{file}: {}",
            tried.err
        );
        let first = admission.kubectl(&args, "").await?;
        ensure!(first.success && first.err.is_empty(), "{file}: {}", first.err);
        ensure!(first.out.contains("created"), "{file}: {}", first.out);
        let stored = admission.get(plural, name).await?;
        let again = admission.kubectl(&args, "").await?;
        ensure!(again.success && again.err.is_empty(), "{file}: {}", again.err);
        ensure!(
            admission.get(plural, name).await?["spec"] == stored["spec"],
            "{file}: applying it again changed the spec"
        );
    }
    admission.end().await
}

/// A minimal manifest: no `spec.metadata`, no labels.
#[tokio::test]
async fn a_manifest_without_metadata_for_the_node_is_completed() -> Result<()> {
    let admission = Admission::start().await?;
    let printed = admission
        .kubectl(&["create", "-f", "-"], &machine().to_string())
        .await?;
    ensure!(printed.success, "{}", printed.err);
    let stored = admission.get("machines", "m").await?;
    ensure!(stored["spec"]["metadata"]["name"] == "m", "{stored}");
    let labels = stored["spec"]["metadata"]["labels"].as_object();
    ensure!(labels.is_some_and(|labels| labels.len() == 1), "{stored}");
    let sent = &machine()["spec"]["providerSpec"]["value"]["cloudProviderSpec"];
    ensure!(
        &stored["spec"]["providerSpec"]["value"]["cloudProviderSpec"] == sent,
        "what the person wrote is stored: {stored}"
    );
    admission.end().await
}

#[tokio::test]
async fn kubectl_explains_every_field() -> Result<()> {
    let admission = Admission::start().await?;
    for (path, about) in [
        ("machine", "spec"),
        ("machine.spec", "providerSpec"),
        ("machine.spec.providerSpec", "value"),
        ("machine.spec.taints", "effect"),
        ("machine.status", "conditions"),
        ("machineset.spec", "deletePolicy"),
        ("machinedeployment.spec", "strategy"),
        ("machinedeployment.spec.template.spec.providerSpec", "value"),
    ] {
        let printed = admission.kubectl(&["explain", path], "").await?;
        ensure!(printed.success, "{path}: {}", printed.err);
        ensure!(
            printed.out.contains(&format!("  {about}\t<")),
            "{path}: {}",
            printed.out
        );
        // The output of kubectl if the description of a field or of the whole is missing.
        for missing in ["<no description>", "<empty>"] {
            ensure!(!printed.out.contains(missing), "{path}: {}", printed.out);
        }
    }
    admission.end().await
}
