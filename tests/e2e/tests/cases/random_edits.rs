//! Labels, owners, finalizers, sizes, selectors and statuses are edited at random by another client; then the specs are
//! restored, and must be fulfilled within a minute.
//!
//! `EDITS` is how many, `EDITS_SEED` repeats those of an earlier run.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, rollout::deployment, wait};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, ResourceExt as _};
use machinist_shared::api::{Machine, MachineDeployment, MachineSet};
use serde_json::{Value, json};

use super::rollout_laws::{RandomSequence, of_environment};

const POOL: &str = "pool";
const ALONE: &str = "alone";
const SIZE: i64 = 3;

/// Takes about a minute on two cores; `make nightly` takes more.
const DEFAULT_EDITS: usize = 60;

/// So many edits follow each other at least; then the deployment has to settle.
const LEAST_BURST: usize = 12;

/// How often it has to settle at most.
const MOST_BURSTS: usize = 20;

/// The finalizer of another controller.
const FOREIGN: &str = "example.com/hold";

/// What a client may write into a status where a count belongs.
const COUNTS: [i64; 7] = [
    2_147_483_648,
    2_147_483_647,
    -2_147_483_648,
    -1,
    0,
    999_999,
    i64::MAX,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn specs_are_obeyed_after_random_edits() -> Result<()> {
    let edits = of_environment("EDITS")?.unwrap_or(DEFAULT_EDITS);
    let seed = of_environment("EDITS_SEED")?.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("EDITS={edits} EDITS_SEED={seed}");
    let case = Case::start().await?;
    let edited = Box::pin(edit(&case, edits, seed)).await;
    edited.with_context(|| format!("EDITS={edits} EDITS_SEED={seed}"))?;
    case.finish(&[]).await
}

async fn edit(case: &Case, edits: usize, seed: u64) -> Result<()> {
    let mut editor = Editor {
        machines: api::<Machine>(case),
        sets: api::<MachineSet>(case),
        deployments: api::<MachineDeployment>(case),
        case,
        dice: RandomSequence(seed),
        done: BTreeMap::new(),
        touched: BTreeSet::new(),
        released: BTreeMap::new(),
    };
    editor.put_back().await?;
    editor.settle().await?;
    let burst = (edits / MOST_BURSTS).max(LEAST_BURST);
    for number in 1..=edits {
        editor.edit(number).await?;
        if number % burst == 0 {
            editor.lift_limits().await?;
            editor.settle_deployment().await?;
            editor.delete_released().await?;
        }
    }
    println!("accepted and refused: {:?}", editor.done);
    editor.lift_limits().await?;
    editor.put_back().await?;
    let began = Instant::now();
    editor.settle().await?;
    println!("settled after {:.1?}", began.elapsed());
    editor
        .check_owners(WAIT_TIMEOUT.saturating_sub(began.elapsed()))
        .await?;
    println!("released: {:?}", editor.released);
    editor.delete_all().await
}

/// The client that edits, and the objects. Untyped, because an edited count may not fit into the type of its field.
struct Editor<'a> {
    case: &'a Case,
    machines: Api<DynamicObject>,
    sets: Api<DynamicObject>,
    deployments: Api<DynamicObject>,
    dice: RandomSequence,
    /// Edits that were made, and those that the API server refused, by kind.
    done: BTreeMap<&'static str, [usize; 2]>,
    /// Names of Machines and sets whose labels or owners were edited: what is released is one of them, or of one of them.
    touched: BTreeSet<String>,
    /// Machines without a controlling set, or with a set without an owner, and why.
    released: BTreeMap<String, String>,
}

impl Editor<'_> {
    async fn edit(&mut self, number: usize) -> Result<()> {
        let (kind, written) = match self.dice.below(10) {
            0 => ("labels of a Machine", self.relabel_machine(number).await?),
            1 => ("labels of a set", self.relabel_set(number).await?),
            2 => {
                let patch = json!({"metadata": {"labels": {"edited": number.to_string(), "pool": "x"}}});
                let written = write(&self.deployments, POOL, &patch).await?;
                ("labels of the deployment", written)
            }
            3 => {
                let api = self.machines.clone();
                (
                    "owners of a Machine",
                    self.disown(&api, "MachineSet", number).await?,
                )
            }
            4 => {
                let api = self.sets.clone();
                (
                    "owners of a set",
                    self.disown(&api, "MachineDeployment", number).await?,
                )
            }
            5 => ("status of a set", self.falsify_set().await?),
            6 => {
                let patch = self.false_status();
                let written = write_status(&self.deployments, POOL, &patch).await?;
                ("status of the deployment", written)
            }
            7 => ("size", self.resize().await?),
            8 => ("finalizers", self.change_finalizers().await?),
            _ => ("selector", self.change_selector(number).await?),
        };
        self.done.entry(kind).or_default()[usize::from(!written)] += 1;
        Ok(())
    }

    /// A Machine that its set does not select any more, or one that it selects again.
    async fn relabel_machine(&mut self, number: usize) -> Result<bool> {
        let Some(machine) = self.any(&self.machines.clone()).await? else {
            return Ok(false);
        };
        let key = if machine.labels().contains_key("set") {
            "set"
        } else {
            "pool"
        };
        let value = match (self.dice.below(3), key) {
            (0, "set") => ALONE.to_owned(),
            (0, _) => POOL.to_owned(),
            _ => format!("edited-{number}"),
        };
        let patch = json!({"metadata": {"labels": {key: value, "edited": number.to_string()}}});
        self.touched.insert(machine.name_any());
        write(&self.machines, &machine.name_any(), &patch).await
    }

    /// A set that the deployment does not select any more, or one that it selects again.
    async fn relabel_set(&mut self, number: usize) -> Result<bool> {
        let Some(set) = self.any(&self.sets.clone()).await? else {
            return Ok(false);
        };
        self.touched.insert(set.name_any());
        let mut labels = json!({"edited": number.to_string()});
        if set.name_any() != ALONE {
            let again = self.dice.below(3) == 0;
            let value = if again {
                POOL.to_owned()
            } else {
                format!("edited-{number}")
            };
            labels["pool"] = value.into();
        }
        write(
            &self.sets,
            &set.name_any(),
            &json!({"metadata": {"labels": labels}}),
        )
        .await
    }

    /// An object that has no owner any more, or one that does not exist.
    async fn disown(&mut self, api: &Api<DynamicObject>, kind: &str, number: usize) -> Result<bool> {
        let Some(object) = self.any(api).await? else {
            return Ok(false);
        };
        let absent = json!([{
            "apiVersion": "cluster.k8s.io/v1alpha1", "kind": kind, "name": "absent", "controller": true,
            "uid": format!("00000000-0000-4000-8000-{number:012}"),
        }]);
        self.touched.insert(object.name_any());
        let owners = if self.dice.below(2) == 0 {
            Value::Null
        } else {
            absent
        };
        write(
            api,
            &object.name_any(),
            &json!({"metadata": {"ownerReferences": owners}}),
        )
        .await
    }

    async fn falsify_set(&mut self) -> Result<bool> {
        let Some(set) = self.any(&self.sets.clone()).await? else {
            return Ok(false);
        };
        let patch = self.false_status();
        write_status(&self.sets, &set.name_any(), &patch).await
    }

    /// A status with one wrong field or several.
    fn false_status(&mut self) -> Value {
        let mut status = json!({});
        for key in [
            "replicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "updatedReplicas",
            "fullyLabeledReplicas",
            "observedGeneration",
        ] {
            if self.dice.below(3) == 0 {
                status[key] = COUNTS[self.dice.below(COUNTS.len())].into();
            }
        }
        if self.dice.below(4) == 0 {
            status["labelSelector"] = "no selector ((".into();
            status["conditions"] =
                json!([{"type": "Available", "status": "False", "lastTransitionTime": "never"}]);
        }
        json!({"status": status})
    }

    async fn resize(&mut self) -> Result<bool> {
        let patch = json!({"spec": {"replicas": self.dice.below(7)}});
        if self.dice.below(2) == 0 {
            return write(&self.deployments, POOL, &patch).await;
        }
        match self.any(&self.sets.clone()).await? {
            Some(set) => write(&self.sets, &set.name_any(), &patch).await,
            None => Ok(false),
        }
    }

    /// A finalizer of another controller that comes or goes, or all of them go from a set or the deployment. Those of a Machine
    /// that is deleted at that moment would let its VM go on purpose.
    async fn change_finalizers(&mut self) -> Result<bool> {
        let (api, is_machine) = match self.dice.below(3) {
            0 => (self.machines.clone(), true),
            1 => (self.sets.clone(), false),
            _ => (self.deployments.clone(), false),
        };
        let Some(object) = self.any(&api).await? else {
            return Ok(false);
        };
        let mut finalizers = object.finalizers().to_vec();
        let had = finalizers.len();
        finalizers.retain(|name| name != FOREIGN);
        if finalizers.len() == had && self.dice.below(2) == 0 {
            finalizers.push(FOREIGN.to_owned());
        } else if !is_machine {
            finalizers.clear();
        }
        let version = object.resource_version();
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
        write(&api, &object.name_any(), &patch).await
    }

    /// The selector and the labels of the template, together.
    async fn change_selector(&mut self, number: usize) -> Result<bool> {
        let labels = json!({"pool": format!("{POOL}-{number}")});
        let patch = json!({"spec": {
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}});
        write(&self.deployments, POOL, &patch).await
    }

    /// Any object of the kind that is not being deleted.
    async fn any(&mut self, api: &Api<DynamicObject>) -> Result<Option<DynamicObject>> {
        let mut objects = api.list(&ListParams::default()).await?.items;
        objects.retain(|object| object.metadata.deletion_timestamp.is_none());
        objects.sort_by_key(DynamicObject::creation_timestamp);
        if objects.is_empty() {
            return Ok(None);
        }
        let index = self.dice.below(objects.len());
        Ok(Some(objects.swap_remove(index)))
    }

    /// Restores the specs, and removes foreign finalizers.
    async fn put_back(&self) -> Result<()> {
        for api in [&self.machines, &self.sets, &self.deployments] {
            release_holds(api).await?;
        }
        let none_goes =
            |sets: &[&DynamicObject]| sets.iter().all(|set| set.metadata.deletion_timestamp.is_none());
        wait::for_all(
            &self.sets,
            "done with what is being deleted",
            WAIT_TIMEOUT,
            none_goes,
        )
        .await?;
        self.case.apply(&deployment(POOL, i32::try_from(SIZE)?)).await?;
        self.case
            .apply(&manifest::machine_set(ALONE, u32::try_from(SIZE)?))
            .await?;
        Ok(())
    }

    /// Resets the limit of failed creations, as the documentation says: with a pause, or with another template.
    async fn lift_limits(&mut self) -> Result<()> {
        for paused in [true, false] {
            write(&self.deployments, POOL, &json!({"spec": {"paused": paused}})).await?;
            wait::for_state(&self.deployments, POOL, "seen", WAIT_TIMEOUT, is_current).await?;
        }
        let annotations = json!({"edited": self.dice.below(usize::MAX).to_string()});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        if write(&self.sets, ALONE, &patch).await? {
            // A set that is being deleted is not reconciled; another replaces it when the specs are restored.
            let is_seen = |set: &DynamicObject| set.metadata.deletion_timestamp.is_some() || is_current(set);
            let seen = |set: Option<&DynamicObject>| set.is_none_or(is_seen);
            wait::until(&self.sets, ALONE, "seen", WAIT_TIMEOUT, seen).await?;
        }
        Ok(())
    }

    async fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        self.settle_deployment().await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let fits = |set: &DynamicObject| {
            let wanted = &set.data["spec"]["replicas"];
            is_current(set) && counts(set, wanted, &["replicas", "readyReplicas", "availableReplicas"])
        };
        wait::for_state(&self.sets, ALONE, "settled", left, fits).await?;
        Ok(())
    }

    async fn settle_deployment(&self) -> Result<()> {
        let fits = |deployment: &DynamicObject| {
            let wanted = &deployment.data["spec"]["replicas"];
            let all = [
                "replicas",
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
            ];
            let conditions = deployment.data["status"]["conditions"].as_array();
            let is =
                |condition: &Value, kind: &str| condition["type"] == kind && condition["status"] == "True";
            let available = conditions.is_some_and(|all| all.iter().any(|found| is(found, "Available")));
            is_current(deployment)
                && counts(deployment, wanted, &all)
                && counts(deployment, &json!(0), &["unavailableReplicas"])
                && available
        };
        let settled = wait::for_state(&self.deployments, POOL, "settled", WAIT_TIMEOUT, fits).await;
        if settled.is_err() {
            for api in [&self.sets, &self.machines] {
                for object in api.list(&ListParams::default()).await? {
                    println!("{}", shown(&object));
                }
            }
        }
        settled.map(drop)
    }

    /// Waits until each Machine belongs to an existing set or has no owner, and compares their numbers with the specs.
    async fn check_owners(&mut self, timeout: Duration) -> Result<()> {
        let began = Instant::now();
        let deployment = self.deployments.get(POOL).await?.uid();
        let vm_history = |set: &&DynamicObject| {
            let owner = controller(set);
            set.metadata.deletion_timestamp.is_none() && (owner.is_none() || owner == deployment.as_deref())
        };
        let all_live = |sets: &[&DynamicObject]| sets.iter().all(vm_history);
        let sets = wait::for_all(
            &self.sets,
            "all of the deployment or without an owner",
            timeout,
            all_live,
        )
        .await?;
        let timeout = timeout.saturating_sub(began.elapsed());
        let uids: BTreeSet<String> = sets.iter().filter_map(DynamicObject::uid).collect();
        let fits = |machines: &[&DynamicObject]| {
            machines.iter().all(|machine| {
                machine.metadata.deletion_timestamp.is_none()
                    && controller(machine).is_none_or(|uid| uids.contains(uid))
            })
        };
        let owned = wait::for_all(
            &self.machines,
            "all of existing sets or without an owner",
            timeout,
            fits,
        )
        .await;
        if owned.is_err() {
            for machine in self.machines.list(&ListParams::default()).await? {
                println!("{}", shown(&machine));
            }
        }
        let machines = owned?;
        let mut found = BTreeMap::from([(POOL, 0), (ALONE, 0)]);
        for machine in &machines {
            let set = sets
                .iter()
                .find(|set| set.uid().as_deref() == controller(machine));
            match set {
                Some(set) if set.name_any() == ALONE => *found.entry(ALONE).or_default() += 1,
                Some(set) if controller(set) == deployment.as_deref() => *found.entry(POOL).or_default() += 1,
                Some(set) if controller(set).is_none() => {
                    self.note(machine, Some(set))?;
                }
                Some(set) => bail!("{} of {}, which has no owner", shown(machine), shown(set)),
                None => self.note(machine, None)?,
            }
        }
        ensure!(
            found.values().all(|count| *count == SIZE),
            "{found:?} for {SIZE} each"
        );
        Ok(())
    }

    /// Notes a Machine that is released, or whose set is.
    fn note(&mut self, machine: &DynamicObject, set: Option<&DynamicObject>) -> Result<()> {
        let released = set.unwrap_or(machine);
        let (name, is_touched) = (released.name_any(), self.touched.contains(&released.name_any()));
        ensure!(is_touched, "no edit has released {}", shown(released));
        let why = match set {
            Some(_) => format!("of MachineSet {name}, which is released"),
            None => "released".to_owned(),
        };
        self.released.insert(machine.name_any(), why);
        Ok(())
    }

    /// Deletes the objects that edits have released, as a user would.
    async fn delete_released(&mut self) -> Result<()> {
        for machine in self.machines.list(&ListParams::default()).await? {
            if machine.metadata.deletion_timestamp.is_none() && controller(&machine).is_none() {
                self.note(&machine, None)?;
                delete(&self.machines, &machine.name_any()).await?;
            }
        }
        for set in self.sets.list(&ListParams::default()).await? {
            if set.name_any() != ALONE && controller(&set).is_none() {
                for machine in self.machines.list(&ListParams::default()).await? {
                    if controller(&machine) == set.uid().as_deref() {
                        self.note(&machine, Some(&set))?;
                    }
                }
                delete(&self.sets, &set.name_any()).await?;
            }
        }
        Ok(())
    }

    async fn delete_all(&self) -> Result<()> {
        for api in [&self.deployments, &self.sets, &self.machines] {
            for object in api.list(&ListParams::default()).await? {
                delete(api, &object.name_any()).await?;
            }
        }
        for api in [&self.deployments, &self.sets, &self.machines] {
            wait::for_all(api, "gone", WAIT_TIMEOUT * 2, |left| left.is_empty()).await?;
        }
        Ok(())
    }
}

/// Whether the status is of the current spec.
fn is_current(object: &DynamicObject) -> bool {
    let observed = &object.data["status"]["observedGeneration"];
    observed.as_i64() == object.metadata.generation
}

/// Whether these counts of the status are `wanted`.
fn counts(object: &DynamicObject, wanted: &Value, keys: &[&str]) -> bool {
    let status = &object.data["status"];
    keys.iter()
        .all(|key| status[key].as_i64().unwrap_or_default() == wanted.as_i64().unwrap_or_default())
}

/// UID of its controller.
fn controller(object: &DynamicObject) -> Option<&str> {
    let owners = object.metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    controllers.next().map(|owner| owner.uid.as_str())
}

fn shown(object: &DynamicObject) -> String {
    let metadata = &object.metadata;
    json!({
        "name": metadata.name, "uid": metadata.uid, "labels": metadata.labels, "owners": metadata.owner_references,
        "finalizers": metadata.finalizers, "deleted": metadata.deletion_timestamp,
        "replicas": object.data["spec"]["replicas"], "selector": object.data["spec"]["selector"],
        "status": object.data["status"],
    })
    .to_string()
}

fn api<K: kube::Resource<DynamicType = ()>>(case: &Case) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<K>(&());
    Api::namespaced_with(case.bed.user().client(), manifest::NAMESPACE, &resource)
}

async fn release_holds(api: &Api<DynamicObject>) -> Result<()> {
    for object in api.list(&ListParams::default()).await? {
        let Some(index) = object.finalizers().iter().position(|name| name == FOREIGN) else {
            continue;
        };
        let held = format!("/metadata/finalizers/{index}");
        let patch = serde_json::from_value(json!([
            {"op": "test", "path": held, "value": FOREIGN}, {"op": "remove", "path": held}]))?;
        let patch = Patch::<()>::Json(patch);
        api.patch(&object.name_any(), &PatchParams::default(), &patch)
            .await?;
    }
    Ok(())
}

async fn write(api: &Api<DynamicObject>, name: &str, patch: &Value) -> Result<bool> {
    let answer = api
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    accepted(answer)
}

async fn write_status(api: &Api<DynamicObject>, name: &str, patch: &Value) -> Result<bool> {
    let answer = api
        .patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    accepted(answer)
}

/// Whether an edit was accepted: it may be refused, or come too late.
fn accepted<T>(answer: kube::Result<T>) -> Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if matches!(status.code, 400..500) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn delete(api: &Api<DynamicObject>, name: &str) -> Result<()> {
    match api.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        answer => Ok(answer.map(drop)?),
    }
}
