//! The life of bootstrap tokens: one for each Machine, and none outlives its join or its Machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use e2e::{
    Case,
    case::{WAIT_TIMEOUT, message},
    certificates, manifest, wait,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{api::core::v1::Secret, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use machinist_shared::api::{
    Machine,
    names::{TOKEN_SECRET_TYPE, label},
};
use serde_json::json;
use testbed::bed::Options;
use tokio::task::JoinHandle;

#[tokio::test]
async fn a_token_with_little_time_left_is_extended_until_the_machine_joins() -> Result<()> {
    let case = Case::start().await?;
    let mut machine = manifest::machine("slow");
    machine["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&machine).await?;
    case.condition("slow", "WaitingForNode").await?;
    case.settled().await;
    let token = certificates::token_of(&case, "slow").await?.name_any();
    let secrets = Api::<Secret>::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    let soon = Timestamp::now() + Duration::from_mins(5);
    let patch = json!({"stringData": {"expiration": format!("{soon:.0}")}});
    secrets
        .patch(&token, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    let extended = |secret: &Secret| {
        let expiration = secret.data.as_ref().and_then(|data| data.get("expiration"));
        let expiration =
            expiration.and_then(|text| std::str::from_utf8(&text.0).ok()?.parse::<Timestamp>().ok());
        expiration.is_some_and(|expiration| expiration > soon + Duration::from_mins(5))
    };
    wait::for_state(&secrets, &token, "extended", WAIT_TIMEOUT, extended).await?;
    case.delete_machine("slow").await?;
    case.finish(&[]).await
}

/// Backoff before the fourth and fifth VM, up to a fifth shorter by jitter: 1 s and 2 s. After the fifth, the next is 4 s.
const FIVE_VMS: Duration = Duration::from_millis(2400);

#[tokio::test]
async fn deleted_tokens_recreate_the_vm_with_growing_backoff() -> Result<()> {
    let case = Case::start().await?;
    let secrets = Api::<Secret>::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    let deleter = tokio::spawn(delete_tokens(secrets));
    case.apply(&manifest::machine("worker")).await?;
    let began = Instant::now();
    let fifth = |machine: &Machine| {
        message(machine, "RecreationBackOff").is_some_and(|message| message.starts_with("5 VMs in a row"))
    };
    wait::for_state(
        &case.machines(),
        "worker",
        "waiting after five VMs",
        WAIT_TIMEOUT,
        fifth,
    )
    .await?;
    let took = began.elapsed();
    ensure!(took > FIVE_VMS, "five VMs took {took:?}");
    let vms = case.vm_history.uids("worker").len();
    assert_eq!(vms, 5, "VMs of which the message tells");
    let described = case.describe("worker").await?;
    ensure!(
        described.contains("VMs end before a kubelet joins"),
        "{described}"
    );

    deleter.abort();
    case.node_ready("worker").await?;
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

/// Deletes bootstrap tokens as soon as they are seen.
async fn delete_tokens(secrets: Api<Secret>) {
    let of_tokens = watcher::Config::default().fields(&format!("type={TOKEN_SECRET_TYPE}"));
    let mut events = watcher(secrets.clone(), of_tokens)
        .default_backoff()
        .applied_objects()
        .boxed();
    while let Some(token) = events.next().await {
        let Ok(token) = token else { continue };
        // It may be gone already.
        let _ = secrets.delete(&token.name_any(), &DeleteParams::default()).await;
    }
}

/// Machines whose tokens are followed.
const MACHINES: usize = 50;

#[tokio::test]
async fn no_token_outlives_its_join_or_its_machine() -> Result<()> {
    // This case does not test admission, and admitting all of them at once takes long on a small machine.
    let case = Case::start_with(Options {
        webhook_args: vec!["--infra-unreachable=off".to_owned()],
        ..Options::default()
    })
    .await?;
    let record = Record::of(case.bed.user().client());
    // Every fourth never joins: its token ends with it.
    let machines: Vec<(String, bool)> = (0..MACHINES)
        .map(|n| (format!("worker-{n}"), n % 4 != 3))
        .collect();
    let (bed, all) = (&case, &machines);
    stream::iter(all)
        .map(|(name, joins)| async move {
            let mut machine = manifest::machine(name);
            if !joins {
                machine["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
            }
            bed.apply(&machine).await
        })
        .buffer_unordered(4)
        .try_collect::<Vec<_>>()
        .await?;
    let mut uids = BTreeSet::new();
    for (name, joins) in &machines {
        if *joins {
            let machine = case.node_ready(name).await?;
            // The token is deleted before the join is reported, not some time after it.
            assert_eq!(
                token_of(&case, &machine.uid().unwrap_or_default()).await?,
                0,
                "{name}"
            );
        } else {
            case.condition(name, "WaitingForNode").await?;
        }
        let uid = case.machines().get(name).await?.uid().unwrap_or_default();
        uids.insert(uid);
    }
    let never = machines.iter().filter(|(_, joins)| !joins).count();
    assert_eq!(
        certificates::tokens(&case).await?.len(),
        never,
        "each that has not joined has its own"
    );
    stream::iter(all)
        .map(|(name, _)| async move {
            let uid = bed.machines().get(name).await?.uid().unwrap_or_default();
            bed.delete_machine(name).await?;
            let left = token_of(bed, &uid).await?;
            ensure!(left == 0, "the token of {name} has outlived it");
            Ok(())
        })
        .buffer_unordered(8)
        .try_collect::<Vec<_>>()
        .await?;
    let seen = record.seen();
    assert_eq!(
        seen.keys().cloned().collect::<BTreeSet<_>>(),
        uids,
        "each Machine had a token"
    );
    for (machine, tokens) in &seen {
        assert_eq!(tokens.len(), 1, "{machine} had {tokens:?}");
    }
    case.finish(&[]).await
}

async fn token_of(case: &Case, machine_uid: &str) -> Result<usize> {
    let tokens = certificates::tokens(case).await?;
    let own = tokens.iter().filter(|token| {
        token
            .labels()
            .get(label::MACHINE_UID)
            .is_some_and(|uid| uid == machine_uid)
    });
    Ok(own.count())
}

/// Records every token that ever existed, by the UID of its Machine, until it is dropped.
struct Record {
    seen: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>,
    task: JoinHandle<()>,
}

impl Record {
    fn of(user: Client) -> Self {
        let seen = Arc::new(Mutex::new(BTreeMap::<_, BTreeSet<String>>::new()));
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let secrets = Api::<Secret>::namespaced(user, manifest::NAMESPACE);
            let of_tokens = watcher::Config::default().fields(&format!("type={TOKEN_SECRET_TYPE}"));
            let mut events = watcher(secrets, of_tokens)
                .default_backoff()
                .applied_objects()
                .boxed();
            while let Some(token) = events.next().await {
                let Ok(token) = token else { continue };
                let machine = token.labels().get(label::MACHINE_UID).cloned();
                let mut seen = record.lock().unwrap_or_else(PoisonError::into_inner);
                seen.entry(machine.unwrap_or_default())
                    .or_default()
                    .insert(token.name_any());
            }
        });
        Self { seen, task }
    }

    fn seen(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.task.abort();
    }
}
