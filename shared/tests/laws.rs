//! Laws of admission, for whatever JSON comes: nothing panics, defaulting twice is defaulting once, what defaults make
//! of a valid object is valid, patches lead where they say, and writing nothing is never a change.

use machinist_shared::admission::{
    AdmissionSettings, Author, mutate_create, mutate_deployment, mutate_update, patch, validate_create,
    validate_deployment, validate_update,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Keys that mean something somewhere, in their spelling and out of it.
const KEYS: &[&str] = &[
    "metadata",
    "name",
    "labels",
    "annotations",
    "spec",
    "status",
    "providerSpec",
    "value",
    "cloudProvider",
    "CloudProvider",
    "cloudProviderSpec",
    "operatingSystem",
    "operatingSystemSpec",
    "network",
    "dns",
    "servers",
    "versions",
    "kubelet",
    "taints",
    "effect",
    "sshPublicKeys",
    "virtualMachine",
    "template",
    "primaryDisk",
    "size",
    "secretKeyRef",
    "location",
    "region",
    "selector",
    "matchLabels",
    "replicas",
    "strategy",
    "maxSurge",
    "x",
];
const TEXTS: &[&str] = &[
    "",
    "kubevirt",
    "ubuntu",
    "flatcar",
    "rhel",
    "1.33.4",
    "m",
    "10Gi",
    "true",
    "NoSchedule",
    "é\u{0}",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(TEXTS).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(KEYS), inner), 0..6)
                .prop_map(|entries| entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

/// A machine with up to three of its values replaced by anything.
fn broken_machine() -> impl Strategy<Value = Value> {
    let hits = proptest::collection::vec((any::<proptest::sample::Index>(), any_json()), 0..3);
    hits.prop_map(|hits| {
        let mut machine = machine();
        for (index, value) in hits {
            let pointers = pointers(&machine, "").split_off(1);
            if let Some(place) = machine.pointer_mut(&pointers[index.index(pointers.len())]) {
                *place = value;
            }
        }
        machine
    })
}

/// A machine that differs from another one only in what no typed client can tell.
fn noisy(machine: &Value, holes: [bool; 6]) -> Value {
    let mut noisy = machine.clone();
    let additions = [
        ("/spec", "taints", json!([])),
        ("/spec", "configSource", json!(null)),
        ("/spec/metadata", "creationTimestamp", json!(null)),
        ("/spec/metadata", "finalizers", json!([])),
        ("/spec/versions", "controlPlane", json!("")),
        ("/spec", "unknown", json!({"x": 1})),
    ];
    for ((place, key, value), on) in additions.into_iter().zip(holes) {
        if let Some(object) = noisy
            .pointer_mut(place)
            .and_then(Value::as_object_mut)
            .filter(|_| on)
        {
            object.insert(key.to_owned(), value);
        }
    }
    noisy
}

fn pointers(value: &Value, at: &str) -> Vec<String> {
    let mut found = vec![at.to_owned()];
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            let key = key.replace('~', "~0").replace('/', "~1");
            found.extend(pointers(value, &format!("{at}/{key}")));
        }),
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(i, item)| found.extend(pointers(item, &format!("{at}/{i}"))));
        }
        _ => {}
    }
    found
}

fn machine() -> Value {
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1", "kind": "Machine",
        "metadata": {"name": "m", "namespace": "kube-system"},
        "spec": {
            "metadata": {"labels": {"a": "b"}},
            "taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}],
            "versions": {"kubelet": "1.33.4"},
            "providerSpec": {"value": {
                "sshPublicKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJa9IV9papNfkLQvGSqhTbbfHPixDI1P5gZVciP+4YjQ"],
                "cloudProvider": "kubevirt", "operatingSystem": "ubuntu",
                "cloudProviderSpec": {
                    "auth": {"kubeconfig": {"secretKeyRef": {"namespace": "a", "name": "b", "key": "c"}}},
                    "clusterName": "c",
                    "virtualMachine": {
                        "location": {"region": "r", "zone": "z"},
                        "template": {
                            "cpus": 2, "memory": "4Gi",
                            "primaryDisk": {"osImage": "http://images/ubuntu.img", "size": "10Gi", "storageClassName": "standard"},
                        },
                    },
                },
            }},
        },
    })
}

fn deployment(template: &Value) -> Value {
    json!({
        "metadata": {"name": "d"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": template["spec"]},
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_and_every_error_has_a_place(a in any_json(), b in broken_machine()) {
        let settings = AdmissionSettings::default();
        for (old, new) in [(&a, &b), (&b, &a)] {
            let created = validate_create(&mutate_create(new, &settings), Author::Person, &settings);
            let updated = validate_update(old, &mutate_update(old, new), &settings);
            let rolled = validate_deployment(Some(old), &mutate_deployment(Some(old), new, &settings), &settings);
            for error in created.errors.iter().chain(&updated.errors).chain(&rolled.errors) {
                prop_assert!(!error.path.to_string().is_empty(), "{error}");
            }
        }
    }

    #[test]
    fn defaulting_twice_is_defaulting_once(machine in broken_machine()) {
        let settings = AdmissionSettings::default();
        let once = mutate_create(&machine, &settings);
        prop_assert_eq!(&mutate_create(&once, &settings), &once);
        let once = mutate_deployment(None, &deployment(&machine), &settings);
        prop_assert_eq!(&mutate_deployment(None, &once, &settings), &once);
        // What is stored stays stored: an update that changes nothing changes nothing.
        prop_assert_eq!(&mutate_deployment(Some(&once), &once, &settings), &once);
    }

    #[test]
    fn what_defaults_make_of_a_valid_object_is_valid(machine in broken_machine()) {
        let settings = AdmissionSettings::default();
        prop_assume!(validate_create(&machine, Author::Person, &settings).is_ok());
        let report = validate_create(&mutate_create(&machine, &settings), Author::Person, &settings);
        prop_assert!(report.is_ok(), "{:?}", report.errors);
    }

    #[test]
    fn a_patch_leads_where_it_says(machine in broken_machine()) {
        let stored = mutate_create(&machine, &AdmissionSettings::default());
        let mut patched = machine.clone();
        json_patch::patch(&mut patched, &patch(&machine, &stored).0).unwrap();
        prop_assert_eq!(patched, stored);
    }

    #[test]
    fn writing_back_what_is_stored_is_never_refused(machine in broken_machine()) {
        let settings = AdmissionSettings::default();
        let report = validate_update(&machine, &mutate_update(&machine, &machine), &settings);
        prop_assert!(report.is_ok(), "{:?}", report.errors);
        let stored = deployment(&machine);
        let report = validate_deployment(Some(&stored), &mutate_deployment(Some(&stored), &stored, &settings), &settings);
        prop_assert!(report.is_ok(), "{:?}", report.errors);
    }

    #[test]
    fn what_no_typed_client_can_tell_is_no_change(before: [bool; 6], after: [bool; 6]) {
        let settings = AdmissionSettings::default();
        let (old, new) = (noisy(&machine(), before), noisy(&machine(), after));
        let report = validate_update(&old, &mutate_update(&old, &new), &settings);
        // The base has a taint that the noise takes away; everything else is noise.
        prop_assert_eq!(report.is_ok(), before[0] == after[0], "{:?}", report.errors);
    }

    #[test]
    fn our_set_controller_is_refused_for_less(machine in broken_machine()) {
        let settings = AdmissionSettings::default();
        let person = validate_create(&machine, Author::Person, &settings);
        let controller = validate_create(&machine, Author::SetController, &settings);
        prop_assert!(controller.errors.iter().all(|error| person.errors.contains(error)));
    }
}

#[test]
fn the_base_of_these_laws_is_valid() {
    let settings = AdmissionSettings::default();
    let report = validate_create(&machine(), Author::Person, &settings);
    assert!(
        report.errors.is_empty() && report.warnings.is_empty(),
        "{report:?}"
    );
    let deployment = mutate_deployment(None, &deployment(&machine()), &settings);
    let report = validate_deployment(None, &deployment, &settings);
    assert!(
        report.errors.is_empty() && report.warnings.is_empty(),
        "{report:?}"
    );
}
