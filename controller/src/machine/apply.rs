//! Carries a plan out, write by write. Every write is fenced by leadership, guarded by UID or resourceVersion, and
//! taken into the stores at once, so that the next decision sees it.

use std::sync::Arc;

use futures::TryFutureExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PostParams};
use kube::{Api, ResourceExt};
use machinist_infra::cache::store::Key;
use machinist_infra::kube::error::RemoteError;
use machinist_infra::provider::{AdoptParams, BootstrapData};
use machinist_shared::api::names::{annotation, finalizer, label};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::disruption_budget::{self, DisruptionBudget};
use super::drain::evict;
use super::memory::Memory;
use super::node_conflicts::Item;
use super::plan::{Event, Plan, Step, UserDataSource};
use super::snapshot::ApplyContext;
use super::snapshot::types::FailureScope;
use super::user_data_source::user_data_secret_name;
use crate::bootstrap::{self, token::TokenView, user_data::UserData};
use crate::cache::{Node, StoredMachine, StoredMachineSet, TOKEN_NAMESPACE};
use crate::context::Context;
use crate::csr::{approve, request::StoredRequest, serving};
use crate::runtime::backoff::Cause;
use crate::runtime::write::{self, Stop, guarded, patch_params, with_uid};
use crate::telemetry::metrics::Purpose;

/// A write that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb}: {error}")]
pub struct StepError {
    /// Which question of the status it is about.
    pub scope: FailureScope,
    /// What was tried.
    pub verb: &'static str,
    /// What made it fail.
    pub cause: Cause,
    /// What the answer was.
    pub error: RemoteError,
}

/// Whose API server a step was answered by.
enum Answered {
    UserCluster(RemoteError),
    InfraCluster(RemoteError),
}

impl write::Answer for Answered {
    /// On an infra cluster, 404 may be the namespace.
    fn is_stale(&self) -> bool {
        match self {
            Self::UserCluster(error) => error.is_conflict() || error.code() == Some(404),
            Self::InfraCluster(error) => error.is_conflict(),
        }
    }
}

/// Carries out `plan` for `machine`.
pub async fn apply(
    context: &Context,
    memory: &Memory,
    machine: &StoredMachine,
    handles: &ApplyContext,
    plan: Plan,
) -> Result<(), Stop<StepError>> {
    let mut run = Run {
        context,
        memory,
        machine,
        handles,
        resource_version: machine.metadata.resource_version.clone(),
        token: handles.token.clone(),
        spare_tokens: handles.spare_tokens.clone(),
        user_data: None,
    };
    for step in plan.steps {
        let verb = step.verb();
        let is_infra = is_infra(&step);
        let answered = if is_infra {
            Answered::InfraCluster
        } else {
            Answered::UserCluster
        };
        // Futures of steps are large.
        let done = Box::pin(run.step(&step)).map_err(answered);
        // Events count themselves.
        let done = if step.is_counted() && !matches!(step, Step::Event(_)) {
            write::write(context, verb, done).await
        } else {
            write::fenced(context, done).await
        };
        let failed = |answered| {
            let (Answered::UserCluster(error) | Answered::InfraCluster(error)) = answered;
            StepError {
                scope: failure_scope(&step),
                verb,
                // Infra clusters have a circuit breaker each for trouble that is everybody's there.
                cause: if is_infra {
                    Cause::Object
                } else {
                    Cause::of(&error)
                },
                error,
            }
        };
        match done.map_err(|stop| stop.map(failed))? {
            // What is not counted here either changes nothing or is logged where it is done.
            Progress::Next if !step.is_counted() => {}
            Progress::Next => {
                tracing::info!(machine = %Key::of(machine), uid = machine.uid(), why = plan.why, "{verb}");
            }
            Progress::Wait => return Err(Stop::Stale),
        }
    }
    Ok(())
}

enum Progress {
    /// Go on with the next step.
    Next,
    /// The plan ends here: something has to be seen first.
    Wait,
}

struct Run<'a> {
    context: &'a Context,
    memory: &'a Memory,
    machine: &'a StoredMachine,
    handles: &'a ApplyContext,
    /// The Machine's, after our last patch of it.
    resource_version: Option<String>,
    token: Option<TokenView>,
    spare_tokens: Vec<TokenView>,
    /// Name of the Secret with the user data, and the user data.
    user_data: Option<(String, UserData)>,
}

impl Run<'_> {
    fn machines(&self) -> Api<StoredMachine> {
        Api::namespaced(self.context.client.clone(), self.machine.namespace())
    }

    fn tokens(&self) -> Api<Secret> {
        Api::namespaced(self.context.client.clone(), TOKEN_NAMESPACE)
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.context.client.clone())
    }

    async fn step(&mut self, step: &Step) -> Result<Progress, RemoteError> {
        match step {
            Step::PatchMachine(patch) => self.patch_machine(patch).await,
            Step::CreateToken => self.create_token().await,
            Step::ExtendToken => self.extend_token().await,
            Step::DeleteToken => {
                self.spare_tokens.extend(self.token.take());
                self.delete_spare_tokens().await
            }
            Step::DeleteSpareTokens => self.delete_spare_tokens().await,
            Step::RenderUserData(source) => self.render_user_data(source),
            Step::CreateVm => self.create_vm().await,
            Step::FindVm => self.find_vm().await,
            Step::CreateUserData { vm_uid } => self.create_user_data(vm_uid).await,
            Step::DeleteUserData(name) => self.delete_user_data(name).await,
            Step::LabelVm {
                uid,
                resource_version,
            } => self.label_vm(uid, resource_version).await,
            Step::DeleteVm { uid } => self.delete_vm(uid).await,
            Step::PatchNode { uid, patch, puts } => self.patch_node(uid, patch, puts).await,
            Step::WatchPods => Ok(self.watch_pods()),
            Step::EvictPods(targets) => {
                evict::evict(self.context, &self.memory.drains, self.machine, targets).await;
                Ok(Progress::Next)
            }
            Step::LookUpVolumes(volumes) => {
                evict::look_up(self.context, &self.memory.drains, &Key::of(self.machine), volumes).await;
                Ok(Progress::Next)
            }
            Step::DeleteNode { uid } => self.delete_node(uid).await,
            Step::ApproveServing { name, uid } => self.approve_serving(name, uid).await,
            Step::RefuseServing { name, uid, reason } => {
                if let Some(request) = self.request(name, uid) {
                    approve::tell(
                        self.context,
                        &self.memory.reported,
                        Some(self.machine),
                        Purpose::Serving,
                        &request,
                        reason,
                    )
                    .await;
                }
                Ok(Progress::Next)
            }
            Step::NoteFailure { set, uid, message } => self.note_failure(set, uid, message).await,
            Step::Evacuate { uid, host } => self.evacuate(uid, host).await,
            Step::DeleteMachine => self.delete_machine().await,
            Step::Event(event) => {
                self.context.events.publish(self.machine, event).await;
                Ok(Progress::Next)
            }
        }
    }

    async fn patch_machine(&mut self, patch: &Value) -> Result<Progress, RemoteError> {
        if self.context.stores.tombstones.has(self.machine) {
            // There is nothing to write to; without finalizers, it is let go.
            let key = Key::of(self.machine);
            self.context.stores.tombstones.patched(&key, patch);
            if patch.pointer("/metadata/finalizers").is_some() {
                self.context.stores.tombstones.forget(&key);
            }
            return Ok(Progress::Next);
        }
        let patch = guarded(patch, self.machine.uid(), self.resource_version.as_deref());
        let api = self.machines();
        let releases = patch
            .pointer("/metadata/finalizers")
            .and_then(Value::as_array)
            .is_some_and(|left| left.iter().all(|left| left != finalizer::VM));
        if releases {
            // Before the watch can report it.
            self.context.stores.tombstones.release(self.machine.uid(), true);
        }
        let written = api
            .patch(self.machine.name(), &patch_params(), &Patch::Merge(&patch))
            .await;
        if releases && written.is_err() {
            self.context.stores.tombstones.release(self.machine.uid(), false);
        }
        let written = written?;
        self.resource_version
            .clone_from(&written.metadata.resource_version);
        self.context.stores.machines.written(written);
        Ok(Progress::Next)
    }

    async fn create_token(&mut self) -> Result<Progress, RemoteError> {
        let api = self.tokens();
        let secret = bootstrap::new_token(self.machine, self.context.now());
        let written = api.create(&PostParams::default(), &secret).await?;
        self.token = TokenView::from_secret(&written).ok();
        self.context.stores.tokens.written(written);
        Ok(Progress::Next)
    }

    async fn extend_token(&mut self) -> Result<Progress, RemoteError> {
        let Some(token) = &self.token else {
            return Ok(Progress::Wait);
        };
        let api = self.tokens();
        let patch = bootstrap::token::extend(token, self.context.now());
        let written = api
            .patch(&token.secret_name(), &patch_params(), &Patch::Merge(&patch))
            .await?;
        self.context.stores.tokens.written(written);
        Ok(Progress::Next)
    }

    async fn delete_spare_tokens(&mut self) -> Result<Progress, RemoteError> {
        let api = self.tokens();
        for token in std::mem::take(&mut self.spare_tokens) {
            let params = with_uid(&token.secret_uid);
            gone(api.delete(&token.secret_name(), &params).await.map(drop))?;
            self.context
                .stores
                .tokens
                .deleted(&Key::new(TOKEN_NAMESPACE, token.secret_name()), &token.secret_uid);
        }
        Ok(Progress::Next)
    }

    fn render_user_data(&mut self, source: &UserDataSource) -> Result<Progress, RemoteError> {
        let (id, user_data) = match (source, &self.token, &self.handles.osm) {
            (UserDataSource::Token, Some(token), _) => {
                let user_data = self.handles.user_data(self.context, self.machine, token);
                let user_data = user_data.map_err(|why| kube::Error::Service(why.into()))?;
                (token.id.as_str(), user_data)
            }
            (UserDataSource::BootstrapSecret(id), _, Some(user_data)) => (id.as_str(), user_data.clone()),
            _ => return Ok(Progress::Wait),
        };
        self.user_data = Some((user_data_secret_name(self.machine.uid(), id), user_data));
        Ok(Progress::Next)
    }

    async fn create_vm(&mut self) -> Result<Progress, RemoteError> {
        let (Some(open), Some((secret, user_data))) = (&self.handles.open, &self.user_data) else {
            return Ok(Progress::Wait);
        };
        let Some(vm) = self.handles.render(self.context, self.machine, secret, user_data) else {
            return Ok(Progress::Wait);
        };
        let asked = Instant::now();
        let answer = open.create(vm).await;
        let creations = &self.memory.failures.creations;
        creations.answered(self.machine, asked, answer.as_ref().copied());
        // A refusal may come before the work.
        let took = match &answer {
            Ok(()) => Some(Some(asked.elapsed())),
            Err(error) => error.is_overload().then_some(None),
        };
        if let Some(took) = took {
            self.memory
                .start_limiter
                .answered(open.key(), took, Instant::now());
        }
        if answer.is_ok() {
            let (key, now) = (Key::of(self.machine), self.context.now());
            self.memory.recreations.count(&key, self.machine.uid(), now);
        }
        answer.map(|()| Progress::Next)
    }

    async fn find_vm(&self) -> Result<Progress, RemoteError> {
        let Some(open) = &self.handles.open else {
            return Ok(Progress::Wait);
        };
        let name = self.machine.name();
        open.find(name).await?;
        if open.uid_of(name).is_none() {
            self.memory.failures.creations.settle(self.machine);
        }
        Ok(Progress::Next)
    }

    async fn create_user_data(&mut self, vm_uid: &str) -> Result<Progress, RemoteError> {
        let (Some(open), Some((name, user_data))) = (&self.handles.open, &self.user_data) else {
            return Ok(Progress::Wait);
        };
        let delivery = BootstrapData {
            name,
            instance: self.machine.name(),
            uid: vm_uid,
            machine_uid: self.machine.uid(),
            cluster_uid: &self.context.settings.cluster_uid,
            data: user_data.bytes(),
        };
        open.create_user_data(delivery).await?;
        Ok(Progress::Next)
    }

    async fn delete_user_data(&self, name: &str) -> Result<Progress, RemoteError> {
        let Some(open) = &self.handles.open else {
            return Ok(Progress::Wait);
        };
        open.delete_user_data(name).await?;
        Ok(Progress::Next)
    }

    async fn label_vm(&mut self, uid: &str, resource_version: &str) -> Result<Progress, RemoteError> {
        let Some(open) = &self.handles.open else {
            return Ok(Progress::Wait);
        };
        let labeling = AdoptParams {
            uid,
            resource_version,
            labels: &[
                (label::MACHINE_UID, self.machine.uid()),
                (label::CLUSTER_UID, &self.context.settings.cluster_uid),
            ],
        };
        let (failures, infra) = (&self.memory.failures, open.key());
        if !failures.try_labeling(infra, self.context.now()) {
            return Ok(Progress::Next);
        }
        match open.label(self.machine.name(), labeling).await {
            // The kubeconfig's rights may not allow it; the record suffices until they do.
            Err(error) if error.code() == Some(403) => failures.forbid_labeling(infra, self.context.now()),
            other => {
                other?;
                if failures.allow_labeling(infra) {
                    for other in self.context.infra.users(infra) {
                        self.context.queues.machines.add(other);
                    }
                }
            }
        }
        Ok(Progress::Next)
    }

    async fn delete_vm(&mut self, uid: &str) -> Result<Progress, RemoteError> {
        let Some(open) = &self.handles.open else {
            return Ok(Progress::Wait);
        };
        open.delete(self.machine.name(), uid).await?;
        self.memory.drains.close(&Key::of(self.machine));
        Ok(Progress::Next)
    }

    async fn patch_node(&mut self, uid: &str, patch: &Value, puts: &[Item]) -> Result<Progress, RemoteError> {
        let api = self.nodes();
        let written = api
            .patch(self.machine.name(), &patch_params(), &Patch::Merge(patch))
            .await?;
        self.context.stores.nodes.written(written);
        let contested = self.memory.node_conflicts.put(uid, puts, Instant::now());
        if !contested.is_empty() {
            self.report_conflict(&contested).await;
        }
        Ok(Progress::Next)
    }

    /// Another controller takes these from the Node.
    async fn report_conflict(&self, items: &[Item]) {
        let items: Vec<String> = items.iter().map(ToString::to_string).collect();
        let message = format!(
            "another controller takes from Node {} what this Machine puts onto it: {}. It is put back more and more slowly, up \
             to every 5 minutes. Take it from the spec, or name a taint that ends with the start in the annotation {}",
            self.machine.name(),
            items.join(", "),
            annotation::STARTUP_TAINTS
        );
        let event = Event {
            warning: true,
            reason: "NodeContested",
            message,
        };
        self.context.events.publish(self.machine, &event).await;
    }

    fn watch_pods(&self) -> Progress {
        match self.context.stores.nodes.get(&Key::new("", self.machine.name())) {
            Some(node) => {
                self.memory.drains.open(&Key::of(self.machine), &node);
                Progress::Next
            }
            None => Progress::Wait,
        }
    }

    async fn delete_node(&mut self, uid: &str) -> Result<Progress, RemoteError> {
        let api = self.nodes();
        match api.delete(self.machine.name(), &with_uid(uid)).await {
            // Another client's finalizer holds it: the Machine goes when the Node is gone.
            Ok(either)
                if either
                    .as_ref()
                    .left()
                    .is_some_and(|node| !node.finalizers().is_empty()) =>
            {
                Ok(Progress::Wait)
            }
            Ok(_) => {
                self.context
                    .stores
                    .nodes
                    .deleted(&Key::new("", self.machine.name()), uid);
                Ok(Progress::Next)
            }
            Err(error) => gone(Err(error)),
        }
    }

    /// The pending request of that name and UID.
    fn request(&self, name: &str, uid: &str) -> Option<Arc<StoredRequest>> {
        let request = self.context.stores.serving.get(&Key::new("", name))?;
        (request.uid() == uid && !request.decided).then_some(request)
    }

    async fn approve_serving(&self, name: &str, uid: &str) -> Result<Progress, RemoteError> {
        let Some(request) = self.request(name, uid) else {
            return Ok(Progress::Next);
        };
        let approval = serving::approval(&request.object);
        let approved = approve::put(self.context, Some(self.machine), &approval, Purpose::Serving).await;
        match approved {
            Ok(approved) => {
                self.context.stores.serving.written(approved);
                Ok(Progress::Next)
            }
            Err(Stop::Failed(error)) => Err(RemoteError::from(&error)),
            Err(Stop::Stale | Stop::NotLeader) => Ok(Progress::Wait),
        }
    }

    async fn note_failure(&self, set: &str, uid: &str, message: &str) -> Result<Progress, RemoteError> {
        let api: Api<StoredMachineSet> =
            Api::namespaced(self.context.client.clone(), self.machine.namespace());
        let patch = json!({"metadata": {"uid": uid, "annotations": {annotation::MACHINE_FAILED: message}}});
        match api.patch(set, &patch_params(), &Patch::Merge(&patch)).await {
            Ok(written) => self.context.stores.machine_sets.written(written),
            // The set is gone, or another of that name: there is nothing to report to.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(RemoteError::from(&error)),
        }
        Ok(Progress::Next)
    }

    /// One at a time, and each is in the stores before the next is judged: so no two take the same room.
    async fn evacuate(&mut self, uid: &str, host: &str) -> Result<Progress, RemoteError> {
        let Some(open) = &self.handles.open else {
            return Ok(Progress::Wait);
        };
        let _alone = self.memory.evacuations.lock().await;
        if !self.context.may_write()
            || disruption_budget::reserve(
                &self.context.stores,
                &self.memory.surge_reservations,
                self.machine,
                self.context.now(),
            ) != DisruptionBudget::Allowed
        {
            return Ok(Progress::Wait);
        }
        if !open.confirm_eviction(self.machine.name(), uid, host).await? {
            return Ok(Progress::Wait);
        }
        let api = self.machines();
        let deleted = api
            .delete(self.machine.name(), &with_uid(self.machine.uid()))
            .await;
        match deleted {
            Ok(either) => {
                if let Some(machine) = either.left() {
                    self.context.stores.machines.written(machine);
                }
                Ok(Progress::Next)
            }
            Err(error) => gone(Err(error)),
        }
    }

    async fn delete_machine(&mut self) -> Result<Progress, RemoteError> {
        let api = self.machines();
        gone(
            api.delete(self.machine.name(), &with_uid(self.machine.uid()))
                .await
                .map(drop),
        )
    }
}

/// What is gone already need not be deleted.
fn gone(result: Result<(), kube::Error>) -> Result<Progress, RemoteError> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Progress::Next),
        other => Ok(other.map(|()| Progress::Next)?),
    }
}

/// Whether it is the infra cluster that answers, or may.
fn is_infra(step: &Step) -> bool {
    matches!(
        step,
        Step::CreateVm
            | Step::FindVm
            | Step::LabelVm { .. }
            | Step::DeleteVm { .. }
            | Step::CreateUserData { .. }
            | Step::DeleteUserData(_)
            | Step::RenderUserData(_)
    )
}

pub(super) fn failure_scope(step: &Step) -> FailureScope {
    match step {
        Step::CreateVm
        | Step::FindVm
        | Step::LabelVm { .. }
        | Step::DeleteVm { .. }
        | Step::DeleteUserData(_) => FailureScope::Infrastructure,
        Step::CreateToken
        | Step::ExtendToken
        | Step::DeleteToken
        | Step::DeleteSpareTokens
        | Step::RenderUserData(_)
        | Step::CreateUserData { .. } => FailureScope::Bootstrap,
        Step::PatchNode { .. } | Step::WatchPods | Step::EvictPods(_) | Step::LookUpVolumes(_) => {
            FailureScope::Node
        }
        Step::DeleteNode { .. } => FailureScope::NodeDeletion,
        Step::ApproveServing { .. } | Step::RefuseServing { .. } => FailureScope::Certificate,
        Step::Evacuate { .. } => FailureScope::Evacuation,
        Step::NoteFailure { .. } | Step::DeleteMachine => FailureScope::Replacement,
        Step::PatchMachine(_) | Step::Event(_) => FailureScope::Machine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_deleted() {
        let not_found = kube::core::Status {
            code: 404,
            ..Default::default()
        };
        assert!(matches!(
            gone(Err(kube::Error::Api(Box::new(not_found)))),
            Ok(Progress::Next)
        ));
        let forbidden = kube::core::Status {
            code: 403,
            ..Default::default()
        };
        assert!(gone(Err(kube::Error::Api(Box::new(forbidden)))).is_err());
    }
}
