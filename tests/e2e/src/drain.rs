//! Nodes with pods to evict: pods are bound by the test, since no scheduler runs here; the real controller maintains the
//! disruption budgets; the test attaches the volumes.

use anyhow::{Result, bail};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, Pod},
    policy::v1::PodDisruptionBudget,
    storage::v1::VolumeAttachment,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use machinist_shared::api::Machine;
use serde_json::{Value, json};
use testbed::{bed::CONTROLLER, proxy::Request};

use crate::{Case, case::WAIT_TIMEOUT, wait};

/// Namespace of the pods.
pub const PODS: &str = "default";

/// A pod on that Node, with the label `app` and a grace period of a second.
pub fn pod(name: &str, app: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": PODS, "labels": {"app": app}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "registry.example.com/pause"}],
        },
    })
}

impl Case {
    /// The pods.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.bed.user().client(), PODS)
    }

    /// The disruption budgets.
    pub fn budgets(&self) -> Api<PodDisruptionBudget> {
        Api::namespaced(self.bed.user().client(), PODS)
    }

    /// The VolumeAttachments.
    pub fn attachments(&self) -> Api<VolumeAttachment> {
        Api::all(self.bed.user().client())
    }

    /// Creates a pod, waits until its kubelet runs it, and returns its name.
    pub async fn runs(&self, pod: Value) -> Result<String> {
        let pod: Pod = serde_json::from_value(pod)?;
        let name = pod.metadata.name.clone().unwrap_or_default();
        self.pods().create(&PostParams::default(), &pod).await?;
        let running = |pod: &Pod| phase(pod) == "Running";
        wait::for_state(&self.pods(), &name, "running", WAIT_TIMEOUT, running).await?;
        Ok(name)
    }

    /// A budget of that name for the pods with that label, once the disruption controller counts so many healthy ones.
    pub async fn budget(&self, name: &str, app: &str, min_available: i32, healthy: i32) -> Result<()> {
        let budget = json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": name, "namespace": PODS},
            "spec": {"minAvailable": min_available, "selector": {"matchLabels": {"app": app}}},
        });
        let budget: PodDisruptionBudget = serde_json::from_value(budget)?;
        self.budgets().create(&PostParams::default(), &budget).await?;
        let counted = |budget: &PodDisruptionBudget| {
            let status = budget.status.as_ref();
            status.is_some_and(|status| {
                status.current_healthy == healthy && status.observed_generation == budget.metadata.generation
            })
        };
        wait::for_state(&self.budgets(), name, "counted", WAIT_TIMEOUT, counted).await?;
        Ok(())
    }

    /// Deletes a budget.
    pub async fn without_budget(&self, name: &str) -> Result<()> {
        self.budgets().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// A volume, with the claim that it belongs to, that is attached to a Node.
    pub async fn attach(&self, volume: &str, claim: &str, node: &str) -> Result<()> {
        let object = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                "csi": {"driver": "csi.example.com", "volumeHandle": volume},
                "claimRef": {"namespace": PODS, "name": claim},
            },
        });
        let volumes: Api<PersistentVolume> = Api::all(self.bed.user().client());
        let object: PersistentVolume = serde_json::from_value(object)?;
        volumes.create(&PostParams::default(), &object).await?;
        let object = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": volume},
            "spec": {
                "attacher": "csi.example.com", "nodeName": node, "source": {"persistentVolumeName": volume},
            },
        });
        let attachments = self.attachments();
        let object: VolumeAttachment = serde_json::from_value(object)?;
        attachments.create(&PostParams::default(), &object).await?;
        let attached = Patch::Merge(json!({"status": {"attached": true}}));
        attachments
            .patch_status(volume, &PatchParams::default(), &attached)
            .await?;
        Ok(())
    }

    /// Detaches the volume, as the external attacher does.
    pub async fn detach(&self, volume: &str) -> Result<()> {
        self.attachments()
            .delete(volume, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Merges a patch into a Machine.
    pub async fn patch_machine(&self, name: &str, patch: Value) -> Result<()> {
        self.machines()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// Sets an annotation of a Machine, or removes it.
    pub async fn annotate(&self, name: &str, key: &str, text: Option<&str>) -> Result<()> {
        self.patch_machine(name, json!({"metadata": {"annotations": {key: text}}}))
            .await
    }

    /// Merges a patch into a Node.
    pub async fn patch_node(&self, name: &str, patch: Value) -> Result<()> {
        self.nodes()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// Waits until the Machine is gone.
    pub async fn machine_gone(&self, name: &str) -> Result<()> {
        wait::for_absence(&self.machines(), name, WAIT_TIMEOUT).await
    }

    /// Waits until the pod has a deletionTimestamp, or is gone.
    pub async fn evicted(&self, pod: &str) -> Result<()> {
        let is_evicted = |pod: Option<&Pod>| pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        wait::until(&self.pods(), pod, "evicted", WAIT_TIMEOUT, is_evicted).await?;
        Ok(())
    }

    /// Waits until a condition of the Machine has this status and reason and its message contains these words. Returns the Machine.
    pub async fn condition_with(
        &self,
        name: &str,
        kind: &str,
        reason: &str,
        words: &[&str],
    ) -> Result<Machine> {
        let condition_with = |machine: &Machine| {
            let condition = condition(machine, kind);
            let message = condition["message"].as_str().unwrap_or_default();
            condition["reason"] == reason && words.iter().all(|word| message.contains(word))
        };
        wait::for_state(&self.machines(), name, reason, WAIT_TIMEOUT, condition_with).await
    }

    /// The controller's requests about the pod of that name, such as `create pods/eviction`.
    pub fn asked_of_pod(&self, pod: &str) -> Vec<Request> {
        let asked = self.bed.user().proxy().requests_of(CONTROLLER);
        asked
            .into_iter()
            .filter(|request| request.target.resource == "pods" && request.target.name == pod)
            .collect()
    }

    /// Fails if the VM is gone or being deleted.
    pub async fn vm_lives(&self, name: &str) -> Result<()> {
        match self.vms().get_opt(name).await? {
            Some(vm) if vm.metadata.deletion_timestamp.is_none() => Ok(()),
            _ => bail!("the VM of {name} should live"),
        }
    }

    /// The Node as it is now.
    pub async fn node(&self, name: &str) -> Result<Node> {
        Ok(self.nodes().get(name).await?)
    }
}

/// Whether the Node is cordoned.
pub fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
}

/// Phase of a pod.
pub fn phase(pod: &Pod) -> &str {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase.unwrap_or_default()
}

/// A condition of a Machine, or null.
pub fn condition(machine: &Machine, kind: &str) -> Value {
    let status = serde_json::to_value(machine.status.as_ref()).unwrap_or_default();
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind);
    found.unwrap_or_default()
}
