//! Runs a command.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use machinist_infra::kube::client::{ClientOptions, kubectl_client};
use machinist_infra::kube::error::RemoteError;
use machinist_infra::kube::kubeconfig::AddressPolicy;
use machinist_infra::kube::user_cluster::KubectlCluster;

use crate::flags::{
    Adopt, ClusterFlags, Command, Delete, Flags, HandBack, OnOrphans, Orphans, Output, Target,
};
use crate::infra_namespaces::{self, Found, InfraNamespace, Skipped};
use crate::kind::Kind;
use crate::machines::{self, Living, Machine};
use crate::report::{Orphan, Report};
use crate::{adopt, delete, hand_back, nodes, survey};

/// Timeout of a write. It is longer than the controller's, because there is no leadership to lose.
const WRITE: Duration = Duration::from_secs(10);

/// Runs the command, and returns the exit code.
pub fn start(flags: Flags) -> anyhow::Result<ExitCode> {
    // A panic's message may contain data, including secrets.
    std::panic::set_hook(Box::new(|panic| {
        let infra_namespace = panic.location().map(ToString::to_string).unwrap_or_default();
        eprintln!("error: panicked at {infra_namespace}");
    }));
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = match flags.command {
        Command::Orphans(orphans) => runtime.block_on(orphans_command(orphans)),
        Command::Adopt(adopt) => runtime.block_on(adopt_command(&adopt)),
        Command::HandBack(hand_back) => runtime.block_on(hand_back_command(&hand_back)),
    }?;
    Ok(if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The cluster of the Machines.
struct User {
    client: Client,
    server: String,
    /// Its identity.
    uid: String,
}

impl User {
    async fn open(flags: &ClusterFlags, options: &ClientOptions) -> anyhow::Result<Self> {
        let cluster = KubectlCluster {
            kubeconfig: flags.kubeconfig.as_deref(),
            context: flags.context.as_deref(),
        };
        let (client, server) = kubectl_client(cluster, options)
            .await
            .context("the cluster of the Machines: set its kubeconfig with --kubeconfig")?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let system = namespaces.get("kube-system").await.map_err(RemoteError::from);
        let system = system.with_context(|| {
            format!("cannot get the namespace kube-system of {server}, whose UID is the cluster's identity")
        })?;
        let uid = system
            .metadata
            .uid
            .context("the namespace kube-system has no UID")?;
        Ok(Self { client, server, uid })
    }

    async fn machines(&self) -> anyhow::Result<Vec<Machine>> {
        machines::list(&self.client).await.with_context(|| {
            format!(
                "cannot list all Machines of {}, and without them every object would appear to be an orphan",
                self.server
            )
        })
    }
}

fn options(flags: &ClusterFlags) -> ClientOptions {
    ClientOptions {
        write: WRITE,
        addresses: AddressPolicy {
            allow_loopback: flags.infra_allow_loopback,
        },
        user_agent: concat!("kubectl-machinist/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..ClientOptions::default()
    }
}

/// Returns whether everything succeeded.
async fn orphans_command(flags: Orphans) -> anyhow::Result<bool> {
    let options = options(&flags.infra_namespaces);
    if flags.delete && flags.command.is_some() {
        bail!("--delete deletes all that is listed, and `delete` what is named: give one of them");
    }
    let user = User::open(&flags.infra_namespaces, &options).await?;
    let machines = user.machines().await?;
    let found = infra_namespaces::find(&flags.infra_namespaces, &user.client, &machines, &options).await?;
    match flags.command {
        None if flags.delete => {
            let infra_namespaces = found.infra_namespaces.clone();
            let report = everything(&user, found).await?;
            print(&report.table(Timestamp::now()))?;
            eprint!("{}", report.warnings());
            delete_listed(&user, &infra_namespaces, &report, flags.yes).await
        }
        None => list(&everything(&user, found).await?, flags.output),
        Some(OnOrphans::Delete(delete)) => delete_named(&user, &found, &delete).await,
    }
}

/// Gives restored Machines their VMs; returns whether everything succeeded.
async fn adopt_command(flags: &Adopt) -> anyhow::Result<bool> {
    let options = options(&flags.infra_namespaces);
    let user = User::open(&flags.infra_namespaces, &options).await?;
    let machines = user.machines().await?;
    let found = infra_namespaces::find(&flags.infra_namespaces, &user.client, &machines, &options).await?;
    let report = everything(&user, found).await?;
    eprint!("{}", report.warnings());
    let (adoptions, refused) = adopt::find(&machines, &report);
    for why in &refused {
        eprintln!("error: {why}");
    }
    let mut all = refused.is_empty() && report.not_searched.is_empty();
    if adoptions.is_empty() {
        print("no Machine without a VM has the name of a VM that was left behind\n")?;
        return Ok(all);
    }
    print(&adopt::preview(&adoptions, Timestamp::now()))?;
    let question = format!("Give these {} Machines the VMs? [y/N] ", adoptions.len());
    if !flags.yes && !confirmed(&question)? {
        eprintln!("nothing was changed");
        return Ok(false);
    }
    for adoption in &adoptions {
        let machine = adoption.machine;
        match adopt::adopt(&user.client, adoption).await {
            Ok(()) => print(&format!("Machine {machine} adopts VM {}\n", adoption.vm.uid))?,
            Err(error) => {
                all = false;
                eprintln!("error: Machine {machine} was not changed: {error}");
            }
        }
    }
    Ok(all)
}

/// Prepares Machines for machine-controller; returns whether everything succeeded.
async fn hand_back_command(flags: &HandBack) -> anyhow::Result<bool> {
    let cluster = ClusterFlags {
        kubeconfig: flags.kubeconfig.clone(),
        context: flags.context.clone(),
        ..ClusterFlags::default()
    };
    let user = User::open(&cluster, &options(&cluster)).await?;
    hand_back::check_stopped(&user.client, &flags.lease_namespace).await?;
    let machines = machines::stored(&user.client).await;
    let machines = machines.with_context(|| format!("cannot list all Machines of {}", user.server))?;
    let (mut all, mut changed) = (true, 0);
    for machine in &machines {
        let Some(patch) = hand_back::patch(machine) else {
            continue;
        };
        match hand_back::write(&user.client, machine, &patch).await {
            Ok(()) => changed += 1,
            Err(error) => {
                all = false;
                let machine = Machine::read(machine);
                eprintln!("error: Machine {machine} was not changed: {error}");
            }
        }
    }
    print(&format!(
        "the status of {changed} of {} Machines was changed\n",
        machines.len()
    ))?;
    Ok(all)
}

/// Searches everything.
async fn everything(user: &User, found: Found) -> anyhow::Result<Report> {
    let Found {
        infra_namespaces,
        mut unseen,
    } = found;
    let sights = join_all(
        infra_namespaces
            .iter()
            .map(|infra_namespace| survey::look(infra_namespace, &user.uid)),
    )
    .await;
    let mut seen = Vec::new();
    for (infra_namespace, (sight, missing)) in infra_namespaces.into_iter().zip(sights) {
        unseen.extend(missing);
        seen.push((infra_namespace, sight));
    }
    let nodes = nodes::list(&user.client).await.unwrap_or_else(|error| {
        unseen.push(Skipped {
            what: format!("nodes of {}", user.server),
            why: error.to_string(),
        });
        Vec::new()
    });
    let living = Living::new(&user.machines().await?);
    let nodes = nodes::orphans(&user.server, &nodes, &living);
    Ok(Report::new(&user.uid, &seen, nodes, unseen, &living))
}

fn list(report: &Report, output: Output) -> anyhow::Result<bool> {
    match output {
        Output::Table => {
            print(&report.table(Timestamp::now()))?;
            eprint!("{}", report.warnings());
        }
        Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(report)?))?,
    }
    Ok(report.not_searched.is_empty())
}

/// Deletes all listed objects that still exist and are still orphans; Kubernetes deletes their dependents.
async fn delete_listed(
    user: &User,
    infra_namespaces: &[InfraNamespace],
    report: &Report,
    yes: bool,
) -> anyhow::Result<bool> {
    let count = report.orphans.len();
    if count == 0 {
        return Ok(report.not_searched.is_empty());
    }
    if !yes && !confirmed(&format!("Delete these {count} objects? [y/N] "))? {
        eprintln!("nothing was deleted");
        return Ok(false);
    }
    let mut all = report.not_searched.is_empty();
    for orphan in report.tops() {
        let what = format!("{}/{}", orphan.kind, orphan.name);
        match delete_one(user, infra_namespaces, orphan).await? {
            Ok(became) => print(&format!("{what} {became}\n"))?,
            Err(why) => {
                all = false;
                eprintln!("error: {what} was not deleted: {why}");
            }
        }
    }
    Ok(all)
}

/// Looks up an object again, and deletes it; returns the result, or why it was not deleted.
async fn delete_one(
    user: &User,
    infra_namespaces: &[InfraNamespace],
    orphan: &Orphan,
) -> anyhow::Result<Result<&'static str, String>> {
    let Some(kind) = Kind::parse(orphan.kind) else {
        let living = Living::new(&user.machines().await?);
        if living.is_there(&orphan.machine_uid) || living.is_there(&orphan.name) {
            return Ok(Err("it has a Machine now".to_owned()));
        }
        let became = nodes::delete(&user.client, orphan).await;
        return Ok(became.map_err(|error| error.to_string()));
    };
    let target = Target {
        kind,
        name: orphan.name.clone(),
    };
    let infra_namespaces: Vec<_> = infra_namespaces
        .iter()
        .filter(|infra_namespace| {
            infra_namespace.server == orphan.infra_namespace.server
                && infra_namespace.namespace == orphan.infra_namespace.namespace
        })
        .cloned()
        .collect();
    let lookup = delete::look(&target, &infra_namespaces).await;
    let living = Living::new(&user.machines().await?);
    Ok(match delete::decide(&lookup, &user.uid, &living) {
        Ok((_, object)) if object.uid.as_ref() != Some(&orphan.uid) => {
            Err("another object with its name exists now".to_owned())
        }
        Ok((infra_namespace, object)) => delete::delete(&target, infra_namespace, object, false)
            .await
            .map_err(|error| error.to_string()),
        Err(why) => Err(why),
    })
}

/// Whether the user at the terminal confirms.
fn confirmed(question: &str) -> anyhow::Result<bool> {
    eprint!("{question}");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

async fn delete_named(user: &User, found: &Found, flags: &Delete) -> anyhow::Result<bool> {
    for unseen in &found.unseen {
        eprintln!("not searched: {}: {}", unseen.what, unseen.why);
    }
    let looked = join_all(
        flags
            .targets
            .iter()
            .map(|target| delete::look(target, &found.infra_namespaces)),
    )
    .await;
    let living = Living::new(&user.machines().await?);
    let mut all = true;
    for lookup in &looked {
        let target = lookup.target();
        let became = match delete::decide(lookup, &user.uid, &living) {
            Ok((infra_namespace, object)) => delete::delete(target, infra_namespace, object, flags.dry_run)
                .await
                .map(|became| format!("{target} {became}, in {infra_namespace}\n"))
                .map_err(|error| error.to_string()),
            Err(why) => Err(why),
        };
        match became {
            Ok(became) => print(&became)?,
            Err(why) => {
                all = false;
                eprintln!("error: {target} was not deleted: {why}");
            }
        }
    }
    Ok(all)
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
