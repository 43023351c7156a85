//! No secret leaks: the logs, Events and writes of Machinist's servers during a case are searched for every secret that existed.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{Node, Secret},
        events::v1::Event,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::ListParams,
    runtime::{WatchStreamExt as _, watcher},
};
use machinist_shared::api::{Machine, MachineDeployment, MachineSet};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use testbed::{Testbed, bed::SYSTEM_NAMESPACE, seed::INFRA_NAMESPACE};
use tokio::task::JoinHandle;

/// Bytes at the beginning of user data and kubeconfigs whose base64 is unique.
const BEGINNING: usize = 96;

/// The secret texts, each with its owner.
type SecretTexts = Arc<Mutex<BTreeMap<String, String>>>;

/// A running record of the secrets of both clusters. It ends when it is dropped.
pub struct Secrets {
    needles: SecretTexts,
    tasks: [JoinHandle<()>; 3],
}

impl Secrets {
    /// Begins to record.
    pub fn record(user: Client, infra: Client) -> Self {
        let needles = SecretTexts::default();
        let tasks = [
            tokio::spawn(follow(
                Api::namespaced(user.clone(), "kube-system"),
                Arc::clone(&needles),
            )),
            tokio::spawn(follow(
                Api::namespaced(user, SYSTEM_NAMESPACE),
                Arc::clone(&needles),
            )),
            tokio::spawn(follow(
                Api::namespaced(infra, INFRA_NAMESPACE),
                Arc::clone(&needles),
            )),
        ];
        Self { needles, tasks }
    }

    /// Fails if one of them is in a log of Machinist's servers, in an Event, in a metric, or in an object that Machinist writes.
    pub async fn check(&self, bed: &Testbed) -> Result<()> {
        let mut needles = self
            .needles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for name in ["controller", "webhook", "machines"] {
            let file = bed.dir().join(name).with_extension("kubeconfig");
            if let Ok(kubeconfig) = fs::read_to_string(file) {
                tokens(&kubeconfig, &format!("the kubeconfig {name}"), &mut needles);
            }
        }
        for (place, text) in haystacks(bed).await? {
            let found = needles.iter().find(|(needle, _)| text.contains(needle.as_str()));
            ensure!(
                found.is_none(),
                "{place} shows a secret: {}",
                found.map_or("", |(_, whose)| whose.as_str())
            );
        }
        Ok(())
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn follow(secrets: Api<Secret>, needles: SecretTexts) {
    let mut events = watcher(secrets, watcher::Config::default())
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        let Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) = event else {
            continue;
        };
        let mut needles = needles.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in secret.data.iter().flatten() {
            let whose = format!("{key} of Secret {}", secret.name_any());
            add(key, &value.0, &whose, &mut needles);
        }
    }
}

/// Adds the secret parts of one value of a Secret.
fn add(key: &str, value: &[u8], whose: &str, needles: &mut BTreeMap<String, String>) {
    let text = String::from_utf8_lossy(value);
    match key {
        "token-secret" => {
            needles.insert(text.into_owned(), whose.to_owned());
        }
        // The second line after the header: the first begins with the same bytes in all keys of a kind.
        "tls.key" => {
            if let Some(line) = text.lines().nth(2) {
                needles.insert(line.to_owned(), whose.to_owned());
            }
        }
        "kubeconfig" | "userdata" | "cloud-config" => {
            tokens(&text, whose, needles);
            let beginning = ByteString(value.iter().take(BEGINNING).copied().collect());
            if let Some(base64) = json!(beginning).as_str() {
                needles.insert(base64.to_owned(), whose.to_owned());
            }
        }
        _ => {}
    }
}

/// Adds the tokens and keys of a kubeconfig.
fn tokens(kubeconfig: &str, whose: &str, needles: &mut BTreeMap<String, String>) {
    for line in kubeconfig.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let key = key.trim().trim_matches(|c| matches!(c, '"' | '-' | ' '));
        let value = value.trim().trim_matches(|c| matches!(c, '"' | ',' | '\''));
        if matches!(key, "token" | "client-key-data" | "password") && !value.is_empty() {
            needles.insert(value.to_owned(), whose.to_owned());
        }
    }
}

/// Everything that Machinist's servers emitted, by its source.
async fn haystacks(bed: &Testbed) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(bed.dir())? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let log = path.extension().is_some_and(|extension| extension == "log");
        if log && !name.starts_with("kubevirt-sim") {
            let text = fs::read(&path).with_context(|| path.display().to_string())?;
            found.push((
                format!("the log of {name}"),
                String::from_utf8_lossy(&text).into_owned(),
            ));
        }
    }
    for server in bed.servers().filter(|server| server.is_running()) {
        found.push((
            format!("/metrics of {}", server.client()),
            server.metrics().await?,
        ));
    }
    for cluster in [bed.user(), bed.infra()] {
        found.extend(objects::<Event>(cluster.client()).await?);
    }
    let user = bed.user().client();
    found.extend(objects::<Node>(user.clone()).await?);
    found.extend(objects::<Machine>(user.clone()).await?);
    found.extend(objects::<MachineSet>(user.clone()).await?);
    found.extend(objects::<MachineDeployment>(user).await?);
    Ok(found)
}

/// Objects of a kind without their specs, which users write.
async fn objects<K>(client: Client) -> Result<Vec<(String, String)>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let listed = match Api::<K>::all(client).list(&ListParams::default()).await {
        // Without the chart, the API server does not serve Machines.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut found = Vec::new();
    for object in listed {
        let mut value = serde_json::to_value(&object)?;
        if let Some(fields) = value.as_object_mut() {
            fields.remove("spec");
        }
        // kubectl stores the applied manifest there.
        if let Some(annotations) = value.pointer_mut("/metadata/annotations")
            && let Some(annotations) = annotations.as_object_mut()
        {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        found.push((
            format!("{}/{}", K::kind(&()), object.name_any()),
            value.to_string(),
        ));
    }
    Ok(found)
}
