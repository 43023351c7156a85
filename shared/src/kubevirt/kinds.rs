//! Kinds of instancetypes and preferences, in every spelling that KubeVirt accepts: any letter case, singular or
//! plural.

/// Kind of a namespaced instancetype.
pub const INSTANCETYPE: &str = "VirtualMachineInstancetype";
/// Kind of a cluster-wide instancetype.
pub const CLUSTER_INSTANCETYPE: &str = "VirtualMachineClusterInstancetype";
/// Kind of a namespaced preference.
pub const PREFERENCE: &str = "VirtualMachinePreference";
/// Kind of a cluster-wide preference.
pub const CLUSTER_PREFERENCE: &str = "VirtualMachineClusterPreference";

/// Both kinds of instancetypes, in the order in which a name without a kind is resolved.
pub const INSTANCETYPES: [&str; 2] = [INSTANCETYPE, CLUSTER_INSTANCETYPE];
/// Both kinds of preferences.
pub const PREFERENCES: [&str; 2] = [PREFERENCE, CLUSTER_PREFERENCE];

/// The kind in `kinds` that `written` denotes.
pub fn canonical(written: &str, kinds: [&'static str; 2]) -> Option<&'static str> {
    let written = written.to_ascii_lowercase();
    let one = written.strip_suffix('s').unwrap_or(&written);
    kinds.into_iter().find(|kind| kind.eq_ignore_ascii_case(one))
}

/// Both kinds of instancetypes, with the kind in the spec first: machine-controller uses any kind with that name, and
/// its specs must work with Machinist.
pub fn instancetypes(asked: &str) -> [&'static str; 2] {
    let [first, second] = INSTANCETYPES;
    if asked == second {
        [second, first]
    } else {
        [first, second]
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::as_it_is("VirtualMachineInstancetype", Some(INSTANCETYPE))]
    #[case::in_lower_case("virtualmachineinstancetype", Some(INSTANCETYPE))]
    #[case::of_the_cluster("VirtualMachineClusterInstanceType", Some(CLUSTER_INSTANCETYPE))]
    #[case::many("virtualmachineclusterinstancetypes", Some(CLUSTER_INSTANCETYPE))]
    #[case::a_preference("VirtualMachinePreference", None)]
    #[case::nothing("", None)]
    fn a_kind_is_known_in_every_spelling_of_kubevirt(#[case] written: &str, #[case] want: Option<&str>) {
        assert_eq!(canonical(written, INSTANCETYPES), want);
    }

    #[test]
    fn the_kind_that_is_asked_for_comes_first() {
        assert_eq!(instancetypes(CLUSTER_INSTANCETYPE)[0], CLUSTER_INSTANCETYPE);
        assert_eq!(instancetypes(INSTANCETYPE)[0], INSTANCETYPE);
        assert_eq!(instancetypes("")[0], INSTANCETYPE);
    }
}
