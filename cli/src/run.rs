//! Carries a command out.

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

use crate::flags::{Command, Delete, Flags, OnOrphans, Orphans, Output, Places, Target};
use crate::kind::Kind;
use crate::machines::{self, Living, Machine};
use crate::places::{self, Found, Place, Unseen};
use crate::report::{Orphan, Report};
use crate::{delete, nodes, survey};

/// How long an API server may take with a write. Nothing is lost meanwhile, unlike for a controller that leads.
const WRITE: Duration = Duration::from_secs(10);

/// Does what was asked, and gives the exit code.
pub fn start(flags: Flags) -> anyhow::Result<ExitCode> {
    // A panic's message may quote what was worked on, secrets included.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        eprintln!("error: panicked at {place}");
    }));
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let Command::Orphans(orphans) = flags.command;
    let done = runtime.block_on(orphans_command(orphans))?;
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
    async fn open(flags: &Places, options: &ClientOptions) -> anyhow::Result<Self> {
        let cluster = KubectlCluster {
            kubeconfig: flags.kubeconfig.as_deref(),
            context: flags.context.as_deref(),
        };
        let (client, server) = kubectl_client(cluster, options)
            .await
            .context("the cluster of the Machines: name its kubeconfig with --kubeconfig")?;
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
                "cannot list all Machines of {}, and without them everything would look left behind",
                self.server
            )
        })
    }
}

/// Whether all went well.
async fn orphans_command(flags: Orphans) -> anyhow::Result<bool> {
    let options = ClientOptions {
        write: WRITE,
        addresses: AddressPolicy {
            allow_loopback: flags.places.infra_allow_loopback,
        },
        user_agent: concat!("kubectl-machinist/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..ClientOptions::default()
    };
    if flags.delete && flags.command.is_some() {
        bail!("--delete deletes all that is listed, and `delete` what is named: give one of them");
    }
    let user = User::open(&flags.places, &options).await?;
    let machines = user.machines().await?;
    let found = places::find(&flags.places, &user.client, &machines, &options).await?;
    match flags.command {
        None if flags.delete => {
            let places = found.places.clone();
            let report = everything(&user, found).await?;
            print(&report.table(Timestamp::now()))?;
            eprint!("{}", report.warnings());
            delete_listed(&user, &places, &report, flags.yes).await
        }
        None => list(&everything(&user, found).await?, flags.output),
        Some(OnOrphans::Delete(delete)) => delete_named(&user, &found, &delete).await,
    }
}

/// Looks at everything.
async fn everything(user: &User, found: Found) -> anyhow::Result<Report> {
    let Found { places, mut unseen } = found;
    let sights = join_all(places.iter().map(|place| survey::look(place, &user.uid))).await;
    let mut seen = Vec::new();
    for (place, (sight, missing)) in places.into_iter().zip(sights) {
        unseen.extend(missing);
        seen.push((place, sight));
    }
    let nodes = nodes::list(&user.client).await.unwrap_or_else(|error| {
        unseen.push(Unseen {
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
    Ok(report.not_looked_at.is_empty())
}

/// Deletes all that was listed, if it is still there and still an orphan; Kubernetes deletes what it owns.
async fn delete_listed(user: &User, places: &[Place], report: &Report, yes: bool) -> anyhow::Result<bool> {
    let count = report.orphans.len();
    if count == 0 {
        return Ok(report.not_looked_at.is_empty());
    }
    if !yes && !confirmed(&format!("Delete these {count} objects? [y/N] "))? {
        eprintln!("nothing was deleted");
        return Ok(false);
    }
    let mut all = report.not_looked_at.is_empty();
    for orphan in report.tops() {
        let what = format!("{}/{}", orphan.kind, orphan.name);
        match delete_one(user, places, orphan).await? {
            Ok(became) => print(&format!("{what} {became}\n"))?,
            Err(why) => {
                all = false;
                eprintln!("error: {what} was not deleted: {why}");
            }
        }
    }
    Ok(all)
}

/// Looks one up again, and deletes it; what became of it, or why it was not deleted.
async fn delete_one(
    user: &User,
    places: &[Place],
    orphan: &Orphan,
) -> anyhow::Result<Result<&'static str, String>> {
    let Some(kind) = Kind::parse(orphan.kind) else {
        let living = Living::new(&user.machines().await?);
        if living.is_there(&orphan.machine_uid) || living.is_there(&orphan.name) {
            return Ok(Err("it has a Machine by now".to_owned()));
        }
        let became = nodes::delete(&user.client, orphan).await;
        return Ok(became.map_err(|error| error.to_string()));
    };
    let target = Target {
        kind,
        name: orphan.name.clone(),
    };
    let places: Vec<_> = places
        .iter()
        .filter(|place| place.server == orphan.place.server && place.namespace == orphan.place.namespace)
        .cloned()
        .collect();
    let lookup = delete::look(&target, &places).await;
    let living = Living::new(&user.machines().await?);
    Ok(match delete::judge(&lookup, &user.uid, &living) {
        Ok((_, object)) if object.uid.as_ref() != Some(&orphan.uid) => {
            Err("another object of its name is there by now".to_owned())
        }
        Ok((place, object)) => delete::delete(&target, place, object, false)
            .await
            .map_err(|error| error.to_string()),
        Err(why) => Err(why),
    })
}

/// Whether the person at the terminal says yes.
fn confirmed(question: &str) -> anyhow::Result<bool> {
    eprint!("{question}");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

async fn delete_named(user: &User, found: &Found, flags: &Delete) -> anyhow::Result<bool> {
    for unseen in &found.unseen {
        eprintln!("not looked at: {}: {}", unseen.what, unseen.why);
    }
    let looked = join_all(
        flags
            .targets
            .iter()
            .map(|target| delete::look(target, &found.places)),
    )
    .await;
    let living = Living::new(&user.machines().await?);
    let mut all = true;
    for lookup in &looked {
        let target = lookup.target();
        let became = match delete::judge(lookup, &user.uid, &living) {
            Ok((place, object)) => delete::delete(target, place, object, flags.dry_run)
                .await
                .map(|became| format!("{target} {became}, in {place}\n"))
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
