//! virt-api's rules for a VirtualMachine, with its messages.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{dns, matchers};
use crate::instancetype::{Found, quantity};

/// One cause of a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// metav1.CauseType
    pub kind: &'static str,
    /// The message for the user.
    pub message: String,
    /// JSON path.
    pub field: String,
}

impl Cause {
    pub(super) fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: "FieldValueInvalid",
            message: message.into(),
            field: field.into(),
        }
    }

    pub(super) fn required(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: "FieldValueRequired",
            message: message.into(),
            field: field.into(),
        }
    }

    /// The cause as an API server shows it.
    pub fn json(&self) -> Value {
        json!({"reason": self.kind, "message": self.message, "field": self.field})
    }
}

const TEMPLATE: &str = "spec.template";
const SPEC: &str = "spec.template.spec";
const RESERVED_LABELS: [&str; 6] = [
    "kubevirt.io/created-by",
    "kubevirt.io/migrationJobUID",
    "kubevirt.io/nodeName",
    "kubevirt.io/migrationTargetNodeName",
    "kubevirt.io/schedulable",
    "kubevirt.io/install-strategy",
];
const RUN_STRATEGIES: [&str; 6] = [
    "Halted",
    "Manual",
    "Always",
    "RerunOnFailure",
    "Once",
    "WaitAsReceiver",
];
const EVICTION_STRATEGIES: [&str; 4] = ["None", "LiveMigrate", "LiveMigrateIfPossible", "External"];

/// All causes against a VM; `found` is its instancetype and preference, if they exist.
pub fn causes(vm: &Value, found: &Found) -> Vec<Cause> {
    let empty = json!({});
    let template = vm.pointer("/spec/template").unwrap_or(&empty);
    let spec = template.get("spec").unwrap_or(&empty);
    let mut causes = matchers::causes(vm);
    causes.extend(run_strategy(vm));
    let conflicts = found.conflicts(vm);
    if !conflicts.is_empty() {
        let message = format!(
            "VM field(s) {} conflicts with selected instance type",
            conflicts.join(", ")
        );
        causes.extend(
            conflicts
                .iter()
                .map(|field| Cause::invalid(field, message.clone()))
                .take(1),
        );
    }
    causes.extend(
        found
            .unmet()
            .map(|message| Cause::invalid("spec.instancetype", message)),
    );
    causes.extend(metadata(template));
    causes.extend(devices(spec));
    causes.extend(resources(spec));
    causes.extend(eviction(spec));
    causes.extend(dns::causes(spec));
    causes.extend(spread(spec));
    causes.extend(disks_of_templates(vm, spec));
    causes
}

pub(super) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn name(item: &Value) -> &str {
    item["name"].as_str().unwrap_or_default()
}

fn run_strategy(vm: &Value) -> Vec<Cause> {
    let running = vm.pointer("/spec/running").is_some_and(|value| !value.is_null());
    match (vm.pointer("/spec/runStrategy").and_then(Value::as_str), running) {
        (Some(_), true) => vec![Cause::invalid(
            "spec.running",
            "Running and RunStrategy are mutually exclusive. Note that Running is deprecated, please use RunStrategy instead",
        )],
        (None, false) => {
            vec![Cause::required(
                "spec.runStrategy",
                "One of Running or RunStrategy must be specified",
            )]
        }
        (Some(strategy), false) if !RUN_STRATEGIES.contains(&strategy) => {
            vec![Cause::invalid(
                "spec.runStrategy",
                format!("Invalid RunStrategy ({strategy})"),
            )]
        }
        _ => Vec::new(),
    }
}

fn metadata(template: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let has = |pointer: &str, key: &str| {
        template
            .pointer(pointer)
            .is_some_and(|map| map.get(key).is_some())
    };
    if RESERVED_LABELS.iter().any(|key| has("/metadata/labels", key)) {
        let message = "creation of the following reserved kubevirt.io/ labels on a VMI object is prohibited";
        causes.push(Cause {
            kind: "FieldValueNotSupported",
            message: message.to_owned(),
            field: format!("{TEMPLATE}.metadata.labels"),
        });
    }
    if has("/metadata/annotations", "kubevirt.io/ignitiondata") {
        let field = format!("{TEMPLATE}.metadata.annotations");
        let message = format!(
            "ExperimentalIgnitionSupport feature gate is not enabled in kubevirt-config, invalid entry {field}.kubevirt.io/ignitiondata"
        );
        causes.push(Cause::invalid(field, message));
    }
    causes
}

fn devices(spec: &Value) -> Vec<Cause> {
    let lists = [
        ("domain.devices.disks", "/domain/devices/disks"),
        ("domain.volumes", "/volumes"),
        ("domain.devices.interfaces", "/domain/devices/interfaces"),
        ("networks", "/networks"),
    ];
    let mut causes = Vec::new();
    for (field, pointer) in lists {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, item) in items(spec, pointer).iter().enumerate() {
            if let Some(other) = seen.insert(name(item), index) {
                let path = |index: usize| format!("{SPEC}.{field}[{index}]");
                let message = format!("{} and {} must not have the same Name.", path(index), path(other));
                causes.push(Cause::invalid(format!("{}.name", path(index)), message));
            }
        }
    }
    causes.extend(dangling(spec, "disks", "Name", "/volumes"));
    causes.extend(dangling(spec, "interfaces", "name", "/networks"));
    causes
}

/// Devices without the volume or network they are named after.
fn dangling(spec: &Value, list: &str, written: &str, backed_by: &str) -> Vec<Cause> {
    let known: BTreeSet<&str> = items(spec, backed_by).iter().map(name).collect();
    let devices = items(spec, &format!("/domain/devices/{list}")).iter().enumerate();
    let missing = devices
        .filter(|(_, device)| !known.contains(name(device)))
        .map(|(index, device)| {
            let path = format!("{SPEC}.domain.devices.{list}[{index}]");
            Cause::invalid(
                format!("{path}.name"),
                format!("{path}.{written} '{}' not found.", name(device)),
            )
        });
    missing.collect()
}

fn resources(spec: &Value) -> Vec<Cause> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let of = |list: &str, name: &str| text(spec.pointer(&format!("/domain/resources/{list}/{name}"))?);
    let path = |list: &str, name: &str| format!("{SPEC}.domain.resources.{list}.{name}");
    let mut causes = Vec::new();
    for name in ["memory", "cpu"] {
        if let (Some(request), Some(limit)) = (of("requests", name), of("limits", name))
            && let (Some(requested), Some(limited)) = (quantity(&request), quantity(&limit))
            && requested > limited
        {
            let field = path("requests", name);
            let message = format!(
                "{field} '{request}' is greater than {} '{limit}'",
                path("limits", name)
            );
            causes.push(Cause::invalid(field, message));
        }
    }
    for list in ["requests", "limits"] {
        let Some(text) = of(list, "memory") else { continue };
        let (field, amount) = (path(list, "memory"), quantity(&text));
        let least = if text.starts_with('-') {
            "0"
        } else if list == "requests" && amount > quantity("0") && amount < quantity("1M") {
            "1M"
        } else {
            continue;
        };
        let message = format!("{field} '{text}': must be greater than or equal to {least}.");
        causes.push(Cause::invalid(field, message));
    }
    causes
}

fn eviction(spec: &Value) -> Option<Cause> {
    let strategy = spec.get("evictionStrategy")?.as_str()?;
    (!EVICTION_STRATEGIES.contains(&strategy)).then(|| {
        let field = format!("{SPEC}.evictionStrategy");
        Cause::invalid(
            field.clone(),
            format!("{field} is set with an unrecognized option: {strategy}"),
        )
    })
}

fn spread(spec: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let constraints = items(spec, "/topologySpreadConstraints");
    for (index, constraint) in constraints.iter().enumerate() {
        let path = format!("{SPEC}.topologySpreadConstraints[{index}]");
        let mut say = |field: String, text: String| {
            causes.push(Cause::invalid(field.clone(), format!("{field}: {text}")));
        };
        let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            say(
                format!("{path}.maxSkew"),
                format!("Invalid value: {skew}: must be greater than zero"),
            );
        }
        let key = constraint["topologyKey"].as_str().unwrap_or_default();
        if key.is_empty() {
            say(
                format!("{path}.topologyKey"),
                "Required value: can not be empty".to_owned(),
            );
        }
        let action = constraint["whenUnsatisfiable"].as_str().unwrap_or_default();
        let repeats = |other: &Value| other["topologyKey"] == key && other["whenUnsatisfiable"] == action;
        if constraints[index + 1..].iter().any(repeats) {
            let field = format!("{path}.{{topologyKey, whenUnsatisfiable}}");
            say(field, format!("Duplicate value: \"{{{key}, {action}}}\""));
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action) {
            // KubeVirt's schema, which knows no index.
            let field = "spec.template.spec.topologySpreadConstraints.whenUnsatisfiable";
            causes.push(Cause {
                kind: "",
                message: format!("{field} in body should be one of [DoNotSchedule ScheduleAnyway]"),
                field: String::new(),
            });
        }
    }
    causes
}

fn disks_of_templates(vm: &Value, spec: &Value) -> Vec<Cause> {
    let used: BTreeSet<&str> = items(spec, "/volumes")
        .iter()
        .filter_map(|volume| {
            let claim = volume.pointer("/persistentVolumeClaim/claimName");
            volume.pointer("/dataVolume/name").or(claim)?.as_str()
        })
        .collect();
    let mut causes = Vec::new();
    for (index, template) in items(vm, "/spec/dataVolumeTemplates").iter().enumerate() {
        let path = format!("spec.dataVolumeTemplate[{index}]");
        let name = template
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if name.is_empty() {
            causes.push(Cause::required(
                format!("{path}.name"),
                format!("'name' field must not be empty for DataVolumeTemplate entry {path}."),
            ));
        } else if !used.contains(name) {
            let message = format!(
                "DataVolumeTemplate entry {path} must be referenced in the VMI template's 'volumes' list"
            );
            causes.push(Cause::invalid(path, message));
        }
    }
    causes
}

/// The error of Go's JSON decoder for numbers that the CRD's schema accepts.
pub fn undecodable(vm: &Value) -> Option<String> {
    ["cores", "sockets", "threads"].iter().find_map(|field| {
        let number = vm
            .pointer(&format!("/spec/template/spec/domain/cpu/{field}"))?
            .as_i64()?;
        (number < 0).then(|| {
            format!(
                "json: cannot unmarshal number {number} into Go struct field \
                 VirtualMachineInstanceTemplateSpec.spec.template.spec.domain.cpu.{field} of type uint32"
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn vm(change: &Value) -> Value {
        let mut vm = json!({"spec": {
            "runStrategy": "Once",
            "dataVolumeTemplates": [{"metadata": {"name": "a"}}],
            "template": {
                "metadata": {"labels": {"kubevirt.io/vm": "a"}},
                "spec": {
                    "evictionStrategy": "External",
                    "domain": {"devices": {
                        "disks": [{"name": "d"}], "interfaces": [{"name": "default"}],
                    }, "resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "2Gi"}}},
                    "networks": [{"name": "default"}],
                    "volumes": [{"name": "d", "dataVolume": {"name": "a"}}],
                },
            },
        }});
        json_patch::merge(&mut vm, &json!({"spec": change}));
        vm
    }

    fn spec(change: &Value) -> Value {
        vm(&json!({"template": {"spec": change}}))
    }

    #[test]
    fn an_ordinary_vm_is_admitted() {
        assert_eq!(causes(&vm(&json!({})), &Found::default()), []);
    }

    #[rstest]
    #[case::reserved_label(vm(&json!({"template": {"metadata": {"labels": {"kubevirt.io/created-by": "x"}}}})), "creation of the following reserved kubevirt.io/ labels on a VMI object is prohibited")]
    #[case::ignition(vm(&json!({"template": {"metadata": {"annotations": {"kubevirt.io/ignitiondata": "{}"}}}})), "ExperimentalIgnitionSupport feature gate is not enabled")]
    #[case::dns_none(spec(&json!({"dnsPolicy": "None"})), "must provide `dnsConfig` when `dnsPolicy` is None")]
    #[case::dns_none_without_servers(spec(&json!({"dnsPolicy": "None", "dnsConfig": {}})), "must provide at least one DNS nameserver")]
    #[case::four_servers(spec(&json!({"dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}})), "more than 3 nameservers")]
    #[case::disk_without_volume(spec(&json!({"domain": {"devices": {"disks": [{"name": "x"}]}}})), "spec.template.spec.domain.devices.disks[0].Name 'x' not found.")]
    #[case::interface_without_network(spec(&json!({"networks": []})), "spec.template.spec.domain.devices.interfaces[0].name 'default' not found.")]
    #[case::same_disk_twice(spec(&json!({"domain": {"devices": {"disks": [{"name": "d"}, {"name": "d"}]}}})), "disks[1] and spec.template.spec.domain.devices.disks[0] must not have the same Name.")]
    #[case::empty_when(spec(&json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": ""}]})), "whenUnsatisfiable in body should be one of")]
    #[case::no_skew(spec(&json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}]})), "must be greater than zero")]
    #[case::no_key(spec(&json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "", "whenUnsatisfiable": "DoNotSchedule"}]})), "topologyKey: Required value")]
    #[case::eviction(spec(&json!({"evictionStrategy": "Sometimes"})), "is set with an unrecognized option: Sometimes")]
    #[case::requests(spec(&json!({"domain": {"resources": {"requests": {"memory": "3Gi"}}}})), "requests.memory '3Gi' is greater than spec.template.spec.domain.resources.limits.memory '2Gi'")]
    #[case::unused_template(vm(&json!({"dataVolumeTemplates": [{"metadata": {"name": "b"}}]})), "DataVolumeTemplate entry spec.dataVolumeTemplate[0] must be referenced")]
    #[case::no_strategy(vm(&json!({"runStrategy": null})), "One of Running or RunStrategy must be specified")]
    #[case::strategy(vm(&json!({"runStrategy": "Perhaps"})), "Invalid RunStrategy (Perhaps)")]
    #[case::both(vm(&json!({"running": true})), "mutually exclusive")]
    fn what_kubevirt_refuses_is_refused_for_one_cause(#[case] vm: Value, #[case] message: &str) {
        let causes = causes(&vm, &Found::default());
        assert_eq!(causes.len(), 1, "{causes:?}");
        assert!(causes[0].message.contains(message), "{causes:?}");
    }

    #[test]
    fn the_same_constraint_twice_is_refused() {
        let one = json!({"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"});
        let vm = spec(&json!({"topologySpreadConstraints": [one, one]}));
        assert!(
            causes(&vm, &Found::default())[0]
                .message
                .contains("Duplicate value")
        );
    }

    #[test]
    fn negative_cores_do_not_decode() {
        let vm = spec(&json!({"domain": {"cpu": {"cores": -2}}}));
        assert!(
            undecodable(&vm)
                .unwrap()
                .starts_with("json: cannot unmarshal number -2")
        );
    }
}
