//! Carries a command out.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use machinist_infra::client::{ClientOptions, RemoteError, kubectl_client};
use machinist_infra::kubeconfig::AddressPolicy;
use machinist_infra::user_cluster::KubectlCluster;

use crate::flags::{Command, Delete, Flags, OnOrphans, Orphans, Output, Places};
use crate::machines::{self, Living, Machine};
use crate::places::{self, Found};
use crate::report::Report;
use crate::{delete, survey};

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
    let user = User::open(&flags.places, &options).await?;
    let machines = user.machines().await?;
    let found = places::find(&flags.places, &user.client, &machines, &options).await?;
    match flags.command {
        None => list(&user, found, flags.output).await,
        Some(OnOrphans::Delete(delete)) => delete_named(&user, &found, &delete).await,
    }
}

async fn list(user: &User, found: Found, output: Output) -> anyhow::Result<bool> {
    let Found { places, mut unseen } = found;
    let sights = join_all(places.iter().map(|place| survey::look(place, &user.uid))).await;
    let mut seen = Vec::new();
    for (place, (sight, missing)) in places.into_iter().zip(sights) {
        unseen.extend(missing);
        seen.push((place, sight));
    }
    let living = Living::new(&user.machines().await?);
    let report = Report::new(&user.uid, &seen, unseen, &living);
    match output {
        Output::Table => {
            print(&report.table(Timestamp::now()))?;
            eprint!("{}", report.warnings());
        }
        Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?,
    }
    Ok(report.not_looked_at.is_empty())
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
