//! The cases. A name is what must hold; an error says what did not.

use anyhow::{Context as _, Result, bail, ensure};
use machinist_infra::kube::error::RemoteError;
use machinist_infra::provider::{BootstrapData, Disk, InstanceView, WatchStatus};

use crate::ProviderBed;
use crate::bed::{Foreign, PEER_CLUSTER};
use crate::pure;
use crate::subject::{CLUSTER, MACHINE, Subject, adopt_params, owner, uid, user_data_name};

/// A UID that no object has.
const UNKNOWN_UID: &str = "00000000-0000-4000-8000-000000000000";

/// Runs every case on that bed, each with a provider that has just started; the error names those that failed.
pub async fn run<B: ProviderBed>(bed: &B) -> Result<()> {
    let new = || Subject::new(bed);
    let mut report = Report::default();
    report.add("a valid spec passes", pure::valid(bed));
    report.add(
        "an unknown field is reported with its path",
        pure::unknown_field(bed),
    );
    report.add("defaulting is idempotent", pure::defaults_twice(bed));
    report.add(
        "defaults from outside do not change what is stored",
        pure::stored_stays(bed),
    );
    report.add(
        "equal parameters render equal instances",
        equal_params(new()).await,
    );
    report.add("a second create conflicts", created_twice(new()).await);
    report.add(
        "an instance that was created and not recorded is found after a crash",
        after_a_crash(new()).await,
    );
    report.add("deleting is idempotent", deleted_twice(new()).await);
    report.add("a delete is for one UID only", delete_by_uid(new()).await);
    report.add(
        "a foreign instance is shown and stays as it is",
        foreign_instance(new()).await,
    );
    report.add(
        "a foreign disk of the same name is shown",
        foreign_disk(new()).await,
    );
    report.add(
        "an instance of machine-controller is recognized and can be labeled",
        adopted(new()).await,
    );
    report.add("delivering user data is idempotent", delivered_twice(new()).await);
    report.add("state and addresses arrive by watch", state_by_watch(new()).await);
    report.add(
        "changes during a watch gap are seen after it",
        watch_gap(new()).await,
    );
    report.add(
        "an unreachable infra cluster is an error and never an absence",
        unreachable(new()).await,
    );
    report.add(
        "an invalid credential is rejected",
        invalid_credential(new()).await,
    );
    ensure!(
        report.failed.is_empty(),
        "the provider does not hold:\n{}",
        report.failed.join("\n")
    );
    Ok(())
}

#[derive(Debug, Default)]
struct Report {
    failed: Vec<String>,
}

impl Report {
    fn add(&mut self, case: &str, outcome: Result<()>) {
        match outcome {
            Ok(()) => println!("ok: {case}"),
            Err(error) => {
                println!("FAILED: {case}: {error:#}");
                self.failed.push(format!("{case}: {error:#}"));
            }
        }
    }
}

/// The write must fail with a conflict.
fn conflicts(what: &str, outcome: Result<(), RemoteError>) -> Result<()> {
    match outcome {
        Ok(()) => bail!("{what} went through"),
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => bail!("{what} failed otherwise than by a conflict: {error}"),
    }
}

async fn equal_params<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    let client = subject.open().await?;
    let first = subject.rendered(client.as_ref(), "equal").await?;
    let second = subject.rendered(client.as_ref(), "equal").await?;
    ensure!(first == second, "{first:#} and {second:#}");
    let disks = subject.resolved()?.disks("equal");
    ensure!(
        disks.len() == 1 && disks == subject.resolved()?.disks("equal"),
        "the bed's spec has one disk, not {disks:?}"
    );
    Ok(())
}

async fn created_twice<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    let client = subject.open().await?;
    let first = subject.made(client.as_ref(), "twice").await?;
    ensure!(owner(&first) == Some(MACHINE), "it bears no label of its Machine");
    ensure!(
        first.user_data.as_deref() == Some(&user_data_name("twice")),
        "it does not say what user data it starts with"
    );
    let again = subject.rendered(client.as_ref(), "twice").await?;
    conflicts("the second create", client.create(again).await)?;
    let second = subject.instance(client.as_ref(), "twice").await?;
    ensure!(uid(&first) == uid(&second), "it is another one");
    subject.gone("twice").await
}

async fn after_a_crash<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    let client = subject.open().await?;
    let made = subject.made(client.as_ref(), "crashed").await?;
    let mut restarted = Subject::new(subject.bed);
    let client = restarted.open().await?;
    // Open means that everything is known: no event has to be waited for.
    let found = restarted.instance(client.as_ref(), "crashed").await?;
    ensure!(
        (uid(&found), owner(&found)) == (uid(&made), Some(MACHINE)),
        "it is not the one that was made"
    );
    let again = restarted.rendered(client.as_ref(), "crashed").await?;
    conflicts("the create after the crash", client.create(again).await)?;
    restarted.gone("crashed").await
}

async fn deleted_twice<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    let client = subject.open().await?;
    let made = subject.made(client.as_ref(), "deleted").await?;
    client.delete("deleted", uid(&made)).await?;
    client
        .delete("deleted", uid(&made))
        .await
        .context("the second delete")?;
    subject.gone("deleted").await?;
    let delete = client.delete("deleted", uid(&made)).await;
    delete.context("the delete of what is gone")
}

async fn delete_by_uid<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    let client = subject.open().await?;
    let made = subject.made(client.as_ref(), "exact").await?;
    conflicts(
        "a delete for another UID",
        client.delete("exact", UNKNOWN_UID).await,
    )?;
    let stored = subject.bed.stored("exact").await?;
    ensure!(stored.is_some(), "it is gone");
    // Another actor recreates it under the same name: a delete for the old UID must not remove it.
    subject.bed.remove("exact").await?;
    subject.bed.create("exact", Foreign::Instance).await?;
    conflicts(
        "a delete for the previous UID",
        client.delete("exact", uid(&made)).await,
    )?;
    ensure!(
        subject.bed.stored("exact").await?.is_some(),
        "the other one is gone"
    );
    subject.bed.remove("exact").await
}

async fn foreign_instance<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    subject.bed.create("foreign", Foreign::Instance).await?;
    let before = subject.bed.stored("foreign").await?;
    let seen = |view: &InstanceView| view.instance.is_some();
    let view = subject.until("foreign", "seen", seen).await?;
    let instance = view.instance.context("it is not seen")?;
    ensure!(
        owner(&instance).is_none() && instance.made_by_peer_for.is_none(),
        "it is attributed to a Machine: {instance:?}"
    );
    let client = subject.open().await?;
    let ours = subject.rendered(client.as_ref(), "foreign").await?;
    conflicts("a create over it", client.create(ours).await)?;
    conflicts(
        "a delete of another UID",
        client.delete("foreign", UNKNOWN_UID).await,
    )?;
    conflicts(
        "labels for another UID",
        client.label("foreign", adopt_params(UNKNOWN_UID, "1")).await,
    )?;
    let after = subject.bed.stored("foreign").await?;
    ensure!(before == after, "it was {before:#?} and is {after:#?}");
    subject.bed.remove("foreign").await
}

async fn foreign_disk<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    let disks = subject.resolved()?.disks("data");
    let disk = disks.first().context("the bed's spec has no disk")?;
    subject.bed.create(disk, Foreign::Disk).await?;
    let shown = |view: &InstanceView| {
        let names = view.disks.iter().filter_map(|disk| disk.metadata.name.as_ref());
        names.into_iter().any(|name| name == disk)
    };
    let view = subject
        .until("data", "shown with the foreign disk", shown)
        .await?;
    let is_free = |found: &Disk| {
        found.metadata.name.as_ref() == Some(disk) && found.metadata.owner_references.is_none()
    };
    ensure!(
        view.instance.is_none() && view.disks.iter().any(is_free),
        "it is not distinguished from the instance's own disk: {view:?}"
    );
    Ok(())
}

async fn adopted<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    subject.bed.create("peers", Foreign::MachineController).await?;
    let known = |view: &InstanceView| {
        let made_for = view
            .instance
            .as_ref()
            .and_then(|instance| instance.made_by_peer_for.as_deref());
        made_for == Some(PEER_CLUSTER)
    };
    subject
        .until("peers", "known as machine-controller's", known)
        .await?;
    let client = subject.open().await?;
    let before = subject.instance(client.as_ref(), "peers").await?;
    ensure!(
        owner(&before).is_none(),
        "it has Machinist's label before it is adopted"
    );
    conflicts(
        "labels for another UID",
        client.label("peers", adopt_params(UNKNOWN_UID, "1")).await,
    )?;
    // Its status may be written meanwhile; then the label is for the next version.
    loop {
        let instance = subject.instance(client.as_ref(), "peers").await?;
        let version = instance.metadata.resource_version.clone().unwrap_or_default();
        match client
            .label("peers", adopt_params(uid(&instance), &version))
            .await
        {
            Err(error) if error.is_conflict() => {
                let newer = |view: &InstanceView| {
                    let now = view.instance.as_ref().map(|now| &now.metadata.resource_version);
                    now != Some(&instance.metadata.resource_version)
                };
                subject.until("peers", "newer", newer).await?;
            }
            other => break other?,
        }
    }
    let after = subject.instance(client.as_ref(), "peers").await?;
    ensure!(
        owner(&after) == Some(MACHINE) && uid(&after) == uid(&before),
        "it bears no label of its Machine, or is another: {after:?}"
    );
    subject.gone("peers").await
}

async fn delivered_twice<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    let client = subject.open().await?;
    let made = subject.made(client.as_ref(), "delivered").await?;
    for time in ["first", "second"] {
        client
            .create_user_data(bootstrap_data("delivered", uid(&made)))
            .await
            .context(time)?;
    }
    subject.gone("delivered").await?;
    let client = subject.open().await?;
    for time in ["taken back", "taken back again"] {
        client
            .delete_user_data("userdata-delivered")
            .await
            .context(time)?;
    }
    Ok(())
}

fn bootstrap_data<'a>(instance: &'a str, uid: &'a str) -> BootstrapData<'a> {
    BootstrapData {
        name: match instance {
            "runs" => "userdata-runs",
            _ => "userdata-delivered",
        },
        instance,
        uid,
        machine_uid: MACHINE,
        cluster_uid: CLUSTER,
        data: b"#cloud-config\n",
    }
}

async fn state_by_watch<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    let client = subject.open().await?;
    let made = subject.made(client.as_ref(), "runs").await?;
    ensure!(
        !made.state.ready && !made.state.terminal,
        "it runs, or has failed, before it has user data: {:?}",
        made.state
    );
    client
        .create_user_data(bootstrap_data("runs", uid(&made)))
        .await?;
    subject.bed.boot("runs").await?;
    let runs = |view: &InstanceView| {
        let ready = view
            .instance
            .as_ref()
            .is_some_and(|instance| instance.state.ready);
        ready
            && view
                .guest
                .as_ref()
                .is_some_and(|guest| guest.started && !guest.addresses.is_empty())
    };
    let view = subject.until("runs", "running with an address", runs).await?;
    let instance = view.instance.context("it is gone")?;
    ensure!(
        !instance.state.reason.is_empty() && !instance.state.message.is_empty(),
        "reason or message is empty: {:?}",
        instance.state
    );
    ensure!(
        instance.system_uuid.is_some(),
        "nothing ties a Node to it but addresses"
    );
    subject.gone("runs").await
}

async fn watch_gap<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    let bed = subject.bed;
    let client = subject.open().await?;
    subject.made(client.as_ref(), "missed").await?;
    let meanwhile = async {
        bed.remove("missed").await?;
        bed.create("news", Foreign::Instance).await
    };
    bed.with_watches_cut(meanwhile).await?;
    subject
        .until("missed", "gone", |view| view.instance.is_none())
        .await?;
    subject
        .until("news", "there", |view| view.instance.is_some())
        .await?;
    bed.remove("news").await
}

async fn unreachable<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    let client = subject.open().await?;
    let made = subject.made(client.as_ref(), "kept").await?;
    let next = subject.rendered(client.as_ref(), "other").await?;
    subject.bed.disconnect().await?;
    let writes = [
        ("a create", client.create(next).await),
        ("a delete", client.delete("kept", uid(&made)).await),
        (
            "user data",
            client.create_user_data(bootstrap_data("kept", uid(&made))).await,
        ),
    ];
    for (what, outcome) in writes {
        ensure!(
            outcome.as_ref().is_err_and(|error| !error.is_conflict()),
            "{what} on an unreachable infra cluster: {outcome:?}"
        );
    }
    let failed = |watched| match watched {
        WatchStatus::Failed { refused, .. } => Some(refused),
        _ => None,
    };
    let refused = subject
        .known("the infra cluster to be reported as unreachable", false, failed)
        .await?;
    ensure!(!refused, "the credential is rejected");
    if let Ok(view) = subject.view_of(client.as_ref(), "kept").await {
        ensure!(
            view.instance.is_some(),
            "an unreachable instance is reported as absent"
        );
    }
    // Nor may a provider that has never listed the infra cluster report it as empty.
    let mut restarted = Subject::new(subject.bed);
    restarted
        .known("the infra cluster to be reported as unreachable", false, failed)
        .await?;

    subject.bed.reconnect().await?;
    let client = subject.open().await?;
    let found = subject.instance(client.as_ref(), "kept").await?;
    ensure!(uid(&found) == uid(&made), "it is another one");
    ensure!(
        subject.bed.stored("other").await?.is_none(),
        "the failed create has made something"
    );
    restarted.open().await?;
    subject.gone("kept").await
}

async fn invalid_credential<B: ProviderBed>(mut subject: Subject<'_, B>) -> Result<()> {
    // While a valid credential is in use there.
    subject.open().await?;
    let answered = |watched| match watched {
        WatchStatus::Opening => None,
        other => Some(other),
    };
    match subject.known("an answer", true, answered).await? {
        WatchStatus::Failed { refused: true, .. } => Ok(()),
        other => bail!("it gets {other:?}"),
    }
}
