//! The cases. A name is what must hold; an error says what did not.

use anyhow::{Context as _, Result, bail, ensure};
use machinist_infra::kube::error::RemoteError;
use machinist_infra::provider::{BootstrapData, Disk, InstanceView, WatchStatus};

use crate::Bed;
use crate::bed::{Foreign, PEER};
use crate::pure;
use crate::subject::{CLUSTER, MACHINE, Subject, labelling, owner, uid, user_data_name};

/// A UID that nothing has.
const NOBODYS: &str = "00000000-0000-4000-8000-000000000000";

/// Runs every case on that bed, each with a provider that has just started; the error names those that failed.
pub async fn run<B: Bed>(bed: &B) -> Result<()> {
    let new = || Subject::new(bed);
    let mut report = Report::default();
    report.add("a spec that is right passes", pure::right(bed));
    report.add("a mistake is told with its field", pure::mistake(bed));
    report.add("defaults twice are defaults once", pure::defaults_twice(bed));
    report.add(
        "defaults from outside do not change what is stored",
        pure::stored_stays(bed),
    );
    report.add("equal orders are equal instances", equal_orders(new()).await);
    report.add("created twice is one instance", created_twice(new()).await);
    report.add(
        "created and not recorded is found after a crash",
        after_a_crash(new()).await,
    );
    report.add("deleted twice is deleted", deleted_twice(new()).await);
    report.add("a delete is for one UID only", delete_by_uid(new()).await);
    report.add(
        "a foreign instance is shown and stays as it is",
        foreign_instance(new()).await,
    );
    report.add(
        "a foreign disk is shown before an instance takes it",
        foreign_disk(new()).await,
    );
    report.add(
        "an instance of machine-controller is known and can be labelled",
        taken_over(new()).await,
    );
    report.add(
        "user data delivered twice is delivered",
        delivered_twice(new()).await,
    );
    report.add("state and addresses come by watch", state_by_watch(new()).await);
    report.add(
        "what a deaf watch has missed is seen after it",
        watch_gap(new()).await,
    );
    report.add("a lost place is an error and never an absence", lost(new()).await);
    report.add("a junk credential sees nothing", junk(new()).await);
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

/// A write must have met something else.
fn conflicts(what: &str, outcome: Result<(), RemoteError>) -> Result<()> {
    match outcome {
        Ok(()) => bail!("{what} went through"),
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => bail!("{what} failed otherwise than by a conflict: {error}"),
    }
}

async fn equal_orders<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    let place = subject.open().await?;
    let first = subject.rendered(place.as_ref(), "equal").await?;
    let second = subject.rendered(place.as_ref(), "equal").await?;
    ensure!(first == second, "{first:#} and {second:#}");
    let disks = subject.blueprint()?.disks("equal");
    ensure!(
        disks.len() == 1 && disks == subject.blueprint()?.disks("equal"),
        "the bed's blueprint has one disk, not {disks:?}"
    );
    Ok(())
}

async fn created_twice<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    let place = subject.open().await?;
    let first = subject.made(place.as_ref(), "twice").await?;
    ensure!(owner(&first) == Some(MACHINE), "it bears no label of its Machine");
    ensure!(
        first.user_data.as_deref() == Some(&user_data_name("twice")),
        "it does not say what user data it starts with"
    );
    let again = subject.rendered(place.as_ref(), "twice").await?;
    conflicts("the second create", place.create(again).await)?;
    let second = subject.instance(place.as_ref(), "twice").await?;
    ensure!(uid(&first) == uid(&second), "it is another one");
    subject.gone("twice").await
}

async fn after_a_crash<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    let place = subject.open().await?;
    let made = subject.made(place.as_ref(), "crashed").await?;
    let mut restarted = Subject::new(subject.bed);
    let place = restarted.open().await?;
    // Open means that everything is known: no event has to be waited for.
    let found = restarted.instance(place.as_ref(), "crashed").await?;
    ensure!(
        (uid(&found), owner(&found)) == (uid(&made), Some(MACHINE)),
        "it is not the one that was made"
    );
    let again = restarted.rendered(place.as_ref(), "crashed").await?;
    conflicts("the create after the crash", place.create(again).await)?;
    restarted.gone("crashed").await
}

async fn deleted_twice<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    let place = subject.open().await?;
    let made = subject.made(place.as_ref(), "deleted").await?;
    place.delete("deleted", uid(&made)).await?;
    place
        .delete("deleted", uid(&made))
        .await
        .context("the second delete")?;
    subject.gone("deleted").await?;
    let delete = place.delete("deleted", uid(&made)).await;
    delete.context("the delete of what is gone")
}

async fn delete_by_uid<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    let place = subject.open().await?;
    let made = subject.made(place.as_ref(), "exact").await?;
    conflicts("a delete for another UID", place.delete("exact", NOBODYS).await)?;
    let stored = subject.bed.stored("exact").await?;
    ensure!(stored.is_some(), "it is gone");
    // Made anew by somebody else, under the same name: the old UID must not take it.
    subject.bed.remove("exact").await?;
    subject.bed.make("exact", Foreign::Instance).await?;
    conflicts(
        "a delete for the former UID",
        place.delete("exact", uid(&made)).await,
    )?;
    ensure!(
        subject.bed.stored("exact").await?.is_some(),
        "the other one is gone"
    );
    subject.bed.remove("exact").await
}

async fn foreign_instance<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    subject.bed.make("foreign", Foreign::Instance).await?;
    let before = subject.bed.stored("foreign").await?;
    let seen = |sight: &InstanceView| sight.instance.is_some();
    let sight = subject.until("foreign", "seen", seen).await?;
    let instance = sight.instance.context("it is not seen")?;
    ensure!(
        owner(&instance).is_none() && instance.made_by_peer_for.is_none(),
        "it is taken for somebody's: {instance:?}"
    );
    let place = subject.open().await?;
    let ours = subject.rendered(place.as_ref(), "foreign").await?;
    conflicts("a create over it", place.create(ours).await)?;
    conflicts("a delete of another UID", place.delete("foreign", NOBODYS).await)?;
    conflicts(
        "labels for another UID",
        place.label("foreign", labelling(NOBODYS, "1")).await,
    )?;
    let after = subject.bed.stored("foreign").await?;
    ensure!(before == after, "it was {before:#?} and is {after:#?}");
    subject.bed.remove("foreign").await
}

async fn foreign_disk<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    let disks = subject.blueprint()?.disks("data");
    let disk = disks.first().context("the bed's blueprint has no disk")?;
    subject.bed.make(disk, Foreign::Disk).await?;
    let shown = |sight: &InstanceView| {
        let names = sight.disks.iter().filter_map(|disk| disk.metadata.name.as_ref());
        names.into_iter().any(|name| name == disk)
    };
    let sight = subject
        .until("data", "seen with the disk in its way", shown)
        .await?;
    let is_free = |found: &Disk| {
        found.metadata.name.as_ref() == Some(disk) && found.metadata.owner_references.is_none()
    };
    ensure!(
        sight.instance.is_none() && sight.disks.iter().any(is_free),
        "it is not told from an instance's own: {sight:?}"
    );
    Ok(())
}

async fn taken_over<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    subject.bed.make("peers", Foreign::Peers).await?;
    let known = |sight: &InstanceView| {
        let made_for = sight
            .instance
            .as_ref()
            .and_then(|instance| instance.made_by_peer_for.as_deref());
        made_for == Some(PEER)
    };
    subject
        .until("peers", "known as machine-controller's", known)
        .await?;
    let place = subject.open().await?;
    let before = subject.instance(place.as_ref(), "peers").await?;
    ensure!(
        owner(&before).is_none(),
        "it bears our label before it is taken over"
    );
    conflicts(
        "labels for another UID",
        place.label("peers", labelling(NOBODYS, "1")).await,
    )?;
    // Its status may be written meanwhile; then the label is for the next version.
    loop {
        let instance = subject.instance(place.as_ref(), "peers").await?;
        let version = instance.metadata.resource_version.clone().unwrap_or_default();
        match place.label("peers", labelling(uid(&instance), &version)).await {
            Err(error) if error.is_conflict() => {
                let newer = |sight: &InstanceView| {
                    let now = sight.instance.as_ref().map(|now| &now.metadata.resource_version);
                    now != Some(&instance.metadata.resource_version)
                };
                subject.until("peers", "newer", newer).await?;
            }
            other => break other?,
        }
    }
    let after = subject.instance(place.as_ref(), "peers").await?;
    ensure!(
        owner(&after) == Some(MACHINE) && uid(&after) == uid(&before),
        "it bears no label of its Machine, or is another: {after:?}"
    );
    subject.gone("peers").await
}

async fn delivered_twice<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    let place = subject.open().await?;
    let made = subject.made(place.as_ref(), "delivered").await?;
    for time in ["first", "second"] {
        place
            .create_user_data(delivery("delivered", uid(&made)))
            .await
            .context(time)?;
    }
    subject.gone("delivered").await?;
    let place = subject.open().await?;
    for time in ["taken back", "taken back again"] {
        place.delete_user_data("userdata-delivered").await.context(time)?;
    }
    Ok(())
}

fn delivery<'a>(instance: &'a str, uid: &'a str) -> BootstrapData<'a> {
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

async fn state_by_watch<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    let place = subject.open().await?;
    let made = subject.made(place.as_ref(), "runs").await?;
    ensure!(
        !made.state.ready && !made.state.terminal,
        "it runs, or has failed, before it has user data: {:?}",
        made.state
    );
    place.create_user_data(delivery("runs", uid(&made))).await?;
    subject.bed.boot("runs").await?;
    let runs = |sight: &InstanceView| {
        let ready = sight
            .instance
            .as_ref()
            .is_some_and(|instance| instance.state.ready);
        ready
            && sight
                .guest
                .as_ref()
                .is_some_and(|guest| guest.started && !guest.addresses.is_empty())
    };
    let sight = subject.until("runs", "running with an address", runs).await?;
    let instance = sight.instance.context("it is gone")?;
    ensure!(
        !instance.state.reason.is_empty() && !instance.state.message.is_empty(),
        "a person is told nothing: {:?}",
        instance.state
    );
    ensure!(
        instance.system_uuid.is_some(),
        "nothing ties a Node to it but addresses"
    );
    subject.gone("runs").await
}

async fn watch_gap<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    let bed = subject.bed;
    let place = subject.open().await?;
    subject.made(place.as_ref(), "missed").await?;
    let meanwhile = async {
        bed.remove("missed").await?;
        bed.make("news", Foreign::Instance).await
    };
    bed.unheard(meanwhile).await?;
    subject
        .until("missed", "gone", |sight| sight.instance.is_none())
        .await?;
    subject
        .until("news", "there", |sight| sight.instance.is_some())
        .await?;
    bed.remove("news").await
}

async fn lost<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    let place = subject.open().await?;
    let made = subject.made(place.as_ref(), "kept").await?;
    let next = subject.rendered(place.as_ref(), "other").await?;
    subject.bed.lose().await?;
    let writes = [
        ("a create", place.create(next).await),
        ("a delete", place.delete("kept", uid(&made)).await),
        (
            "user data",
            place.create_user_data(delivery("kept", uid(&made))).await,
        ),
    ];
    for (what, outcome) in writes {
        ensure!(
            outcome.as_ref().is_err_and(|error| !error.is_conflict()),
            "{what} at a place that is lost: {outcome:?}"
        );
    }
    let failed = |watched| match watched {
        WatchStatus::Failed { refused, .. } => Some(refused),
        _ => None,
    };
    let refused = subject
        .known("the place to be known as lost", false, failed)
        .await?;
    ensure!(!refused, "the credential is blamed");
    if let Ok(sight) = subject.see(place.as_ref(), "kept").await {
        ensure!(
            sight.instance.is_some(),
            "what cannot be reached is taken for gone"
        );
    }
    // Nor may one that has never seen the place take it for empty.
    let mut newcomer = Subject::new(subject.bed);
    newcomer
        .known("the place to be known as lost", false, failed)
        .await?;

    subject.bed.find().await?;
    let place = subject.open().await?;
    let found = subject.instance(place.as_ref(), "kept").await?;
    ensure!(uid(&found) == uid(&made), "it is another one");
    ensure!(
        subject.bed.stored("other").await?.is_none(),
        "the failed create has made something"
    );
    newcomer.open().await?;
    subject.gone("kept").await
}

async fn junk<B: Bed>(mut subject: Subject<'_, B>) -> Result<()> {
    // While somebody else's credential is in use there.
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
