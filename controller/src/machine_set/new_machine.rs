//! A new Machine of a set.

use machinist_shared::api::names::{API_VERSION, annotation};
use serde_json::{Value, json};

use crate::cache::StoredMachineSet;

/// Kubernetes' own alphabet for generated names: no vowels, so no words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// How much of the set's name is in its Machines': with a dash and five characters, a label and a host name hold it.
const MAX_BASE: usize = 57;

/// A name for a Machine of the set called `set`.
pub(super) fn name(set: &str, random: [u8; 5]) -> String {
    let base = base(set);
    let suffix = random.map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
    format!("{base}-{}", String::from_iter(suffix))
}

/// Whether a Machine of the set called `set` may have that name.
pub(super) fn is_name_of(set: &str, name: &str) -> bool {
    let suffix = name
        .strip_prefix(base(set))
        .and_then(|rest| rest.strip_prefix('-'));
    suffix.is_some_and(|suffix| suffix.len() == 5 && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

fn base(set: &str) -> &str {
    // Names of objects are ASCII.
    let base = set.get(..MAX_BASE).unwrap_or(set);
    base.trim_end_matches(['-', '.'])
}

/// The reference by which the set controls its Machines.
pub(super) fn owner_reference(set: &StoredMachineSet) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "MachineSet",
        "name": set.name(),
        "uid": set.uid(),
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// A Machine of the set's template. What of the template's metadata names one certain object is left out.
pub(super) fn body(set: &StoredMachineSet, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "namespace": set.namespace(),
        "ownerReferences": [owner_reference(set)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        let copied = set.template.pointer(&format!("/metadata/{field}"));
        if let Some(copied) = copied.filter(|value| !value.is_null()) {
            metadata[field] = copied.clone();
        }
    }
    // What is decided by hand is decided for one Machine, and a providerID is one's.
    if let Some(annotations) = metadata["annotations"].as_object_mut() {
        annotations.retain(|key, _| !annotation::ADMIN_DECISIONS.contains(&key.as_str()));
    }
    let mut spec = set
        .template
        .get("spec")
        .filter(|spec| !spec.is_null())
        .cloned()
        .unwrap_or(json!({}));
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("providerID");
    }
    json!({
        "apiVersion": API_VERSION,
        "kind": "Machine",
        "metadata": metadata,
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::its_own("workers", "workers-bcdfg", true)]
    #[case::anothers("workers", "workers-2-bcdfg", false)]
    #[case::a_longer_ones("workers-2", "workers-bcdfg", false)]
    #[case::no_suffix("workers", "workers", false)]
    #[case::of_a_name_that_is_cut(
        "a234567890123456789012345678901234567890123456789012345678901234567890",
        "a23456789012345678901234567890123456789012345678901234567-bcdfg",
        true
    )]
    fn names_of_a_sets_machines(#[case] set: &str, #[case] name: &str, #[case] expected: bool) {
        assert_eq!(is_name_of(set, name), expected);
    }

    #[rstest]
    #[case::a_short_one("workers", "workers-bcdfg")]
    #[case::a_long_one_is_cut(
        "a234567890123456789012345678901234567890123456789012345678901234567890",
        "a23456789012345678901234567890123456789012345678901234567-bcdfg"
    )]
    #[case::and_never_ends_in_a_dot(
        "a2345678901234567890123456789012345678901234567890123456.8",
        "a2345678901234567890123456789012345678901234567890123456-bcdfg"
    )]
    fn a_name_fits_a_label_and_a_host(#[case] set: &str, #[case] expected: &str) {
        let name = name(set, [0, 1, 2, 3, 4]);
        assert_eq!(name, expected);
        assert!(name.len() <= 63);
    }

    #[test]
    fn a_machine_gets_labels_annotations_finalizers_and_spec_of_the_template_and_nothing_else() {
        let set: StoredMachineSet = serde_json::from_value(json!({
            "metadata": {"name": "workers", "namespace": "ns", "uid": "u", "annotations": {"not": "copied"}},
            "spec": {"template": {
                "metadata": {
                    "name": "x", "generateName": "y", "uid": "z", "resourceVersion": "7", "creationTimestamp": null,
                    "namespace": "elsewhere", "ownerReferences": [{"kind": "Other", "uid": "o"}],
                    "labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["e/f"],
                },
                "spec": {"unknown": [1, null]},
            }},
        }))
        .unwrap();
        let owner = json!([{
            "apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineSet", "name": "workers", "uid": "u",
            "controller": true, "blockOwnerDeletion": true,
        }]);
        let expected = json!({
            "apiVersion": "cluster.k8s.io/v1alpha1", "kind": "Machine",
            "metadata": {
                "name": "workers-x", "namespace": "ns", "ownerReferences": owner,
                "labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["e/f"],
            },
            "spec": {"unknown": [1, null]},
        });
        assert_eq!(body(&set, "workers-x"), expected);
    }

    #[test]
    fn a_template_without_metadata_and_spec_makes_a_machine_for_admission_to_refuse() {
        let set: StoredMachineSet = serde_json::from_value(json!({
            "metadata": {"name": "workers", "namespace": "ns", "uid": "u"}, "spec": {"template": {"spec": null}},
        }))
        .unwrap();
        assert_eq!(body(&set, "workers-x")["spec"], json!({}));
    }
}
