//! Whether Kubernetes supports a kubelet of that version with this API server: the version skew policy.

use std::time::Duration;

use clap::ValueEnum;
use kube::Client;
use machinist_infra::cache::ttl::TtlMap;
use machinist_shared::admission::kubelet_version::{self, skew};
use machinist_shared::api::field::{FieldPath, Report};

/// How long the API server may take to tell its version.
const TIMEOUT: Duration = Duration::from_millis(500);
/// How long a version is believed: a control plane is upgraded at any time.
const TTL: Duration = Duration::from_mins(1);

/// What to do about a kubelet that the skew policy excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SkewPolicy {
    /// A warning.
    Warn,
    /// The object is refused.
    Enforce,
    /// Nothing; the API server is not asked.
    Off,
}

/// Compares kubelets with the API server of the user cluster.
pub struct Skew {
    client: Client,
    policy: SkewPolicy,
    /// The API server's version.
    known: TtlMap<(), (u64, u64)>,
}

impl std::fmt::Debug for Skew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Skew")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Skew {
    /// Of the cluster of this client; nothing if the policy is off.
    pub fn new(client: Client, policy: SkewPolicy) -> Option<Self> {
        (policy != SkewPolicy::Off).then(|| Self {
            client,
            policy,
            known: TtlMap::default(),
        })
    }

    /// Judges a kubelet version found at `path`. Nothing is said if the API server does not tell its version in time.
    pub(crate) async fn judge(&self, kubelet: &str, path: &FieldPath) -> Report {
        let Some(server) = self.server().await else {
            return Report::new();
        };
        judge(kubelet, server, self.policy, path)
    }

    async fn server(&self) -> Option<(u64, u64)> {
        if let Some(version) = self.known.get(&()) {
            return Some(version);
        }
        let asked = tokio::time::timeout(TIMEOUT, self.client.apiserver_version()).await;
        let info = asked.ok()?.ok()?;
        let version = version(&info.major, &info.minor)?;
        self.known.insert((), version, TTL);
        Some(version)
    }
}

fn judge(kubelet: &str, server: (u64, u64), policy: SkewPolicy, path: &FieldPath) -> Report {
    let mut report = Report::new();
    // Validation reports a version that cannot be parsed.
    let why = kubelet_version::parse(kubelet)
        .ok()
        .and_then(|kubelet| skew(&kubelet, server));
    match (why, policy) {
        (None, _) | (_, SkewPolicy::Off) => {}
        (Some(why), SkewPolicy::Enforce) => report.invalid(path, why),
        (Some(why), SkewPolicy::Warn) => report.warn(path, why),
    }
    report
}

/// Numbers of a version; distributions write `33+`.
fn version(major: &str, minor: &str) -> Option<(u64, u64)> {
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    Some((number(major)?, number(minor)?))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::newer("1.37.0", SkewPolicy::Warn, (0, 1))]
    #[case::newer_and_enforced("1.37.0", SkewPolicy::Enforce, (1, 0))]
    #[case::too_old("1.32.0", SkewPolicy::Enforce, (1, 0))]
    #[case::supported("1.33.0", SkewPolicy::Enforce, (0, 0))]
    #[case::reported_elsewhere("latest", SkewPolicy::Enforce, (0, 0))]
    fn the_policy_decides(#[case] kubelet: &str, #[case] policy: SkewPolicy, #[case] want: (usize, usize)) {
        let report = judge(kubelet, (1, 36), policy, &FieldPath::new("kubelet"));
        assert_eq!((report.errors.len(), report.warnings.len()), want, "{report:?}");
    }

    #[rstest]
    #[case("1", "36", Some((1, 36)))]
    #[case("1", "27+", Some((1, 27)))]
    #[case("1", "", None)]
    fn a_distributions_version_is_read(
        #[case] major: &str,
        #[case] minor: &str,
        #[case] want: Option<(u64, u64)>,
    ) {
        assert_eq!(version(major, minor), want);
    }
}
