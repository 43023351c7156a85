//! URLs that CDI can use: its rules are those of Go's URL parser and of image references.

use std::net::Ipv6Addr;

/// Characters of a host besides letters and digits, as they are.
const HOST: &[u8] = b"-_.~!$&'()*+,;=:[]<>\"";
/// Those of a user name or password.
const USER: &[u8] = b"-._:~!$&'()*+,;=%@";
/// How long the name of a repository may be, with its registry.
const MAX_NAME: usize = 255;
/// How long a tag may be.
const MAX_TAG: usize = 128;

/// Why Go's parser refuses what follows `scheme://`, up to the query.
pub(super) fn refusal(rest: &str) -> Option<String> {
    let rest = rest.split('?').next().unwrap_or_default();
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if !user
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || USER.contains(&b))
    {
        return Some(format!(
            "{user:?} before the @ has characters that must be escaped, like %40"
        ));
    }
    bad_host(host)
        .or_else(|| bad_escape(user).map(escape))
        .or_else(|| bad_escape(path).map(escape))
}

fn escape(bad: &str) -> String {
    format!("{bad:?} is no escape: after % there are two hexadecimal digits, and % itself is written as %25")
}

/// The first `%` that two hexadecimal digits do not follow.
fn bad_escape(text: &str) -> Option<&str> {
    text.match_indices('%').find_map(|(at, _)| {
        let digits = text.get(at + 1..at + 3).unwrap_or_default();
        let is_escape = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let end = text.len().min(at + 3);
        (!is_escape).then(|| text.get(at..end).unwrap_or("%"))
    })
}

fn bad_host(host: &str) -> Option<String> {
    let port = if let Some(literal) = host.strip_prefix('[') {
        let Some((address, port)) = literal.rsplit_once(']') else {
            return Some(format!("the bracket in {host:?} is not closed"));
        };
        let address = address.split("%25").next().unwrap_or_default();
        if address.parse::<Ipv6Addr>().is_err() {
            return Some(format!("{address:?} in brackets is no IPv6 address"));
        }
        port
    } else if host.contains('[') {
        return Some(format!(
            "a bracket in {host:?} is not at its begin, as in [2001:db8::1]:443"
        ));
    } else {
        host.find(':').map_or("", |colon| &host[colon..])
    };
    let digits = port.strip_prefix(':').unwrap_or_default();
    if !port.is_empty() && (!port.starts_with(':') || !digits.bytes().all(|b| b.is_ascii_digit())) {
        return Some(format!("{port:?} is no port, like :443"));
    }
    let is_usual = |b: u8| !b.is_ascii() || b.is_ascii_alphanumeric() || HOST.contains(&b) || b == b'%';
    if let Some(bad) = host.bytes().find(|b| !is_usual(*b)) {
        return Some(format!("{:?} cannot be in the host {host:?}", char::from(bad)));
    }
    // In a host, only bytes beyond ASCII are escaped.
    let is_ascii = |(at, _): &(usize, &str)| matches!(host.as_bytes().get(at + 1), Some(b'0'..=b'7'));
    let escaped = host
        .match_indices('%')
        .find(|at| is_ascii(at) && !host[at.0..].starts_with("%25"));
    escaped
        .map(|(at, _)| format!("{:?} cannot be in a host", host.get(at..at + 3).unwrap_or("%")))
        .or_else(|| bad_escape(host).map(escape))
}

/// Why what follows `docker://` is no reference of an image: `[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`.
pub(super) fn bad_image(reference: &str) -> Option<String> {
    let (named, digest) = reference
        .split_once('@')
        .map_or((reference, None), |(named, digest)| (named, Some(digest)));
    let (name, tag) = match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (named, None),
    };
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => ("", name),
    };
    if repository.is_empty() {
        return Some("it names no repository, as in docker://quay.io/containerdisks/ubuntu:24.04".to_owned());
    }
    if let Some(part) = repository.split('/').find(|part| !is_component(part)) {
        return Some(format!(
            "{part:?} is no part of a repository: lower-case letters and digits, with single . or _, __ or - between them"
        ));
    }
    if registry.len() + 1 + repository.len() > MAX_NAME {
        return Some(format!("the repository has more than {MAX_NAME} characters"));
    }
    if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
        return Some(format!("{tag:?} is no tag"));
    }
    let digest = digest.filter(|digest| !is_digest(digest))?;
    Some(format!(
        "{digest:?} is no digest, like sha256: and 64 hexadecimal digits"
    ))
}

/// What looks like a registry, and has no repository behind it: it is read as a repository of Docker Hub.
pub(super) fn lacks_repository(reference: &str) -> bool {
    !reference.contains('/') && is_registry(reference) && {
        let name = reference.split(['@', ':']).next().unwrap_or_default();
        name.contains('.') || name == "localhost"
    }
}

fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_component(part: &str) -> bool {
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let is_separator =
        |between: &str| matches!(between, "." | "_" | "__") || between.bytes().all(|b| b == b'-');
    let between = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends(part.bytes().next())
        && ends(part.bytes().last())
        && between.filter(|text| !text.is_empty()).all(is_separator)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=MAX_TAG).contains(&tag.len())
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return false;
    };
    let length = match algorithm {
        "sha256" => hex.len() == 64,
        "sha512" => hex.len() == 128,
        _ => hex.len() >= 32,
    };
    algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
        && length
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Each of these Go's `url.ParseRequestURI` refuses, after `https://`.
    #[rstest]
    #[case::escape_of_letters("images.example.com/%zz.img", "\"%zz\" is no escape")]
    #[case::escape_at_the_end("images.example.com/u%", "\"%\" is no escape")]
    #[case::half_an_escape("images.example.com/u%4", "\"%4\" is no escape")]
    #[case::percent_in_a_name("images.example.com/50%off.img", "\"%of\" is no escape")]
    #[case::escape_of_a_user("a%zz@images.example.com/u", "\"%zz\" is no escape")]
    #[case::user("a b@images.example.com/u", "before the @")]
    #[case::port("images.example.com:abc/u.img", "\":abc\" is no port")]
    #[case::port_of_a_variable("images.example.com:${PORT}/u.img", "is no port")]
    #[case::two_ports("images.example.com:80:90/u.img", "\":80:90\" is no port")]
    #[case::address_without_brackets("2001:db8::1/u.img", "is no port")]
    #[case::open_bracket("[::1/u.img", "is not closed")]
    #[case::bracket_in_between("a[::1]/u.img", "is not at its begin")]
    #[case::name_in_brackets("[example.com]/u.img", "is no IPv6 address")]
    #[case::old_address_in_brackets("[10.0.0.1]/u.img", "is no IPv6 address")]
    #[case::after_the_bracket("[::1]80/u.img", "\"80\" is no port")]
    #[case::placeholder("{host}/u.img", "'{' cannot be in the host")]
    #[case::backslash("images\\u.img", "cannot be in the host")]
    #[case::fragment("images.example.com#a/b", "'#' cannot be in the host")]
    #[case::escaped_letter_in_a_host("%41.example.com/u", "\"%41\" cannot be in a host")]
    #[case::escape_in_a_host("a%zz.example.com/u", "\"%zz\" is no escape")]
    fn what_gos_parser_refuses(#[case] rest: &str, #[case] why: &str) {
        let refusal = refusal(rest).unwrap_or_default();
        assert!(refusal.contains(why), "{refusal}");
    }

    #[rstest]
    #[case("images.example.com/u.img")]
    #[case("images.example.com:8080/a%20b/u.img?sig=%zz&x=[")]
    #[case("user:p%40ss@images.example.com/u.img")]
    #[case("[2001:db8::1]:443/u.img")]
    #[case("[fe80::1%25eth0]/u.img")]
    #[case("10.0.0.1:/u.img")]
    #[case("bücher.example/ü.img")]
    #[case("images.example.com/a#b")]
    #[case("my_host.svc:80/[x]")]
    fn what_gos_parser_takes(#[case] rest: &str) {
        assert_eq!(refusal(rest), None);
    }

    #[rstest]
    #[case::nothing_after_the_slash("quay.io/", "names no repository")]
    #[case::nothing_but_a_tag("quay.io/:latest", "names no repository")]
    #[case::upper_case("quay.io/ContainerDisks/ubuntu", "\"ContainerDisks\" is no part")]
    #[case::slash_at_the_end("quay.io/containerdisks/", "\"\" is no part")]
    #[case::two_slashes("quay.io//ubuntu", "\"\" is no part")]
    #[case::two_dots("quay.io/a..b", "is no part")]
    #[case::dash_at_the_end("quay.io/ubuntu-", "is no part")]
    #[case::placeholder("quay.io/{{image}}", "is no part")]
    #[case::query("quay.io/ubuntu?tag=1", "is no part")]
    #[case::empty_tag("quay.io/ubuntu:", "\"\" is no tag")]
    #[case::tag("quay.io/ubuntu:-1", "\"-1\" is no tag")]
    #[case::short_digest("quay.io/ubuntu@sha256:abc", "is no digest")]
    #[case::digest_without_algorithm("quay.io/ubuntu@latest", "is no digest")]
    fn what_is_no_image(#[case] reference: &str, #[case] why: &str) {
        let bad = bad_image(reference).unwrap_or_default();
        assert!(bad.contains(why), "{bad}");
    }

    #[rstest]
    #[case("ubuntu")]
    #[case("quay.io/containerdisks/ubuntu:24.04")]
    #[case("localhost:5000/a__b-c.d/e---f:v1_2.3")]
    #[case("Registry.example.com/ubuntu")]
    #[case("[2001:db8::1]:5000/ubuntu")]
    #[case("quay.io/u@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")]
    fn what_is_an_image(#[case] reference: &str) {
        assert_eq!(bad_image(reference), None);
        assert!(!lacks_repository(reference));
    }

    #[rstest]
    #[case("quay.io")]
    #[case("quay.io:5000")]
    #[case("localhost:5000")]
    fn a_registry_alone_is_no_image(#[case] reference: &str) {
        assert!(lacks_repository(reference));
    }
}
