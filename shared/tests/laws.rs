//! Laws of admission, for whatever JSON comes: nothing panics, defaulting twice is defaulting once, what defaults make
//! of a valid object is valid, patches lead where they say, and writing nothing is never a change.

use machinist_shared::admission::autoscaler;
use machinist_shared::admission::template::{equal, equal_in_place, hash};
use machinist_shared::admission::{
    AdmissionSettings, Author, mutate_create, mutate_deployment, mutate_set, mutate_update, patch,
    validate_create, validate_deployment, validate_set, validate_update,
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

/// A template that differs from another one only in how it is written; each number of `ways` stands for one way.
fn rewritten(template: &Value, ways: &[usize]) -> Value {
    let vm = "/spec/providerSpec/value/cloudProviderSpec/virtualMachine";
    let vm_template = format!("{vm}/template");
    let edits = [
        ("/metadata", "creationTimestamp", json!(null)),
        ("/metadata/labels", "machine-template-hash", json!("1")),
        ("/spec", "taints", json!(null)),
        ("/spec", "unknown", json!({"x": 1})),
        ("/spec/versions", "controlPlane", json!("")),
        ("/spec/providerSpec", "valueFrom", json!({})),
        ("/spec/providerSpec/value", "caPublicKey", json!("")),
        (
            "/spec/providerSpec/value",
            "network",
            json!({"dns": {"servers": null}}),
        ),
        (
            "/spec/providerSpec/value",
            "operatingSystemSpec",
            json!({"distUpgradeOnBoot": false}),
        ),
        (
            "/spec/providerSpec/value/cloudProviderSpec",
            "clusterName",
            json!({"value": "c"}),
        ),
        (vm, "enableNetworkMultiQueue", json!({"value": true})),
        (vm_template.as_str(), "cpus", json!("2000m")),
        (vm_template.as_str(), "memory", json!({"value": "4096Mi"})),
    ];
    let mut template = template.clone();
    for way in ways {
        let (place, key, value) = &edits[way % edits.len()];
        if let Some(object) = template.pointer_mut(place).and_then(Value::as_object_mut) {
            object.insert((*key).to_owned(), value.clone());
        }
    }
    template
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

/// Annotations that the cluster-autoscaler reads, of whatever texts.
fn annotations() -> impl Strategy<Value = Value> {
    const KEYS: [&str; 7] = [
        "cluster.k8s.io/cluster-api-autoscaler-node-group-min-size",
        "cluster.k8s.io/cluster-api-autoscaler-node-group-max-size",
        "capacity.cluster-autoscaler.kubernetes.io/cpu",
        "capacity.cluster-autoscaler.kubernetes.io/memory",
        "capacity.cluster-autoscaler.kubernetes.io/labels",
        "machinist.dev/autoscaler-capacity",
        "x",
    ];
    const TEXTS: [&str; 8] = [
        "",
        "0",
        "5",
        "x",
        "4Gi",
        "a=b",
        "{\"cpu\":\"5\",\"x\":\"y\"}",
        "{",
    ];
    let texts = (
        proptest::sample::select(&KEYS[..]),
        proptest::sample::select(&TEXTS[..]),
    );
    let texts = proptest::collection::vec(texts, 0..5);
    (any::<bool>(), texts).prop_map(|(group, texts)| {
        let sized = group.then_some((KEYS[1], TEXTS[2]));
        let texts = texts.into_iter().chain(sized);
        texts.map(|(key, text)| (key.to_owned(), json!(text))).collect()
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
            let updated = validate_update(old, &mutate_update(old, new), Author::Person, &settings);
            let rolled = validate_deployment(Some(old), &mutate_deployment(Some(old), new, &settings), &settings);
            let set = mutate_set(Some(old), new, Author::Person, &settings);
            let kept = validate_set(Some(old), &set, Author::Person, &settings);
            for error in created.errors.iter().chain(&updated.errors).chain(&rolled.errors).chain(&kept.errors) {
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
        let once = mutate_set(None, &deployment(&machine), Author::Person, &settings);
        prop_assert_eq!(&mutate_set(None, &once, Author::Person, &settings), &once);
        prop_assert_eq!(&mutate_set(Some(&once), &once, Author::Person, &settings), &once);
    }

    #[test]
    fn what_is_written_of_capacity_settles(
        machine in broken_machine(), annotations in annotations(), later in annotations(), instancetype in any_json(),
    ) {
        let settings = AdmissionSettings::default();
        let annotated = |annotations: &Value| {
            let mut object = deployment(&machine);
            object["metadata"]["annotations"] = annotations.clone();
            object
        };
        let once = mutate_deployment(None, &annotated(&annotations), &settings);
        prop_assert_eq!(&mutate_deployment(None, &once, &settings), &once);
        prop_assert_eq!(&mutate_deployment(Some(&once), &once, &settings), &once);
        let known = autoscaler::write(None, once.clone(), Some(&instancetype));
        prop_assert_eq!(&autoscaler::write(Some(&once), known.clone(), Some(&instancetype)), &known);
        // Not knowing it any more takes nothing away.
        prop_assert_eq!(&autoscaler::write(Some(&known), known.clone(), None), &known);
        let updated = mutate_deployment(Some(&known), &annotated(&later), &settings);
        prop_assert_eq!(&mutate_deployment(Some(&known), &updated, &settings), &updated);
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
        let report = validate_update(&machine, &mutate_update(&machine, &machine), Author::Person, &settings);
        prop_assert!(report.is_ok(), "{:?}", report.errors);
        let stored = deployment(&machine);
        let report = validate_deployment(Some(&stored), &mutate_deployment(Some(&stored), &stored, &settings), &settings);
        prop_assert!(report.is_ok(), "{:?}", report.errors);
        let written = mutate_set(Some(&stored), &stored, Author::Person, &settings);
        let report = validate_set(Some(&stored), &written, Author::Person, &settings);
        prop_assert!(report.is_ok(), "{:?}", report.errors);
    }

    #[test]
    fn what_no_typed_client_can_tell_is_no_change(before: [bool; 6], after: [bool; 6]) {
        let settings = AdmissionSettings::default();
        let (old, new) = (noisy(&machine(), before), noisy(&machine(), after));
        let report = validate_update(&old, &mutate_update(&old, &new), Author::Person, &settings);
        // The base has a taint that the noise takes away; everything else is noise.
        prop_assert_eq!(report.is_ok(), before[0] == after[0], "{:?}", report.errors);
    }

    #[test]
    fn what_admission_fills_in_is_no_other_template(machine in broken_machine(), later in broken_machine()) {
        let settings = AdmissionSettings::default();
        let written = deployment(&machine);
        let stored = mutate_deployment(None, &written, &settings);
        prop_assert!(equal(&written["spec"]["template"], &stored["spec"]["template"]));
        let written = deployment(&later);
        let updated = mutate_deployment(Some(&stored), &written, &settings);
        let at_once = mutate_deployment(None, &written, &settings);
        // What is kept of the stored labels may be what the author wrote once, and is there to stay.
        if updated["spec"]["template"]["spec"]["metadata"]["labels"] == at_once["spec"]["template"]["spec"]["metadata"]["labels"] {
            prop_assert!(equal(&written["spec"]["template"], &updated["spec"]["template"]));
        }
    }

    #[test]
    fn equality_of_templates_is_one(
        bases in proptest::collection::vec(broken_machine(), 2),
        picks in proptest::collection::vec((0..2_usize, proptest::collection::vec(any::<usize>(), 0..6)), 3),
    ) {
        let templates = picks.iter().map(|(base, ways)| {
            rewritten(&deployment(&bases[*base])["spec"]["template"], ways)
        });
        let templates = templates.collect::<Vec<_>>();
        let [a, b, c] = &templates[..] else { unreachable!() };
        for one in &templates {
            prop_assert!(equal(one, &one.clone()));
            for other in &templates {
                prop_assert_eq!(equal(one, other), equal(other, one));
                prop_assert!(!equal(one, other) || (hash(one) == hash(other) && equal_in_place(one, other)));
            }
        }
        prop_assert!(!(equal(a, b) && equal(b, c)) || equal(a, c));
        prop_assert!(!(equal_in_place(a, b) && equal_in_place(b, c)) || equal_in_place(a, c));
    }

    #[test]
    fn how_a_template_is_written_is_no_difference(ways in proptest::collection::vec(any::<usize>(), 0..13)) {
        let mut machine = machine();
        machine["spec"].as_object_mut().unwrap().remove("taints");
        let template = deployment(&machine)["spec"]["template"].clone();
        let other = rewritten(&template, &ways);
        prop_assert!(equal(&template, &other), "{other:#}");
        prop_assert_eq!(hash(&template), hash(&other));
    }

    #[test]
    fn our_set_controller_is_refused_for_less(machine in broken_machine()) {
        let settings = AdmissionSettings::default();
        let person = validate_create(&machine, Author::Person, &settings);
        let controller = validate_create(&machine, Author::SetController, &settings);
        prop_assert!(controller.errors.iter().all(|error| person.errors.contains(error)));
        let set = deployment(&machine);
        let person = validate_set(None, &set, Author::Person, &settings);
        let controller = validate_set(None, &set, Author::SetController, &settings);
        prop_assert!(controller.errors.iter().all(|error| person.errors.contains(error)));
        prop_assert_eq!(&mutate_set(None, &set, Author::SetController, &settings), &set);
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
