//! One end-to-end case, on a bed that it uses exclusively.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::{Api, api::DeleteParams, core::DynamicObject};
use machinist_shared::api::Machine;
use serde_json::Value;
use testbed::{Testbed, bed::Options, inventory::Inventory, proxy::Request, seed::INFRA_NAMESPACE};

use crate::{
    beds::{self, Shared},
    budget,
    case_timing::CaseTiming,
    certificates,
    failure_log::FailureLog,
    leaks,
    manifest::NAMESPACE,
    objects,
    secrets::Secrets,
    vm_history::VmHistory,
    wait,
};

/// From `kubectl apply` to a Ready Node, and from `kubectl delete` to the removal, on a busy machine.
pub const WAIT_TIMEOUT: Duration = Duration::from_mins(1);

/// A kubelet with serverTLSBootstrap requests its serving certificate within this time after its Node is Ready.
const ASKS: Duration = Duration::from_secs(5);

/// Besides progress, the latest that a controller writes by itself are statuses of sets, within a second.
const QUIET: Duration = Duration::from_millis(1200);

/// A bed with Machinist, and a record of all its VMs.
pub struct Case {
    /// Dropped before the bed, which takes the log with it.
    failure_log: FailureLog,
    /// The clusters and servers.
    pub bed: Testbed,
    /// Every VM that ever existed.
    pub vm_history: VmHistory,
    /// Every secret that ever existed.
    secrets: Secrets,
    /// The initial inventory of the bed; `None`: no other case gets it.
    baseline: Option<Inventory>,
    _clock: CaseTiming,
}

impl Case {
    /// A bed with everything, on one cluster.
    pub async fn start() -> Result<Self> {
        Self::start_with(Options::default()).await
    }

    /// A bed of another shape.
    pub async fn start_with(options: Options) -> Result<Self> {
        let mut clock = CaseTiming::start();
        let (shared, origin) = Box::pin(beds::lease(options)).await?;
        clock.has_bed(origin.as_str());
        Ok(Self::on(shared.bed, Some(shared.baseline), clock))
    }

    /// A bed that no other case uses: for cases that kill, restore, install or measure.
    pub async fn start_alone(options: Options) -> Result<Self> {
        let mut clock = CaseTiming::start();
        let bed = Box::pin(Testbed::start(options)).await?;
        clock.has_bed("alone");
        Ok(Self::on(bed, None, clock))
    }

    fn on(bed: Testbed, baseline: Option<Inventory>, clock: CaseTiming) -> Self {
        Self {
            failure_log: FailureLog::of(bed.dir().join("controller.log")),
            vm_history: VmHistory::record(bed.infra().client()),
            secrets: Secrets::record(bed.user().client(), bed.infra().client()),
            bed,
            baseline,
            _clock: clock,
        }
    }

    /// Fails if an object other than the `foreign` ones (`Kind/name`) is left on either cluster, or a secret leaked. Then stops
    /// the servers, which must exit without an error.
    pub async fn finish(self, foreign: &[&str]) -> Result<()> {
        self.secrets.check(&self.bed).await?;
        leaks::check(&self.bed, foreign).await?;
        self.end().await
    }

    /// The same where no controller runs: Machines stay as they were stored, and no object was created for them, not even for a
    /// moment. The case created the `foreign` ones.
    pub async fn finish_without_controller(self, foreign: &[&str]) -> Result<()> {
        self.secrets.check(&self.bed).await?;
        leaks::check_nothing_was_created(&self.bed, foreign).await?;
        let vms = self.vm_history.names();
        ensure!(vms.is_empty(), "there were VMs: {vms:?}");
        self.end().await
    }

    /// Stops the servers, which must exit without an error, and returns the bed if another case may use it.
    pub async fn end(mut self) -> Result<()> {
        self.failure_log.discard();
        match self.baseline {
            Some(baseline) => {
                let bed = self.bed;
                Box::pin(beds::hand_on(Shared { bed, baseline })).await
            }
            None => Box::pin(self.bed.shut_down()).await,
        }
    }

    /// `kubectl apply`; its output, or an error with the message for the user. On a busy machine an answer can be late: the
    /// webhook asks for a retry then, which this function does.
    pub async fn apply(&self, manifest: &Value) -> Result<String> {
        let (user, manifest) = (self.bed.user(), manifest.to_string());
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            match user.kubectl_ok(&["apply", "-f", "-"], &manifest).await {
                Err(refusal) if refusal.to_string().contains("try again") && Instant::now() < deadline => {}
                answer => return answer,
            }
        }
    }

    /// `kubectl apply` of an object that must be refused; returns the message for the user. On a busy machine the infra cluster
    /// can answer too late to be heard: the object is admitted with a warning then, and applied once more.
    pub async fn refused(&self, manifest: &Value) -> Result<String> {
        let (user, object) = (self.bed.user(), manifest.to_string());
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let output = user.kubectl(&["apply", "-f", "-"], &object).await?;
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            if !output.status.success() {
                return Ok(message);
            }
            let was_asked = !message.contains("could not be asked");
            ensure!(
                !was_asked && Instant::now() < deadline,
                "this was taken: {manifest:#}: {message}"
            );
            user.kubectl_ok(&["delete", "-f", "-"], &object).await?;
        }
    }

    /// `kubectl describe machine`.
    pub async fn describe(&self, machine: &str) -> Result<String> {
        self.bed
            .user()
            .kubectl_ok(&["describe", "machine", machine, "--namespace", NAMESPACE], "")
            .await
    }

    /// The Machines.
    pub fn machines(&self) -> Api<Machine> {
        Api::namespaced(self.bed.user().client(), NAMESPACE)
    }

    /// The Nodes.
    pub fn nodes(&self) -> Api<Node> {
        Api::all(self.bed.user().client())
    }

    /// The VMs.
    pub fn vms(&self) -> Api<DynamicObject> {
        objects::infra(self.bed.infra().client(), &objects::virtual_machine())
    }

    /// The VMs that run.
    pub fn vmis(&self) -> Api<DynamicObject> {
        objects::infra(self.bed.infra().client(), &objects::virtual_machine_instance())
    }

    /// The disks.
    pub fn data_volumes(&self) -> Api<DynamicObject> {
        objects::infra(self.bed.infra().client(), &objects::data_volume())
    }

    /// The Secrets with user data.
    pub fn infra_secrets(&self) -> Api<Secret> {
        Api::namespaced(self.bed.infra().client(), INFRA_NAMESPACE)
    }

    /// Waits until the Machine's Node is Ready, has its serving certificate if it requests one, and is linked. Returns the
    /// Machine.
    pub async fn node_ready(&self, name: &str) -> Result<Machine> {
        wait::for_state(&self.nodes(), name, "Ready", WAIT_TIMEOUT, is_ready).await?;
        let knows = |machine: &Machine| {
            machine
                .status
                .as_ref()
                .is_some_and(|status| status.node_ref.is_some())
        };
        let machine =
            wait::for_state(&self.machines(), name, "joined to its Node", WAIT_TIMEOUT, knows).await?;
        certificates::served(self, name, ASKS).await?;
        Ok(machine)
    }

    /// Waits until a condition of the Machine has this reason, and returns its message.
    pub async fn condition(&self, name: &str, reason: &str) -> Result<String> {
        let found = |machine: &Machine| message(machine, reason).is_some();
        let machine = wait::for_state(&self.machines(), name, reason, WAIT_TIMEOUT, found).await?;
        Ok(message(&machine, reason).unwrap_or_default())
    }

    /// Returns when the controller has written nothing for a while, including the writes after the join.
    pub async fn settled(&self) {
        let mut before = usize::MAX;
        loop {
            let ledger = budget::Ledger::of_controller(&self.bed);
            let written = |(_, request): &&(_, Request)| request.is_successful_write();
            let now = ledger.entries.iter().filter(written).count();
            if now == before {
                return;
            }
            before = now;
            // Only the absence of an event shows that nothing follows.
            tokio::time::sleep(self.bed.options().progress_report_interval + QUIET).await;
        }
    }

    /// `kubectl delete machine` without waiting.
    pub async fn begin_deletion(&self, name: &str) -> Result<()> {
        self.machines().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Deletes the Machine and waits until it is gone.
    pub async fn delete_machine(&self, name: &str) -> Result<()> {
        self.begin_deletion(name).await?;
        wait::for_absence(&self.machines(), name, WAIT_TIMEOUT).await
    }
}

/// Whether a Node's kubelet says that it is Ready.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The message of the condition that has this reason, other than the summary.
pub fn message(machine: &Machine, reason: &str) -> Option<String> {
    let status = serde_json::to_value(machine.status.as_ref()?).ok()?;
    let conditions = status.get("conditions")?.as_array()?;
    let found = conditions
        .iter()
        .find(|found| found["type"] != "Ready" && found["reason"] == reason)?;
    Some(found["message"].as_str().unwrap_or_default().to_owned())
}
