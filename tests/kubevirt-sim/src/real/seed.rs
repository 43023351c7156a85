//! The NoCloud disk: user data and metadata, as KubeVirt hands them to a guest.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::json;

/// KubeVirt's metadata: the instance is the VMI, so that a new VM of the same name is a new instance only on a new disk.
pub(crate) fn meta_data(hostname: &str, namespace: &str) -> String {
    json!({"instance-id": format!("{hostname}.{namespace}"), "local-hostname": hostname}).to_string()
}

/// Writes both files into the folder; they hold a token.
pub(crate) fn write(folder: &Path, user_data: &[u8], meta_data: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, content) in [("user-data", user_data), ("meta-data", meta_data.as_bytes())] {
        let mut options = fs::OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        options.open(folder.join(name))?.write_all(content)?;
    }
    Ok(())
}

/// Makes a disk of the folder.
pub(crate) fn pack(folder: &Path, disk: &Path) -> Vec<OsString> {
    let mut line: Vec<OsString> = "genisoimage -quiet -volid cidata -joliet -rock -output"
        .split(' ')
        .map(OsString::from)
        .collect();
    line.extend([disk.into(), folder.into()]);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_is_what_kubevirt_writes() {
        let expected = r#"{"instance-id":"web-1.vms","local-hostname":"web-1"}"#;
        assert_eq!(meta_data("web-1", "vms"), expected);
    }

    #[test]
    fn user_data_is_readable_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), b"#cloud-config\n", "{}").unwrap();
        let mode = fs::metadata(folder.path().join("user-data"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
