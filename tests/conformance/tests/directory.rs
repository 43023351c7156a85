//! Runs the conformance cases against the provider of directories.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use conformance::ProviderBed;
use conformance::bed::{Foreign, PEER_CLUSTER};
use conformance::directory::files::{self, DISKS, GUEST, INSTANCE, KEY, Stored};
use conformance::directory::{Directories, Directory};
use k8s_openapi::jiff::Timestamp;
use machinist_infra::provider::{InfraEvent, Provider};
use machinist_shared::provider::Secret;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedSender;

const NAMESPACE: &str = "instances";

struct Temporary {
    root: TempDir,
}

impl Temporary {
    fn new() -> Result<Self> {
        let root = tempfile::tempdir()?;
        let bed = Self { root };
        fs::create_dir_all(bed.namespace_dir().join(DISKS))?;
        fs::write(bed.site().join(KEY), "sesame")?;
        fs::write(bed.site().join("region"), "here")?;
        Ok(bed)
    }

    fn site(&self) -> PathBuf {
        self.root.path().join("place")
    }

    fn away(&self) -> PathBuf {
        self.root.path().join("away")
    }

    fn namespace_dir(&self) -> PathBuf {
        self.site().join(NAMESPACE)
    }

    fn credential_with(&self, key: &str) -> Secret {
        Secret::new(json!({"path": self.site(), "key": key}).to_string())
    }
}

impl ProviderBed for Temporary {
    fn provider(&self, events: UnboundedSender<InfraEvent>) -> Arc<dyn Provider> {
        Arc::new(Directories::new(events))
    }

    fn credential(&self) -> Secret {
        self.credential_with("sesame")
    }

    fn invalid_credential(&self) -> Secret {
        self.credential_with("barley")
    }

    fn namespace(&self) -> &str {
        NAMESPACE
    }

    fn pure(&self) -> &'static dyn machinist_shared::provider::Provider {
        &Directory
    }

    fn cloud_provider_spec(&self) -> Value {
        let reference = json!({"namespace": "kube-system", "name": "place", "key": "credential"});
        json!({"clusterName": PEER_CLUSTER, "auth": {"secretKeyRef": reference}, "disks": 1})
    }

    async fn create(&self, name: &str, what: Foreign) -> Result<()> {
        let stored = Stored {
            name: name.to_owned(),
            peer: (what == Foreign::MachineController).then(|| PEER_CLUSTER.to_owned()),
            ..Stored::default()
        };
        match what {
            Foreign::Disk => files::write(&self.namespace_dir().join(DISKS).join(name), "")?,
            _ => files::make(&self.namespace_dir(), stored, Timestamp::now())?,
        }
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let stored = files::parsed(&self.namespace_dir().join(name).join(INSTANCE))?;
        files::remove(&self.namespace_dir(), &stored.context("there is none")?)?;
        Ok(())
    }

    async fn boot(&self, name: &str) -> Result<()> {
        let guest = json!({"addresses": ["10.9.8.7"]}).to_string();
        files::write(&self.namespace_dir().join(name).join(GUEST), &guest)?;
        Ok(())
    }

    async fn stored(&self, name: &str) -> Result<Option<Value>> {
        Ok(files::parsed(&self.namespace_dir().join(name).join(INSTANCE))?)
    }

    async fn disconnect(&self) -> Result<()> {
        Ok(fs::rename(self.site(), self.away())?)
    }

    async fn reconnect(&self) -> Result<()> {
        Ok(fs::rename(self.away(), self.site())?)
    }

    /// Runs `then` on a copy, which has no watches, and which then replaces the original.
    async fn with_watches_cut<F: Future<Output = Result<()>> + Send>(&self, then: F) -> Result<()> {
        let copied = tokio::process::Command::new("cp")
            .arg("-a")
            .args([self.site(), self.away()])
            .status();
        anyhow::ensure!(copied.await?.success(), "cp failed");
        let old = self.root.path().join("old");
        fs::rename(self.site(), &old)?;
        fs::rename(self.away(), self.site())?;
        then.await?;
        Ok(fs::remove_dir_all(old)?)
    }
}

#[tokio::test]
async fn directories_hold_what_a_provider_must() -> Result<()> {
    conformance::run(&Temporary::new()?).await
}
