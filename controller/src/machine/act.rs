//! Carries a plan out, write by write. Every write is fenced by leadership, guarded by UID or resourceVersion, and
//! taken into the stores at once, so that the next decision sees it.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::DynamicObject;
use kube::{Api, ResourceExt};
use machinist_infra::client::RemoteError;
use machinist_infra::objects::Vm;
use machinist_infra::pool::OpenInfra;
use machinist_infra::store::Key;
use machinist_shared::names::{CONTROLLER, annotation, label};
use serde_json::{Value, json};

use super::decide::user_data_secret_name;
use super::observe::Hands;
use super::observed::Concern;
use super::plan::{Plan, Step};
use crate::bootstrap::{self, token::TokenView};
use crate::context::Context;
use crate::user::{Node, StoredMachine, StoredMachineSet, TOKEN_NAMESPACE};

/// How carrying out a plan ended.
#[derive(Debug)]
pub enum Outcome {
    /// Every write succeeded.
    Done,
    /// Something had changed meanwhile, or is not gone yet: decide again when it shows.
    Stale,
    /// A write failed.
    Failed(StepError),
    /// This process may not write any more.
    NotLeader,
}

/// A write that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb}: {error}")]
pub struct StepError {
    /// Which question of the status it concerns.
    pub concerns: Concern,
    /// What was tried.
    pub verb: &'static str,
    /// What the answer was.
    pub error: RemoteError,
}

/// Carries out `plan` for `machine`.
pub async fn act(context: &Context, machine: &StoredMachine, hands: &Hands, plan: Plan) -> Outcome {
    let mut run = Run {
        context,
        machine,
        hands,
        resource_version: machine.metadata.resource_version.clone(),
        token: hands.token.clone(),
    };
    for step in plan.steps {
        if !context.may_write() {
            return Outcome::NotLeader;
        }
        let verb = step.verb();
        let result = run.step(&step).await;
        context
            .metrics
            .writes
            .with_label_values(&[verb, if result.is_ok() { "ok" } else { "error" }])
            .inc();
        match result {
            Ok(Progress::Next) => {
                tracing::info!(machine = %machine.name(), namespace = %machine.namespace(), uid = %machine.uid(), "{verb}");
            }
            Ok(Progress::Wait) => return Outcome::Stale,
            Err(error) if is_conflict(&error) => return Outcome::Stale,
            // An Event is for people; a failed one stops nothing.
            Err(error) if matches!(step, Step::Event(_)) => {
                tracing::warn!(machine = %machine.name(), error = %RemoteError::from(&error), "cannot record an Event");
            }
            Err(error) => {
                let error = RemoteError::from(&error);
                return Outcome::Failed(StepError {
                    concerns: concern(&step),
                    verb,
                    error,
                });
            }
        }
    }
    Outcome::Done
}

enum Progress {
    /// Go on with the next step.
    Next,
    /// The plan ends here: something has to be seen first.
    Wait,
}

struct Run<'a> {
    context: &'a Context,
    machine: &'a StoredMachine,
    hands: &'a Hands,
    /// The Machine's, after our last patch of it.
    resource_version: Option<String>,
    token: Option<TokenView>,
}

impl Run<'_> {
    async fn step(&mut self, step: &Step) -> Result<Progress, kube::Error> {
        match step {
            Step::PatchMachine(patch) => self.patch_machine(patch).await,
            Step::CreateToken => self.create_token().await,
            Step::ExtendToken => self.extend_token().await,
            Step::DeleteToken => self.delete_token().await,
            Step::CreateVm => self.create_vm().await,
            Step::CreateUserData { vm_uid } => self.create_user_data(vm_uid).await,
            Step::LabelVm {
                uid,
                resource_version,
            } => self.label_vm(uid, resource_version).await,
            Step::DeleteVm { uid } => self.delete_vm(uid).await,
            Step::PatchNode { uid: _, patch } => self.patch_node(patch).await,
            Step::DeleteNode { uid } => self.delete_node(uid).await,
            Step::NoteFailure { set, uid, message } => self.note_failure(set, uid, message).await,
            Step::DeleteMachine => self.delete_machine().await,
            Step::Event(event) => {
                self.context.events.publish(self.machine, event).await?;
                Ok(Progress::Next)
            }
        }
    }

    async fn patch_machine(&mut self, patch: &Value) -> Result<Progress, kube::Error> {
        let mut patch = patch.clone();
        let guard =
            json!({"metadata": {"uid": self.machine.uid(), "resourceVersion": self.resource_version}});
        json_patch::merge(&mut patch, &guard);
        let api: Api<StoredMachine> = Api::namespaced(self.context.client.clone(), self.machine.namespace());
        let written = api
            .patch(self.machine.name(), &patch_params(), &Patch::Merge(&patch))
            .await?;
        self.resource_version
            .clone_from(&written.metadata.resource_version);
        self.context.stores.machines.written(written);
        Ok(Progress::Next)
    }

    async fn create_token(&mut self) -> Result<Progress, kube::Error> {
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), TOKEN_NAMESPACE);
        let secret = bootstrap::new_token(self.machine, self.context.now());
        let written = api.create(&PostParams::default(), &secret).await?;
        self.token = TokenView::from_secret(&written).ok();
        self.context.stores.tokens.written(written);
        Ok(Progress::Next)
    }

    async fn extend_token(&mut self) -> Result<Progress, kube::Error> {
        let Some(token) = &self.token else {
            return Ok(Progress::Wait);
        };
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), TOKEN_NAMESPACE);
        let patch = bootstrap::token::extend(token, self.context.now());
        let written = api
            .patch(&token.secret_name(), &patch_params(), &Patch::Merge(&patch))
            .await?;
        self.context.stores.tokens.written(written);
        Ok(Progress::Next)
    }

    async fn delete_token(&mut self) -> Result<Progress, kube::Error> {
        let Some(token) = self.token.take() else {
            return Ok(Progress::Next);
        };
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), TOKEN_NAMESPACE);
        let result = gone(
            api.delete(&token.secret_name(), &with_uid(&token.secret_uid))
                .await
                .map(drop),
        );
        if result.is_ok() {
            self.context
                .stores
                .tokens
                .deleted(&Key::new(TOKEN_NAMESPACE, token.secret_name()), &token.secret_uid);
        }
        result
    }

    async fn create_vm(&mut self) -> Result<Progress, kube::Error> {
        let (Some(open), Some(token)) = (&self.hands.open, &self.token) else {
            return Ok(Progress::Wait);
        };
        let secret = user_data_secret_name(self.machine.uid(), &token.id.to_string());
        let Some(vm) = self.hands.render(self.context, self.machine, &secret) else {
            return Ok(Progress::Wait);
        };
        let resource = kube::core::ApiResource::erase::<Vm>(&());
        let api: Api<DynamicObject> =
            Api::namespaced_with(open.client().clone(), &open.key().namespace, &resource);
        let object: DynamicObject = serde_json::from_value(vm).map_err(kube::Error::SerdeError)?;
        let params = PostParams {
            field_manager: Some(CONTROLLER.to_owned()),
            ..PostParams::default()
        };
        let written = api.create(&params, &object).await?;
        take_in(open, &written);
        Ok(Progress::Next)
    }

    async fn create_user_data(&mut self, vm_uid: &str) -> Result<Progress, kube::Error> {
        let (Some(open), Some(token)) = (&self.hands.open, &self.token) else {
            return Ok(Progress::Wait);
        };
        let user_data = match self.hands.user_data(self.context, self.machine, token) {
            Ok(user_data) => user_data,
            Err(why) => return Err(kube::Error::Service(why.into())),
        };
        let secret = bootstrap::user_data_secret(&bootstrap::UserDataSecret {
            name: &user_data_secret_name(self.machine.uid(), &token.id.to_string()),
            machine_uid: self.machine.uid(),
            cluster_uid: &self.context.settings.cluster_uid,
            vm_name: self.machine.name(),
            vm_uid,
            user_data: &user_data,
        });
        let api: Api<Secret> = Api::namespaced(open.client().clone(), &open.key().namespace);
        match api.create(&PostParams::default(), &secret).await {
            // The name holds the Machine's UID and the token's ID: it can only be our own, from before a crash.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Progress::Next),
            other => other.map(|_| Progress::Next),
        }
    }

    async fn label_vm(&mut self, uid: &str, resource_version: &str) -> Result<Progress, kube::Error> {
        let Some(open) = &self.hands.open else {
            return Ok(Progress::Wait);
        };
        let patch = json!({"metadata": {
            "uid": uid,
            "resourceVersion": resource_version,
            "labels": {label::MACHINE_UID: self.machine.uid(), label::CLUSTER_UID: self.context.settings.cluster_uid},
        }});
        match vms(open)
            .patch(self.machine.name(), &patch_params(), &Patch::Merge(&patch))
            .await
        {
            // The kubeconfig's rights may not allow it; the record suffices until they do.
            Err(kube::Error::Api(status)) if status.code == 403 => {
                self.context.failures.forbid_labelling(uid);
                Ok(Progress::Next)
            }
            Err(error) => Err(error),
            Ok(vm) => {
                open.vms().written(vm);
                Ok(Progress::Next)
            }
        }
    }

    async fn delete_vm(&mut self, uid: &str) -> Result<Progress, kube::Error> {
        let Some(open) = &self.hands.open else {
            return Ok(Progress::Wait);
        };
        match vms(open).delete(self.machine.name(), &with_uid(uid)).await {
            Ok(either) => {
                match either.left() {
                    Some(vm) if vm.metadata.deletion_timestamp.is_some() => open.vms().written(vm),
                    _ => open
                        .vms()
                        .deleted(&Key::new(&open.key().namespace, self.machine.name()), uid),
                }
                Ok(Progress::Next)
            }
            Err(error) => gone(Err(error)),
        }
    }

    async fn patch_node(&mut self, patch: &Value) -> Result<Progress, kube::Error> {
        let api: Api<Node> = Api::all(self.context.client.clone());
        let written = api
            .patch(self.machine.name(), &patch_params(), &Patch::Merge(patch))
            .await?;
        self.context.stores.nodes.written(written);
        Ok(Progress::Next)
    }

    async fn delete_node(&mut self, uid: &str) -> Result<Progress, kube::Error> {
        let api: Api<Node> = Api::all(self.context.client.clone());
        match api.delete(self.machine.name(), &with_uid(uid)).await {
            // Somebody's finalizer holds it: the Machine goes when the Node is gone.
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

    async fn note_failure(&self, set: &str, uid: &str, message: &str) -> Result<Progress, kube::Error> {
        let api: Api<StoredMachineSet> =
            Api::namespaced(self.context.client.clone(), self.machine.namespace());
        let patch = json!({"metadata": {"uid": uid, "annotations": {annotation::MACHINE_FAILED: message}}});
        match api.patch(set, &patch_params(), &Patch::Merge(&patch)).await {
            Ok(written) => self.context.stores.machine_sets.written(written),
            // The set is gone, or another of that name: nobody is left to be told.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error),
        }
        Ok(Progress::Next)
    }

    async fn delete_machine(&mut self) -> Result<Progress, kube::Error> {
        let api: Api<StoredMachine> = Api::namespaced(self.context.client.clone(), self.machine.namespace());
        gone(
            api.delete(self.machine.name(), &with_uid(self.machine.uid()))
                .await
                .map(drop),
        )
    }
}

fn vms(open: &OpenInfra) -> Api<Vm> {
    Api::namespaced(open.client().clone(), &open.key().namespace)
}

/// Puts a created VM into the store, as the watch will.
fn take_in(open: &OpenInfra, created: &DynamicObject) {
    let projected = serde_json::to_value(created).and_then(serde_json::from_value::<Vm>);
    match projected {
        Ok(vm) => open.vms().written(vm),
        // The watch brings it, too.
        Err(error) => tracing::warn!(%error, "the created VirtualMachine cannot be read"),
    }
}

/// Patches are ours.
pub(crate) fn patch_params() -> PatchParams {
    PatchParams {
        field_manager: Some(CONTROLLER.to_owned()),
        ..PatchParams::default()
    }
}

/// Deletes only the object of that UID.
pub(crate) fn with_uid(uid: &str) -> DeleteParams {
    let preconditions = Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    };
    DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    }
}

/// What is gone already need not be deleted.
fn gone(result: Result<(), kube::Error>) -> Result<Progress, kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Progress::Next),
        other => other.map(|()| Progress::Next),
    }
}

/// Somebody else wrote meanwhile: decide again from what they wrote.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn concern(step: &Step) -> Concern {
    match step {
        Step::CreateVm | Step::LabelVm { .. } | Step::DeleteVm { .. } => Concern::Infrastructure,
        Step::CreateToken | Step::ExtendToken | Step::DeleteToken | Step::CreateUserData { .. } => {
            Concern::Bootstrap
        }
        Step::PatchNode { .. } | Step::DeleteNode { .. } => Concern::Node,
        Step::PatchMachine(_) | Step::NoteFailure { .. } | Step::DeleteMachine | Step::Event(_) => {
            Concern::Machine
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::ObjectMeta;

    #[test]
    fn a_delete_names_the_uid_that_was_decided_on() {
        let params = serde_json::to_value(with_uid("u-1")).unwrap();
        assert_eq!(params["preconditions"]["uid"], "u-1");
    }

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

    #[test]
    fn metadata_is_all_that_a_projected_kind_writes() {
        let meta = ObjectMeta {
            name: Some("a".into()),
            ..ObjectMeta::default()
        };
        let vm = Vm {
            metadata: meta,
            ..Vm::default()
        };
        assert_eq!(serde_json::to_value(&vm).unwrap(), json!({"name": "a"}));
    }
}
