//! How many Machines a rollout may make too many, and how many may be missing.

use machinist_shared::api::names::annotation;
use machinist_shared::api::rollout;

use super::snapshot::types::{Deployment, Texts};

/// The limits of a rollout, as numbers of Machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// How many there shall be.
    pub(super) desired: i32,
    /// How many there may be at most.
    pub(super) most: i32,
    /// How many must be available at least.
    pub(super) least_available: i32,
}

impl Limits {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let desired = deployment.replicas.max(0);
        let surge = rollout::max_surge(Some(&deployment.max_surge), desired);
        let unavailable = match rollout::max_unavailable(Some(&deployment.max_unavailable), desired) {
            // Without any room nothing could ever move.
            0 if surge == 0 => 1,
            unavailable => unavailable,
        };
        Self {
            desired,
            most: desired.saturating_add(surge),
            least_available: desired - unavailable.min(desired),
        }
    }

    /// Notes the size of the whole deployment on a set that is scaled: proportional scaling starts from it.
    pub(super) fn annotate(self, annotations: &mut Texts) {
        annotations.insert(annotation::DESIRED_REPLICAS.to_owned(), self.desired.to_string());
        annotations.insert(annotation::MAX_REPLICAS.to_owned(), self.most.to_string());
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use rstest::rstest;

    use super::super::decide::fixtures;
    use super::*;

    fn text(text: &str) -> IntOrString {
        IntOrString::String(text.to_owned())
    }

    #[rstest]
    #[case::numbers(10, IntOrString::Int(3), IntOrString::Int(2), (13, 8))]
    #[case::surge_rounds_up_and_unavailable_down(10, text("25%"), text("25%"), (13, 8))]
    #[case::text_without_a_sign_is_a_percentage(10, text("25"), text("25"), (13, 8))]
    #[case::no_room_at_all_is_one_unavailable(4, IntOrString::Int(0), IntOrString::Int(0), (4, 3))]
    #[case::too_few_for_a_percentage_are_no_room(3, text("0%"), text("25%"), (3, 2))]
    #[case::no_more_may_be_missing_than_there_are(2, IntOrString::Int(0), IntOrString::Int(5), (2, 0))]
    #[case::none_is_none(0, IntOrString::Int(1), IntOrString::Int(1), (1, 0))]
    #[case::defaults(5, IntOrString::Int(1), IntOrString::Int(0), (6, 5))]
    #[case::huge_ones_do_not_overflow(2_000_000_000, text("900%"), text("x"), (2_147_483_647, 2_000_000_000))]
    fn limits_follow_from_the_strategy(
        #[case] replicas: i32,
        #[case] surge: IntOrString,
        #[case] unavailable: IntOrString,
        #[case] want: (i32, i32),
    ) {
        let mut deployment = fixtures::deployment(replicas);
        deployment.max_surge = surge;
        deployment.max_unavailable = unavailable;
        let limits = Limits::of(&deployment);
        assert_eq!((limits.most, limits.least_available), want);
    }
}
