//! Carries a plan out. Every write is fenced by leadership, guarded by UID or resourceVersion, and taken into the stores at
//! once, so that the next decision sees it.

use std::sync::Arc;

use futures::future::join_all;
use kube::api::{ListParams, Patch};
use kube::{Api, ResourceExt};
use machinist_infra::cache::store::Key;
use machinist_infra::kube::error::RemoteError;
use machinist_shared::admission::autoscaler;
use machinist_shared::api::names::{annotation, finalizer};
use serde_json::{Value, json};

use super::memory::Memories;
use super::new_machine;
use super::plan::{Plan, Step};
use crate::cache::{StoredMachine, StoredMachineSet};
use crate::context::Context;
use crate::runtime::backoff::Cause;
use crate::runtime::failure::Failed;
use crate::runtime::write::{self, Stop, WriteError, guarded, patch_params, with_uid};

mod create;

/// Why a write was not made, or not believed.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A new Machine is not as it was sent: how.
    Rejected(String),
    /// The API server says so.
    Error(kube::Error),
}

type Refused = Stop<Refusal>;

/// What went wrong.
#[derive(Debug)]
pub(super) enum Failure {
    /// A new Machine is not as it was sent: how.
    Rejected(String),
    /// A write failed.
    Write(Failed),
}

/// Carries out `plan` for `set`.
pub(super) async fn apply(
    context: &Context,
    memories: &Memories,
    key: &Key,
    set: &Arc<StoredMachineSet>,
    plan: Plan,
) -> Result<(), Stop<Failure>> {
    let mut run = Run {
        context,
        memories,
        key,
        set,
        why: plan.why,
        resource_version: set.metadata.resource_version.clone(),
    };
    let mut failed = None;
    for step in plan.steps {
        let (verb, reason, is_adoption) = (step.verb(), step.failure(), matches!(step, Step::Adopt(_)));
        let of_status = matches!(step, Step::Status(_));
        let tell = |refusal| match refusal {
            Refusal::Rejected(how) => Failure::Rejected(how),
            Refusal::Error(error) => {
                let error = RemoteError::from(&error);
                Failure::Write(Failed {
                    reason,
                    cause: Cause::of(&error),
                    message: WriteError { verb, error }.to_string(),
                    of_status,
                })
            }
        };
        match run.step(step).await.map_err(|stop| stop.map(tell)) {
            // A Machine that cannot be taken keeps its place, and holds back no other.
            Err(Stop::Failed(failure @ Failure::Write(_))) if is_adoption => failed = Some(failure),
            done => done?,
        }
    }
    failed.map_or(Ok(()), |failure| Err(Stop::Failed(failure)))
}

struct Run<'a> {
    context: &'a Context,
    memories: &'a Memories,
    key: &'a Key,
    set: &'a Arc<StoredMachineSet>,
    why: String,
    /// The set's, after our last patch of it.
    resource_version: Option<String>,
}

impl Run<'_> {
    async fn step(&mut self, step: Step) -> Result<(), Refused> {
        match &step {
            Step::PatchSet(patch) | Step::Status(patch) => self.patch_set(&step, patch).await,
            Step::Release(machines) => {
                for machine in machines {
                    self.memories.expect_loss(self.key, machine.uid());
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
            Step::ChangeInPlace(changes) => worst(
                join_all(
                    changes
                        .iter()
                        .map(|(machine, patch)| self.change(machine, step.verb(), patch)),
                )
                .await,
            ),
            Step::Event(event) => {
                self.context.events.publish(self.set.as_ref(), event).await;
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
        // It is never closed.
        let _permit = self.memories.in_flight.acquire().await;
        let written = write::write(self.context, verb, write).await;
        let written = written.map_err(|stop| stop.map(Refusal::Error))?;
        tracing::info!(set = %self.key, uid = self.set.uid(), object, why = self.why, "{verb}");
        Ok(written)
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

    async fn patch_set(&mut self, step: &Step, patch: &Value) -> Result<(), Refused> {
        let patch = guarded(patch, self.set.uid(), self.resource_version.as_deref());
        let (api, name, params, patch) = (self.sets(), self.set.name(), patch_params(), Patch::Merge(&patch));
        let write = async {
            if matches!(step, Step::Status(_)) {
                api.patch_status(name, &params, &patch).await
            } else {
                api.patch(name, &params, &patch).await
            }
        };
        let written = self.write(step.verb(), name, write).await?;
        self.resource_version
            .clone_from(&written.metadata.resource_version);
        self.context.stores.machine_sets.written(written);
        Ok(())
    }

    /// Asks the API server, not the store: `kubectl delete --cascade=orphan` lets the Machines go and then ends the set, and
    /// whatever it takes back in between goes with it.
    async fn make_sure_that_it_lives(&self) -> Result<(), Refused> {
        let known = self.context.stores.machine_sets.latest_version(self.key);
        let found = self.sets().list(&named(self.set.name())).await;
        let found = found.map_err(failed)?.items.into_iter().next();
        let lives = found
            .as_ref()
            .is_some_and(|found| found.uid() == self.set.uid() && !found.is_deleting());
        self.context.stores.machine_sets.observed(self.key, found, known);
        if lives { Ok(()) } else { Err(Stop::Stale) }
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
            .map_err(failed)?;
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
            return Err(Stop::Stale);
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
        let owners = owners(machine, self.set.uid(), reference);
        let patch = json!({"metadata": {"ownerReferences": owners}});
        self.change(machine, verb, &patch).await
    }

    /// Changes a Machine as it was when that was decided.
    async fn change(
        &self,
        machine: &StoredMachine,
        verb: &'static str,
        patch: &Value,
    ) -> Result<(), Refused> {
        let patch = guarded(patch, machine.uid(), machine.metadata.resource_version.as_deref());
        let (api, name, params) = (self.machines(), machine.name(), patch_params());
        let write = async { api.patch(name, &params, &Patch::Merge(&patch)).await };
        let written = self.write(verb, name, write).await?;
        self.context.stores.machines.written(written);
        Ok(())
    }

    async fn delete(&self, machine: &StoredMachine) -> Result<(), Refused> {
        let (api, name, mut params) = (self.machines(), machine.name(), with_uid(machine.uid()));
        // Its finalizers may be written just now, and would come too late (see [`crate::cache::Tombstones`]).
        if !machine.has_finalizer(finalizer::VM)
            && let Some(preconditions) = &mut params.preconditions
        {
            preconditions
                .resource_version
                .clone_from(&machine.metadata.resource_version);
        }
        self.memories.expect_loss(self.key, machine.uid());
        let write = async {
            match api.delete(name, &params).await {
                // What is gone need not be deleted.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                Ok(either) => Ok(either.left()),
                Err(error) => Err(error),
            }
        };
        let left = self.write("delete the Machine", name, write).await?;
        self.memories
            .creations(self.key, |creations| creations.refund(name));
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

fn failed(error: kube::Error) -> Refused {
    Stop::Failed(Refusal::Error(error))
}

/// What matters most: a lost leadership, then a Machine that is not as it was sent, then a failure, then that something had changed.
fn worst(results: Vec<Result<(), Refused>>) -> Result<(), Refused> {
    let weight = |refused: &Refused| match refused {
        Stop::NotLeader => 4,
        Stop::Failed(Refusal::Rejected(_)) => 3,
        Stop::Failed(Refusal::Error(_)) => 2,
        Stop::Stale => 1,
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
        let error = || Err(failed(kube::Error::TlsRequired));
        assert!(matches!(
            worst(vec![Ok(()), error(), Err(Stop::Stale)]),
            Err(Stop::Failed(Refusal::Error(_)))
        ));
        assert!(matches!(
            worst(vec![Err(Stop::NotLeader), error()]),
            Err(Stop::NotLeader)
        ));
        assert!(matches!(worst(vec![Ok(()), Err(Stop::Stale)]), Err(Stop::Stale)));
        assert!(worst(vec![Ok(())]).is_ok());
    }
}
