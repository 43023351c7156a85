//! The report about orphans.

use std::collections::HashSet;
use std::fmt::Write as _;

use k8s_openapi::jiff::Timestamp;
use machinist_infra::kubevirt::orphans::{Namespace, ObservedObject};
use machinist_shared::api::names::label;
use serde::Serialize;

use crate::infra_namespaces::{InfraNamespace, Skipped};
use crate::kind::Kind;
use crate::machines::Living;
use crate::survey::Survey;

/// The result of the search.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// UID of the user cluster.
    #[serde(rename = "clusterUID")]
    pub cluster_uid: String,
    /// The searched namespaces.
    #[serde(rename = "lookedAt")]
    pub searched: Vec<Where>,
    /// The orphans.
    pub orphans: Vec<Orphan>,
    /// The parts that could not be searched.
    #[serde(rename = "notLookedAt")]
    pub not_searched: Vec<Skipped>,
}

/// A namespace of an infra cluster; without a namespace, the user cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Where {
    /// URL of the API server.
    pub server: String,
    /// The namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// An orphan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// Its kind.
    pub kind: &'static str,
    /// Its location.
    #[serde(flatten)]
    pub infra_namespace: Where,
    /// Its name.
    pub name: String,
    /// Name of its Machine, if known.
    pub machine: Option<String>,
    /// UID of its Machine.
    #[serde(rename = "machineUID")]
    pub machine_uid: String,
    /// Its controller, whose deletion deletes it, as `Kind/name`.
    pub owner: Option<String>,
    /// Its own UID.
    pub uid: String,
    /// Creation time.
    pub created: Option<Timestamp>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

impl Report {
    /// Classifies the objects found in the namespaces.
    pub fn new(
        cluster_uid: &str,
        seen: &[(InfraNamespace, Survey)],
        nodes: Vec<Orphan>,
        mut not_searched: Vec<Skipped>,
        living: &Living,
    ) -> Self {
        let (mut orphans, mut known) = (Vec::new(), HashSet::new());
        for (infra_namespace, sight) in seen {
            let (infra_namespace, namespace) = (of(infra_namespace), sight.namespace());
            let found = namespace.orphans(cluster_uid, &|object, machine| living.has(object, machine));
            let found = found
                .iter()
                .map(|(seen, machine)| orphan(&infra_namespace, &namespace, *seen, machine));
            // Two addresses may belong to one cluster.
            orphans.extend(found.filter(|orphan| known.insert(orphan.uid.clone())));
        }
        let kind = |orphan: &Orphan| Kind::parse(orphan.kind);
        orphans.sort_by_cached_key(|orphan: &Orphan| {
            let Orphan {
                infra_namespace,
                machine,
                name,
                ..
            } = orphan;
            (
                infra_namespace.clone(),
                machine.is_none(),
                machine.clone(),
                kind(orphan),
                name.clone(),
            )
        });
        orphans.extend(nodes);
        not_searched.sort();
        not_searched.dedup();
        Self {
            cluster_uid: cluster_uid.to_owned(),
            searched: seen
                .iter()
                .map(|(infra_namespace, _)| of(infra_namespace))
                .collect(),
            orphans,
            not_searched,
        }
    }

    /// A table, or a message that there are none.
    pub fn table(&self, now: Timestamp) -> String {
        if self.orphans.is_empty() {
            let infra_namespaces = self.searched.iter();
            let infra_namespaces: Vec<_> = infra_namespaces
                .map(|infra_namespace| {
                    format!(
                        "namespace {} of {}",
                        infra_namespace.namespace, infra_namespace.server
                    )
                })
                .collect();
            let infra_namespaces = if infra_namespaces.is_empty() {
                "nowhere".to_owned()
            } else {
                infra_namespaces.join(", ")
            };
            return format!("no orphans found; searched: {infra_namespaces}\n");
        }
        let servers: HashSet<_> = self
            .orphans
            .iter()
            .map(|orphan| &orphan.infra_namespace.server)
            .collect();
        let mut heading = vec!["KIND", "NAMESPACE", "NAME", "MACHINE", "OWNER", "AGE", "UID"];
        if servers.len() > 1 {
            heading.push("SERVER");
        }
        let mut rows = vec![heading.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
        for orphan in &self.orphans {
            let mut row = vec![
                orphan.kind.to_owned(),
                or_none(&orphan.infra_namespace.namespace),
                orphan.name.clone(),
                orphan.machine.clone().unwrap_or_else(|| "<unknown>".to_owned()),
                or_none(orphan.owner.as_deref().unwrap_or_default()),
                age(orphan, now),
                orphan.uid.clone(),
            ];
            if servers.len() > 1 {
                row.push(orphan.infra_namespace.server.clone());
            }
            rows.push(row);
        }
        aligned(&rows)
    }

    /// The orphans whose deletion deletes all others, VMs first.
    pub fn tops(&self) -> impl Iterator<Item = &Orphan> {
        self.orphans.iter().filter(|orphan| orphan.owner.is_none())
    }

    /// The parts that could not be searched, one line each.
    pub fn warnings(&self) -> String {
        let mut text = String::new();
        for unseen in &self.not_searched {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "not searched: {}: {}", unseen.what, unseen.why);
        }
        if !text.is_empty() {
            text.push_str(
                "There may be more. Set a kubeconfig that may list these objects with --infra-kubeconfig.\n",
            );
        }
        text
    }
}

fn of(infra_namespace: &InfraNamespace) -> Where {
    Where {
        server: infra_namespace.server.clone(),
        namespace: infra_namespace.namespace.clone(),
    }
}

fn orphan(
    infra_namespace: &Where,
    namespace: &Namespace<'_>,
    seen: ObservedObject<'_>,
    machine_uid: &str,
) -> Orphan {
    let metadata = seen.metadata;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let named = |seen: ObservedObject<'_>| format!("{}/{}", seen.kind, text(&seen.metadata.name));
    let top = namespace.top(seen);
    // A VM has its Machine's name, which KubeVirt repeats in a label.
    let machine = if top.kind == Kind::VirtualMachine.name() {
        top.metadata.name.clone()
    } else {
        let labels = top.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(label::KUBEVIRT_VM)).cloned()
    };
    Orphan {
        kind: seen.kind,
        infra_namespace: infra_namespace.clone(),
        name: text(&metadata.name),
        machine,
        machine_uid: machine_uid.to_owned(),
        owner: namespace.owner(seen).map(named),
        uid: text(&metadata.uid),
        created: metadata.creation_timestamp.as_ref().map(|time| time.0),
        deleting: metadata.deletion_timestamp.is_some(),
    }
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "<none>" } else { text }.to_owned()
}

/// Approximately like kubectl.
pub fn age(orphan: &Orphan, now: Timestamp) -> String {
    let age = match orphan.created {
        None => "<unknown>".to_owned(),
        Some(created) => match now.duration_since(created).as_secs().max(0) {
            seconds @ ..120 => format!("{seconds}s"),
            seconds @ ..7_200 => format!("{}m", seconds / 60),
            seconds @ ..172_800 => format!("{}h", seconds / 3600),
            seconds => format!("{}d", seconds / 86_400),
        },
    };
    if orphan.deleting { age + ", deleting" } else { age }
}

/// Rows with aligned columns.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let mut line = String::new();
        for (cell, &width) in cells {
            // Writing into a String cannot fail.
            let _ = write!(line, "{cell:width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::Machine;
    use kube::core::ObjectMeta;
    use serde_json::{Value, json};

    const CREATED: &str = "2026-01-01T00:00:00Z";

    #[allow(
        clippy::needless_pass_by_value,
        reason = "tables read better without references"
    )]
    fn object(kind: Kind, name: &str, labels: Value, owner: Option<(&str, &str)>) -> (Kind, ObjectMeta) {
        let owners: Vec<_> = owner
            .iter()
            .map(|(kind, name)| {
                let uid = format!("{kind}-{name}");
                json!({"apiVersion": "v", "kind": kind, "name": name, "uid": uid, "controller": true})
            })
            .collect();
        let metadata = json!({"name": name, "namespace": "vms", "uid": format!("{}-{name}", kind.name()), "labels": labels,
            "ownerReferences": owners, "creationTimestamp": CREATED});
        (kind, serde_json::from_value(metadata).unwrap())
    }

    fn of_machine(uid: &str) -> Value {
        json!({label::CLUSTER_UID: "c", label::MACHINE_UID: uid})
    }

    /// A VM with all that belongs to it.
    fn whole(name: &str, machine: &str) -> Vec<(Kind, ObjectMeta)> {
        vec![
            object(
                Kind::Secret,
                &format!("{name}-data"),
                of_machine(machine),
                Some(("VirtualMachine", name)),
            ),
            object(
                Kind::PersistentVolumeClaim,
                name,
                json!(null),
                Some(("DataVolume", name)),
            ),
            object(
                Kind::DataVolume,
                name,
                json!(null),
                Some(("VirtualMachine", name)),
            ),
            object(Kind::VirtualMachine, name, of_machine(machine), None),
        ]
    }

    fn infra_namespace(server: &str) -> InfraNamespace {
        InfraNamespace {
            server: server.to_owned(),
            namespace: "vms".to_owned(),
            clients: Vec::new(),
        }
    }

    fn sight(objects: Vec<(Kind, ObjectMeta)>) -> Survey {
        Survey {
            objects,
            complete: Kind::ALL.map(Kind::name).to_vec(),
        }
    }

    fn living() -> Living {
        Living::new(&[Machine {
            name: "web-2".to_owned(),
            uid: "alive".to_owned(),
            ..Machine::default()
        }])
    }

    fn report(seen: &[(InfraNamespace, Survey)]) -> Report {
        Report::new("c", seen, Vec::new(), Vec::new(), &living())
    }

    #[test]
    fn everything_is_listed_once_with_its_owner_vm_first_and_what_lives_is_not() {
        let mut objects = whole("web-1", "gone");
        objects.extend(whole("web-2", "alive"));
        objects.push(object(Kind::VirtualMachine, "theirs", json!({"app": "x"}), None));
        objects.push(object(Kind::Secret, "alone", of_machine("gone"), None));
        // By another address of the same cluster, too.
        let again = sight(whole("web-1", "gone"));
        let seen = [
            (infra_namespace("https://a"), sight(objects)),
            (infra_namespace("https://b"), again),
        ];
        let now = "2026-01-03T01:00:00Z".parse().unwrap();
        let table = report(&seen).table(now);
        let expected = "\
KIND                    NAMESPACE   NAME         MACHINE     OWNER                  AGE   UID
VirtualMachine          vms         web-1        web-1       <none>                 2d    VirtualMachine-web-1
DataVolume              vms         web-1        web-1       VirtualMachine/web-1   2d    DataVolume-web-1
PersistentVolumeClaim   vms         web-1        web-1       DataVolume/web-1       2d    PersistentVolumeClaim-web-1
Secret                  vms         web-1-data   web-1       VirtualMachine/web-1   2d    Secret-web-1-data
Secret                  vms         alone        <unknown>   <none>                 2d    Secret-alone
";
        assert_eq!(table, expected, "\n{table}");
    }

    #[test]
    fn two_clusters_are_distinguished() {
        let mut other = whole("web-3", "gone");
        let vm = &mut other[3].1;
        vm.deletion_timestamp = vm.creation_timestamp.clone();
        let seen = [
            (infra_namespace("https://a"), sight(whole("web-1", "gone"))),
            (infra_namespace("https://b"), sight(other)),
        ];
        let table = report(&seen).table("2026-01-01T00:05:00Z".parse().unwrap());
        let row = |start: &str| {
            let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            table.lines().map(words).find(|row| row[..3].join(" ") == start)
        };
        assert_eq!(
            row("VirtualMachine vms web-1").unwrap().last().unwrap(),
            "https://a"
        );
        let row = row("VirtualMachine vms web-3").unwrap();
        assert_eq!(row.last().unwrap(), "https://b");
        assert_eq!(row[5..7], ["5m,", "deleting"]);
    }

    #[test]
    fn without_vms_the_owners_of_their_objects_are_unknown() {
        let mut sight = sight(whole("web-1", "gone"));
        sight.objects.retain(|(kind, _)| *kind != Kind::VirtualMachine);
        sight.complete.retain(|kind| *kind != "VirtualMachine");
        let unseen = Skipped {
            what: "virtualmachines".to_owned(),
            why: "forbidden".to_owned(),
        };
        let report = Report::new(
            "c",
            &[(infra_namespace("https://a"), sight)],
            Vec::new(),
            vec![unseen],
            &living(),
        );
        assert!(report.orphans.is_empty(), "{:?}", report.orphans);
        assert!(report.warnings().contains("virtualmachines: forbidden\n"));
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        let report = report(&[(infra_namespace("https://a"), sight(whole("web-2", "alive")))]);
        let table = report.table(Timestamp::UNIX_EPOCH);
        assert!(
            table.starts_with("no orphans found") && table.contains("vms of https://a"),
            "{table}"
        );
        assert_eq!(report.warnings(), "");
    }

    #[test]
    fn programs_read_the_same() {
        let json = serde_json::to_value(report(&[(
            infra_namespace("https://a"),
            sight(whole("web-1", "gone")),
        )]))
        .unwrap();
        assert_eq!(json["clusterUID"], "c");
        assert_eq!(
            json["orphans"][1],
            json!({"kind": "DataVolume", "server": "https://a", "namespace": "vms", "name": "web-1", "machine": "web-1",
                "machineUID": "gone", "owner": "VirtualMachine/web-1", "uid": "DataVolume-web-1", "created": CREATED,
                "deleting": false})
        );
    }
}
