//! Deletes orphans by name: each is looked up again, and only that version is deleted.

use futures::future::join_all;
use kube::Client;
use kube::api::{DeleteParams, Preconditions};
use kube::core::ObjectMeta;
use machinist_infra::kube::error::RemoteError;
use machinist_infra::kubevirt::orphans::{ObservedObject, Ownership, controller};
use machinist_shared::api::names::label;

use crate::flags::Target;
use crate::infra_namespaces::{InfraNamespace, Skipped};
use crate::kind::Kind;
use crate::machines::Living;
use crate::survey::{Survey, api, one};

/// An object with a requested name, and its controllers, bottom up.
pub struct Candidate {
    infra_namespace: InfraNamespace,
    chain: Survey,
}

/// All objects with that name.
pub struct Lookup {
    target: Target,
    found: Vec<Candidate>,
    unseen: Vec<Skipped>,
}

/// A VM's claim has a DataVolume and a VM as controllers.
const LONGEST_CHAIN: usize = 4;

/// Looks up the target in all namespaces.
pub async fn look(target: &Target, infra_namespaces: &[InfraNamespace]) -> Lookup {
    let mut lookup = Lookup {
        target: target.clone(),
        found: Vec::new(),
        unseen: Vec::new(),
    };
    let all = join_all(
        infra_namespaces
            .iter()
            .map(|infra_namespace| chain(infra_namespace, target)),
    )
    .await;
    for (infra_namespace, looked) in infra_namespaces.iter().zip(all) {
        match looked {
            Ok(None) => {}
            Ok(Some(chain)) => {
                // Two addresses may belong to one cluster.
                let uid = |sight: &Survey| sight.objects.first().and_then(|(_, object)| object.uid.clone());
                if lookup.found.iter().all(|known| uid(&known.chain) != uid(&chain)) {
                    lookup.found.push(Candidate {
                        infra_namespace: infra_namespace.clone(),
                        chain,
                    });
                }
            }
            Err(error) => lookup.unseen.push(Skipped {
                what: infra_namespace.to_string(),
                why: error.to_string(),
            }),
        }
    }
    lookup
}

async fn chain(infra_namespace: &InfraNamespace, target: &Target) -> Result<Option<Survey>, RemoteError> {
    let Some(found) = one(infra_namespace, target.kind, &target.name).await? else {
        return Ok(None);
    };
    let mut sight = Survey {
        objects: vec![(target.kind, found)],
        complete: Vec::new(),
    };
    while sight.objects.len() < LONGEST_CHAIN {
        let owner = sight
            .objects
            .last()
            .and_then(|(_, object)| controller(object))
            .cloned();
        let Some(owner) = owner else { break };
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == owner.kind) else {
            break;
        };
        let found = one(infra_namespace, kind, &owner.name).await?;
        sight.complete.push(kind.name());
        match found.filter(|found| found.uid.as_ref() == Some(&owner.uid)) {
            Some(found) => sight.objects.push((kind, found)),
            // It is gone.
            None => break,
        }
    }
    Ok(Some(sight))
}

/// The object to delete, or why none is deleted.
pub fn decide<'a>(
    lookup: &'a Lookup,
    cluster_uid: &str,
    living: &Living,
) -> Result<(&'a InfraNamespace, &'a ObjectMeta), String> {
    if let Some(unseen) = lookup.unseen.first() {
        return Err(format!(
            "{} could not be read: {}; select the namespace and cluster with --infra-namespace and --infra-kubeconfig",
            unseen.what, unseen.why
        ));
    }
    let looked = match &lookup.found[..] {
        [] => return Err("it does not exist".to_owned()),
        [looked] => looked,
        several => {
            let infra_namespaces: Vec<_> = several
                .iter()
                .map(|looked| looked.infra_namespace.to_string())
                .collect();
            return Err(format!(
                "there are several: in {}; select one with --infra-namespace or --infra-kubeconfig",
                infra_namespaces.join(" and in ")
            ));
        }
    };
    let namespace = looked.chain.namespace();
    let Some((kind, object)) = looked.chain.objects.first() else {
        return Err("it does not exist".to_owned());
    };
    let seen = ObservedObject {
        kind: kind.name(),
        metadata: object,
    };
    let has_machine = |object: &ObjectMeta, machine: &str| living.has(object, machine);
    match namespace.classify(seen, cluster_uid, &has_machine) {
        Ownership::Orphan(_) => Ok((&looked.infra_namespace, object)),
        Ownership::HasMachine(uid) => Err(match living.name(uid) {
            Some(name) => format!("it is not an orphan: it belongs to Machine {name}; delete that"),
            None => "it is not an orphan: a Machine has recorded its VM, or must adopt it".to_owned(),
        }),
        Ownership::Foreign => Err(format!(
            "it is not an orphan of this cluster: neither it nor what controls it has the labels {}={cluster_uid} and {}",
            label::CLUSTER_UID,
            label::MACHINE_UID
        )),
        Ownership::Unknown(owner) => Err(format!(
            "{}/{} controls it, and the owner of that is unknown",
            owner.kind, owner.name
        )),
    }
}

/// Deletes the object, if it is unchanged; returns the result.
pub async fn delete(
    target: &Target,
    infra_namespace: &InfraNamespace,
    object: &ObjectMeta,
    dry_run: bool,
) -> Result<&'static str, RemoteError> {
    if object.deletion_timestamp.is_some() {
        return Ok("is being deleted already");
    }
    let params = DeleteParams {
        dry_run,
        preconditions: Some(Preconditions {
            uid: object.uid.clone(),
            resource_version: object.resource_version.clone(),
        }),
        ..DeleteParams::background()
    };
    let delete = async |client: Client| -> Result<_, RemoteError> {
        let api = api(client, infra_namespace, target.kind);
        match api.delete(&target.name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
            other => other.map(|_| false).map_err(RemoteError::from),
        }
    };
    match infra_namespace.ask(delete).await {
        Ok(true) => Ok("is gone already"),
        Ok(false) if dry_run => Ok("would be deleted"),
        Ok(false) => Ok("deleted"),
        Err(error) if error.is_conflict() => Err(RemoteError::conflict(format!(
            "it has changed since it was looked up ({error}); list orphans again"
        ))),
        Err(error) => Err(error),
    }
}

impl Lookup {
    /// The requested objects.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::Machine;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "tables read better without references"
    )]
    fn object(uid: &str, labels: Value, owner: Option<(&str, &str)>) -> ObjectMeta {
        let owners: Vec<_> = owner
            .iter()
            .map(|(kind, uid)| {
                json!({"apiVersion": "v", "kind": kind, "name": "o", "uid": uid, "controller": true})
            })
            .collect();
        serde_json::from_value(
            json!({"name": "web-1", "uid": uid, "labels": labels, "ownerReferences": owners}),
        )
        .unwrap()
    }

    fn of(machine: &str) -> Value {
        json!({label::CLUSTER_UID: "c", label::MACHINE_UID: machine})
    }

    fn in_place(namespace: &str, objects: Vec<(Kind, ObjectMeta)>) -> Candidate {
        Candidate {
            infra_namespace: InfraNamespace {
                server: "https://a".to_owned(),
                namespace: namespace.to_owned(),
                clients: Vec::new(),
            },
            chain: Survey {
                objects,
                complete: vec!["VirtualMachine"],
            },
        }
    }

    fn judged(found: Vec<Candidate>, unseen: &[&str]) -> Result<String, String> {
        let lookup = Lookup {
            target: Target {
                kind: Kind::VirtualMachine,
                name: "web-1".to_owned(),
            },
            found,
            unseen: unseen
                .iter()
                .map(|why| Skipped {
                    what: "namespace old".to_owned(),
                    why: (*why).to_owned(),
                })
                .collect(),
        };
        let living = Living::new(&[Machine {
            namespace: "ns".to_owned(),
            name: "web-1".to_owned(),
            uid: "alive".to_owned(),
            vms: vec!["recorded".to_owned()],
            ..Machine::default()
        }]);
        decide(&lookup, "c", &living).map(|(_, object)| object.uid.clone().unwrap_or_default())
    }

    #[rstest]
    #[case::of_no_machine(object("v", of("gone"), None), Ok("v"))]
    #[case::of_a_machine(
        object("v", of("alive"), None),
        Err("it belongs to Machine ns/web-1; delete that")
    )]
    #[case::on_record(object("recorded", of("gone"), None), Err("has recorded its VM"))]
    #[case::of_another_cluster(object("v", json!({label::CLUSTER_UID: "d", label::MACHINE_UID: "gone"}), None), Err("machinist.dev/cluster-uid=c"))]
    #[case::a_foreign_object(object("v", json!(null), None), Err("not an orphan of this cluster"))]
    #[case::of_another_owner(object("v", of("gone"), Some(("VirtualMachinePool", "p"))), Err("VirtualMachinePool/o controls it"))]
    fn a_vm_is_deleted_if_it_is_an_orphan(#[case] vm: ObjectMeta, #[case] expected: Result<&str, &str>) {
        let verdict = judged(vec![in_place("vms", vec![(Kind::VirtualMachine, vm)])], &[]);
        match (verdict, expected) {
            (Ok(uid), Ok(expected)) => assert_eq!(uid, expected),
            (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
            (verdict, expected) => panic!("{verdict:?} instead of {expected:?}"),
        }
    }

    #[rstest]
    #[case::of_no_machine("gone", true)]
    #[case::of_a_machine("alive", false)]
    fn a_disk_is_deleted_if_its_vm_is_an_orphan(#[case] machine: &str, #[case] deleted: bool) {
        let disk = object("d", json!(null), Some(("VirtualMachine", "v")));
        let vm = object("v", of(machine), None);
        let chain = vec![(Kind::DataVolume, disk), (Kind::VirtualMachine, vm)];
        assert_eq!(judged(vec![in_place("vms", chain)], &[]).is_ok(), deleted);
    }

    /// Deletes `object`, where the API server answers with `status`; what became of it, and what was asked.
    async fn deleted(
        object: &ObjectMeta,
        status: u16,
        dry_run: bool,
    ) -> (Result<&'static str, String>, Value) {
        let (sent, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let sent = sent.clone();
            async move {
                let asked = format!("{} {}", request.method(), request.uri().path());
                let body = request.into_body().collect_bytes().await?;
                let body: Value = serde_json::from_slice(&body).unwrap();
                sent.send(json!({"asked": asked, "body": body})).unwrap();
                let answer = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "said so", "code": status});
                let answer = kube::client::Body::from(answer.to_string().into_bytes());
                Ok::<_, kube::Error>(http::Response::builder().status(status).body(answer).unwrap())
            }
        });
        let mut infra_namespace = in_place("vms", Vec::new()).infra_namespace;
        infra_namespace.clients = vec![kube::Client::new(service, "default")];
        let target = Target {
            kind: Kind::VirtualMachine,
            name: "web-1".to_owned(),
        };
        let became = delete(&target, &infra_namespace, object, dry_run).await;
        (
            became.map_err(|error| error.to_string()),
            json!(asked.try_recv().ok()),
        )
    }

    fn versioned() -> ObjectMeta {
        ObjectMeta {
            resource_version: Some("7".to_owned()),
            ..object("v", of("gone"), None)
        }
    }

    #[rstest]
    #[case::done(200, false, Ok("deleted"))]
    #[case::only_checked(200, true, Ok("would be deleted"))]
    #[case::gone_meanwhile(404, false, Ok("is gone already"))]
    #[case::changed_meanwhile(409, false, Err("has changed"))]
    #[case::forbidden(403, false, Err("said so"))]
    #[tokio::test]
    async fn it_is_deleted_as_it_was_seen_and_no_otherwise(
        #[case] status: u16,
        #[case] dry_run: bool,
        #[case] expected: Result<&str, &str>,
    ) {
        let (became, asked) = deleted(&versioned(), status, dry_run).await;
        match (&became, expected) {
            (Ok(became), Ok(expected)) => assert_eq!(*became, expected),
            (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
            _ => panic!("{became:?} instead of {expected:?}"),
        }
        let path = "DELETE /apis/kubevirt.io/v1/namespaces/vms/virtualmachines/web-1";
        assert_eq!(asked["asked"], path);
        assert_eq!(
            asked["body"]["preconditions"],
            json!({"uid": "v", "resourceVersion": "7"})
        );
        let dry = if dry_run { json!(["All"]) } else { json!(null) };
        assert_eq!(asked["body"]["dryRun"], dry);
    }

    #[tokio::test]
    async fn what_is_being_deleted_is_not_asked_for_again() {
        let mut object = versioned();
        object.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let (became, asked) = deleted(&object, 200, false).await;
        assert_eq!(became, Ok("is being deleted already"));
        assert_eq!(asked, json!(null));
    }

    #[test]
    fn what_is_not_there_or_may_be_another_is_refused() {
        let vm = |namespace: &str, uid: &str| {
            in_place(
                namespace,
                vec![(Kind::VirtualMachine, object(uid, of("gone"), None))],
            )
        };
        assert!(judged(vec![vm("vms", "v")], &[]).is_ok());
        let why = judged(Vec::new(), &[]).unwrap_err();
        assert!(why.contains("does not exist"), "{why}");
        let why = judged(vec![vm("vms", "v"), vm("old", "w")], &[]).unwrap_err();
        assert!(
            why.contains("vms") && why.contains("old") && why.contains("--infra-namespace"),
            "{why}"
        );
        let why = judged(vec![vm("vms", "v")], &["forbidden"]).unwrap_err();
        assert!(
            why.contains("forbidden") && why.contains("--infra-namespace"),
            "{why}"
        );
    }
}
