//! `providerSpec.value`: the part that all providers share, decoded strictly, with all errors reported.

pub mod network;
pub mod operating_system;
pub mod ssh;

use std::sync::Arc;

use serde_json::Value;

use self::network::Network;
use self::operating_system::OperatingSystem;
use crate::api::decode::{Field, Fields};
use crate::api::field::{FieldPath, Report};
use crate::provider::{Provider, Spec};
use crate::providers;

/// Keys of `providerSpec.value`.
pub const KEYS: [&str; 8] = [
    "sshPublicKeys",
    "caPublicKey",
    "cloudProvider",
    "cloudProviderSpec",
    "operatingSystem",
    "operatingSystemSpec",
    "network",
    "overwriteCloudConfig",
];
/// Keys of `providerSpec.value.network`.
pub const NETWORK_KEYS: [&str; 4] = ["cidr", "gateway", "dns", "ipFamily"];
/// Keys of `providerSpec.value.network.dns`.
pub const DNS_KEYS: [&str; 1] = ["servers"];

/// `providerSpec.value`. Malformed fields are absent and reported.
#[derive(Debug, Clone, Default)]
pub struct ProviderConfig {
    /// SSH keys with access.
    pub ssh_public_keys: Vec<String>,
    /// Key of an SSH certificate authority; only the generator of user data reads it.
    pub ca_public_key: String,
    /// The provider that creates the machine.
    pub cloud_provider: Option<&'static dyn Provider>,
    /// The provider's own part.
    pub cloud_provider_spec: Option<Arc<dyn Spec>>,
    /// Operating system.
    pub operating_system: Option<OperatingSystem>,
    /// Settings of the operating system, as written.
    pub operating_system_spec: Option<Value>,
    /// Static network settings, without effect on KubeVirt.
    pub network: Option<Network>,
    /// Cloud config for the kubelet; only the generator of user data reads it.
    pub overwrite_cloud_config: Option<String>,
}

impl ProviderConfig {
    /// Decodes `value` at `path` (`spec.providerSpec.value` of a Machine). Unknown keys are errors.
    pub fn decode(value: Option<&Value>, path: &FieldPath, report: &mut Report) -> Self {
        let Some(value) = value.filter(|v| !v.is_null()) else {
            report.required(
                path,
                "must be set: provider, operating system and the provider's own part",
            );
            return Self::default();
        };
        let Some(mut fields) = Fields::of(value, path.clone(), report) else {
            return Self::default();
        };
        let mut config = Self {
            ssh_public_keys: ssh_public_keys(&fields.take("sshPublicKeys"), report),
            ca_public_key: fields.take("caPublicKey").string(report).unwrap_or_default(),
            cloud_provider: choice(
                &fields.take("cloudProvider"),
                &providers::names(),
                providers::find,
                report,
            ),
            ..Self::default()
        };
        let cloud_provider_spec = fields.take("cloudProviderSpec");
        config.operating_system = operating_system(
            &fields.take("operatingSystem"),
            config
                .cloud_provider
                .unwrap_or(providers::DEFAULT)
                .operating_systems(),
            report,
        );
        let settings = fields.take("operatingSystemSpec");
        if let Some(os) = config.operating_system {
            os.warn_settings(settings.value, &settings.path, report);
        }
        config.operating_system_spec = settings.value.cloned();
        config.network = Network::decode(&fields.take("network"), report);
        config.overwrite_cloud_config = fields.take("overwriteCloudConfig").string(report);
        fields.deny_unknown(report);
        // The part of an unknown provider would only produce errors about unknown keys.
        if let Some(provider) = config.cloud_provider {
            config.cloud_provider_spec = provider.decode(&cloud_provider_spec, report);
        }
        config
    }

    /// Validates the SSH keys of a decoded config below `path`.
    pub fn validate_ssh_keys(&self, path: &FieldPath, report: &mut Report) {
        let path = path.child("sshPublicKeys");
        for (i, key) in self.ssh_public_keys.iter().enumerate() {
            if let Err(error) = ssh::check(key) {
                report.invalid(&path.index(i), format!("{:?}: {error}", excerpt(key)));
            }
        }
    }
}

/// Go decodes a `null` in a list of strings as the empty string.
fn ssh_public_keys(field: &Field<'_>, report: &mut Report) -> Vec<String> {
    let items = field.items(report).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| {
            if item.value.is_none() {
                Some(String::new())
            } else {
                item.string(report)
            }
        })
        .collect()
}

fn operating_system(field: &Field<'_>, allowed: &[&str], report: &mut Report) -> Option<OperatingSystem> {
    let os = choice(field, allowed, OperatingSystem::parse, report)?;
    if !allowed.contains(&os.as_str()) {
        report.not_supported(&field.path, os.as_str(), allowed);
    }
    Some(os)
}

fn choice<T>(
    field: &Field<'_>,
    allowed: &[&str],
    parse: impl FnOnce(&str) -> Option<T>,
    report: &mut Report,
) -> Option<T> {
    let name = field.string(report).unwrap_or_default();
    if report.has_error_at(&field.path) {
        return None;
    }
    if name.is_empty() {
        let list = allowed
            .iter()
            .map(|a| format!("{a:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        report.required(&field.path, format!("must be set; allowed: {list}"));
        return None;
    }
    let found = parse(&name);
    if found.is_none() {
        report.not_supported(&field.path, &name, allowed);
    }
    found
}

/// The start of a text, so that a file pasted by mistake (for example a private key) is not shown whole.
fn excerpt(text: &str) -> String {
    let short: String = text.chars().take(32).collect();
    if short.len() < text.len() {
        short + "…"
    } else {
        short
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn errors(value: &Value) -> Vec<String> {
        let (path, mut report) = (FieldPath::new("spec.providerSpec.value"), Report::new());
        let config = ProviderConfig::decode(Some(value), &path, &mut report);
        config.validate_ssh_keys(&path, &mut report);
        report.errors.iter().map(ToString::to_string).collect()
    }

    #[rstest]
    #[case::null(&json!(null), "spec.providerSpec.value: must be set: provider, operating system and the provider's own part")]
    #[case::a_list(&json!([]), "spec.providerSpec.value: must be an object, not a list")]
    #[case::an_empty_object(&json!({}), "spec.providerSpec.value.cloudProvider: must be set; allowed: \"kubevirt\"")]
    #[case::another_provider(&json!({"cloudProvider": "aws"}), "spec.providerSpec.value.cloudProvider: \"aws\" is not supported; allowed: \"kubevirt\"")]
    #[case::a_typo(&json!({"cloudProvider": "kubvirt"}), "spec.providerSpec.value.cloudProvider: \"kubvirt\" is not supported; allowed: \"kubevirt\"; did you mean \"kubevirt\"?")]
    #[case::a_number(&json!({"cloudProvider": 1}), "spec.providerSpec.value.cloudProvider: must be a string, not a number")]
    #[case::an_unknown_key(&json!({"cloudProvidr": "kubevirt"}), "spec.providerSpec.value.cloudProvidr: unknown field \"cloudProvidr\"; did you mean \"cloudProvider\"?")]
    #[case::an_unknown_key_in_network(&json!({"network": {"dns": {"server": []}}}), "spec.providerSpec.value.network.dns.server: unknown field \"server\"; did you mean \"servers\"?")]
    #[case::an_os_that_kubevirt_lacks(&json!({"operatingSystem": "amzn2"}), "spec.providerSpec.value.operatingSystem: \"amzn2\" is not supported; allowed: \"ubuntu\", \"rhel\", \"flatcar\", \"rockylinux\"")]
    #[case::a_key_that_is_null(&json!({"sshPublicKeys": [null]}), "spec.providerSpec.value.sshPublicKeys[0]: \"\": no SSH public key in it")]
    fn an_error_is_reported_with_its_path(#[case] value: &Value, #[case] want: &str) {
        assert!(errors(value).contains(&want.to_owned()), "{:#?}", errors(value));
    }

    #[test]
    fn keys_match_in_any_case() {
        let value =
            json!({"CloudProvider": "kubevirt", "OPERATINGSYSTEM": "ubuntu", "cloudProviderSpec": {}});
        assert!(
            errors(&value)
                .iter()
                .all(|e| !e.contains("unknown") && !e.contains("operatingSystem"))
        );
    }

    #[test]
    fn a_pasted_private_key_is_not_shown() {
        let pasted = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{}", "sesame".repeat(20));
        assert!(
            !errors(&json!({"sshPublicKeys": [pasted]}))
                .concat()
                .contains("sesame")
        );
    }
}
