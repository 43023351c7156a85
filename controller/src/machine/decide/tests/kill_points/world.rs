//! What the API servers of both clusters hold, and what they answer.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::*;

/// Name of the Machine, its VM and its Node.
pub(super) const NAME: &str = "web-1";
/// `metadata.uid` of the Machine.
pub(super) const MACHINE: &str = "machine-1";

/// A kind of objects, of whichever cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Machine,
    /// A bootstrap token's Secret.
    Token,
    Vm,
    /// A VMI.
    Guest,
    Disk,
    /// A Secret with user data.
    UserData,
    Node,
    Pod,
    /// A volume that is attached to a Node.
    Volume,
    /// A request for a kubelet's first certificate.
    ClientRequest,
    ServingRequest,
}

/// What an API server answers: the object, or an HTTP status.
pub(super) type Answer<T> = Result<T, u16>;
pub(super) type Objects = BTreeMap<(Kind, String), Value>;

/// An object that a watch still shows as it was.
#[derive(Debug, Clone)]
struct Late {
    kind: Kind,
    before: Objects,
    until: Timestamp,
}

#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) now: Timestamp,
    /// Since when the controller runs.
    pub(super) led_since: Timestamp,
    pub(super) objects: Objects,
    version: u64,
    /// How many there ever were.
    made: BTreeMap<Kind, usize>,
    late: Option<Late>,
    /// Names of what garbage collection took because no other deletion had.
    pub(super) collected: Vec<String>,
    /// A VM was deleted with pods that had to go, or with volumes.
    pub(super) undrained: bool,
}

impl World {
    /// A Machine before its first reconcile, beside foreign objects.
    pub(super) fn new() -> Self {
        let mut world = Self {
            now: now(),
            led_since: now() - Duration::from_mins(10),
            objects: Objects::new(),
            version: 100,
            made: BTreeMap::new(),
            late: None,
            collected: Vec::new(),
            undrained: false,
        };
        let spec = json!({"versions": {"kubelet": "1.33.4"}});
        let machine = json!({"metadata": {"name": NAME, "namespace": "kube-system"}, "spec": spec});
        let labels = json!({"machinist.dev/machine-uid": "m2", "machinist.dev/cluster-uid": "c1"});
        let theirs =
            |name: &str| json!({"metadata": {"name": name, "labels": labels, "uid": format!("{name}-uid")}});
        world.create(Kind::Machine, machine).unwrap();
        for (kind, name) in [
            (Kind::Token, "bootstrap-token-zzzzzz"),
            (Kind::Vm, "web-2"),
            (Kind::UserData, "userdata-m2-zzzzzz"),
            (Kind::Node, "web-2"),
            (Kind::Pod, "theirs"),
        ] {
            world.create(kind, theirs(name)).unwrap();
        }
        world.made.remove(&Kind::Vm);
        world
    }

    pub(super) fn made(&self, kind: Kind) -> usize {
        self.made.get(&kind).copied().unwrap_or_default()
    }

    pub(super) fn create(&mut self, kind: Kind, mut object: Value) -> Answer<Value> {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (kind, name);
        if self.objects.contains_key(&key) {
            return Err(409);
        }
        let made = self.made.entry(kind).or_default();
        *made += 1;
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("{}-{made}", format!("{kind:?}").to_lowercase()));
        }
        metadata["creationTimestamp"] = json!(self.seconds());
        self.version += 1;
        metadata["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key, object.clone());
        Ok(object)
    }

    /// A merge patch, with whatever its metadata demands.
    pub(super) fn patch(&mut self, kind: Kind, name: &str, patch: &Value) -> Answer<Value> {
        let key = (kind, name.to_owned());
        let old = self.objects.get(&key).ok_or(404_u16)?.clone();
        let demands = |field: &str| {
            let demanded = &patch["metadata"][field];
            demanded.is_null() || *demanded == old["metadata"][field]
        };
        if !demands("uid") || !demands("resourceVersion") {
            return Err(409);
        }
        let mut new = old.clone();
        json_patch::merge(&mut new, patch);
        let held = |object: &Value| {
            object["metadata"]["finalizers"]
                .as_array()
                .cloned()
                .unwrap_or_default()
        };
        let is_deleting = !old["metadata"]["deletionTimestamp"].is_null();
        if is_deleting && held(&new).iter().any(|finalizer| !held(&old).contains(finalizer)) {
            return Err(422);
        }
        if new != old {
            self.version += 1;
            new["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }
        if is_deleting && held(&new).is_empty() {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, new.clone());
        }
        Ok(new)
    }

    pub(super) fn delete(&mut self, kind: Kind, name: &str, uid: Option<&str>) -> Answer<Value> {
        let key = (kind, name.to_owned());
        let is_used = self.get(Kind::Pod, "shop").is_some() || self.get(Kind::Volume, "pv-1").is_some();
        self.undrained |= kind == Kind::Vm && is_used;
        let now = self.seconds();
        let object = self.objects.get_mut(&key).ok_or(404_u16)?;
        let metadata = &mut object["metadata"];
        if uid.is_some_and(|uid| metadata["uid"] != uid) {
            return Err(409);
        }
        let is_held = metadata["finalizers"]
            .as_array()
            .is_some_and(|held| !held.is_empty());
        if !is_held {
            return Ok(self.objects.remove(&key).unwrap());
        }
        if metadata["deletionTimestamp"].is_null() {
            self.version += 1;
            metadata["resourceVersion"] = json!(self.version.to_string());
            metadata["deletionTimestamp"] = json!(now);
        }
        Ok(object.clone())
    }

    pub(super) fn get(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.objects.get(&(kind, name.to_owned()))
    }

    /// What the controller's watches show.
    pub(super) fn seen(&self) -> Cow<'_, Objects> {
        let Some(late) = self.late.as_ref().filter(|late| late.until > self.now) else {
            return Cow::Borrowed(&self.objects);
        };
        let others = self.objects.iter().filter(|((kind, _), _)| *kind != late.kind);
        let others = others.map(|(key, object)| (key.clone(), object.clone()));
        Cow::Owned(others.chain(late.before.clone()).collect())
    }

    /// From now on, the watch of that kind shows `before`, for two seconds.
    pub(super) fn is_seen_late(&mut self, kind: Kind, mut before: Objects) {
        before.retain(|(of, _), _| *of == kind);
        let until = self.now + Duration::from_secs(2);
        self.late = Some(Late { kind, before, until });
    }

    /// A list, or the answer to a write: what is known of that kind is new.
    pub(super) fn is_seen_now(&mut self, kind: Kind) {
        self.late = self.late.take().filter(|late| late.kind != kind);
    }

    /// Another controller begins, with lists of everything.
    pub(super) fn is_led_again(&mut self) {
        self.led_since = self.now;
        self.late = None;
    }

    pub(super) fn is_late(&self) -> bool {
        self.late.as_ref().is_some_and(|late| late.until > self.now)
    }

    /// What would never be deleted if the Machine were deleted or the controller killed now.
    pub(super) fn unaccounted(&self) -> Option<Kind> {
        let machine = self.get(Kind::Machine, NAME);
        let is_held = machine.is_some_and(|machine| {
            let finalizers = machine["metadata"]["finalizers"].as_array();
            finalizers.is_some_and(|held| held.contains(&json!("machine-delete-finalizer")))
                && machine["status"]["providerStatus"]["infrastructure"].is_object()
        });
        let own = |object: &Value| object["metadata"]["labels"]["machinist.dev/machine-uid"] == MACHINE;
        let mut objects = self.objects.iter();
        let left = objects.find(|((kind, name), object)| match kind {
            Kind::Vm | Kind::Guest | Kind::Disk | Kind::Node => name == NAME,
            Kind::Token => own(object),
            _ => false,
        });
        left.map(|((kind, _), _)| *kind).filter(|_| !is_held)
    }

    /// A person deletes the Machine.
    pub(super) fn delete_machine(&mut self) {
        self.delete(Kind::Machine, NAME, None).unwrap();
    }

    /// Whether that kind's object of the Machine's name is on its way out.
    pub(super) fn is_going(&self, kind: Kind) -> bool {
        let object = self.get(kind, NAME);
        object.is_some_and(|object| !object["metadata"]["deletionTimestamp"].is_null())
    }

    pub(super) fn seconds(&self) -> String {
        self.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    pub(super) fn named(&self, kind: Kind) -> Vec<(String, Value)> {
        let of = self.objects.iter().filter(|((of, _), _)| *of == kind);
        of.map(|((_, name), object)| (name.clone(), object.clone()))
            .collect()
    }
}
