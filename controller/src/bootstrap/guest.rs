//! What a guest is to become, whatever tells it so: files, one unit to start, and a little about itself.

use serde_json::Value;

/// A file of the guest, owned by root.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Absolute path.
    pub(super) path: String,
    /// Permissions.
    pub(super) mode: u32,
    /// Content.
    pub(super) content: String,
}

/// Permissions of a file.
pub(super) mod mode {
    /// For everyone to read.
    pub(in crate::bootstrap) const PUBLIC: u32 = 0o644;
    /// For root alone.
    pub(in crate::bootstrap) const SECRET: u32 = 0o600;
    /// For everyone to run.
    pub(in crate::bootstrap) const PROGRAM: u32 = 0o755;
}

impl File {
    pub(super) fn new(path: impl Into<String>, mode: u32, content: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            mode,
            content: content.into(),
        }
    }

    /// JSON, for programs that read JSON or YAML.
    pub(super) fn json(path: impl Into<String>, mode: u32, content: &Value) -> Self {
        Self::new(path, mode, format!("{content:#}\n"))
    }
}

/// What a guest is to become.
pub(super) struct Guest<'a> {
    /// Its name.
    pub(super) hostname: &'a str,
    /// Its files.
    pub(super) files: Vec<File>,
    /// The unit that does the rest; among the files.
    pub(super) service: &'static str,
    /// SSH keys of the image's default user.
    pub(super) ssh_keys: &'a [String],
    /// Where it takes the time from.
    pub(super) time_servers: &'a [String],
}
