//! `errorReason` of what a person has to act on, as machine-controller's users look for it.

use machinist_shared::api::names::condition;

use super::super::conditions::{Condition, Status};

/// Reasons of the summary that last until a user changes an object.
const REASONS: &[(&str, &[&str])] = &[
    (
        "CreateError",
        &[
            "BootstrapFailed",
            "BootstrapTokenExpired",
            "CreateFailed",
            "DiskClaimFailing",
            "DiskImageNotFound",
            "DiskImportFailing",
            "DiskNotFound",
            "InstancetypeNotFound",
            "LauncherFailed",
            "LauncherImageFailed",
            "PreferenceNotFound",
            "StartFailing",
            "VMFailure",
            "VMRecoveryRequired",
        ],
    ),
    (
        "InsufficientResources",
        &[
            "DiskQuotaExceeded",
            "DiskUnschedulable",
            "QuotaExceeded",
            "Unschedulable",
        ],
    ),
    ("UpdateError", &["DecorationFailed", "VMHalted", "VMPaused"]),
];

/// The error, if the first cause of what the Machine lacks needs a person.
pub(super) fn needs_person(conditions: &[Condition]) -> Option<(&'static str, &str)> {
    let ready = conditions
        .iter()
        .find(|c| c.kind == condition::READY && c.status == Status::False)?;
    let is_listed = |reasons: &[&str]| reasons.contains(&ready.reason.as_str());
    let (error, _) = REASONS.iter().find(|(_, reasons)| is_listed(reasons))?;
    Some((error, &ready.message))
}

#[cfg(test)]
mod tests {
    use machinist_shared::kubevirt::root_cause::Reason as RootCause;
    use rstest::rstest;

    use super::super::super::conditions::with_summary;
    use super::super::super::reason::Reason;
    use super::*;

    #[test]
    fn every_reason_is_one_that_there_is() {
        use RootCause::*;
        let root_causes = [
            DiskClaimFailing,
            DiskImageNotFound,
            DiskImportFailing,
            DiskNotFound,
            InstancetypeNotFound,
            LauncherFailed,
            LauncherImageFailed,
            PreferenceNotFound,
            StartFailing,
            VMFailure,
            VMRecoveryRequired,
            DiskQuotaExceeded,
            DiskUnschedulable,
            QuotaExceeded,
            Unschedulable,
            VMHalted,
            VMPaused,
        ];
        let mut known: Vec<String> = root_causes.iter().map(|cause| format!("{cause:?}")).collect();
        known.extend(Reason::ALL.iter().map(|reason| reason.as_str().to_owned()));
        for reason in REASONS.iter().flat_map(|(_, reasons)| *reasons) {
            assert!(known.iter().any(|known| known == reason), "{reason}");
        }
    }

    fn stored(kind: &'static str, status: Status, reason: &str) -> Condition {
        Condition {
            reason: reason.to_owned(),
            ..Condition::new(kind, status, Reason::Creating, format!("because of {reason}"))
        }
    }

    #[rstest]
    #[case::import("InfrastructureReady", "DiskImportFailing", Some("CreateError"))]
    #[case::unscheduled("InfrastructureReady", "Unschedulable", Some("InsufficientResources"))]
    #[case::quota("InfrastructureReady", "QuotaExceeded", Some("InsufficientResources"))]
    #[case::paused("InfrastructureReady", "VMPaused", Some("UpdateError"))]
    #[case::bootstrap("BootstrapReady", "BootstrapFailed", Some("CreateError"))]
    #[case::decoration("NodeReady", "DecorationFailed", Some("UpdateError"))]
    #[case::mere_progress("InfrastructureReady", "ImportingDisk", None)]
    #[case::the_node("NodeReady", "NodeNotReady", None)]
    #[case::outage("InfrastructureReachable", "Unreachable", None)]
    fn what_needs_a_person_is_an_error(
        #[case] kind: &'static str,
        #[case] reason: &str,
        #[case] want: Option<&str>,
    ) {
        let conditions = with_summary(vec![stored(kind, Status::False, reason)]);
        let message = format!("because of {reason}");
        assert_eq!(
            needs_person(&conditions),
            want.map(|want| (want, message.as_str()))
        );
        let deleting = stored("Deleting", Status::True, "DrainingNode");
        let conditions = with_summary(vec![stored(kind, Status::False, reason), deleting]);
        assert_eq!(needs_person(&conditions), None, "its deletion comes first");
    }
}
