//! How the controller carries out a plan in the world, as `act.rs` and `reconcile.rs` have it.

use machinist_infra::cache::store::Key;

use super::super::super::super::drain::sort::{Answer as EvictionAnswer, Refusal};
use super::super::super::super::drain::target::Target;
use super::client::{Client, Failure, Fault, gone};
use super::observe::{Process, from, instant, observe};
use super::world::{Answer, Kind, NAME, World};
use super::*;
use crate::bootstrap::token;
use crate::csr::request::StoredRequest;
use crate::csr::serving;
use crate::machine::apply::failure_scope;
use crate::machine::user_data_source::user_data_secret_name;
use crate::runtime::backoff::Cause;

/// How a pass ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Every step went well; whether there were any, and when to reconcile again.
    Done(bool, Option<Duration>),
    /// Something has to be seen, or to be tried again.
    Again,
    Killed(Fault),
}

/// One pass over the Machine.
pub(super) fn pass(world: &mut World, process: &mut Process, client: &mut Client) -> Outcome {
    let Some((observed, handles)) = observe(world, process) else {
        *process = Process::new(process.since);
        return Outcome::Done(false, None);
    };
    let plan = decide(&observed, world.now);
    process.failures.reported(&Key::of(observed.machine.as_ref()));
    let (changes, again) = (plan.changes_something(), plan.again);
    let machine = Arc::clone(&observed.machine);
    let mut acting = Acting {
        resource_version: machine.metadata.resource_version.clone(),
        machine: &machine,
        world,
        process,
        client,
        token: handles.token,
        spare_tokens: handles.spare_tokens,
        user_data: None,
    };
    for step in &plan.steps {
        match acting.carry_out(step) {
            Ok(Progress::Next) => {}
            Ok(Progress::Wait) => return Outcome::Again,
            Err(Failure::Killed(fault)) => return Outcome::Killed(fault),
            Err(Failure::Error(error)) if error.is_conflict() => return Outcome::Again,
            Err(Failure::Error(error)) => {
                let message = format!("cannot {}: {error}", step.verb());
                let failed = (failure_scope(step), Cause::of(&error));
                process.failures.add(&machine, failed, message, world.now);
                return Outcome::Again;
            }
        }
    }
    if observed.failure.is_none() {
        process.failures.clear(&Key::of(machine.as_ref()));
    }
    Outcome::Done(changes, again)
}

/// Approves the kubelet's first certificate, as `csr/approve.rs` does beside the passes.
pub(super) fn approve_client(world: &mut World, client: &mut Client) -> Result<bool, Failure> {
    let is_alive = |machine: &Value| {
        let recorded = &machine["status"]["providerStatus"]["nodeUID"];
        machine["metadata"]["deletionTimestamp"].is_null() && recorded.is_null()
    };
    let seen = world.seen();
    let own = |kind, name: &str| seen.get(&(kind, name.to_owned()));
    let Some(request) = own(Kind::ClientRequest, "client-1").filter(|request| request["approved"] != true)
    else {
        return Ok(false);
    };
    let token = format!("bootstrap-token-{}", request["token"].as_str().unwrap());
    let token = own(Kind::Token, &token).map(|token| TokenView::from_secret(&from(token)).unwrap());
    let is_valid = token.is_some_and(|token| token.expiration > world.now);
    if !is_valid || !own(Kind::Machine, NAME).is_some_and(is_alive) {
        return Ok(false);
    }
    let approved =
        json!({"metadata": {"resourceVersion": request["metadata"]["resourceVersion"]}, "approved": true});
    let put = |world: &mut World| world.patch(Kind::ClientRequest, "client-1", &approved);
    client.write(world, "approve the first certificate", Kind::ClientRequest, put)?;
    Ok(true)
}

enum Progress {
    Next,
    Wait,
}

/// A plan that is being carried out.
struct Acting<'a> {
    world: &'a mut World,
    process: &'a mut Process,
    client: &'a mut Client,
    machine: &'a StoredMachine,
    /// The Machine's, after our last patch of it.
    resource_version: Option<String>,
    token: Option<TokenView>,
    spare_tokens: Vec<TokenView>,
    /// Name of the Secret with the user data, and the token in it.
    user_data: Option<(String, String)>,
}

impl Acting<'_> {
    /// Does to the world what `act.rs` does to the API servers.
    fn carry_out(&mut self, step: &Step) -> Result<Progress, Failure> {
        let verb = step.verb();
        match step {
            Step::PatchMachine(patch) => {
                let guard = json!({"metadata": {"uid": self.machine.uid(), "resourceVersion": self.resource_version}});
                let mut patch = patch.clone();
                json_patch::merge(&mut patch, &guard);
                let written = self.write(verb, Kind::Machine, |world| {
                    world.patch(Kind::Machine, NAME, &patch)
                })?;
                self.resource_version = from(&written["metadata"]["resourceVersion"]);
            }
            Step::CreateToken => {
                let mut entropy = [0; 32];
                entropy[15] = u8::try_from(self.world.made(Kind::Token)).unwrap();
                let machine = self.machine;
                let secret = token::secret(
                    machine.uid(),
                    machine.namespace(),
                    machine.name(),
                    entropy,
                    self.world.now,
                );
                let written = self.write(verb, Kind::Token, |world| {
                    world.create(Kind::Token, json!(secret))
                })?;
                self.token = TokenView::from_secret(&from(&written)).ok();
            }
            Step::ExtendToken => {
                let Some(token) = self.token.clone() else {
                    return Ok(Progress::Wait);
                };
                let patch = token::extend(&token, self.world.now);
                self.write(verb, Kind::Token, |world| {
                    world.patch(Kind::Token, &token.secret_name(), &patch)
                })?;
            }
            Step::DeleteToken => {
                self.spare_tokens.extend(self.token.take());
                self.delete_spare_tokens(verb)?;
            }
            Step::DeleteSpareTokens => self.delete_spare_tokens(verb)?,
            Step::RenderUserData(source) => {
                assert_eq!(*source, UserDataSource::Token);
                let Some(token) = &self.token else {
                    return Ok(Progress::Wait);
                };
                let id = token.id.to_string();
                self.user_data = Some((user_data_secret_name(self.machine.uid(), &id), id));
            }
            Step::CreateVm => return self.create_vm(verb),
            Step::FindVm => {
                self.world.is_seen_now(Kind::Vm);
                if self.world.get(Kind::Vm, NAME).is_none() {
                    self.process.failures.creations.settle(self.machine);
                }
            }
            Step::CreateUserData { vm_uid } => return self.create_user_data(verb, vm_uid),
            Step::DeleteUserData(name) => {
                gone(self.write(verb, Kind::UserData, |world| {
                    world.delete(Kind::UserData, name, None)
                }))?;
            }
            Step::DeleteVm { uid } => {
                gone(self.write(verb, Kind::Vm, |world| world.delete(Kind::Vm, NAME, Some(uid))))?;
                self.process.watched = None;
                self.process.answers.clear();
            }
            Step::PatchNode { patch, .. } => {
                self.write(verb, Kind::Node, |world| world.patch(Kind::Node, NAME, patch))?;
            }
            Step::WatchPods => match self.world.seen().get(&(Kind::Node, NAME.to_owned())) {
                Some(node) => self.process.watched = from(&node["metadata"]["uid"]),
                None => return Ok(Progress::Wait),
            },
            Step::EvictPods(targets) => {
                for target in targets {
                    self.evict(verb, target)?;
                }
            }
            Step::DeleteNode { uid } => {
                gone(self.write(verb, Kind::Node, |world| {
                    world.delete(Kind::Node, NAME, Some(uid))
                }))?;
            }
            Step::ApproveServing { name, uid } => return self.approve_serving(verb, name, uid),
            Step::RefuseServing { reason, .. } => self.process.reported.push(reason.clone()),
            Step::Event(_) => {}
            Step::LabelVm { .. }
            | Step::LookUpVolumes(_)
            | Step::NoteFailure { .. }
            | Step::Evacuate { .. }
            | Step::DeleteMachine => {
                panic!("nothing in this world asks to {verb}: {:#?}", self.client.trace)
            }
        }
        Ok(Progress::Next)
    }

    fn write(
        &mut self,
        verb: &str,
        kind: Kind,
        request: impl FnOnce(&mut World) -> Answer<Value>,
    ) -> Result<Value, Failure> {
        self.client.write(self.world, verb, kind, request)
    }

    fn delete_spare_tokens(&mut self, verb: &str) -> Result<(), Failure> {
        for token in std::mem::take(&mut self.spare_tokens) {
            gone(self.write(verb, Kind::Token, |world| {
                world.delete(Kind::Token, &token.secret_name(), Some(&token.secret_uid))
            }))?;
        }
        Ok(())
    }

    fn create_vm(&mut self, verb: &str) -> Result<Progress, Failure> {
        let Some((secret, _)) = &self.user_data else {
            return Ok(Progress::Wait);
        };
        let vm = json!({
            "metadata": {"name": NAME, "namespace": "vms", "finalizers": ["kubevirt.io/virtualMachineControllerFinalize"],
                "labels": {"machinist.dev/machine-uid": self.machine.uid(), "machinist.dev/cluster-uid": "c1"}},
            "spec": {"template": {"spec": {"volumes": [{"cloudInitNoCloud": {"secretRef": {"name": secret}}}]}}},
        });
        let asked = instant(self.world.now);
        let answer = self.write(verb, Kind::Vm, |world| world.create(Kind::Vm, vm));
        let creations = &self.process.failures.creations;
        match &answer {
            Ok(_) => {
                creations.answered(self.machine, asked, Ok(()));
                let key = Key::of(self.machine);
                let recreations = &self.process.recreations;
                recreations.count(&key, self.machine.uid(), self.world.now);
            }
            Err(Failure::Error(error)) => creations.answered(self.machine, asked, Err(error)),
            Err(Failure::Killed(_)) => {}
        }
        answer.map(|_| Progress::Next)
    }

    fn create_user_data(&mut self, verb: &str, vm_uid: &str) -> Result<Progress, Failure> {
        let Some((name, token)) = &self.user_data else {
            return Ok(Progress::Wait);
        };
        let owner =
            json!([{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": NAME, "uid": vm_uid}]);
        let secret = json!({"metadata": {"name": name, "ownerReferences": owner}, "token": token});
        let answer = self.write(verb, Kind::UserData, |world| world.create(Kind::UserData, secret));
        match answer {
            // Our own, from before a crash.
            Err(Failure::Error(error)) if error.is_conflict() => Ok(Progress::Next),
            other => other.map(|_| Progress::Next),
        }
    }

    /// What is answered is noted, and fails nothing.
    fn evict(&mut self, verb: &str, target: &Target) -> Result<(), Failure> {
        let answer = self.write(verb, Kind::Pod, |world| {
            world.delete(Kind::Pod, &target.name, Some(&target.uid))
        });
        let refusal = match answer {
            Ok(_) => None,
            Err(Failure::Error(error)) if matches!(error.code(), Some(404 | 409)) => None,
            Err(Failure::Error(error)) => Some(Refusal::Other(error.to_string())),
            Err(killed) => return Err(killed),
        };
        let pause = Duration::from_secs(if refusal.is_none() { 30 } else { 5 });
        let until = self.world.now + pause;
        let answer = EvictionAnswer { refusal, until };
        self.process.answers.insert(target.uid.clone(), answer);
        Ok(())
    }

    fn approve_serving(&mut self, verb: &str, name: &str, uid: &str) -> Result<Progress, Failure> {
        let seen = self.world.seen();
        let request = seen.get(&(Kind::ServingRequest, name.to_owned()));
        let request = request.map(from::<StoredRequest>);
        let Some(request) = request.filter(|request| request.uid() == uid && !request.decided) else {
            return Ok(Progress::Next);
        };
        let approval = json!(serving::approval(&request.object));
        let put = |world: &mut World| world.patch(Kind::ServingRequest, name, &approval);
        match self.write(verb, Kind::ServingRequest, put) {
            Err(Failure::Error(error)) if matches!(error.code(), Some(404 | 409)) => Ok(Progress::Wait),
            other => other.map(|_| Progress::Next),
        }
    }
}
