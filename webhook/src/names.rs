//! Checks that the name of a new Machine is free. Its VM and its Node have the same name, so it must be unique among
//! the Machines of all namespaces and the Nodes of other owners, for example of the control plane. The same for its
//! providerID, which a copied manifest has.
//!
//! The check runs once for each Machine that a user creates, with a timeout. If a duplicate passes, because the API
//! server did not respond or two were created at the same time, the controller reports the conflict and creates no VM.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, ObjectMeta};
use kube::{Api, Client, ResourceExt as _};
use machinist_shared::api::Machine;
use machinist_shared::api::field::{FieldPath, Report};
use machinist_shared::api::names::{PROVIDER_ID_PREFIX, annotation, is_ccm_provider_id_of};

/// Timeout of all requests together.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How many Machines are read at once.
const PAGE: u32 = 500;

/// A new Machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewMachine {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Empty unless the author writes one.
    pub(crate) provider_id: String,
}

/// Checks names.
#[derive(Clone)]
pub struct Names {
    client: Client,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

impl Names {
    /// Uses the cluster of this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// An error at `metadata.name` if it is taken; a warning if the check failed or timed out.
    pub(crate) async fn check(&self, new_machine: &NewMachine) -> Report {
        let mut report = Report::new();
        let path = FieldPath::new("metadata").child("name");
        let (taken, holder) = tokio::join!(
            tokio::time::timeout(TIMEOUT, self.taken(new_machine)),
            tokio::time::timeout(TIMEOUT, self.holder(new_machine)),
        );
        match taken {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(why))) => report.invalid(&path, why),
            Ok(Err(error)) => report.warn(&path, unknown(&reason(&error))),
            Err(_) => report.warn(&path, unknown(&format!("no answer within {TIMEOUT:?}"))),
        }
        // One that cannot be looked up in time is refused as well, only without the other's name.
        if let Ok(Ok(Some(other))) = holder {
            let path = FieldPath::new("spec").child("providerID");
            let id = &new_machine.provider_id;
            report.forbidden(
                &path,
                format!("{id:?} is that of Machine {other}: no two Machines have the same"),
            );
        }
        report
    }

    /// The Machine whose providerID the new one has.
    async fn holder(&self, new_machine: &NewMachine) -> kube::Result<Option<String>> {
        let id = &new_machine.provider_id;
        if id.is_empty() || is_ccm_provider_id_of(&new_machine.name, id) {
            return Ok(None);
        }
        let machines = Api::<Machine>::all(self.client.clone());
        let mut page = ListParams::default().limit(PAGE);
        loop {
            // The providerID is made of the UID or the name, so that no spec is read.
            let found = machines.list_metadata(&page).await?;
            let holder = found
                .items
                .iter()
                .find(|machine| is_provider_id_of(&machine.metadata, id));
            if let Some(holder) = holder {
                let namespace = holder.metadata.namespace.as_deref().unwrap_or_default();
                return Ok(Some(format!("{namespace}/{}", holder.name_any())));
            }
            match found.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => page = page.continue_token(&next),
                None => return Ok(None),
            }
        }
    }

    /// Human-readable owner.
    async fn taken(&self, new_machine: &NewMachine) -> kube::Result<Option<String>> {
        let nodes = Api::<Node>::all(self.client.clone());
        let machines = Api::<Machine>::all(self.client.clone());
        let named = ListParams::default().fields(&format!("metadata.name={}", new_machine.name));
        let node = async {
            match nodes.get_metadata(&new_machine.name).await {
                Ok(node) => Ok(Some(node.metadata)),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                Err(error) => Err(error),
            }
        };
        let (machines, node) = tokio::try_join!(machines.list_metadata(&named), node)?;
        let namespaces = machines
            .items
            .into_iter()
            .filter_map(|machine| machine.metadata.namespace);
        if let Some(why) = by_machine(new_machine, namespaces) {
            return Ok(Some(why));
        }
        let machine = |node: ObjectMeta| node.annotations.unwrap_or_default().remove(annotation::MACHINE);
        Ok(node.and_then(|node| by_node(new_machine, machine(node).as_deref())))
    }
}

/// Whether the Machine of that metadata has or gets that providerID.
fn is_provider_id_of(machine: &ObjectMeta, id: &str) -> bool {
    let of_uid = |uid: &String| id.strip_prefix(PROVIDER_ID_PREFIX) == Some(uid.as_str());
    let of_name = |name: &String| is_ccm_provider_id_of(name, id);
    machine.uid.as_ref().is_some_and(of_uid) || machine.name.as_ref().is_some_and(of_name)
}

/// Whether another Machine has the name. The API server checks those in the same namespace.
fn by_machine(new_machine: &NewMachine, namespaces: impl IntoIterator<Item = String>) -> Option<String> {
    let other = namespaces
        .into_iter()
        .find(|namespace| *namespace != new_machine.namespace)?;
    Some(format!(
        "{:?} is already the name of a Machine in namespace {other}; VM and Node have the Machine's name, so it must \
         be unique in the cluster: choose another",
        new_machine.name
    ))
}

/// Whether the Node with that name has another owner; `machine` is the owner in the Node's annotation. A Node that
/// names this Machine is accepted, because Machines can be restored from backups.
fn by_node(new_machine: &NewMachine, machine: Option<&str>) -> Option<String> {
    if machine == Some(&format!("{}/{}", new_machine.namespace, new_machine.name)) {
        return None;
    }
    let whose = machine.map_or_else(
        || "belongs to no Machine".to_owned(),
        |other| format!("belongs to Machine {other}"),
    );
    Some(format!(
        "a Node named {:?} exists and {whose}; the Machine's Node would have the same name: choose another",
        new_machine.name
    ))
}

fn unknown(why: &str) -> String {
    format!(
        "could not check whether the name is free ({why}); if it is taken, the Machine gets no VM and its conditions say so"
    )
}

/// Without addresses or bodies of responses.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server answered {} {}", status.code, status.reason),
        _ => "the API server cannot be reached".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_machine() -> NewMachine {
        NewMachine {
            namespace: "kube-system".into(),
            name: "w".into(),
            provider_id: String::new(),
        }
    }

    #[test]
    fn a_machine_of_another_namespace_takes_the_name() {
        let why = by_machine(&new_machine(), ["kube-system".into(), "other".into()]).unwrap();
        assert!(why.contains("in namespace other"), "{why}");
        assert_eq!(by_machine(&new_machine(), ["kube-system".into()]), None);
        assert_eq!(by_machine(&new_machine(), []), None);
    }

    #[test]
    fn a_provider_id_is_that_of_a_uid_or_a_name() {
        let machine = ObjectMeta {
            name: Some("w".to_owned()),
            uid: Some("u-1".to_owned()),
            ..ObjectMeta::default()
        };
        assert!(is_provider_id_of(&machine, "kubermatic://kubevirt/u-1"));
        assert!(is_provider_id_of(&machine, "kubevirt://w"));
        assert!(!is_provider_id_of(&machine, "kubermatic://kubevirt/u-10"));
        assert!(!is_provider_id_of(&machine, "kubevirt://w2"));
    }

    #[test]
    fn a_node_that_is_not_the_machines_takes_the_name() {
        assert!(
            by_node(&new_machine(), None)
                .unwrap()
                .contains("belongs to no Machine")
        );
        assert!(
            by_node(&new_machine(), Some("kube-system/x"))
                .unwrap()
                .contains("belongs to Machine kube-system/x")
        );
        assert_eq!(by_node(&new_machine(), Some("kube-system/w")), None);
    }
}
