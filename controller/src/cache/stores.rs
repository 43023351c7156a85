//! The controller's view of the user cluster.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use machinist_infra::cache::store::{Key, Store};
use machinist_infra::kube::clock::ServerClock;
use machinist_shared::api::names::label;
use tokio::sync::Notify;

use super::{
    NODE_USER, Node, StoredMachine, StoredMachineDeployment, StoredMachineSet, StoredRequest, TOKEN_USER,
    Tombstones, VolumeAttachment, owner,
};

/// Names of bootstrap token Secrets begin with it.
const TOKEN_PREFIX: &str = "bootstrap-token-";

/// Namespace of bootstrap tokens.
pub const TOKEN_NAMESPACE: &str = "kube-system";

/// The controller's view of the user cluster.
#[derive(Debug)]
pub struct Stores {
    /// Machines, indexed by name, UID, and the controller of them.
    pub machines: Arc<Store<StoredMachine>>,
    /// Machines that are gone, while something of theirs is not.
    pub tombstones: Tombstones,
    /// What time it is there.
    pub clock: ServerClock,
    /// Nodes, indexed by address.
    pub nodes: Arc<Store<Node>>,
    /// Which volumes are attached to which Nodes, indexed by Node.
    pub attachments: Arc<Store<VolumeAttachment>>,
    /// MachineSets, indexed by namespace and the controller of them.
    pub machine_sets: Arc<Store<StoredMachineSet>>,
    /// MachineDeployments, indexed by namespace.
    pub machine_deployments: Arc<Store<StoredMachineDeployment>>,
    /// Our bootstrap tokens, indexed by the UID of their Machine.
    pub tokens: Arc<Store<Secret>>,
    /// Signing requests for client certificates of kubelets, indexed by requester and, while pending, by UID.
    pub requests: Arc<Store<StoredRequest>>,
    /// The same, for serving certificates.
    pub serving: Arc<Store<StoredRequest>>,
    /// Whether only Machines, Nodes and requests for client certificates are watched.
    pub approver_only: bool,
    /// Woken whenever one of them has become complete.
    pub changed: Notify,
}

// Values of one index must not collide: no name, namespace or UID has a colon.

fn controlled_by(uid: &str) -> String {
    format!("controller:{uid}")
}

/// Where what has no controller is indexed.
fn orphan_in(namespace: &str) -> String {
    format!("orphan:{namespace}")
}

/// Where the Machine is indexed whose record has that bootstrap token.
fn with_token(id: &str) -> String {
    format!("token:{id}")
}

fn recorded_token(machine: &StoredMachine) -> Option<&str> {
    machine.record.as_ref()?.token_id.as_deref()
}

fn within(namespace: &str) -> String {
    format!("namespace:{namespace}")
}

fn by_controller(metadata: &kube::core::ObjectMeta) -> String {
    owner::controller(metadata).map_or_else(
        || orphan_in(metadata.namespace.as_deref().unwrap_or_default()),
        |owner| controlled_by(&owner.uid),
    )
}

/// Whom requests are approved of is indexed so.
fn approved_of(requester: &str) -> String {
    format!("approved:{requester}")
}

/// Requests for the first client certificate of that node are indexed so.
fn joins_as(node: &str) -> String {
    format!("joins-as:{node}")
}

/// Requester, UID and node of a pending request; of one that is decided, only whose it was is ever looked up.
fn by_requester(request: &StoredRequest) -> Vec<String> {
    match (request.decided, request.approved) {
        (true, true) => vec![approved_of(request.username())],
        (true, false) => Vec::new(),
        (false, _) => {
            let own = [request.username().to_owned(), request.uid().to_owned()];
            own.into_iter()
                .chain(request.joins_as.as_deref().map(joins_as))
                .collect()
        }
    }
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            machines: Arc::new(Store::new(|m: &StoredMachine| {
                let own = [
                    m.name().to_owned(),
                    m.uid().to_owned(),
                    by_controller(&m.metadata),
                ];
                own.into_iter().chain(recorded_token(m).map(with_token)).collect()
            })),
            tombstones: Tombstones::default(),
            clock: ServerClock::default(),
            nodes: Arc::new(Store::new(Node::own_addresses)),
            attachments: Arc::new(Store::new(|a: &VolumeAttachment| vec![a.node.clone()])),
            machine_sets: Arc::new(Store::new(|s: &StoredMachineSet| {
                vec![within(s.namespace()), by_controller(&s.metadata)]
            })),
            machine_deployments: Arc::new(Store::new(|d: &StoredMachineDeployment| {
                vec![within(d.namespace())]
            })),
            tokens: Arc::new(Store::new(|s: &Secret| {
                s.labels().get(label::MACHINE_UID).cloned().into_iter().collect()
            })),
            requests: Arc::new(Store::new(by_requester)),
            serving: Arc::new(Store::new(by_requester)),
            approver_only: false,
            changed: Notify::new(),
        }
    }
}

impl Stores {
    /// Those that judge requests for client certificates, and do without Secrets: the others stay empty.
    pub fn of_approver() -> Self {
        Self {
            approver_only: true,
            ..Self::default()
        }
    }

    /// Whether all that are watched are complete.
    pub fn is_synced(&self) -> bool {
        let of_approver = self.machines.is_synced() && self.nodes.is_synced() && self.requests.is_synced();
        of_approver
            && (self.approver_only
                || self.attachments.is_synced()
                    && self.machine_sets.is_synced()
                    && self.machine_deployments.is_synced()
                    && self.tokens.is_synced()
                    && self.serving.is_synced())
    }

    /// Returns once all of them are complete.
    pub async fn synced(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_synced() {
                return;
            }
            changed.await;
        }
    }

    /// The Machine of that UID.
    pub fn machine_of_uid(&self, uid: &str) -> Option<Arc<StoredMachine>> {
        let found = self.machines.by_index(uid);
        found.into_iter().find(|machine| machine.uid() == uid)
    }

    /// The Machine whose record has the bootstrap token of that ID, if exactly one has.
    pub fn machine_with_token(&self, id: &str) -> Option<Arc<StoredMachine>> {
        let mut found = self.machines.by_index(&with_token(id));
        let machine = found.pop()?;
        found.is_empty().then_some(machine)
    }

    /// Pending requests that came with the bootstrap token on the Machine's record.
    pub fn requests_with_recorded_token(&self, machine: &StoredMachine) -> Vec<Arc<StoredRequest>> {
        recorded_token(machine)
            .map(|id| self.requests.by_index(&format!("{TOKEN_USER}{id}")))
            .unwrap_or_default()
    }

    /// Machines that the owner of that UID controls.
    pub fn machines_of(&self, owner_uid: &str) -> Vec<Arc<StoredMachine>> {
        self.machines.by_index(&controlled_by(owner_uid))
    }

    /// Names of the volumes that are attached to the Node of that name, sorted.
    pub fn volumes_attached_to(&self, node: &str) -> Vec<String> {
        let attachments = self.attachments.by_index(node).into_iter();
        let attached = attachments.filter(|attachment| attachment.attached);
        let mut volumes: Vec<String> = attached.map(|attachment| attachment.volume.clone()).collect();
        volumes.sort();
        volumes
    }

    /// Machines of a namespace without a controller.
    pub fn orphaned_machines_in(&self, namespace: &str) -> Vec<Arc<StoredMachine>> {
        self.machines.by_index(&orphan_in(namespace))
    }

    /// MachineSets of a namespace.
    pub fn machine_sets_in(&self, namespace: &str) -> Vec<Arc<StoredMachineSet>> {
        self.machine_sets.by_index(&within(namespace))
    }

    /// MachineSets that the owner of that UID controls.
    pub fn machine_sets_of(&self, owner_uid: &str) -> Vec<Arc<StoredMachineSet>> {
        self.machine_sets.by_index(&controlled_by(owner_uid))
    }

    /// MachineDeployments of a namespace.
    pub fn machine_deployments_in(&self, namespace: &str) -> Vec<Arc<StoredMachineDeployment>> {
        self.machine_deployments.by_index(&within(namespace))
    }

    /// Name of the MachineDeployment above a Machine.
    pub fn machine_deployment(&self, machine: &StoredMachine) -> Option<String> {
        let set = self
            .machine_sets
            .get(&Key::new(machine.namespace(), machine.machine_set()?))?;
        set.machine_deployment().map(str::to_owned)
    }

    /// The MachineDeployment above a Machine.
    pub fn deployment_of(&self, machine: &StoredMachine) -> Option<Arc<StoredMachineDeployment>> {
        let name = self.machine_deployment(machine)?;
        self.machine_deployments.get(&Key::new(machine.namespace(), name))
    }

    /// The Machines below a MachineDeployment.
    pub fn machines_of_deployment(&self, deployment: &StoredMachineDeployment) -> Vec<Arc<StoredMachine>> {
        let sets = self.machine_sets_of(deployment.uid()).into_iter();
        sets.flat_map(|set| self.machines_of(set.uid())).collect()
    }

    /// MachineSets of the Machine's MachineDeployment that are newer than its own, the newest first.
    pub fn newer_machine_sets(&self, machine: &StoredMachine) -> Vec<Arc<StoredMachineSet>> {
        let own = machine.metadata.owner_references.iter().flatten();
        let own = own.filter(|owner| owner.kind == "MachineSet").find_map(|owner| {
            let set = self
                .machine_sets
                .get(&Key::new(machine.namespace(), &owner.name))?;
            (set.metadata.uid.as_deref() == Some(&owner.uid)).then_some(set)
        });
        let Some(own) = own else { return Vec::new() };
        let Some(deployment) = own.machine_deployment_uid() else {
            return Vec::new();
        };
        let created = |set: &StoredMachineSet| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let mut sets = self.machine_sets.all();
        sets.retain(|set| {
            set.machine_deployment_uid() == Some(deployment)
                && set.metadata.namespace == own.metadata.namespace
                && set.metadata.uid != own.metadata.uid
                && created(set) >= created(&own)
        });
        sets.sort_by_key(|set| std::cmp::Reverse(created(set)));
        sets
    }

    /// Pending requests for the serving certificate of the node of that name, the newest first. Its kubelet has given up
    /// those from before one that was approved: it has what it asked for since.
    pub fn serving_requests(&self, node: &str) -> Vec<Arc<StoredRequest>> {
        let requester = format!("{NODE_USER}{node}");
        let mut pending = self.serving.by_index(&requester);
        if pending.is_empty() {
            return pending;
        }
        let approved = self.serving.by_index(&approved_of(&requester));
        let created = |request: &StoredRequest| request.age().0;
        // Approving one changed its version: within a second it cannot be determined.
        let newest = approved.iter().map(|request| created(request)).max();
        pending.retain(|request| newest.is_none_or(|newest| created(request) >= newest));
        pending.sort_by_cached_key(|request| std::cmp::Reverse(request.age()));
        pending
    }

    /// The newest pending request for the first client certificate of the node of that name, by any sender.
    pub fn request_to_join(&self, node: &str) -> Option<Arc<StoredRequest>> {
        let pending = self.requests.by_index(&joins_as(node));
        pending.into_iter().max_by_key(|request| request.age())
    }

    /// Pending requests that came with the bootstrap token in that Secret.
    pub fn requests_with(&self, token: &Secret) -> Vec<Arc<StoredRequest>> {
        let name = token.name_any();
        let id = name.strip_prefix(TOKEN_PREFIX);
        id.map(|id| self.requests.by_index(&format!("{TOKEN_USER}{id}")))
            .unwrap_or_default()
    }

    /// Empty stores of an API server whose clock is that.
    pub fn at(clock: ServerClock) -> Self {
        Self {
            clock,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinist_infra::cache::watch::Event;
    use rstest::rstest;
    use serde_json::json;

    fn request(name: &str, created: &str, version: &str, status: &serde_json::Value) -> StoredRequest {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": created, "resourceVersion": version},
            "spec": {"request": "AAAA", "signerName": "kubernetes.io/kubelet-serving", "username": "system:node:a"}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn the_newest_pending_requests_of_a_node_come_first_also_within_a_second() {
        let stores = Stores::default();
        let (early, late) = ("2026-01-01T12:00:00Z", "2026-01-01T12:00:01Z");
        for (name, created, version) in [("c", early, "9"), ("b", late, "10"), ("a", late, "8")] {
            let pending = request(name, created, version, &json!({}));
            stores.serving.apply(Event::Apply(pending));
        }
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "AAAA"});
        stores
            .serving
            .apply(Event::Apply(request("d", early, "11", &approved)));
        let names: Vec<_> = stores
            .serving_requests("a")
            .iter()
            .map(|request| request.name().to_owned())
            .collect();
        assert_eq!(names, ["b", "a", "c"]);
    }

    #[rstest]
    #[case::an_older_one_of_which("2026-01-01T12:00:01Z", &json!({"conditions": [{"type": "Approved", "status": "True"}]}), &[])]
    #[case::one_of_the_same_second("2026-01-01T12:00:00Z", &json!({"conditions": [{"type": "Approved", "status": "True"}]}), &["old"])]
    #[case::a_younger_one("2026-01-01T11:59:59Z", &json!({"conditions": [{"type": "Approved", "status": "True"}]}), &["old"])]
    #[case::one_before_another_that_was_denied("2026-01-01T12:00:01Z", &json!({"conditions": [{"type": "Denied", "status": "True"}]}), &["old"])]
    #[case::one_before_another_that_failed(
        "2026-01-01T12:00:01Z",
        &json!({"conditions": [{"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]}),
        &["old"]
    )]
    fn a_request_is_given_up_for_a_younger_one_that_was_approved(
        #[case] created: &str,
        #[case] status: &serde_json::Value,
        #[case] pending: &[&str],
    ) {
        let stores = Stores::default();
        for request in [
            request("old", "2026-01-01T12:00:00Z", "5", &json!({})),
            request("other", created, "9", status),
        ] {
            stores.serving.apply(Event::Apply(request));
        }
        let found = stores.serving_requests("a");
        assert_eq!(
            found.iter().map(|found| found.name()).collect::<Vec<_>>(),
            pending
        );
    }

    #[test]
    fn of_a_decided_request_no_certificate_is_kept() {
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "AAAA"});
        let stored = request("d", "2026-01-01T12:00:00Z", "1", &approved);
        assert!(stored.decided && stored.object.status.is_none());
        assert!(stored.object.spec.request.0.is_empty());
        assert_eq!(stored.username(), "system:node:a", "whose it was is still known");
    }
}
