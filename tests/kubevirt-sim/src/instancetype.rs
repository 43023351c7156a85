//! Instancetypes and preferences: lookup, conflicts, and their effect on a VMI.

use std::sync::Arc;

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube_quantity::ParsedQuantity;
use serde_json::Value;

use crate::objects::{Kind, text};
use crate::world::World;

/// Why a VM with an instancetype or preference is not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFound {
    /// Reason of the VM's Failure condition.
    pub reason: &'static str,
    /// Message of the VM's Failure condition.
    pub message: String,
}

/// The instancetype and the preference of a VM, as far as they exist.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The instancetype.
    pub instancetype: Option<(Kind, Arc<DynamicObject>)>,
    /// The preference.
    pub preference: Option<(Kind, Arc<DynamicObject>)>,
}

/// Finds the VM's instancetype and preference.
pub fn find(world: &World, vm: &DynamicObject) -> Result<Found, NotFound> {
    let instancetype = look_up(world, vm, "instancetype").map_err(|message| NotFound {
        reason: "FailedFindInstancetype",
        message,
    })?;
    let preference = look_up(world, vm, "preference").map_err(|message| NotFound {
        reason: "FailedFindPreference",
        message,
    })?;
    Ok(Found {
        instancetype,
        preference,
    })
}

fn look_up(
    world: &World,
    vm: &DynamicObject,
    field: &str,
) -> Result<Option<(Kind, Arc<DynamicObject>)>, String> {
    let Some(name) = text(vm, &format!("/spec/{field}/name")).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    // A kind that is not given means the cluster-wide one; singular and plural are both understood.
    let wanted = text(vm, &format!("/spec/{field}/kind"))
        .unwrap_or_default()
        .to_lowercase();
    let namespaced = matches!(
        wanted.trim_end_matches('s'),
        "virtualmachineinstancetype" | "virtualmachinepreference"
    );
    let kind = match (field, namespaced) {
        ("instancetype", true) => Kind::Instancetype,
        ("instancetype", false) => Kind::ClusterInstancetype,
        (_, true) => Kind::Preference,
        (_, false) => Kind::ClusterPreference,
    };
    let found = world.get(kind, name).ok_or_else(|| {
        let resource = kind.resource();
        format!("{}.{} \"{name}\" not found", resource.plural, resource.group)
    })?;
    Ok(Some((kind, Arc::clone(found))))
}

impl Found {
    /// Fields of the VM that the instancetype sets, and that the VM must therefore not set.
    pub fn conflicts(&self, vm: &Value) -> Vec<String> {
        const OWNED: [&str; 9] = [
            "domain.cpu.cores",
            "domain.cpu.sockets",
            "domain.cpu.threads",
            "domain.memory.guest",
            "domain.memory.hugepages",
            "domain.resources.requests.cpu",
            "domain.resources.requests.memory",
            "domain.resources.limits.cpu",
            "domain.resources.limits.memory",
        ];
        if self.instancetype.is_none() {
            return Vec::new();
        }
        let conflicts = OWNED.iter().filter(|path| {
            let pointer = format!("/spec/template/spec/{}", path.replace('.', "/"));
            vm.pointer(&pointer)
                .is_some_and(|value| !value.is_null() && *value != 0)
        });
        conflicts
            .map(|path| format!("spec.template.spec.{path}"))
            .collect()
    }

    /// Requirements of the preference that the instancetype does not meet.
    pub fn unmet(&self) -> Option<String> {
        let (_, instancetype) = self.instancetype.as_ref()?;
        let (_, preference) = self.preference.as_ref()?;
        let vcpus =
            |object: &DynamicObject, pointer: &str| object.data.pointer(pointer).and_then(Value::as_u64);
        let wanted = vcpus(preference, "/spec/requirements/cpu/guest");
        if let (Some(wanted), Some(given)) = (wanted, vcpus(instancetype, "/spec/cpu/guest"))
            && given < wanted
        {
            return Some(format!(
                "failure checking preference requirements: insufficient CPU resources of {given} vCPU provided by instance type, preference requires {wanted} vCPU"
            ));
        }
        let wanted = text(preference, "/spec/requirements/memory/guest")?;
        let given = text(instancetype, "/spec/memory/guest")?;
        (quantity(given)? < quantity(wanted)?).then(|| {
            format!(
                "failure checking preference requirements: insufficient Memory resources of {given} provided by instance type, preference requires {wanted}"
            )
        })
    }

    /// Writes the instancetype's CPU and memory into a VMI's spec.
    pub fn apply(&self, spec: &mut Value) {
        let Some((_, instancetype)) = &self.instancetype else {
            return;
        };
        if let Some(guest) = instancetype.data.pointer("/spec/cpu/guest") {
            spec["domain"]["cpu"] = serde_json::json!({"sockets": guest, "cores": 1, "threads": 1});
        }
        if let Some(guest) = instancetype.data.pointer("/spec/memory/guest") {
            spec["domain"]["memory"]["guest"] = guest.clone();
        }
    }

    /// Annotations that name both on the VMI.
    pub fn annotations(&self) -> Vec<(String, String)> {
        let named = [&self.instancetype, &self.preference].into_iter().flatten();
        let pairs = named.map(|(kind, object)| {
            let key = match kind {
                Kind::Instancetype => "kubevirt.io/instancetype-name",
                Kind::ClusterInstancetype => "kubevirt.io/cluster-instancetype-name",
                Kind::Preference => "kubevirt.io/preference-name",
                _ => "kubevirt.io/cluster-preference-name",
            };
            (key.to_owned(), object.name_any())
        });
        pairs.collect()
    }

    /// `status.instancetypeRef` and `status.preferenceRef` of the VM.
    pub fn references(&self, vm: &str) -> Vec<(&'static str, Value)> {
        let named = [
            ("instancetypeRef", &self.instancetype),
            ("preferenceRef", &self.preference),
        ];
        let references = named.into_iter().filter_map(|(field, found)| {
            let (kind, object) = found.as_ref()?;
            let name = object.name_any();
            let revision = format!(
                "{vm}-{name}-v1beta1-{}-{}",
                object.uid().unwrap_or_default(),
                object.metadata.generation.unwrap_or(1)
            );
            let reference = serde_json::json!({
                "name": name, "kind": kind.resource().kind.to_lowercase(),
                "controllerRevisionRef": {"name": revision},
            });
            Some((field, reference))
        });
        references.collect()
    }
}

/// A quantity, for comparison.
pub fn quantity(text: &str) -> Option<ParsedQuantity> {
    ParsedQuantity::try_from(text).ok()
}

/// A quantity of CPUs, rounded up.
pub fn whole_cpus(text: &str) -> Option<u64> {
    let cpus = quantity(text)?.to_bytes_f64()?.ceil();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded, positive and far below 2^52: no digit is lost"
    )]
    (cpus >= 0.0).then_some(cpus as u64)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::objects::object;

    fn world() -> World {
        let mut world = World::default();
        let small = json!({"spec": {"cpu": {"guest": 1}, "memory": {"guest": "1Gi"}}});
        world.learn(Kind::Instancetype, object(Kind::Instancetype, "small", small));
        let big = json!({"spec": {"requirements": {"cpu": {"guest": 2}}}});
        world.learn(Kind::Preference, object(Kind::Preference, "big", big));
        world
    }

    fn vm(spec: &Value) -> DynamicObject {
        object(Kind::Vm, "a", json!({"spec": spec}))
    }

    #[rstest]
    #[case::namespaced("VirtualMachineInstancetype", "virtualmachineinstancetypes")]
    #[case::cluster("VirtualMachineClusterInstancetype", "virtualmachineclusterinstancetypes")]
    #[case::absent("", "virtualmachineclusterinstancetypes")]
    fn an_unknown_instancetype_is_named_as_kubevirt_names_it(#[case] kind: &str, #[case] plural: &str) {
        let error = find(
            &world(),
            &vm(&json!({"instancetype": {"name": "nope", "kind": kind}})),
        )
        .unwrap_err();
        assert_eq!(
            error.message,
            format!("{plural}.instancetype.kubevirt.io \"nope\" not found")
        );
        assert_eq!(error.reason, "FailedFindInstancetype");
    }

    #[test]
    fn fields_that_the_instancetype_decides_conflict() {
        let vm = vm(&json!({
            "instancetype": {"name": "small", "kind": "VirtualMachineInstancetype"},
            "template": {"spec": {"domain": {"cpu": {"cores": 2}, "resources": {"requests": {"memory": "1Gi"}}}}},
        }));
        let found = find(&world(), &vm).unwrap();
        let expected = [
            "spec.template.spec.domain.cpu.cores",
            "spec.template.spec.domain.resources.requests.memory",
        ];
        assert_eq!(found.conflicts(&vm.data), expected);
    }

    #[test]
    fn a_preference_may_want_more_than_the_instancetype_gives() {
        let vm = vm(&json!({
            "instancetype": {"name": "small", "kind": "VirtualMachineInstancetype"},
            "preference": {"name": "big", "kind": "VirtualMachinePreference"},
        }));
        let unmet = find(&world(), &vm).unwrap().unmet().unwrap();
        assert!(unmet.contains("insufficient CPU resources of 1 vCPU"), "{unmet}");
    }

    #[rstest]
    #[case("2", Some(2))]
    #[case("1500m", Some(2))]
    #[case("x", None)]
    fn cpus_are_rounded_up(#[case] text: &str, #[case] expected: Option<u64>) {
        assert_eq!(whole_cpus(text), expected);
    }
}
