//! Durations in Go's syntax: `25m`, `1h30m`, `90s`.

use std::time::Duration;

use jiff::SignedDuration;

/// Parses a duration; the empty string is `None`.
pub fn parse(text: &str) -> Result<Option<Duration>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    // Go's only duration without a unit.
    if text == "0" {
        return Ok(Some(Duration::ZERO));
    }
    let span: SignedDuration = text
        .parse()
        .map_err(|_| format!("{text:?} is not a duration like 25m or 1h30m"))?;
    let duration = Duration::try_from(span).map_err(|_| format!("{text:?} is negative"))?;
    Ok(Some(duration))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", Ok(None))]
    #[case("0", Ok(Some(0)))]
    #[case("90s", Ok(Some(90)))]
    #[case("1h0m0s", Ok(Some(3600)))]
    #[case("600", Err("is not a duration like 25m or 1h30m"))]
    #[case("-5m", Err("is negative"))]
    fn durations_are_read_as_go_programs_take_them(
        #[case] text: &str,
        #[case] want: Result<Option<u64>, &str>,
    ) {
        match (parse(text), want) {
            (Ok(found), Ok(want)) => assert_eq!(found, want.map(Duration::from_secs)),
            (Err(error), Err(why)) => assert!(error.contains(why), "{error}"),
            (found, want) => panic!("{found:?} instead of {want:?}"),
        }
    }
}
