//! Facts about the infra cluster that rendering a VM requires.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::resolved::ResolvedSpec;
use super::source::{SourceKind, source_kind};
use super::spec::ACCESS_MODES;

/// The facts to read.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct FactsNeeded {
    /// The StorageClass of the primary disk, for its topology.
    pub storage_class: String,
    /// StorageProfiles, for access and volume modes that the spec does not set.
    pub storage_profiles: Vec<String>,
    /// The instancetype, to determine its kind.
    pub instancetype: Option<NamedInstancetype>,
    /// Secret with headers for the image's download.
    pub extra_headers_secret: Option<String>,
}

/// An instancetype that a spec names.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct NamedInstancetype {
    /// Its name.
    pub name: String,
    /// The kind in the spec, or empty.
    pub kind: String,
}

/// The facts.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Region of the primary disk's StorageClass, if it has exactly one.
    pub region: Option<String>,
    /// Zone of it, likewise.
    pub zone: Option<String>,
    /// Access mode to use, by StorageClass.
    pub access_modes: BTreeMap<String, String>,
    /// Access modes that a StorageClass offers for block devices only, after the StorageClass.
    pub block_only: BTreeSet<(String, String)>,
    /// Kind of the instancetype.
    pub instancetype_kind: Option<String>,
    /// Headers for the image's download, sorted.
    pub extra_headers: Vec<String>,
}

hidden!(FactsNeeded, NamedInstancetype, Facts);

/// The facts that rendering this spec requires.
pub fn facts_needed(spec: &ResolvedSpec) -> FactsNeeded {
    let disks = std::iter::once(&spec.primary_disk).chain(&spec.secondary_disks);
    let mut storage_profiles: Vec<String> = disks
        .filter(|disk| disk.by_profile)
        .map(|disk| disk.storage_class.clone())
        .collect();
    storage_profiles.sort();
    storage_profiles.dedup();
    let by_name = spec.instancetype.as_ref().filter(|it| !it.name.is_empty());
    FactsNeeded {
        storage_class: spec.primary_disk.storage_class.clone(),
        storage_profiles,
        instancetype: by_name.map(|it| NamedInstancetype {
            name: it.name.clone(),
            kind: it.kind.clone(),
        }),
        extra_headers_secret: Some(spec.image.extra_headers_secret.clone())
            .filter(|name| !name.is_empty() && source_kind(&spec.image) == SourceKind::Http),
    }
}

impl Facts {
    /// Facts that no infra cluster has, for comparing what is rendered of specs: a text that comes from a fact equals none
    /// that a spec can have, and every condition that a fact can meet is met.
    pub(super) fn placeholders(spec: &ResolvedSpec) -> Self {
        let needed = facts_needed(spec);
        let placeholder = || UNKNOWN.to_owned();
        let disks = || std::iter::once(&spec.primary_disk).chain(&spec.secondary_disks);
        let modes = disks().map(|disk| disk.access_mode.as_str());
        let modes = modes.chain(ACCESS_MODES).chain([UNKNOWN]);
        let block_only =
            modes.flat_map(|mode| disks().map(move |disk| (disk.storage_class.clone(), mode.to_owned())));
        Self {
            region: Some(placeholder()),
            zone: Some(placeholder()),
            access_modes: needed
                .storage_profiles
                .into_iter()
                .map(|class| (class, placeholder()))
                .collect(),
            block_only: block_only.collect(),
            instancetype_kind: needed.instancetype.map(|it| format!("{UNKNOWN}{}", it.kind)),
            extra_headers: needed
                .extra_headers_secret
                .map(|name| format!("{UNKNOWN}{name}"))
                .into_iter()
                .collect(),
        }
    }
}

/// A text that no field of a spec can have.
pub(super) const UNKNOWN: &str = "\0";

/// Region and zone of a StorageClass, from `allowedTopologies[].matchLabelExpressions[]`: a key with exactly one value
/// counts; one of these keys with none or several stops the scan.
pub fn topology<'a>(
    expressions: impl IntoIterator<Item = (&'a str, &'a [String])>,
) -> (Option<String>, Option<String>) {
    let (mut region, mut zone) = (None, None);
    for (key, values) in expressions {
        let found = match key {
            crate::api::names::label::REGION => &mut region,
            crate::api::names::label::ZONE => &mut zone,
            _ => continue,
        };
        match values {
            [one] => *found = Some(one.clone()),
            _ => break,
        }
    }
    (region, zone)
}

/// Access mode that a StorageProfile offers: ReadWriteMany if any claim property set has it.
pub fn access_mode<'a>(offered: impl IntoIterator<Item = &'a str>) -> &'static str {
    if offered.into_iter().any(|mode| mode == "ReadWriteMany") {
        "ReadWriteMany"
    } else {
        "ReadWriteOnce"
    }
}

/// The access modes of a StorageProfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimModes {
    /// The access mode to use.
    pub access_mode: &'static str,
    /// Access modes for block devices only: a claim without volume mode `Block` is never bound.
    pub block_only: Vec<&'static str>,
}

/// The access modes in `status.claimPropertySets` of a StorageProfile.
pub fn claim_modes(claim_property_sets: Option<&Value>) -> ClaimModes {
    let sets = claim_property_sets
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let modes = |set: &'_ Value| -> Vec<String> {
        let modes = set["accessModes"].as_array().into_iter().flatten();
        modes.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let sets: Vec<_> = sets
        .map(|set| (modes(set), set["volumeMode"] == "Block"))
        .collect();
    let access_mode = access_mode(sets.iter().flat_map(|(modes, _)| modes).map(String::as_str));
    let is_block_only = |wanted: &&str| {
        let mut with_it = sets
            .iter()
            .filter(|(modes, _)| modes.iter().any(|mode| mode == wanted))
            .peekable();
        with_it.peek().is_some() && with_it.all(|(_, block)| *block)
    };
    ClaimModes {
        access_mode,
        block_only: ACCESS_MODES.into_iter().filter(is_block_only).collect(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_with_one_value_counts_and_one_with_several_stops() {
        let one = vec!["a".to_owned()];
        let two = vec!["a".to_owned(), "b".to_owned()];
        let (region, zone) = topology([
            ("topology.kubernetes.io/region", one.as_slice()),
            ("other", two.as_slice()),
            ("topology.kubernetes.io/zone", two.as_slice()),
            ("topology.kubernetes.io/zone", one.as_slice()),
        ]);
        assert_eq!((region.as_deref(), zone), (Some("a"), None));
    }

    #[test]
    fn profiles_are_asked_for_disks_without_a_mode_of_their_own() {
        let disk = |class: &str, access_mode: &str, by_profile| super::super::resolved::Disk {
            storage_class: class.to_owned(),
            access_mode: access_mode.to_owned(),
            by_profile,
            ..Default::default()
        };
        let spec = ResolvedSpec {
            primary_disk: disk("named", "ReadWriteMany", false),
            secondary_disks: vec![disk("open", "", true), disk("inherited", "ReadWriteMany", true)],
            ..Default::default()
        };
        assert_eq!(facts_needed(&spec).storage_profiles, ["inherited", "open"]);
    }

    #[rstest]
    #[case::nothing(json!(null), "ReadWriteOnce", &[])]
    #[case::an_empty_list(json!([]), "ReadWriteOnce", &[])]
    #[case::no_modes(json!([{"volumeMode": "Block"}]), "ReadWriteOnce", &[])]
    #[case::one_writer(json!([{"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem"}]), "ReadWriteOnce", &[])]
    #[case::many_writers_are_preferred(json!([{"accessModes": ["ReadWriteOnce"]}, {"accessModes": ["ReadWriteMany"]}]), "ReadWriteMany", &[])]
    #[case::many_writers_on_blocks_only(json!([{"accessModes": ["ReadWriteMany"], "volumeMode": "Block"}, {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem"}]), "ReadWriteMany", &["ReadWriteMany"])]
    #[case::one_writer_on_blocks_only(json!([{"accessModes": ["ReadWriteMany"]}, {"accessModes": ["ReadWriteOnce"], "volumeMode": "Block"}]), "ReadWriteMany", &["ReadWriteOnce"])]
    #[case::many_writers_on_both(json!([{"accessModes": ["ReadWriteMany"], "volumeMode": "Block"}, {"accessModes": ["ReadWriteMany"], "volumeMode": "Filesystem"}]), "ReadWriteMany", &[])]
    fn what_a_profile_offers(#[case] sets: Value, #[case] access_mode: &str, #[case] block_only: &[&str]) {
        let got = claim_modes(Some(&sets));
        assert_eq!(
            (got.access_mode, got.block_only.as_slice()),
            (access_mode, block_only)
        );
    }
}
