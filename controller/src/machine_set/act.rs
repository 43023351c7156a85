//! Carries a plan out. Every write is fenced by leadership, guarded by UID or resourceVersion, and taken into the stores at
//! once, so that the next decision sees it.

use std::sync::Arc;

use futures::future::join_all;
use kube::api::{ListParams, Patch};
use kube::{Api, ResourceExt};
use machinist_infra::client::RemoteError;
use machinist_infra::store::Key;
use machinist_shared::autoscaler;
use machinist_shared::names::{annotation, finalizer};
use serde_json::{Value, json};

use super::memory::Failed;
use super::new_machine;
use super::plan::{Plan, Step};
use crate::cache::{StoredMachine, StoredMachineSet};
use crate::context::Context;
use crate::machine::act::{patch_params, with_uid};
use crate::runtime::backoff::Cause;

mod create;

/// How carrying out a plan ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Every write succeeded.
    Done,
    /// Something had changed meanwhile: decide again when it shows.
    Stale,
    /// A new Machine is not as it was sent: how.
    Rejected(String),
    /// A write failed.
    Failed(StepError),
    /// This process may not write any more.
    NotLeader,
}

/// A write that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb}: {error}")]
pub(super) struct StepError {
    /// How `status.errorReason` shows it.
    pub reason: &'static str,
    /// Whether the status was to be written.
    pub of_status: bool,
    /// What was tried.
    verb: &'static str,
    /// What the answer was.
    error: RemoteError,
}

impl StepError {
    /// As it is remembered.
    pub(super) fn failed(&self) -> Failed {
        Failed {
            reason: self.reason,
            message: self.to_string(),
            cause: Cause::of(&self.error),
            of_status: self.of_status,
        }
    }
}

/// Why a single write was not made, or not believed.
enum Refused {
    NotLeader,
    Stale,
    Rejected(String),
    Error(kube::Error),
}

/// Carries out `plan` for `set`.
pub(super) async fn act(context: &Context, key: &Key, set: &Arc<StoredMachineSet>, plan: Plan) -> Outcome {
    let mut run = Run {
        context,
        key,
        set,
        why: plan.why,
        resource_version: set.metadata.resource_version.clone(),
    };
    let mut failed = None;
    for step in plan.steps {
        let (verb, reason, is_adoption) = (step.verb(), step.failure(), matches!(step, Step::Adopt(_)));
        let of_status = matches!(step, Step::Status(_));
        match run.step(step).await {
            Ok(()) => {}
            Err(Refused::NotLeader) => return Outcome::NotLeader,
            Err(Refused::Stale) => return Outcome::Stale,
            Err(Refused::Rejected(how)) => return Outcome::Rejected(how),
            Err(Refused::Error(error)) => {
                let error = RemoteError::from(&error);
                let error = StepError {
                    reason,
                    of_status,
                    verb,
                    error,
                };
                // A Machine that cannot be taken keeps its place, and holds back no other.
                if !is_adoption {
                    return Outcome::Failed(error);
                }
                failed = Some(error);
            }
        }
    }
    failed.map_or(Outcome::Done, Outcome::Failed)
}

struct Run<'a> {
    context: &'a Context,
    key: &'a Key,
    set: &'a Arc<StoredMachineSet>,
    why: String,
    /// The set's, after our last patch of it.
    resource_version: Option<String>,
}

impl Run<'_> {
    async fn step(&mut self, step: Step) -> Result<(), Refused> {
        match &step {
            Step::PatchSet(patch) => self.patch_set(patch).await,
            Step::Release(machines) => {
                for machine in machines {
                    self.context.set_memories.expect_loss(self.key, machine.uid());
                }
                self.each(machines, |machine| self.own(machine, step.verb(), None))
                    .await
            }
            Step::Adopt(machines) => {
                self.make_sure_that_it_lives().await?;
                let owner = new_machine::owner_reference(self.set);
                self.each(machines, |machine| self.own(machine, step.verb(), Some(&owner)))
                    .await
            }
            Step::Create(count) => self.create(*count).await,
            Step::Delete(machines) => {
                self.make_sure_that_marks_are_known().await?;
                self.each(machines, |machine| self.delete(machine)).await
            }
            Step::ChangeInPlace(changes) => {
                worst(join_all(changes.iter().map(|(machine, patch)| self.change(machine, patch))).await)
            }
            Step::Status(patch) => self.patch_status(patch).await,
            Step::Event(event) => {
                // An Event is for people; a failed one stops nothing.
                if let Err(error) = self.context.events.publish(self.set.as_ref(), event).await {
                    tracing::warn!(set = %self.key, error = %RemoteError::from(&error), "cannot record an Event");
                }
                Ok(())
            }
        }
    }

    /// One write: when its turn has come, and if this process still leads then.
    async fn write<T>(
        &self,
        verb: &'static str,
        object: &str,
        write: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Refused> {
        // Nobody closes it.
        let _permit = self.context.set_memories.in_flight.acquire().await;
        if !self.context.may_write() {
            return Err(Refused::NotLeader);
        }
        let result = write.await;
        let label = if result.is_ok() { "ok" } else { "error" };
        self.context
            .metrics
            .writes
            .with_label_values(&[verb, label])
            .inc();
        if result.is_ok() {
            tracing::info!(set = %self.key, uid = self.set.uid(), object, why = self.why, "{verb}");
        }
        result.map_err(|error| match &error {
            _ if !self.context.may_write() => Refused::NotLeader,
            kube::Error::Api(status) if status.code == 404 || status.reason == "Conflict" => Refused::Stale,
            _ => Refused::Error(error),
        })
    }

    /// Does the same with all of them at once; what matters most of the answers.
    async fn each<'m, F>(
        &self,
        machines: &'m [Arc<StoredMachine>],
        write: impl Fn(&'m Arc<StoredMachine>) -> F,
    ) -> Result<(), Refused>
    where
        F: Future<Output = Result<(), Refused>>,
    {
        worst(join_all(machines.iter().map(write)).await)
    }

    async fn patch_set(&mut self, patch: &Value) -> Result<(), Refused> {
        let patch = self.guarded(patch);
        let (api, name, params) = (self.sets(), self.set.name(), patch_params());
        let write = async { api.patch(name, &params, &Patch::Merge(&patch)).await };
        let written = self.write("patch the MachineSet", name, write).await?;
        self.taken_in(written);
        Ok(())
    }

    async fn patch_status(&mut self, patch: &Value) -> Result<(), Refused> {
        let patch = self.guarded(patch);
        let (api, name, params) = (self.sets(), self.set.name(), patch_params());
        let write = async { api.patch_status(name, &params, &Patch::Merge(&patch)).await };
        let written = self
            .write("patch the status of the MachineSet", name, write)
            .await?;
        self.taken_in(written);
        Ok(())
    }

    fn guarded(&self, patch: &Value) -> Value {
        let mut patch = patch.clone();
        let guard = json!({"metadata": {"uid": self.set.uid(), "resourceVersion": self.resource_version}});
        json_patch::merge(&mut patch, &guard);
        patch
    }

    fn taken_in(&mut self, written: StoredMachineSet) {
        self.resource_version
            .clone_from(&written.metadata.resource_version);
        self.context.stores.machine_sets.written(written);
    }

    /// Asks the API server, not the store: `kubectl delete --cascade=orphan` lets the Machines go and then ends the set, and
    /// whatever it takes back in between goes with it.
    async fn make_sure_that_it_lives(&self) -> Result<(), Refused> {
        let found = self.sets().list(&named(self.set.name())).await;
        let found = found.map_err(Refused::Error)?.items.into_iter().next();
        let lives = found
            .as_ref()
            .is_some_and(|found| found.uid() == self.set.uid() && !found.is_deleting());
        self.context.stores.machine_sets.looked(self.key, found);
        if lives { Ok(()) } else { Err(Refused::Stale) }
    }

    /// The cluster-autoscaler marks a Machine and then lowers the size: the size may be heard of first, and another Machine
    /// go. So before one of a node group goes, the API server is asked which are marked.
    async fn make_sure_that_marks_are_known(&self) -> Result<(), Refused> {
        let annotations = self.set.metadata.annotations.as_ref();
        if annotations.is_none_or(|all| !all.keys().any(|key| autoscaler::is_of_a_node_group(key))) {
            return Ok(());
        }
        let selector = self.set.selector.text().unwrap_or_default();
        let found = self
            .machines()
            .list_metadata(&ListParams::default().labels(&selector))
            .await
            .map_err(Refused::Error)?;
        let is_known = |name: &str| {
            let machine = (self.context.stores.machines).get(&Key::new(self.set.namespace(), name));
            machine.is_none_or(|machine| machine.is_marked() || machine.is_deleting())
        };
        let marked = found.iter().filter(|machine| {
            let mark = machine.annotations().get(annotation::DELETE_MACHINE);
            mark.is_some_and(|text| !text.is_empty())
        });
        let mut unknown = marked.filter(|machine| !is_known(&machine.name_any()));
        if unknown.next().is_some() {
            return Err(Refused::Stale);
        }
        Ok(())
    }

    /// Replaces our reference among the owners of a Machine, or takes it away.
    async fn own(
        &self,
        machine: &StoredMachine,
        verb: &'static str,
        reference: Option<&Value>,
    ) -> Result<(), Refused> {
        let patch = json!({"metadata": {
            "uid": machine.uid(),
            "resourceVersion": machine.metadata.resource_version,
            "ownerReferences": owners(machine, self.set.uid(), reference),
        }});
        let (api, name, params) = (self.machines(), machine.name(), patch_params());
        let write = async { api.patch(name, &params, &Patch::Merge(&patch)).await };
        let written = self.write(verb, name, write).await?;
        self.context.stores.machines.written(written);
        Ok(())
    }

    /// Changes a Machine as it was when that was decided.
    async fn change(&self, machine: &StoredMachine, change: &Value) -> Result<(), Refused> {
        let mut patch = change.clone();
        let guard =
            json!({"metadata": {"uid": machine.uid(), "resourceVersion": machine.metadata.resource_version}});
        json_patch::merge(&mut patch, &guard);
        let (api, name, params) = (self.machines(), machine.name(), patch_params());
        let write = async { api.patch(name, &params, &Patch::Merge(&patch)).await };
        let written = self.write("change the Machine in place", name, write).await?;
        self.context.stores.machines.written(written);
        Ok(())
    }

    async fn delete(&self, machine: &StoredMachine) -> Result<(), Refused> {
        let (api, name, mut params) = (self.machines(), machine.name(), with_uid(machine.uid()));
        // Its finalizers may be written just now, and would come too late (see [`crate::cache::Lost`]).
        if !machine.has_finalizer(finalizer::VM)
            && let Some(preconditions) = &mut params.preconditions
        {
            preconditions
                .resource_version
                .clone_from(&machine.metadata.resource_version);
        }
        self.context.set_memories.expect_loss(self.key, machine.uid());
        let write = async {
            match api.delete(name, &params).await {
                // What is gone need not be deleted.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                Ok(either) => Ok(either.left()),
                Err(error) => Err(error),
            }
        };
        let left = self.write("delete the Machine", name, write).await?;
        self.context.set_memories.refund(self.key, name);
        match left {
            Some(left) if left.is_deleting() => self.context.stores.machines.written(left),
            _ => self
                .context
                .stores
                .machines
                .deleted(&Key::new(machine.namespace(), name), machine.uid()),
        }
        Ok(())
    }

    fn sets(&self) -> Api<StoredMachineSet> {
        Api::namespaced(self.context.client.clone(), self.set.namespace())
    }

    fn machines(&self) -> Api<StoredMachine> {
        Api::namespaced(self.context.client.clone(), self.set.namespace())
    }
}

/// Only the object of that name, as it is now.
fn named(name: &str) -> ListParams {
    ListParams::default().fields(&format!("metadata.name={name}"))
}

/// The owners of a Machine with `reference` instead of whatever names that UID.
fn owners(machine: &StoredMachine, uid: &str, reference: Option<&Value>) -> Value {
    let others = machine.owner_references().iter().filter(|owner| owner.uid != uid);
    let owners: Vec<Value> = others
        .map(|owner| json!(owner))
        .chain(reference.cloned())
        .collect();
    json!(owners)
}

/// What matters most: a lost leadership, then a Machine that is not as it was sent, then a failure, then that something had changed.
fn worst(results: Vec<Result<(), Refused>>) -> Result<(), Refused> {
    let weight = |refused: &Refused| match refused {
        Refused::NotLeader => 4,
        Refused::Rejected(_) => 3,
        Refused::Error(_) => 2,
        Refused::Stale => 1,
    };
    let refused = results.into_iter().filter_map(Result::err);
    refused.max_by_key(weight).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::is_added_to_others(json!([{"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "o"}]), &["o", "u"], &["o"])]
    #[case::replaces_one_that_does_not_control(
        json!([{"apiVersion": "v1", "kind": "MachineSet", "name": "s", "uid": "u"}]), &["u"], &[])]
    #[case::is_the_only_one(Value::Null, &["u"], &[])]
    fn our_reference(#[case] owned: Value, #[case] adopted: &[&str], #[case] released: &[&str]) {
        let machine: StoredMachine =
            serde_json::from_value(json!({"metadata": {"name": "m", "ownerReferences": owned}})).unwrap();
        let uids = |owners: &Value| -> Vec<String> {
            let owners = owners.as_array().unwrap().iter();
            owners.map(|o| o["uid"].as_str().unwrap().to_owned()).collect()
        };
        let ours = json!({"uid": "u", "controller": true});
        let owners_now = owners(&machine, "u", Some(&ours));
        assert_eq!(uids(&owners_now), adopted);
        assert_eq!(owners_now.as_array().unwrap().last(), Some(&ours));
        assert_eq!(uids(&owners(&machine, "u", None)), released);
    }

    #[test]
    fn a_lost_leadership_outweighs_a_failure_and_that_a_change() {
        let error = || Err(Refused::Error(kube::Error::TlsRequired));
        assert!(matches!(
            worst(vec![Ok(()), error(), Err(Refused::Stale)]),
            Err(Refused::Error(_))
        ));
        assert!(matches!(
            worst(vec![Err(Refused::NotLeader), error()]),
            Err(Refused::NotLeader)
        ));
        assert!(matches!(
            worst(vec![Ok(()), Err(Refused::Stale)]),
            Err(Refused::Stale)
        ));
        assert!(worst(vec![Ok(())]).is_ok());
    }
}
