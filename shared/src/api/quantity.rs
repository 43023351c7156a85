//! Kubernetes quantities: `2`, `500m`, `4Gi`, `1e3`.

use kube_quantity::ParsedQuantity;

const SUFFIXES: [&str; 15] = [
    "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi",
];

/// The amount; `None` if the API server would reject the text.
pub fn parse(text: &str) -> Option<f64> {
    // kube_quantity also accepts `Gi` and `1e3Gi`, and rejects `1E`.
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = unsigned.split_at(end.unwrap_or(unsigned.len()));
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let is_number = digits > 0 && number.len() - digits <= 1;
    let is_suffix = SUFFIXES.contains(&suffix) || suffix == "Ei" || is_exponent(suffix);
    if !is_number || !is_suffix {
        return None;
    }
    let text = text
        .strip_suffix('E')
        .map_or_else(|| text.to_owned(), |number| format!("{number}e18"));
    ParsedQuantity::try_from(text.as_str()).ok()?.to_bytes_f64()
}

/// The text in one form for every notation of an amount, to compare amounts by; a text that is none stays.
///
/// Fifteen digits: `0.1` and `100m` are equal, and no disk size is truncated.
pub fn canonical(text: &str) -> String {
    parse(text).map_or_else(|| text.to_owned(), |amount| format!("{amount:.14e}"))
}

fn is_exponent(suffix: &str) -> bool {
    let Some(digits) = suffix.strip_prefix(['e', 'E']) else {
        return false;
    };
    let digits = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2", Some(2.0))]
    #[case("500m", Some(0.5))]
    #[case("4Gi", Some(4.0 * 1024.0 * 1024.0 * 1024.0))]
    #[case("10G", Some(10e9))]
    #[case("1.5k", Some(1500.0))]
    #[case(".5", Some(0.5))]
    #[case("5.", Some(5.0))]
    #[case("1e3", Some(1000.0))]
    #[case("1E", Some(1e18))]
    #[case("-1", Some(-1.0))]
    #[case("0", Some(0.0))]
    #[case("", None)]
    #[case("Gi", None)]
    #[case("1e3Gi", None)]
    #[case("4GiB", None)]
    #[case("4 Gi", None)]
    #[case("1.2.3", None)]
    #[case("inf", None)]
    #[case("0x10", None)]
    #[case("4gi", None)]
    fn quantities(#[case] text: &str, #[case] want: Option<f64>) {
        assert_eq!(parse(text), want);
    }
}
