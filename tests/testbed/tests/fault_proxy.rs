//! The fault proxy forwards everything, records the client of each request, and injects only the configured faults.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;
use testbed::{ControlPlane, FaultProxy, control_plane::Options, kubeconfig};

const SOON: Duration = Duration::from_secs(10);
/// Long enough for an event that is not held back to arrive.
const A_WHILE: Duration = Duration::from_millis(400);

struct Bed {
    plane: ControlPlane,
    proxy: FaultProxy,
}

impl Bed {
    async fn start() -> Result<Self> {
        let plane = ControlPlane::start(Options {
            controller_manager: false,
            ..Options::user()
        })
        .await?;
        let proxy = FaultProxy::start(&plane)?;
        Ok(Self { plane, proxy })
    }

    /// ConfigMaps through the proxy, by a client that asks once.
    async fn config_maps_as(&self, client: &str) -> Result<Api<ConfigMap>> {
        let server = self.proxy.listen_as(client)?;
        let mut config: Config = kubeconfig::config(&self.plane.admin_kubeconfig_for(&server)).await?;
        config.default_retry = false;
        Ok(Api::namespaced(Client::try_from(config)?, "default"))
    }
}

fn config_map(name: &str) -> Result<ConfigMap> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name}}))?)
}

/// The next event's object name; `None` when the watch has ended or broken.
async fn next(
    events: &mut (impl Stream<Item = kube::Result<WatchEvent<ConfigMap>>> + Unpin),
) -> Option<String> {
    match events.next().await? {
        Ok(WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object)) => {
            object.metadata.name
        }
        _ => None,
    }
}

#[tokio::test]
async fn requests_are_recorded_by_client_and_watches_stream_freeze_and_break_on_demand() -> Result<()> {
    let bed = Bed::start().await?;
    let (reader, writer) = (
        bed.config_maps_as("reader").await?,
        bed.config_maps_as("writer").await?,
    );

    let version = reader
        .list(&ListParams::default())
        .await?
        .metadata
        .resource_version
        .context("no version")?;
    let params = WatchParams::default();
    let mut events = reader.watch(&params, &version).await?.boxed();
    writer.create(&PostParams::default(), &config_map("one")?).await?;
    assert_eq!(
        tokio::time::timeout(SOON, next(&mut events)).await?.as_deref(),
        Some("one")
    );

    // By name, verb and client.
    let created = bed.proxy.seen(|request| request.target.verb == "create").await;
    assert_eq!((created.client.as_str(), created.status), ("writer", 201));
    assert_eq!(created.target.resource_name(), "configmaps");
    assert!(created.is_successful_write());
    let verbs: Vec<_> = bed
        .proxy
        .requests_of("reader")
        .iter()
        .map(|request| request.target.verb)
        .collect();
    assert_eq!(verbs, ["list", "watch"]);
    assert!(writer.get("absent").await.is_err());
    let missed = bed.proxy.seen(|request| request.target.name == "absent").await;
    assert_eq!((missed.target.verb, missed.status), ("get", 404));

    // Frozen: no event arrives, and none is lost.
    bed.proxy.freeze_watches("reader");
    writer.create(&PostParams::default(), &config_map("two")?).await?;
    assert!(
        tokio::time::timeout(A_WHILE, next(&mut events)).await.is_err(),
        "an event passed a frozen watch"
    );
    reader.get("two").await.context("a frozen watch stops no reads")?;
    bed.proxy.heal("reader");
    assert_eq!(
        tokio::time::timeout(SOON, next(&mut events)).await?.as_deref(),
        Some("two")
    );

    // Cut: this watch ends, the next one works.
    bed.proxy.cut_watches("reader");
    assert_eq!(
        tokio::time::timeout(SOON, next(&mut events)).await?,
        None,
        "a cut watch ends"
    );
    let mut events = reader.watch(&params, &version).await?.boxed();
    assert_eq!(
        tokio::time::timeout(SOON, next(&mut events)).await?.as_deref(),
        Some("one")
    );
    Ok(())
}

#[tokio::test]
async fn faults_of_one_client_do_not_affect_others() -> Result<()> {
    let bed = Bed::start().await?;
    let (lost, other) = (
        bed.config_maps_as("lost").await?,
        bed.config_maps_as("other").await?,
    );
    lost.list(&ListParams::default()).await?;

    bed.proxy.black_hole("lost");
    let fresh = bed.config_maps_as("lost").await?;
    let hanging = tokio::time::timeout(A_WHILE, lost.list(&ListParams::default())).await;
    assert!(hanging.is_err(), "an open connection is black-holed");
    assert!(
        tokio::time::timeout(A_WHILE, fresh.list(&ListParams::default()))
            .await
            .is_err(),
        "and so is a new one"
    );
    other.list(&ListParams::default()).await?;
    bed.proxy.heal("lost");
    tokio::time::timeout(SOON, lost.list(&ListParams::default())).await??;

    bed.proxy.delay("lost", A_WHILE);
    let start = std::time::Instant::now();
    lost.list(&ListParams::default()).await?;
    assert!(start.elapsed() >= A_WHILE);

    bed.proxy.heal("lost");
    bed.proxy.refuse("lost");
    let refused = tokio::time::timeout(SOON, lost.list(&ListParams::default())).await?;
    assert!(refused.is_err(), "a refused request fails at once");
    bed.proxy.heal("lost");
    lost.list(&ListParams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn a_fuse_fires_after_the_nth_write_was_stored_and_before_it_is_answered() -> Result<()> {
    let bed = Bed::start().await?;
    let config_maps = bed.config_maps_as("victim").await?;
    let killed = Arc::new(AtomicBool::new(false));
    let kill = Arc::clone(&killed);
    let fuse = bed
        .proxy
        .kill_after_write("victim", 2, move || kill.store(true, Ordering::SeqCst));

    config_maps
        .create(&PostParams::default(), &config_map("first")?)
        .await?;
    config_maps.get("first").await?;
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    config_maps.create(&dry, &config_map("dry")?).await?;
    assert!(
        config_maps
            .delete("absent", &DeleteParams::default())
            .await
            .is_err()
    );
    assert!(
        !killed.load(Ordering::SeqCst),
        "reads, dry-runs and refused writes do not count"
    );

    let answer = config_maps
        .create(&PostParams::default(), &config_map("second")?)
        .await;
    assert!(answer.is_err(), "the second write was answered");
    assert!(killed.load(Ordering::SeqCst));
    fuse.fired().await;
    config_maps
        .get("second")
        .await
        .context("the second write was not stored")?;
    config_maps
        .delete("second", &DeleteParams::default())
        .await
        .context("a burnt fuse lets writes pass")?;
    Ok(())
}
