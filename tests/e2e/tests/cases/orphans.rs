//! `kubectl machinist orphans`: objects whose Machine is gone are listed, and deleted only by their names.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write as _,
    process::{Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, wait};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use testbed::{binaries, seed::INFRA_SECRET};

/// The output of the plugin, and its exit code.
struct Answer {
    code: Option<i32>,
    out: String,
    err: String,
}

#[tokio::test]
async fn nothing_is_listed_while_all_vms_have_their_machines() -> Result<()> {
    let case = start().await?;
    let answer = admin(&case, &["orphans"]).await?;
    ensure!(
        answer.code == Some(0) && answer.out.starts_with("no orphans found"),
        "{}",
        answer.all()
    );
    finish(case).await
}

#[tokio::test]
async fn each_object_of_an_orphaned_vm_is_listed_once_with_its_owner() -> Result<()> {
    let case = start().await?;
    leave_behind(&case, "left").await?;
    let secret = secret_of(&case, "left").await?;
    let answer = admin(&case, &["orphans", "--output=json"]).await?;
    ensure!(answer.code == Some(0), "{}", answer.all());
    let report: Value = serde_json::from_str(&answer.out)?;
    let rows = report["orphans"].as_array().context("no list")?;
    let row = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        [text("kind"), text("name"), text("owner"), text("machine")].join(" ")
    };
    let found: BTreeSet<_> = rows.iter().map(row).collect();
    let expected = [
        "VirtualMachine left  left".to_owned(),
        "DataVolume left VirtualMachine/left left".to_owned(),
        "PersistentVolumeClaim left DataVolume/left left".to_owned(),
        format!("Secret {secret} VirtualMachine/left left"),
        "Node left  left".to_owned(),
    ];
    ensure!(found == expected.into(), "{found:#?}");
    ensure!(rows.len() == found.len(), "{rows:#?}");

    // The table of kubectl's plugin has the same rows.
    let tools = case.bed.user().tools();
    let folder = binaries::find(binaries::PLUGIN)?;
    let folder = folder.parent().context("a program without a folder")?;
    let mut command = tokio::process::Command::new(&tools.kubectl);
    command.env("PATH", folder).arg("machinist");
    let answer = run(&case, command, &["orphans", "--infra-kubeconfig", &infra(&case)]).await?;
    ensure!(answer.code == Some(0), "{}", answer.all());
    ensure!(answer.out.lines().count() == 6, "{}", answer.all());
    ensure!(answer.out.starts_with("KIND "), "{}", answer.all());
    finish(case).await
}

/// The credential of the Machines may not list Secrets: the rest is listed, and the exit code is not 0.
#[tokio::test]
async fn kinds_that_the_credential_may_not_list_are_reported() -> Result<()> {
    let case = start().await?;
    leave_behind(&case, "left").await?;
    case.bed.infra().refuses(&["secrets"])?;
    let answer = plugin(&case, &["orphans"]).await?;
    ensure!(answer.code == Some(1), "{}", answer.all());
    ensure!(
        answer
            .err
            .contains("not searched: secrets in namespace machinist-infra")
            && answer.err.contains("is forbidden")
            && answer.err.contains("--infra-kubeconfig"),
        "{}",
        answer.all()
    );
    ensure!(
        answer.out.contains("VirtualMachine ") && !answer.out.contains("Secret "),
        "{}",
        answer.all()
    );
    ensure!(!answer.out.contains("kept"), "{}", answer.all());
    // The same with the credential given by the name of its Secret.
    let secret = format!("--infra-secret=kube-system/{INFRA_SECRET}");
    let by_name = plugin(&case, &["orphans", &secret]).await?;
    ensure!(
        by_name.code == Some(1) && by_name.names() == answer.names(),
        "{}",
        by_name.all()
    );
    finish(case).await
}

#[tokio::test]
async fn an_infra_cluster_that_refuses_connections_is_reported() -> Result<()> {
    let case = start().await?;
    let dead = case.bed.dir().join("dead.kubeconfig");
    let kubeconfig = case.bed.infra().admin_kubeconfig_for("https://127.0.0.1:1");
    fs::write(&dead, kubeconfig)?;
    let answer = plugin(&case, &["orphans", "--infra-kubeconfig", &dead.to_string_lossy()]).await?;
    ensure!(
        answer.code == Some(1)
            && answer
                .err
                .contains("virtualmachines.kubevirt.io in namespace machinist-infra"),
        "{}",
        answer.all()
    );
    ensure!(answer.err.contains("connection refused"), "{}", answer.all());
    finish(case).await
}

#[tokio::test]
async fn an_object_that_is_no_orphan_is_not_deleted() -> Result<()> {
    let case = start().await?;
    leave_behind(&case, "left").await?;
    let kept_secret = secret_of(&case, "kept").await?;
    let secret = format!("secret/{kept_secret}");
    for (target, why) in [
        ("vm/kept", "it belongs to Machine kube-system/kept"),
        ("dv/kept", "it belongs to Machine kube-system/kept"),
        ("pvc/kept", "it belongs to Machine kube-system/kept"),
        (&secret, "it belongs to Machine kube-system/kept"),
        ("vm/theirs", "not an orphan of this cluster"),
        ("vm/elsewhere", "not an orphan of this cluster"),
        ("vm/nowhere", "it does not exist"),
    ] {
        let answer = admin(&case, &["orphans", "delete", target]).await?;
        ensure!(
            answer.code == Some(1) && answer.out.is_empty() && answer.err.contains(why),
            "{target}: {}",
            answer.all()
        );
    }
    for name in ["kept", "theirs", "elsewhere", "left"] {
        let vm = case.vms().get(name).await?;
        ensure!(
            vm.metadata.deletion_timestamp.is_none(),
            "{name} is being deleted"
        );
    }
    case.infra_secrets().get(&kept_secret).await?;
    finish(case).await
}

#[tokio::test]
async fn a_dry_run_deletes_nothing() -> Result<()> {
    let case = start().await?;
    leave_behind(&case, "left").await?;
    let vm = case.vms().get("left").await?;
    let answer = admin(&case, &["orphans", "delete", "vm/left", "--dry-run"]).await?;
    ensure!(
        answer.code == Some(0) && answer.out.contains("would be deleted"),
        "{}",
        answer.all()
    );
    let after = case.vms().get("left").await?;
    ensure!(
        after.metadata.uid == vm.metadata.uid && after.metadata.deletion_timestamp.is_none(),
        "it was deleted"
    );
    finish(case).await
}

#[tokio::test]
async fn an_orphaned_vm_is_deleted_by_its_name_with_its_disk_and_secret() -> Result<()> {
    let case = start().await?;
    leave_behind(&case, "left").await?;
    let secret = secret_of(&case, "left").await?;
    let answer = admin(&case, &["orphans", "delete", "vm/left", "vm/kept"]).await?;
    ensure!(answer.code == Some(1), "{}", answer.all());
    ensure!(
        answer.out.contains("VirtualMachine/left deleted"),
        "{}",
        answer.all()
    );
    ensure!(
        answer.err.contains("VirtualMachine/kept was not deleted"),
        "{}",
        answer.all()
    );
    wait::for_absence(&case.vms(), "left", WAIT_TIMEOUT).await?;
    wait::for_absence(&case.data_volumes(), "left", WAIT_TIMEOUT).await?;
    wait::for_absence(&case.infra_secrets(), &secret, WAIT_TIMEOUT).await?;
    case.vms().get("kept").await?;
    finish(case).await
}

#[tokio::test]
async fn everything_listed_is_deleted_after_confirmation() -> Result<()> {
    let case = start().await?;
    leave_behind(&case, "left").await?;
    let secret = secret_of(&case, "left").await?;
    // Stdin is closed, so there is no confirmation.
    let answer = admin(&case, &["orphans", "--delete"]).await?;
    ensure!(
        answer.code == Some(1) && answer.err.contains("Delete these 5 objects?"),
        "{}",
        answer.all()
    );
    let vm = case.vms().get("left").await?;
    ensure!(vm.metadata.deletion_timestamp.is_none(), "it was deleted");
    case.nodes().get("left").await?;

    let answer = admin(&case, &["orphans", "--delete", "--yes"]).await?;
    ensure!(answer.code == Some(0), "{}", answer.all());
    for what in ["VirtualMachine/left deleted", "Node/left deleted"] {
        ensure!(answer.out.contains(what), "{}", answer.all());
    }
    wait::for_absence(&case.vms(), "left", WAIT_TIMEOUT).await?;
    wait::for_absence(&case.data_volumes(), "left", WAIT_TIMEOUT).await?;
    wait::for_absence(&case.infra_secrets(), &secret, WAIT_TIMEOUT).await?;
    wait::for_absence(&case.nodes(), "left", WAIT_TIMEOUT).await?;
    for name in ["kept", "theirs", "elsewhere"] {
        let vm = case.vms().get(name).await?;
        ensure!(
            vm.metadata.deletion_timestamp.is_none(),
            "{name} is being deleted"
        );
    }
    case.nodes().get("kept").await?;
    finish(case).await
}

/// Two Machines, `left` and `kept`, and two foreign VMs.
async fn start() -> Result<Case> {
    let case = Case::start().await?;
    tokio::task::spawn_blocking(|| binaries::build(&[binaries::PLUGIN])).await??;
    for name in ["left", "kept"] {
        case.apply(&manifest::machine(name)).await?;
    }
    foreign_vm(&case, "theirs", json!({"app": "x"})).await?;
    let other = json!({"machinist.dev/cluster-uid": "another", "machinist.dev/machine-uid": "m"});
    foreign_vm(&case, "elsewhere", other).await?;
    for name in ["left", "kept"] {
        case.node_ready(name).await?;
    }
    Ok(case)
}

/// Deletes the remaining objects of the Machines. The foreign VMs must still exist.
async fn finish(case: Case) -> Result<()> {
    let now = DeleteParams::default();
    if case.machines().get_opt("left").await?.is_some() {
        case.delete_machine("left").await?;
    } else {
        if case.vms().get_opt("left").await?.is_some() {
            case.vms().delete("left", &now).await?;
            wait::for_absence(&case.vms(), "left", WAIT_TIMEOUT).await?;
        }
        if case.nodes().get_opt("left").await?.is_some() {
            case.nodes().delete("left", &now).await?;
        }
    }
    case.delete_machine("kept").await?;
    case.finish(&["VirtualMachine/theirs", "VirtualMachine/elsewhere"])
        .await
}

/// Name of the Secret with the user data of a VM.
async fn secret_of(case: &Case, vm: &str) -> Result<String> {
    let secrets = case.infra_secrets().list(&ListParams::default()).await?;
    let is_of_vm = |secret: &&Secret| {
        let owners = secret.owner_references();
        owners
            .iter()
            .any(|owner| owner.kind == "VirtualMachine" && owner.name == vm)
    };
    let found = secrets.iter().find(is_of_vm).map(kube::ResourceExt::name_any);
    found.with_context(|| format!("no Secret of {vm}"))
}

/// Deletes a Machine after its finalizers were removed by hand.
async fn leave_behind(case: &Case, name: &str) -> Result<()> {
    case.settled().await;
    // A running controller would add them again.
    case.bed.controller().stop();
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    case.machines()
        .patch(name, &PatchParams::default(), &patch)
        .await?;
    case.begin_deletion(name).await?;
    wait::for_absence(&case.machines(), name, WAIT_TIMEOUT).await?;
    case.bed.controller().cont();
    Ok(())
}

async fn foreign_vm(case: &Case, name: &str, labels: Value) -> Result<()> {
    let vm = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name, "labels": labels},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}, "memory": {"guest": "1Gi"}}}}},
    });
    let create = ["create", "--namespace", "machinist-infra", "-f", "-"];
    case.bed.infra().kubectl_ok(&create, &vm.to_string()).await?;
    Ok(())
}

fn infra(case: &Case) -> String {
    let path = case.bed.infra().admin_kubeconfig_path();
    path.to_string_lossy().into_owned()
}

/// By the infra cluster's admin.
async fn admin(case: &Case, args: &[&str]) -> Result<Answer> {
    plugin(case, &[args, &["--infra-kubeconfig", &infra(case)]].concat()).await
}

/// By the credentials of the Machines, unless the arguments name another.
async fn plugin(case: &Case, args: &[&str]) -> Result<Answer> {
    let program = binaries::find(binaries::PLUGIN)?;
    run(case, tokio::process::Command::new(program), args).await
}

async fn run(case: &Case, mut command: tokio::process::Command, args: &[&str]) -> Result<Answer> {
    let output: Output = command
        .args(args)
        .arg("--infra-allow-loopback")
        // Found as kubectl finds it.
        .env("KUBECONFIG", case.bed.user().admin_kubeconfig_path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let answer = Answer {
        code: output.status.code(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    };
    // Where it is searched for secrets.
    let log = case.bed.dir().join("kubectl-machinist.log");
    let mut log = OpenOptions::new().create(true).append(true).open(log)?;
    log.write_all(answer.all().as_bytes())?;
    Ok(answer)
}

impl Answer {
    /// Kinds and names in the table.
    fn names(&self) -> Vec<[&str; 2]> {
        let rows = self.out.lines().map(|line| line.split_whitespace());
        let cells = rows.map(|mut row| [row.next(), row.nth(1)].map(Option::unwrap_or_default));
        cells.collect()
    }

    fn all(&self) -> String {
        format!("code {:?}\n{}\n{}", self.code, self.out, self.err)
    }
}
