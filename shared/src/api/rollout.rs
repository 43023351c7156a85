//! Limits of a rollout: surplus and unavailable Machines.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Default of `maxSurge`.
pub const MAX_SURGE: i32 = 1;
/// Default of `maxUnavailable`.
pub const MAX_UNAVAILABLE: i32 = 0;

/// `maxSurge` as a number of Machines.
pub fn max_surge(written: Option<&IntOrString>, replicas: i32) -> i32 {
    match written {
        None => MAX_SURGE,
        Some(written) => resolve(written, replicas, Round::Up),
    }
}

/// `maxUnavailable` as a number of Machines.
pub fn max_unavailable(written: Option<&IntOrString>, replicas: i32) -> i32 {
    match written {
        None => MAX_UNAVAILABLE,
        Some(written) => resolve(written, replicas, Round::Down),
    }
}

/// The number of a percentage, with or without `%`, as Kubernetes reads it; `None` if it is none.
pub fn percentage(text: &str) -> Option<i64> {
    text.replace('%', "").parse().ok()
}

#[derive(Clone, Copy)]
enum Round {
    Up,
    Down,
}

/// A number, or a percentage of `of`. A string is a percentage even without `%`; anything else is `None`.
fn resolve(value: &IntOrString, of: i32, round: Round) -> i32 {
    let percent = match value {
        IntOrString::Int(number) => return (*number).max(0),
        IntOrString::String(text) => percentage(text),
    };
    let product = percent.unwrap_or(0).clamp(0, i64::from(i32::MAX)) * i64::from(of.max(0));
    let share = match round {
        Round::Up => (product + 99) / 100,
        Round::Down => product / 100,
    };
    i32::try_from(share).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nothing_written(None, (1, 0))]
    #[case::numbers(Some(IntOrString::Int(3)), (3, 3))]
    #[case::surge_rounds_up_and_unavailable_down(Some(IntOrString::String("25%".to_owned())), (3, 2))]
    #[case::text_without_a_sign_is_a_percentage(Some(IntOrString::String("25".to_owned())), (3, 2))]
    #[case::below_zero(Some(IntOrString::Int(-1)), (0, 0))]
    #[case::no_number(Some(IntOrString::String("x".to_owned())), (0, 0))]
    fn the_limits_of_ten_replicas(#[case] written: Option<IntOrString>, #[case] want: (i32, i32)) {
        let written = written.as_ref();
        assert_eq!((max_surge(written, 10), max_unavailable(written, 10)), want);
    }
}
