//! Kubernetes' rules for names, label keys and label values.

/// Maximum length of a label value, and so of a name in a label.
pub const LABEL_MAX: usize = 63;

/// Why `text` cannot be a label's value; empty is fine.
pub fn label_value(text: &str) -> Result<(), &'static str> {
    if text.len() > LABEL_MAX {
        return Err("must be no more than 63 characters");
    }
    let word = text.is_empty() || is_word(text);
    word.then_some(())
        .ok_or("must be letters, digits, '-', '_' or '.', with a letter or digit at both ends")
}

/// Why `text` cannot be the key of a label, annotation or taint: a name of up to 63 characters, optionally after a DNS
/// domain and a slash.
pub fn qualified_name(text: &str) -> Result<(), &'static str> {
    let (prefix, name) = text
        .split_once('/')
        .map_or((None, text), |(prefix, name)| (Some(prefix), name));
    if let Some(prefix) = prefix {
        dns_subdomain(prefix)?;
    }
    if name.is_empty() {
        return Err("the name must not be empty");
    }
    label_value(name)
}

/// Why `text` cannot be a DNS domain: lower-case labels joined by dots, of up to 253 characters.
pub fn dns_subdomain(text: &str) -> Result<(), &'static str> {
    let label = |l: &str| {
        let inner = l
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !l.is_empty() && inner && !l.starts_with('-') && !l.ends_with('-')
    };
    let fits = text.len() <= 253 && text.split('.').all(label);
    fits.then_some(())
        .ok_or("must be lower-case letters, digits, '-' or '.', with a letter or digit at both ends")
}

/// Why `text` cannot be the name of a namespace: a lower-case DNS label.
pub fn namespace(text: &str) -> Result<(), &'static str> {
    let fits = text.len() <= LABEL_MAX && !text.contains('.') && dns_subdomain(text).is_ok();
    fits.then_some(())
        .ok_or("must be up to 63 lower-case letters, digits or '-', with a letter or digit at both ends")
}

fn is_word(text: &str) -> bool {
    let inner = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let ends = [text.bytes().next(), text.bytes().last()];
    inner && ends.into_iter().flatten().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", true)]
    #[case("a", true)]
    #[case("A_b.c-9", true)]
    #[case("-a", false)]
    #[case("a b", false)]
    #[case(&"a".repeat(63), true)]
    #[case(&"a".repeat(64), false)]
    fn label_values(#[case] text: &str, #[case] want: bool) {
        assert_eq!(label_value(text).is_ok(), want);
    }

    #[rstest]
    #[case("kube-system", true)]
    #[case("a.b", false)]
    #[case("", false)]
    #[case("../b", false)]
    #[case("A", false)]
    #[case(&"a".repeat(64), false)]
    fn namespaces(#[case] text: &str, #[case] want: bool) {
        assert_eq!(namespace(text).is_ok(), want);
    }

    #[rstest]
    #[case("zone", true)]
    #[case("topology.kubernetes.io/zone", true)]
    #[case("topology.kubernetes.io/", false)]
    #[case("/zone", false)]
    #[case("Topology.io/zone", false)]
    #[case("a/b/c", false)]
    #[case("", false)]
    fn label_keys(#[case] text: &str, #[case] want: bool) {
        assert_eq!(qualified_name(text).is_ok(), want);
    }
}
