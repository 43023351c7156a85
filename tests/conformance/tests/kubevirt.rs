//! KubeVirt, on a real control plane with a simulated KubeVirt behind it, through the fault proxy and with the rights of
//! the example.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use conformance::ProviderBed;
use conformance::bed::{Foreign, PEER_CLUSTER};
use machinist_infra::kube::client::ClientOptions;
use machinist_infra::kube::kubeconfig::AddressPolicy;
use machinist_infra::kubevirt::pool::PoolOptions;
use machinist_infra::provider::{InfraEvent, Provider};
use machinist_infra::providers::shipped;
use machinist_shared::provider::Secret;
use machinist_shared::providers::find;
use serde_json::{Value, json};
use testbed::bed::{MACHINES, Machinist, Options};
use testbed::seed::{self, INFRA_ACCOUNT, INFRA_NAMESPACE};
use testbed::{Cluster, Testbed};
use tokio::sync::mpsc::UnboundedSender;

struct OnTestbed {
    bed: Testbed,
    kubeconfig: String,
}

impl OnTestbed {
    async fn start() -> Result<Self> {
        let bed = Testbed::start(Options {
            one_cluster: true,
            machinist: Machinist::Absent,
            ..Options::default()
        })
        .await?;
        seed::infra(bed.infra()).await?;
        let server = bed.infra().proxy().listen_as(MACHINES)?;
        let kubeconfig = bed
            .infra()
            .service_account_kubeconfig(INFRA_NAMESPACE, INFRA_ACCOUNT, &server)
            .await?;
        Ok(Self { bed, kubeconfig })
    }

    fn infra(&self) -> &Cluster {
        self.bed.infra()
    }

    async fn kubectl(&self, args: &[&str], input: &str) -> Result<String> {
        let all = [args, &["--namespace", INFRA_NAMESPACE]].concat();
        self.infra().kubectl_ok(&all, input).await
    }
}

impl ProviderBed for OnTestbed {
    fn provider(&self, events: UnboundedSender<InfraEvent>) -> Arc<dyn Provider> {
        let options = PoolOptions {
            client: ClientOptions {
                addresses: AddressPolicy { allow_loopback: true },
                ..ClientOptions::default()
            },
            concurrency_limit: 4,
            poll_interval: Duration::from_secs(30),
            facts_ttl: machinist_infra::kubevirt::facts::TTL,
            cache_bytes: usize::MAX,
            cluster_uid: "7f0e0d3a-2f1c-4f6e-8b59-3f3f5a3a1e22".to_owned(),
        };
        shipped(options, events)
            .get(Some("kubevirt"))
            .unwrap_or_else(|| panic!("KubeVirt is not registered"))
    }

    fn credential(&self) -> Secret {
        Secret::new(self.kubeconfig.clone())
    }

    fn invalid_credential(&self) -> Secret {
        Secret::new(self.kubeconfig.replace("token: ", "token: junk"))
    }

    fn namespace(&self) -> &str {
        INFRA_NAMESPACE
    }

    fn pure(&self) -> &'static dyn machinist_shared::provider::Provider {
        find("kubevirt").unwrap_or_else(|| panic!("KubeVirt is not registered"))
    }

    fn cloud_provider_spec(&self) -> Value {
        let reference = json!({"namespace": "kube-system", "name": "infra", "key": "kubeconfig"});
        json!({"clusterName": PEER_CLUSTER, "auth": {"kubeconfig": {"secretKeyRef": reference}}, "virtualMachine": {
            "instancetype": {"name": "standard-2"},
            "template": {"primaryDisk": {
                "osImage": "https://images.example.com/ubuntu-24.04.img", "source": "http", "size": "20Gi",
                "storageClassName": "standard",
            }},
        }})
    }

    async fn create(&self, name: &str, what: Foreign) -> Result<()> {
        let labels = json!({
            "kubevirt.io/vm": name, "cluster.x-k8s.io/role": "worker", "cluster.x-k8s.io/cluster-name": PEER_CLUSTER,
        });
        let vm = |labels: Value| {
            json!({
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name, "labels": labels},
                "spec": {"runStrategy": "Halted", "template": {"spec": {
                    "domain": {"devices": {}, "memory": {"guest": "1Gi"}},
                }}},
            })
        };
        let object = match what {
            Foreign::Instance => vm(json!({})),
            Foreign::MachineController => vm(labels),
            Foreign::Disk => json!({
                "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "metadata": {"name": name},
                "spec": {"source": {"blank": {}}, "storage": {
                    "storageClassName": "standard", "resources": {"requests": {"storage": "1Gi"}},
                }},
            }),
        };
        self.kubectl(&["create", "-f", "-"], &object.to_string()).await?;
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.kubectl(&["delete", "virtualmachine", name], "").await?;
        Ok(())
    }

    async fn boot(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    async fn stored(&self, name: &str) -> Result<Option<Value>> {
        let get = [
            "get",
            "virtualmachine",
            name,
            "--ignore-not-found",
            "--output=json",
        ];
        let text = self.kubectl(&get, "").await?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let vm: Value = serde_json::from_str(&text)?;
        let metadata = &vm["metadata"];
        Ok(Some(
            json!({"uid": metadata["uid"], "labels": metadata["labels"], "spec": vm["spec"]}),
        ))
    }

    async fn disconnect(&self) -> Result<()> {
        self.infra().proxy().refuse(MACHINES);
        Ok(())
    }

    async fn reconnect(&self) -> Result<()> {
        self.infra().proxy().heal(MACHINES);
        Ok(())
    }

    async fn with_watches_cut<F: Future<Output = Result<()>> + Send>(&self, then: F) -> Result<()> {
        let proxy = self.infra().proxy();
        proxy.freeze_watches(MACHINES);
        then.await?;
        // With their watches go the events that were held back.
        proxy.cut_watches(MACHINES);
        proxy.heal(MACHINES);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubevirt_holds_what_a_provider_must() -> Result<()> {
    let bed = Box::pin(OnTestbed::start()).await?;
    conformance::run(&bed).await?;
    bed.bed.shut_down().await
}
