//! `kubectl machinist orphans`: what has no Machine any more is listed, and deleted only by its name.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write as _,
    process::{Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{Case, case::PATIENCE, manifest, wait};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use testbed::{binaries, seed::INFRA_SECRET};

/// Holds a Machine that is being deleted before its VM is.
const HOOK: &str = "pre-terminate.delete.hook.machine.cluster.x-k8s.io/test";

/// What the plugin said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

#[tokio::test]
async fn what_is_left_behind_is_listed_and_deleted_by_its_name_only() -> Result<()> {
    let case = Case::start().await?;
    tokio::task::spawn_blocking(|| binaries::build(&[binaries::PLUGIN])).await??;
    for name in ["left", "kept"] {
        case.apply(&manifest::machine(name)).await?;
    }
    stranger(&case, "theirs", json!({"app": "x"})).await?;
    let other = json!({"machinist.dev/cluster-uid": "another", "machinist.dev/machine-uid": "m"});
    stranger(&case, "elsewhere", other).await?;
    for name in ["left", "kept"] {
        case.node_ready(name).await?;
    }
    // Read before it is one, and by somebody who may see everything.
    let said = admin(&case, &["orphans"]).await?;
    ensure!(
        said.code == Some(0) && said.out.starts_with("nothing"),
        "{}",
        said.all()
    );

    leave_behind(&case, "left").await?;
    let secrets = case.infra_secrets().list(&ListParams::default()).await?;
    let secret_of = |name: &str| {
        let vm = |secret: &&k8s_openapi::api::core::v1::Secret| {
            let owners = secret.owner_references();
            owners
                .iter()
                .any(|owner| owner.kind == "VirtualMachine" && owner.name == name)
        };
        let found = secrets.iter().find(vm).map(kube::ResourceExt::name_any);
        found.with_context(|| format!("no Secret of {name}"))
    };
    let (secret, kept_secret) = (secret_of("left")?, secret_of("kept")?);
    listed(&case, &secret).await?;
    told_what_it_may_not_see(&case).await?;
    refused(&case, &kept_secret).await?;

    let vm = case.vms().get("left").await?;
    let said = admin(&case, &["orphans", "delete", "vm/left", "--dry-run"]).await?;
    ensure!(
        said.code == Some(0) && said.out.contains("would be deleted"),
        "{}",
        said.all()
    );
    let after = case.vms().get("left").await?;
    ensure!(
        after.metadata.uid == vm.metadata.uid && after.metadata.deletion_timestamp.is_none(),
        "it was deleted"
    );

    let said = admin(&case, &["orphans", "delete", "vm/left", "vm/kept"]).await?;
    ensure!(said.code == Some(1), "{}", said.all());
    ensure!(said.out.contains("VirtualMachine/left deleted"), "{}", said.all());
    ensure!(
        said.err.contains("VirtualMachine/kept was not deleted"),
        "{}",
        said.all()
    );
    wait::for_absence(&case.vms(), "left", PATIENCE).await?;
    wait::for_absence(&case.data_volumes(), "left", PATIENCE).await?;
    wait::for_absence(&case.infra_secrets(), &secret, PATIENCE).await?;
    case.vms().get("kept").await?;
    case.nodes().delete("left", &DeleteParams::default()).await?;
    case.delete_machine("kept").await?;
    case.finish(&["VirtualMachine/theirs", "VirtualMachine/elsewhere"])
        .await
}

/// Everything of that VM once, with its owner, and nothing else.
async fn listed(case: &Case, secret: &str) -> Result<()> {
    let said = admin(case, &["orphans", "--output=json"]).await?;
    ensure!(said.code == Some(0), "{}", said.all());
    let report: Value = serde_json::from_str(&said.out)?;
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
    ];
    ensure!(found == expected.into(), "{found:#?}");
    ensure!(rows.len() == found.len(), "{rows:#?}");

    // The same for people, as kubectl's plugin.
    let tools = case.bed.user().tools();
    let folder = binaries::find(binaries::PLUGIN)?;
    let folder = folder.parent().context("a program without a folder")?;
    let mut command = tokio::process::Command::new(&tools.kubectl);
    command.env("PATH", folder).arg("machinist");
    let said = run(case, command, &["orphans", "--infra-kubeconfig", &infra(case)]).await?;
    ensure!(said.code == Some(0), "{}", said.all());
    ensure!(said.out.lines().count() == 5, "{}", said.all());
    ensure!(said.out.starts_with("KIND "), "{}", said.all());
    Ok(())
}

/// The credential of the Machines may not list Secrets: the rest is listed, and the end is not a good one.
async fn told_what_it_may_not_see(case: &Case) -> Result<()> {
    case.bed.infra().refuses(&["secrets"])?;
    let said = plugin(case, &["orphans"]).await?;
    ensure!(said.code == Some(1), "{}", said.all());
    ensure!(
        said.err
            .contains("not looked at: secrets in namespace machinist-infra")
            && said.err.contains("is forbidden")
            && said.err.contains("--infra-kubeconfig"),
        "{}",
        said.all()
    );
    ensure!(
        said.out.contains("VirtualMachine ") && !said.out.contains("Secret "),
        "{}",
        said.all()
    );
    ensure!(!said.out.contains("kept"), "{}", said.all());
    // A credential by name is one, too.
    let secret = format!("--infra-secret=kube-system/{INFRA_SECRET}");
    let by_name = plugin(case, &["orphans", &secret]).await?;
    ensure!(
        by_name.code == Some(1) && by_name.names() == said.names(),
        "{}",
        by_name.all()
    );

    // Nobody listens there.
    let dead = case.bed.dir().join("dead.kubeconfig");
    let kubeconfig = case.bed.infra().admin_kubeconfig_for("https://127.0.0.1:1");
    fs::write(&dead, kubeconfig)?;
    let said = plugin(case, &["orphans", "--infra-kubeconfig", &dead.to_string_lossy()]).await?;
    ensure!(
        said.code == Some(1)
            && said
                .err
                .contains("virtualmachines.kubevirt.io in namespace machinist-infra"),
        "{}",
        said.all()
    );
    ensure!(said.err.contains("connection refused"), "{}", said.all());
    Ok(())
}

/// What is not an orphan is not deleted, whatever else is named.
async fn refused(case: &Case, kept_secret: &str) -> Result<()> {
    let secret = format!("secret/{kept_secret}");
    for (target, why) in [
        ("vm/kept", "it is of Machine kube-system/kept"),
        ("dv/kept", "it is of Machine kube-system/kept"),
        ("pvc/kept", "it is of Machine kube-system/kept"),
        (&secret, "it is of Machine kube-system/kept"),
        ("vm/theirs", "no orphan of this cluster"),
        ("vm/elsewhere", "no orphan of this cluster"),
        ("vm/nowhere", "it is not there"),
    ] {
        let said = admin(case, &["orphans", "delete", target]).await?;
        ensure!(
            said.code == Some(1) && said.out.is_empty() && said.err.contains(why),
            "{target}: {}",
            said.all()
        );
    }
    for name in ["kept", "theirs", "elsewhere", "left"] {
        let vm = case.vms().get(name).await?;
        ensure!(
            vm.metadata.deletion_timestamp.is_none(),
            "{name} is being deleted"
        );
    }
    case.infra_secrets().get(kept_secret).await?;
    Ok(())
}

/// Somebody removes the finalizers by hand.
async fn leave_behind(case: &Case, name: &str) -> Result<()> {
    let patch = async |change: Value| {
        let patch = Patch::Merge(change);
        case.machines().patch(name, &PatchParams::default(), &patch).await
    };
    patch(json!({"metadata": {"annotations": {HOOK: ""}}})).await?;
    case.begin_deletion(name).await?;
    case.condition(name, "WaitingForPreTerminateHook").await?;
    patch(json!({"metadata": {"finalizers": null}})).await?;
    wait::for_absence(&case.machines(), name, PATIENCE).await
}

async fn stranger(case: &Case, name: &str, labels: Value) -> Result<()> {
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
async fn admin(case: &Case, args: &[&str]) -> Result<Said> {
    plugin(case, &[args, &["--infra-kubeconfig", &infra(case)]].concat()).await
}

/// By the credentials of the Machines, unless the arguments name another.
async fn plugin(case: &Case, args: &[&str]) -> Result<Said> {
    let program = binaries::find(binaries::PLUGIN)?;
    run(case, tokio::process::Command::new(program), args).await
}

async fn run(case: &Case, mut command: tokio::process::Command, args: &[&str]) -> Result<Said> {
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
    let said = Said {
        code: output.status.code(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    };
    // Where it is searched for secrets.
    let log = case.bed.dir().join("kubectl-machinist.log");
    let mut log = OpenOptions::new().create(true).append(true).open(log)?;
    log.write_all(said.all().as_bytes())?;
    Ok(said)
}

impl Said {
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
