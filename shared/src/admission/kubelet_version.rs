//! Kubelet versions, and the constraint they must satisfy, read as Masterminds/semver reads them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use semver::{BuildMetadata, Prerelease, Version};

/// Why a version or a constraint cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Not a version.
    #[error("{0:?} is not a version; write it like 1.33.4")]
    Version(String),
    /// Not a constraint.
    #[error("{0:?} is not a version constraint; write it like \">=1.33.0, <1.37.0\"")]
    Constraint(String),
}

/// Whether a version that [`parse`] reads is written as releases are: three numbers without leading zeros.
pub fn is_whole(text: &str) -> bool {
    Version::parse(text.strip_prefix('v').unwrap_or(text)).is_ok()
}

/// Minor versions that a kubelet may be older than its API server.
const MAX_SKEW: u64 = 3;

/// Why Kubernetes does not support a kubelet of that version with an API server of these `(major, minor)`.
pub fn skew(kubelet: &Version, server: (u64, u64)) -> Option<String> {
    let (major, minor) = server;
    let text = format!("{}.{}", kubelet.major, kubelet.minor);
    if (kubelet.major, kubelet.minor) > server {
        return Some(format!(
            "a kubelet {text} is newer than the API server, {major}.{minor}: upgrade the control plane first"
        ));
    }
    let is_old = kubelet.major != major || kubelet.minor + MAX_SKEW < minor;
    is_old.then(|| {
        let oldest = minor.saturating_sub(MAX_SKEW);
        format!(
            "a kubelet {text} is more than {MAX_SKEW} minor versions older than the API server, {major}.{minor}, which \
             supports {major}.{oldest} and newer"
        )
    })
}

/// Reads a version loosely: a leading `v` is optional, minor and patch may be missing, zeros may lead.
pub fn parse(text: &str) -> Result<Version, VersionError> {
    parse_loose(text).ok_or_else(|| VersionError::Version(text.to_owned()))
}

fn parse_loose(text: &str) -> Option<Version> {
    let rest = text.strip_prefix('v').unwrap_or(text);
    let (rest, build) = rest.split_once('+').map_or((rest, None), |(a, b)| (a, Some(b)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
    let mut numbers = [0; 3];
    let parts = core.split('.').collect::<Vec<_>>();
    if parts.len() > numbers.len() {
        return None;
    }
    for (number, part) in numbers.iter_mut().zip(parts) {
        *number = Some(part)
            .filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))?
            .parse()
            .ok()?;
    }
    let [major, minor, patch] = numbers;
    // An empty suffix after `-` or `+` is an error, unlike a missing one.
    let pre = pre.map_or(Some(Prerelease::EMPTY), |p| {
        Prerelease::new(p).ok().filter(|p| !p.is_empty())
    })?;
    let build = build.map_or(Some(BuildMetadata::EMPTY), |b| {
        BuildMetadata::new(b).ok().filter(|b| !b.is_empty())
    })?;
    Some(Version {
        major,
        minor,
        patch,
        pre,
        build,
    })
}

/// A constraint on versions: alternatives (`||`) of comparisons (`,` or blank) with `= != > >= < <= ~ ^` and the
/// wildcards `x`, `X` and `*`, or of ranges (`1.2 - 1.4`). A pre-release satisfies only comparisons that name one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionConstraint {
    text: String,
    alternatives: Vec<Vec<Comparison>>,
}

impl Default for VersionConstraint {
    /// `>=0.0.0`: any release.
    fn default() -> Self {
        let any = Comparison {
            op: Op::AtLeast,
            version: Version::new(0, 0, 0),
            wild: Wildcard::None,
        };
        Self {
            text: ">=0.0.0".to_owned(),
            alternatives: vec![vec![any]],
        }
    }
}

impl VersionConstraint {
    /// Whether `version` satisfies it.
    pub fn allows(&self, version: &Version) -> bool {
        self.alternatives
            .iter()
            .any(|all| all.iter().all(|comparison| comparison.allows(version)))
    }
}

impl fmt::Display for VersionConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for VersionConstraint {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let alternatives = text.split("||").map(parse_all).collect::<Option<Vec<_>>>();
        let alternatives = alternatives.ok_or_else(|| VersionError::Constraint(text.to_owned()))?;
        Ok(Self {
            text: text.to_owned(),
            alternatives,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Equal,
    NotEqual,
    Above,
    AtLeast,
    Below,
    AtMost,
    Tilde,
    Caret,
}

/// The first wildcard component of a version in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wildcard {
    None,
    Patch,
    Minor,
    All,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Comparison {
    op: Op,
    version: Version,
    wild: Wildcard,
}

impl Comparison {
    fn allows(&self, v: &Version) -> bool {
        let c = &self.version;
        if !v.pre.is_empty() && c.pre.is_empty() {
            return false;
        }
        let order = v.cmp_precedence(c);
        let same_open = match self.wild {
            Wildcard::None => order == Ordering::Equal,
            Wildcard::Patch => (v.major, v.minor) == (c.major, c.minor),
            Wildcard::Minor => v.major == c.major,
            Wildcard::All => true,
        };
        match self.op {
            Op::Equal => same_open,
            Op::NotEqual => !same_open,
            Op::Above => order == Ordering::Greater && !(self.wild != Wildcard::None && same_open),
            Op::AtLeast => order != Ordering::Less,
            Op::Below => order == Ordering::Less,
            Op::AtMost => order != Ordering::Greater || (self.wild != Wildcard::None && same_open),
            Op::Tilde => {
                let same = match self.wild {
                    Wildcard::All => true,
                    Wildcard::Minor => v.major == c.major,
                    Wildcard::Patch | Wildcard::None => (v.major, v.minor) == (c.major, c.minor),
                };
                order != Ordering::Less && same
            }
            Op::Caret => order != Ordering::Less && self.same_leftmost(v),
        }
    }

    /// Whether the leftmost nonzero component is the same, as `^` requires.
    fn same_leftmost(&self, v: &Version) -> bool {
        let c = &self.version;
        match self.wild {
            Wildcard::All => true,
            Wildcard::Minor => v.major == c.major,
            _ if c.major > 0 => v.major == c.major,
            Wildcard::Patch => (v.major, v.minor) == (0, c.minor),
            Wildcard::None if c.minor > 0 => (v.major, v.minor) == (0, c.minor),
            Wildcard::None => (v.major, v.minor, v.patch) == (0, 0, c.patch),
        }
    }
}

fn parse_all(text: &str) -> Option<Vec<Comparison>> {
    if let Some((low, high)) = text.split_once(" - ") {
        return Some(vec![
            parse_comparison(Op::AtLeast, low.trim())?,
            parse_comparison(Op::AtMost, high.trim())?,
        ]);
    }
    let mut all = Vec::new();
    let mut rest = text.trim_matches(|c: char| c == ',' || c.is_whitespace());
    while !rest.is_empty() {
        let (op, behind) = split_op(rest);
        let behind = behind.trim_start();
        let end = behind
            .find(|c: char| c == ',' || c.is_whitespace())
            .unwrap_or(behind.len());
        all.push(parse_comparison(op, &behind[..end])?);
        rest = behind[end..].trim_start_matches(|c: char| c == ',' || c.is_whitespace());
    }
    (!all.is_empty()).then_some(all)
}

fn split_op(text: &str) -> (Op, &str) {
    const OPS: [(&str, Op); 12] = [
        (">=", Op::AtLeast),
        ("=>", Op::AtLeast),
        ("<=", Op::AtMost),
        ("=<", Op::AtMost),
        ("!=", Op::NotEqual),
        ("~>", Op::Tilde),
        (">", Op::Above),
        ("<", Op::Below),
        ("=", Op::Equal),
        ("~", Op::Tilde),
        ("^", Op::Caret),
        ("", Op::Equal),
    ];
    let found = OPS
        .iter()
        .find_map(|(sign, op)| Some((*op, text.strip_prefix(sign)?)));
    found.unwrap_or((Op::Equal, text))
}

fn parse_comparison(op: Op, text: &str) -> Option<Comparison> {
    let plain = text.strip_prefix('v').unwrap_or(text);
    let (core, suffix) = plain
        .find(['-', '+'])
        .map_or((plain, ""), |at| plain.split_at(at));
    let parts = core.split('.').collect::<Vec<_>>();
    let open = parts
        .iter()
        .position(|part| matches!(*part, "x" | "X" | "*"))
        .unwrap_or(parts.len());
    if parts.len() > 3 || parts[open..].iter().any(|part| !matches!(*part, "x" | "X" | "*")) {
        return None;
    }
    // A missing component is a wildcard.
    let (wild, core) = match open {
        0 => (Wildcard::All, "0".to_owned()),
        1 => (Wildcard::Minor, parts[..1].join(".")),
        2 => (Wildcard::Patch, parts[..2].join(".")),
        _ => (Wildcard::None, core.to_owned()),
    };
    let version = parse_loose(&format!("{core}{suffix}"))?;
    Some(Comparison { op, version, wild })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1.33.4", "1.33.4")]
    #[case("v1.33.4", "1.33.4")]
    #[case("1.33", "1.33.0")]
    #[case("1", "1.0.0")]
    #[case("01.033.004", "1.33.4")]
    #[case("1.34.0-rc.1+build.5", "1.34.0-rc.1+build.5")]
    fn a_version_is_read_loosely(#[case] text: &str, #[case] want: &str) {
        assert_eq!(parse(text).unwrap().to_string(), want);
    }

    #[rstest]
    #[case::nothing("")]
    #[case::a_word("latest")]
    #[case::four_numbers("1.2.3.4")]
    #[case::a_blank(" 1.33.4")]
    #[case::an_empty_number("1..4")]
    #[case::a_sign("1.+3.4")]
    #[case::an_empty_pre_release("1.33.4-")]
    #[case::an_empty_build("1.33.4+")]
    #[case::two_letters("vv1.33.4")]
    fn nonsense_is_no_version(#[case] text: &str) {
        assert_eq!(parse(text), Err(VersionError::Version(text.to_owned())));
    }

    #[rstest]
    #[case::any_release(">=0.0.0", "1.34.0", true)]
    #[case::a_pre_release_needs_one_in_the_constraint(">=0.0.0", "1.34.0-rc.1", false)]
    #[case::a_constraint_that_names_one(">=1.34.0-0", "1.34.0-rc.1", true)]
    #[case::both_of_two(">=1.33.0, <1.35.0", "1.35.0", false)]
    #[case::blanks_join_too(">= 1.33.0 < 1.35.0", "1.34.9", true)]
    #[case::either_of_two("1.33.x || 1.35.x", "1.35.2", true)]
    #[case::neither_of_two("1.33.x || 1.35.x", "1.34.2", false)]
    #[case::not_this_one("!=1.34.2", "1.34.2", false)]
    #[case::above_a_minor(">1.33", "1.33.1", false)]
    #[case::above_a_minor_passed(">1.33", "1.34.0", true)]
    #[case::up_to_a_minor("<=1.33", "1.33.9", true)]
    #[case::tilde("~1.33.2", "1.33.9", true)]
    #[case::tilde_stops("~1.33.2", "1.34.0", false)]
    #[case::caret("^1.33.2", "1.40.0", true)]
    #[case::caret_of_zero("^0.2.3", "0.3.0", false)]
    #[case::a_range("1.32 - 1.34", "1.34.7", true)]
    #[case::anything("*", "0.0.1", true)]
    fn a_constraint_decides(#[case] constraint: &str, #[case] version: &str, #[case] want: bool) {
        let constraint: VersionConstraint = constraint.parse().unwrap();
        assert_eq!(constraint.allows(&parse(version).unwrap()), want);
    }

    #[rstest]
    #[case("")]
    #[case("newer")]
    #[case(">=")]
    #[case("1.33.4.5")]
    #[case("1.x.3")]
    #[case("1.33 ||")]
    fn nonsense_is_no_constraint(#[case] text: &str) {
        assert!(text.parse::<VersionConstraint>().is_err());
    }

    #[rstest]
    #[case::the_same("1.36.0", None)]
    #[case::a_later_patch("1.36.9", None)]
    #[case::three_older("1.33.4", None)]
    #[case::four_older("1.32.9", Some("more than 3 minor"))]
    #[case::much_older("1.20.1", Some("more than 3 minor"))]
    #[case::another_major("0.9.0", Some("more than 3 minor"))]
    #[case::one_newer("1.37.0", Some("newer than the API server"))]
    #[case::a_pre_release_of_the_next("1.37.0-rc.1", Some("newer than the API server"))]
    #[case::much_newer("1.99.0", Some("newer than the API server"))]
    fn kubernetes_supports_a_kubelet_up_to_three_minors_older(
        #[case] kubelet: &str,
        #[case] why: Option<&str>,
    ) {
        let skew = skew(&parse(kubelet).unwrap(), (1, 36));
        match why {
            None => assert_eq!(skew, None),
            Some(why) => assert!(skew.unwrap().contains(why)),
        }
    }

    #[test]
    fn the_default_is_what_its_text_says() {
        let default = VersionConstraint::default();
        assert_eq!(default.to_string().parse::<VersionConstraint>(), Ok(default));
    }
}
