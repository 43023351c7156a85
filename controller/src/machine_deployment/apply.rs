//! Carries a plan out, write by write. Every write is fenced by leadership, guarded by resourceVersion and UID, and taken
//! into the stores at once, so that the next decision sees it.

use std::collections::HashMap;
use std::sync::Arc;

use kube::Api;
use kube::Resource;
use kube::api::{DeleteParams, ListParams, Patch, PostParams, Preconditions};
use kube::core::Request;
use machinist_infra::cache::store::Key;
use machinist_infra::kube::error::RemoteError;
use machinist_shared::api::names::{API_VERSION, CONTROLLER, annotation, finalizer};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::memory::Memories;
use super::plan::{NewSet, Plan, Step};
use super::snapshot;
use super::snapshot::types::Likeness;
use crate::cache::{StoredMachineDeployment, StoredMachineSet, Stores};
use crate::context::Context;
use crate::runtime::backoff::Cause;
use crate::runtime::creation_limit::CreationLimit;
use crate::runtime::failure::Failed;
use crate::runtime::write::{self, Stop, WriteError, guarded, is_taken, patch_params};

/// What went wrong.
#[derive(Debug)]
pub(super) enum Failure {
    /// The rollback was refused, and would be again: what the answer was.
    RollbackRefused(String),
    /// A write failed.
    Write(Failed),
    /// A new set is not as it was sent: how.
    Rejected(String),
}

/// Carries out `plan`, which was decided from `deployment` and `sets`.
pub(super) async fn apply(
    context: &Context,
    memories: &Memories,
    key: &Key,
    (deployment, sets): (&StoredMachineDeployment, &[Arc<StoredMachineSet>]),
    plan: Plan,
) -> Result<(), Stop<Failure>> {
    let version = |set: &Arc<StoredMachineSet>| {
        let version = set.metadata.resource_version.clone().unwrap_or_default();
        (set.uid().to_owned(), version)
    };
    let mut run = Run {
        context,
        memories,
        key,
        deployment,
        resource_version: deployment.metadata.resource_version.clone().unwrap_or_default(),
        set_versions: sets.iter().map(version).collect(),
        rejected: None,
    };
    for step in plan.steps {
        let verb = step.verb();
        if let Step::Event(event) = &step {
            context.events.publish(deployment, event).await;
            continue;
        }
        write::write(context, verb, run.step(&step))
            .await
            .map_err(|stop| failed(&step, stop))?;
        let (uid, object) = (deployment.uid(), step.object());
        tracing::info!(deployment = %key, uid, object, why = plan.why, "{verb}");
        if let Some(how) = run.rejected.take() {
            return Err(Stop::Failed(Failure::Rejected(how)));
        }
    }
    Ok(())
}

fn failed(step: &Step, why: Stop<kube::Error>) -> Stop<Failure> {
    match why {
        // The watch shows whose the set of that name is.
        Stop::Failed(error) if is_taken(&error) => Stop::Stale,
        why => why.map(|error| {
            let error = RemoteError::from(&error);
            let (verb, cause) = (step.verb(), Cause::of(&error));
            let message = WriteError { verb, error }.to_string();
            if matches!(step, Step::RollBack(_)) && cause == Cause::Object {
                return Failure::RollbackRefused(message);
            }
            Failure::Write(Failed {
                reason: "",
                of_status: matches!(step, Step::PatchStatus(_)),
                message,
                cause,
            })
        }),
    }
}

struct Run<'a> {
    context: &'a Context,
    memories: &'a Memories,
    key: &'a Key,
    deployment: &'a StoredMachineDeployment,
    /// The deployment's, after our last patch of it.
    resource_version: String,
    /// The sets', by UID, after our last patch of each.
    set_versions: HashMap<String, String>,
    /// How a new set is not as it was sent.
    rejected: Option<String>,
}

impl Run<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), kube::Error> {
        match step {
            Step::PatchDeployment(patch) => self.patch_deployment(patch).await,
            Step::RollBack(template) => self.roll_back(template).await,
            Step::PatchStatus(patch) => self.patch_status(patch).await,
            Step::CreateSet(set) => self.create(set).await,
            Step::PatchSet { name, uid, patch } => {
                let patch = guarded(patch, uid, Some(&self.set_version(uid)));
                self.patch_set(name, uid, &Patch::Merge(patch)).await
            }
            Step::CopyTemplate { name, uid, template } => {
                // A merge patch would lose each `null`, and with it the bytes.
                let patch = [
                    json!({"op": "replace", "path": "/metadata/resourceVersion", "value": self.set_version(uid)}),
                    json!({"op": "replace", "path": "/spec/template", "value": **template}),
                ];
                self.patch_set(name, uid, &json_patch_of(&patch)?).await
            }
            Step::DeleteSet { name, uid } => self.delete(name, uid).await,
            Step::Event(_) => Ok(()),
        }
    }

    async fn patch_deployment(&mut self, patch: &Value) -> Result<(), kube::Error> {
        let patch = guarded(patch, self.deployment.uid(), Some(&self.resource_version));
        let api = self.deployments();
        let written = api
            .patch(self.deployment.name(), &patch_params(), &Patch::Merge(&patch))
            .await?;
        self.taken_in(written);
        Ok(())
    }

    async fn roll_back(&mut self, template: &Value) -> Result<(), kube::Error> {
        let asked = format!(
            "/metadata/annotations/{}",
            annotation::ROLLBACK_TO.replace('/', "~1")
        );
        let patch = json_patch_of(&[
            json!({"op": "replace", "path": "/metadata/resourceVersion", "value": self.resource_version}),
            json!({"op": "replace", "path": "/spec/template", "value": template}),
            json!({"op": "remove", "path": asked}),
        ])?;
        let api = self.deployments();
        let written = api.patch(self.deployment.name(), &patch_params(), &patch).await?;
        self.taken_in(written);
        Ok(())
    }

    async fn patch_status(&mut self, patch: &Value) -> Result<(), kube::Error> {
        let patch = guarded(patch, self.deployment.uid(), Some(&self.resource_version));
        let api = self.deployments();
        let written = api
            .patch_status(self.deployment.name(), &patch_params(), &Patch::Merge(&patch))
            .await?;
        self.memories.status_written_at(self.key, self.context.now());
        self.taken_in(written);
        Ok(())
    }

    /// Asks the API server, not the store: whether the deployment is there and is not being deleted.
    async fn make_sure_that_it_lives(&self) -> Result<(), kube::Error> {
        let one = ListParams::default().fields(&format!("metadata.name={}", self.deployment.name()));
        let found = self.deployments().list(&one).await?.items.into_iter().next();
        if found.is_some_and(|found| found.uid() == self.deployment.uid() && !found.is_deleting()) {
            return Ok(());
        }
        Err(kube::Error::Api(Box::new(kube::core::Status {
            code: 409,
            message: "the MachineDeployment is gone or being deleted".to_owned(),
            ..kube::core::Status::default()
        })))
    }

    /// Its name is the same in every pass: if it is there already, the watch shows whose it is.
    async fn create(&mut self, set: &NewSet) -> Result<(), kube::Error> {
        // What is missing though the spec is obeyed already may have gone with the deployment, which is not seen yet.
        if self.deployment.status.observed_generation == self.deployment.metadata.generation {
            self.make_sure_that_it_lives().await?;
        }
        let body = body(self.deployment, set).to_string().into_bytes();
        let params = PostParams {
            field_manager: Some(CONTROLLER.to_owned()),
            ..PostParams::default()
        };
        let url = StoredMachineSet::url_path(&(), Some(self.deployment.namespace()));
        let request = Request::new(url).create(&params, body);
        let request = request.map_err(kube::Error::BuildRequest)?;
        let memories = self.memories;
        memories.creations(self.key, |creations| creations.spend(&set.name, Instant::now()));
        let answer = self.context.client.request::<StoredMachineSet>(request).await;
        let written = answer.inspect_err(|error| {
            if matches!(error, kube::Error::Api(status) if status.code < 500) {
                memories.creations(self.key, |creations| creations.refund(&set.name));
            }
        })?;
        self.rejected = difference(&self.context.stores, self.deployment, &written);
        if self.rejected.is_some() {
            memories.creations(self.key, |creations| {
                creations.reject(written.name(), written.uid());
            });
        } else {
            memories.creations(self.key, CreationLimit::accept);
        }
        self.context.stores.machine_sets.written(written);
        Ok(())
    }

    async fn patch_set(&mut self, name: &str, uid: &str, patch: &Patch<Value>) -> Result<(), kube::Error> {
        let written = self.sets().patch(name, &patch_params(), patch).await?;
        let version = written.metadata.resource_version.clone().unwrap_or_default();
        self.set_versions.insert(uid.to_owned(), version);
        self.context.stores.machine_sets.written(written);
        Ok(())
    }

    async fn delete(&self, name: &str, uid: &str) -> Result<(), kube::Error> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: Some(self.set_version(uid)),
            }),
            ..DeleteParams::default()
        };
        match self.sets().delete(name, &params).await?.left() {
            Some(left) if left.is_deleting() => self.context.stores.machine_sets.written(left),
            _ => self
                .context
                .stores
                .machine_sets
                .deleted(&Key::new(self.deployment.namespace(), name), uid),
        }
        Ok(())
    }

    fn set_version(&self, uid: &str) -> String {
        self.set_versions.get(uid).cloned().unwrap_or_default()
    }

    fn taken_in(&mut self, written: StoredMachineDeployment) {
        self.resource_version = written.metadata.resource_version.clone().unwrap_or_default();
        self.context.stores.machine_deployments.written(written);
    }

    fn deployments(&self) -> Api<StoredMachineDeployment> {
        Api::namespaced(self.context.client.clone(), self.deployment.namespace())
    }

    fn sets(&self) -> Api<StoredMachineSet> {
        Api::namespaced(self.context.client.clone(), self.deployment.namespace())
    }
}

/// Why a new set of the deployment would not be its new set, for a person: another would be created in its place.
fn difference(
    stores: &Stores,
    deployment: &StoredMachineDeployment,
    set: &StoredMachineSet,
) -> Option<String> {
    let wanted = snapshot::deployment(deployment);
    let matches = deployment.selector.matches(set.metadata.labels.as_ref());
    let found = snapshot::set_of(stores, &wanted, set, matches);
    let least = if wanted.in_place {
        Likeness::InPlace
    } else {
        Likeness::Equal
    };
    let what = if found.controller() != Some(&wanted.uid) {
        "another controller in metadata.ownerReferences, or none"
    } else if !matches {
        "labels that spec.selector does not select"
    } else if found.likeness < least {
        "another template"
    } else {
        return None;
    };
    Some(format!(
        "the API server stores its new MachineSets with {what}: an admission webhook or a policy changes them. The \
         MachineSet was deleted, and no other is created but one now and then, after 5 minutes at the soonest; it goes on at \
         once when its selector or template changes, or when it is paused and resumed"
    ))
}

fn json_patch_of(operations: &[Value]) -> Result<Patch<Value>, kube::Error> {
    let patch = serde_json::from_value(json!(operations)).map_err(kube::Error::SerdeError)?;
    Ok(Patch::Json(patch))
}

fn body(deployment: &StoredMachineDeployment, set: &NewSet) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "MachineSet",
        "metadata": {
            "name": set.name,
            "namespace": deployment.namespace(),
            "labels": set.labels,
            "annotations": set.annotations,
            "finalizers": [finalizer::FOREGROUND_DELETION],
            "ownerReferences": [{
                "apiVersion": API_VERSION,
                "kind": "MachineDeployment",
                "name": deployment.name(),
                "uid": deployment.uid(),
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "replicas": set.replicas,
            "minReadySeconds": set.min_ready_seconds,
            "selector": set.selector,
            "template": *set.template,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::as_it_was_sent(json!({}), None)]
    #[case::with_something_that_means_nothing(json!({"spec": {"template": {"spec": {"taints": []}}}}), None)]
    #[case::other_labels(json!({"metadata": {"labels": {"pool": "b"}}}), Some("labels"))]
    #[case::no_owner(json!({"metadata": {"ownerReferences": null}}), Some("ownerReferences"))]
    #[case::another_template(json!({"spec": {"template": {"metadata": {"labels": {"more": "x"}}}}}), Some("template"))]
    fn a_new_set_is_held_against_what_was_sent(#[case] change: Value, #[case] expected: Option<&str>) {
        let template =
            json!({"metadata": {"labels": {"pool": "a"}}, "spec": {"versions": {"kubelet": "1.33.4"}}});
        let deployment: StoredMachineDeployment = serde_json::from_value(json!({
            "metadata": {"name": "d", "namespace": "ns", "uid": "uid-d"},
            "spec": {"selector": {"matchLabels": {"pool": "a"}}, "template": template},
        }))
        .unwrap();
        let new = NewSet {
            name: "d-1".to_owned(),
            labels: [("pool".to_owned(), "a".to_owned())].into(),
            annotations: [].into(),
            selector: json!({"matchLabels": {"pool": "a", "machine-template-hash": "1"}}),
            template: super::super::decide::with_hash(&template, "1"),
            replicas: 1,
            min_ready_seconds: 0,
        };
        let mut stored = body(&deployment, &new);
        stored["metadata"]["uid"] = json!("uid-1");
        json_patch::merge(&mut stored, &change);
        let set = serde_json::from_value(stored).unwrap();
        let found = difference(&Stores::default(), &deployment, &set);
        assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
        assert!(found.is_none_or(|found| found.contains(expected.unwrap())));
    }
}
