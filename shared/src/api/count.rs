//! Numbers in messages: one Machine, two Machines.

use std::fmt::Display;

/// The number and what is counted, in the plural unless it is one.
pub fn counted<N: Copy + Display + PartialEq + From<bool>>(count: N, noun: &str) -> String {
    format!("{count} {noun}{}", if is_one(count) { "" } else { "s" })
}

/// The verb for so many.
pub fn are<N: Copy + PartialEq + From<bool>>(count: N) -> &'static str {
    if is_one(count) { "is" } else { "are" }
}

/// How often something happened.
pub fn times<N: Copy + Display + PartialEq + From<bool>>(count: N) -> String {
    if is_one(count) {
        "once".to_owned()
    } else {
        format!("{count} times")
    }
}

fn is_one<N: Copy + PartialEq + From<bool>>(count: N) -> bool {
    count == N::from(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_the_rest_plural() {
        assert_eq!(counted(1, "Machine"), "1 Machine");
        assert_eq!(counted(0, "Machine"), "0 Machines");
        assert_eq!([are(1), are(2)], ["is", "are"]);
        assert_eq!([times(1), times(3)], ["once", "3 times"]);
    }
}
