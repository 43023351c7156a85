//! `cloudProviderSpec.machinist`: additional settings of the built-in bootstrap that machine-controller's API does not
//! have.
//!
//! The object is Machinist's own and optional. It is decoded as strictly as the rest: an unknown key is an error.

mod canonical;
mod decode;
mod validate;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::api::config_var::{ConfigVarString, KeyRef};

pub use decode::decode;
pub use validate::{MANAGED_FLAGS, is_reserved, validate};

/// The object as written.
#[derive(Clone, Default, PartialEq)]
pub struct Machinist {
    /// Files to write before anything is installed.
    pub files: Vec<GuestFile>,
    /// Shell commands to run before and after the installation.
    pub commands: Commands,
    /// Settings of the kubelet.
    pub kubelet: KubeletExtras,
    /// NTP servers.
    pub time_servers: Vec<String>,
    /// Sources of container images.
    pub registries: Registries,
    /// HTTP proxy of containerd, the kubelet and the installation.
    pub proxy: Proxy,
    /// Additional CAs that the guest trusts, PEM.
    pub ca_bundle: ConfigVarString,
}

/// A file of the guest.
#[derive(Clone, PartialEq, Eq)]
pub struct GuestFile {
    /// Absolute path.
    pub path: String,
    /// Permissions in octal, like `0644`.
    pub permissions: String,
    /// Its text.
    pub content: String,
}

/// Permissions of files that name none.
pub const DEFAULT_PERMISSIONS: &str = "0644";

/// Shell commands, the lines of a script that stops at the first failure.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Commands {
    /// Before containerd and the kubelet are installed.
    pub pre_install: Vec<String>,
    /// After they are started.
    pub post_install: Vec<String>,
}

/// Settings of the kubelet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KubeletExtras {
    /// Flags, without the leading dashes.
    pub extra_args: BTreeMap<String, String>,
    /// Merged over the KubeletConfiguration.
    pub extra_config: Map<String, Value>,
}

/// Sources of container images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    /// Mirrors by registry, in the order in which they are tried before the registry itself. `*` is any registry.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Credentials as in `.dockerconfigjson`.
    pub credentials: ConfigVarString,
}

/// An HTTP proxy.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    /// URL for `http` addresses.
    pub http: String,
    /// URL for `https` addresses.
    pub https: String,
    /// Hosts, domains and networks that bypass it.
    pub no: Vec<String>,
}

impl Proxy {
    /// Whether a proxy is set.
    pub fn is_set(&self) -> bool {
        !self.http.is_empty() || !self.https.is_empty()
    }
}

impl Machinist {
    /// Every reference to a Secret or ConfigMap of the user cluster.
    pub fn references(&self) -> impl Iterator<Item = &KeyRef> {
        self.registries
            .credentials
            .references()
            .chain(self.ca_bundle.references())
    }
}

/// File contents, commands, and the password in a proxy's URL can be secret.
impl std::fmt::Debug for Machinist {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machinist")
            .field("files", &self.files)
            .field("registries", &self.registries)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for GuestFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("no", &self.no)
            .finish_non_exhaustive()
    }
}
