//! Makes Machines, slowly at first, and never one under a second name while it is unknown whether the first was taken.

use futures::future::join_all;
use kube::Resource;
use kube::api::PostParams;
use kube::core::Request;
use machinist_infra::kube::error::RemoteError;
use machinist_shared::api::names::CONTROLLER;
use serde_json::Value;
use tokio::time::Instant;

use super::{Refusal, Refused, Run, failed, named, worst};
use crate::cache::{StoredMachine, StoredMachineSet};
use crate::machine_set::new_machine;
use crate::runtime::creation_limit::CreationLimit;
use crate::runtime::write::{Stop, is_taken};

/// The largest batch; after it the server has shown that it takes them.
const MAX_BATCH: usize = 32;

/// What is known of a Machine that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It exists.
    Made,
    /// It does not, and will not.
    Refused,
    /// The name is another client's.
    Taken,
    /// Not known: the answer was lost. It may exist, or come to exist yet.
    Unknown,
}

/// What an answer to a create says. An error of the server may come from behind the write.
fn fate(answer: Result<(), &kube::Error>) -> Fate {
    match answer {
        Ok(()) => Fate::Made,
        Err(error) if is_taken(error) => Fate::Taken,
        Err(kube::Error::Api(status)) if status.code < 500 => Fate::Refused,
        Err(_) => Fate::Unknown,
    }
}

/// A refusal without the random part of the name of the Machine that was refused: the next attempt has another, and what
/// it is refused for is the same.
fn nameless(error: kube::Error, name: &str) -> kube::Error {
    match (error, name.rsplit_once('-')) {
        (kube::Error::Api(mut status), Some((base, _))) => {
            status.message = status.message.replace(name, &format!("{base}-…"));
            kube::Error::Api(status)
        }
        (error, _) => error,
    }
}

impl Run<'_> {
    /// Makes `count` Machines in batches of 1, 2, 4, …, so that a template that is refused is refused once. The first
    /// failure ends it.
    pub(super) async fn create(&self, count: usize) -> Result<(), Refused> {
        // What is missing though the spec is obeyed already may have gone with the set, which is not seen yet.
        if self.set.status.observed_generation == self.set.metadata.generation {
            self.make_sure_that_it_lives().await?;
        }
        // Whatever has become of these, asking under the same name makes no second one.
        let mut lost = self.memories.unresolved(self.key);
        lost.truncate(count);
        let mut missing = count - lost.len();
        self.batch(lost).await?;
        let mut size = 1;
        while missing > 0 && self.is_still_wanted() {
            let names = (0..size.min(missing))
                .map(|_| new_machine::name(self.set.name(), rand::random()))
                .collect::<Vec<_>>();
            missing -= names.len();
            self.batch(names).await?;
            size = (size * 2).min(MAX_BATCH);
        }
        Ok(())
    }

    async fn batch(&self, names: Vec<String>) -> Result<(), Refused> {
        let none = names.is_empty();
        worst(join_all(names.iter().map(|name| self.create_one(name))).await)?;
        if !none {
            self.memories.creations(self.key, CreationLimit::accept);
        }
        Ok(())
    }

    /// No client has changed or deleted the set since the decision.
    fn is_still_wanted(&self) -> bool {
        self.context.stores.machine_sets.get(self.key).is_some_and(|set| {
            set.uid() == self.set.uid()
                && !set.is_deleting()
                && set.metadata.generation == self.set.metadata.generation
        })
    }

    async fn create_one(&self, name: &str) -> Result<(), Refused> {
        let memories = self.memories;
        let params = PostParams {
            field_manager: Some(CONTROLLER.to_owned()),
            ..PostParams::default()
        };
        let body = new_machine::body(self.set, name).to_string().into_bytes();
        let url = StoredMachine::url_path(&(), Some(self.set.namespace()));
        let request = Request::new(url)
            .create(&params, body)
            .map_err(|error| failed(kube::Error::BuildRequest(error)))?;
        let turn = memories
            .creations
            .acquire(self.set.namespace(), self.set.uid())
            .await;
        memories.begin(self.key, name, Instant::now());
        let write = async {
            let asked = Instant::now();
            let answer = self.context.client.request::<StoredMachine>(request).await;
            match &answer {
                Ok(_) => turn.answered(Some(asked.elapsed())),
                Err(error) if RemoteError::from(error).is_overload() => turn.answered(None),
                // A refusal may come before the work.
                Err(_) => {}
            }
            answer
        };
        match self.write("create the Machine", name, write).await {
            Ok(machine) => {
                memories.resolve(self.key, name);
                self.made(machine)
            }
            Err(Stop::Failed(Refusal::Error(error))) => match fate(Err(&error)) {
                Fate::Taken => self.who_has(name).await,
                Fate::Unknown => Err(failed(error)),
                Fate::Made | Fate::Refused => {
                    memories.resolve(self.key, name);
                    memories.creations(self.key, |creations| creations.refund(name));
                    Err(failed(nameless(error, name)))
                }
            },
            Err(Stop::Stale) => {
                memories.resolve(self.key, name);
                memories.creations(self.key, |creations| creations.refund(name));
                Err(Stop::Stale)
            }
            Err(refused) => Err(refused),
        }
    }

    /// Takes in a Machine of our making. One that is not as it was sent would never count, and another would be created in
    /// its place: it is to be deleted, and no other created.
    fn made(&self, machine: StoredMachine) -> Result<(), Refused> {
        let difference = difference(self.set, &machine);
        if difference.is_some() {
            let memories = self.memories;
            memories.creations(self.key, |creations| {
                creations.reject(machine.name(), machine.uid());
            });
        }
        self.context.stores.machines.written(machine);
        difference.map_or(Ok(()), |how| Err(Stop::Failed(Refusal::Rejected(how))))
    }

    /// Another client has that name: it is ours if it was made by a request whose answer was lost.
    async fn who_has(&self, name: &str) -> Result<(), Refused> {
        let found = self.machines().list(&named(name)).await;
        let found = found.map_err(failed)?.items.into_iter().next();
        self.memories.resolve(self.key, name);
        match found {
            Some(machine) if machine.controller_uid() == Some(self.set.uid()) => self.made(machine),
            _ => Err(Stop::Stale),
        }
    }
}

/// How many labels a message names.
const MAX_LABELS: usize = 5;

/// Why a new Machine of the set is not the set's, for a person. Two that were changed in the same way differ in nothing.
fn difference(set: &StoredMachineSet, machine: &StoredMachine) -> Option<String> {
    if set.has(machine) {
        return None;
    }
    let what = if machine.controller_uid() == Some(set.uid()) {
        let template = set.template.pointer("/metadata/labels");
        let wanted = template.and_then(Value::as_object).into_iter().flatten();
        let wanted = wanted.filter_map(|(key, value)| Some((key, value.as_str()?)));
        let stored = |key: &str| machine.metadata.labels.as_ref()?.get(key).map(String::as_str);
        let changed = wanted.filter(|(key, value)| stored(key) != Some(value));
        let changed: Vec<String> = changed
            .take(MAX_LABELS)
            .map(|(key, value)| match stored(key) {
                Some(other) => format!("{key}={other} instead of {key}={value}"),
                None => format!("no {key}={value}"),
            })
            .collect();
        let labels = if changed.is_empty() {
            "others than the template's".to_owned()
        } else {
            changed.join(", ")
        };
        format!("labels that spec.selector does not select ({labels})")
    } else {
        "another controller in metadata.ownerReferences, or none".to_owned()
    };
    Some(format!(
        "the API server stores new Machines with {what}: an admission webhook or a policy changes them. The Machine was \
         deleted, and no other is created but one now and then, after 5 minutes at the soonest; it goes on at once when its \
         selector or template changes, or when it is paused and resumed"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::refused_by_admission(422, "Invalid", Fate::Refused)]
    #[case::too_many_requests(429, "TooManyRequests", Fate::Refused)]
    #[case::the_name_is_taken(409, "AlreadyExists", Fate::Taken)]
    #[case::another_conflict(409, "Conflict", Fate::Refused)]
    #[case::the_server_gave_up_waiting_for_its_storage(500, "InternalError", Fate::Unknown)]
    #[case::a_proxy_gave_up_waiting_for_the_server(504, "Timeout", Fate::Unknown)]
    fn an_answer_tells_whether_the_machine_exists(
        #[case] code: u16,
        #[case] reason: &str,
        #[case] expected: Fate,
    ) {
        let status = kube::core::Status {
            code,
            reason: reason.to_owned(),
            ..Default::default()
        };
        assert_eq!(fate(Err(&kube::Error::Api(Box::new(status)))), expected);
    }

    #[rstest]
    #[case::as_it_was_sent(json!({"pool": "a", "more": "x"}), json!([{"uid": "s", "controller": true}]), None)]
    #[case::another_label(json!({"pool": "b"}), json!([{"uid": "s", "controller": true}]), Some("pool=b instead of pool=a"))]
    #[case::no_label(json!({}), json!([{"uid": "s", "controller": true}]), Some("no pool=a"))]
    #[case::no_owner(json!({"pool": "a"}), json!([]), Some("ownerReferences"))]
    #[case::another_owner(json!({"pool": "a"}), json!([{"uid": "o", "controller": true}]), Some("ownerReferences"))]
    fn a_machine_is_held_against_selector_and_owner(
        #[case] labels: Value,
        #[case] owners: Value,
        #[case] expected: Option<&str>,
    ) {
        let set: StoredMachineSet = serde_json::from_value(json!({
            "metadata": {"name": "s", "uid": "s"},
            "spec": {"selector": {"matchLabels": {"pool": "a"}}, "template": {"metadata": {"labels": {"pool": "a"}}}},
        }))
        .unwrap();
        let owners = owners.as_array().unwrap().iter().map(|owner| {
            let mut full =
                json!({"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineSet", "name": "s"});
            json_patch::merge(&mut full, owner);
            full
        });
        let owners: Vec<Value> = owners.collect();
        let machine = |name: &str| -> StoredMachine {
            let metadata = json!({"name": name, "uid": name, "labels": labels, "ownerReferences": owners});
            serde_json::from_value(json!({ "metadata": metadata })).unwrap()
        };
        let found = difference(&set, &machine("s-1"));
        assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
        assert!(
            found
                .as_ref()
                .is_none_or(|found| found.contains(expected.unwrap())),
            "{found:?}"
        );
        assert_eq!(
            difference(&set, &machine("s-2")),
            found,
            "the same words for the next one"
        );
    }

    #[test]
    fn refusals_of_two_machines_for_one_reason_are_the_same() {
        let refused = |name: &str| {
            let status = kube::core::Status {
                code: 403,
                message: format!("machines \"{name}\" is forbidden: Machine {name}: exceeded quota"),
                ..Default::default()
            };
            nameless(kube::Error::Api(Box::new(status)), name).to_string()
        };
        assert_eq!(refused("my-pool-bcdfg"), refused("my-pool-x5z2n"));
        assert!(refused("my-pool-bcdfg").contains("Machine my-pool-…: exceeded quota"));
    }

    #[test]
    fn without_an_answer_nothing_is_known() {
        assert_eq!(
            fate(Err(&kube::Error::Service("timed out".into()))),
            Fate::Unknown
        );
        assert_eq!(fate(Ok(())), Fate::Made);
    }
}
