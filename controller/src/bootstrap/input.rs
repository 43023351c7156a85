//! What user data is made from, and why there is none.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Taint;
use machinist_shared::admission::kubelet_settings::SettingError;
use machinist_shared::provider::Secret;
use machinist_shared::provider::machinist::Machinist;
use machinist_shared::provider_spec::network::Network;
use machinist_shared::provider_spec::operating_system::OperatingSystem;
use secrecy::SecretString;
use serde_json::Value;

/// What user data is made from.
#[derive(Clone, Copy)]
pub struct UserDataInput<'a> {
    /// Operating system of the image.
    pub operating_system: OperatingSystem,
    /// Its settings, as in `operatingSystemSpec`.
    pub operating_system_spec: &'a Value,
    /// Name of the node, and of the guest.
    pub node_name: &'a str,
    /// Version of the kubelet; a leading `v` is fine.
    pub kubelet_version: &'a str,
    /// URL of the API server.
    pub server: &'a str,
    /// Its CA, PEM.
    pub ca_pem: &'a str,
    /// `id.secret`.
    pub token: &'a SecretString,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: &'a [IpAddr],
    /// Domain of the cluster's DNS.
    pub cluster_domain: &'a str,
    /// Taints that the node registers with.
    pub taints: &'a [Taint],
    /// Labels that the node registers with; those that a kubelet may not set itself are left out.
    pub labels: &'a BTreeMap<String, String>,
    /// providerID that the node registers with; `None` where an external CCM gives it.
    pub provider_id: Option<&'a str>,
    /// Have the kubelet ask for a serving certificate of the cluster's: another client approves them.
    pub serving_certificate: bool,
    /// SSH keys of the image's default user.
    pub ssh_keys: &'a [String],
    /// SSH certificate authority of users who log in, or empty.
    pub ssh_ca: &'a str,
    /// Annotations of the Machine; the kubelet's settings are among them.
    pub annotations: &'a BTreeMap<String, String>,
    /// IP families and a static address.
    pub network: Option<&'a Network>,
    /// The kubelet's cloud configuration, written as it is.
    pub overwrite_cloud_config: Option<&'a str>,
    /// What else a person wants of the guest.
    pub machinist: &'a Machinist,
    /// Credentials of registries, as in `.dockerconfigjson`, or empty.
    pub registry_credentials: &'a Secret,
    /// Further CAs that the guest trusts, PEM, or empty.
    pub ca_bundle: &'a Secret,
}

impl fmt::Debug for UserDataInput<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserDataInput")
            .field("node_name", &self.node_name)
            .finish_non_exhaustive()
    }
}

/// Why there is no user data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserDataError {
    /// The operating system is not known here.
    #[error(
        "the operating system {0} cannot be bootstrapped by Machinist itself; use ubuntu, rockylinux, rhel or flatcar"
    )]
    UnsupportedOperatingSystem(OperatingSystem),
    /// A text would end its line.
    #[error("{field} holds a control character, which it cannot")]
    ControlCharacter {
        /// Which text.
        field: &'static str,
    },
    /// Settings of the kubelet are of no use.
    #[error("the kubelet would not start: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Settings(Vec<SettingError>),
    /// The credentials of registries are of no use.
    #[error(
        "machinist.registries.credentials {0}; it is a docker configuration with auths, as in .dockerconfigjson"
    )]
    Credentials(&'static str),
    /// The CAs are of no use.
    #[error("machinist.caBundle contains no PEM certificate")]
    CaBundle,
    /// It is too large.
    #[error(
        "the user data has {bytes} bytes, and {what} holds {limit}; put less into machinist.files, or into the image"
    )]
    TooLarge {
        /// Where it would be stored.
        what: &'static str,
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The template failed.
    #[error("the template of the user data failed: {0}")]
    Template(String),
}
