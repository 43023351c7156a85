//! Reads user data as cloud-init would: a `#cloud-config` document, its host name and its `write_files`.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use thiserror::Error;

/// What of a cloud-config the simulated guest acts upon.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CloudConfig {
    /// `hostname`, else the first label of `fqdn`.
    pub hostname: Option<String>,
    /// `write_files`, in order.
    pub files: Vec<WriteFile>,
}

/// One entry of `write_files`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteFile {
    /// Absolute path in the guest.
    pub path: String,
    /// Decoded content.
    pub content: Vec<u8>,
    /// Permission bits; cloud-init's default is 0644.
    pub mode: u32,
    /// Whether to append to what is there.
    pub append: bool,
}

/// Why cloud-init would do nothing with the user data, or stop half-way.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum CloudConfigError {
    /// Not text.
    #[error("the user data is not UTF-8")]
    NotText,
    /// The first line decides what cloud-init makes of the user data.
    #[error("the user data does not begin with #cloud-config but with {0:?}: cloud-init ignores it")]
    NotCloudConfig(String),
    /// Not YAML, or not a mapping.
    #[error("the cloud-config is not a YAML mapping: {0}")]
    Yaml(String),
    /// A `write_files` entry cannot be used.
    #[error("write_files[{index}]: {why}")]
    File {
        /// Position in the list.
        index: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// Parses user data.
pub fn parse(user_data: &[u8]) -> Result<CloudConfig, CloudConfigError> {
    let text = std::str::from_utf8(user_data).map_err(|_| CloudConfigError::NotText)?;
    let first = text.lines().next().unwrap_or_default();
    if first.trim_end() != "#cloud-config" {
        return Err(CloudConfigError::NotCloudConfig(first.chars().take(40).collect()));
    }
    let value: Value =
        serde_saphyr::from_str(text).map_err(|error| CloudConfigError::Yaml(error.to_string()))?;
    let value = match value {
        Value::Null => return Ok(CloudConfig::default()),
        Value::Object(map) => map,
        _ => return Err(CloudConfigError::Yaml("the document is no mapping".to_owned())),
    };
    let text_of = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let hostname = text_of("hostname")
        .or_else(|| text_of("fqdn").map(|fqdn| fqdn.split('.').next().unwrap_or_default().to_owned()));
    let files = match value.get("write_files") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => {
            let parsed = items
                .iter()
                .enumerate()
                .map(|(index, item)| write_file(item).map_err(|why| CloudConfigError::File { index, why }));
            parsed.collect::<Result<_, _>>()?
        }
        Some(_) => return Err(CloudConfigError::Yaml("write_files is no list".to_owned())),
    };
    Ok(CloudConfig { hostname, files })
}

fn write_file(item: &Value) -> Result<WriteFile, String> {
    let path = item.get("path").and_then(Value::as_str).ok_or("no path")?;
    if !path.starts_with('/') {
        return Err(format!("path {path:?} is not absolute"));
    }
    let raw = match item.get("content") {
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text,
        Some(_) => return Err(format!("content of {path} is not text")),
    };
    let encoding = item
        .get("encoding")
        .and_then(Value::as_str)
        .unwrap_or("text/plain");
    let content = match encoding.to_ascii_lowercase().as_str() {
        "text/plain" => raw.as_bytes().to_vec(),
        "b64" | "base64" => {
            let packed: String = raw.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            STANDARD
                .decode(packed)
                .map_err(|error| format!("content of {path} is not base64: {error}"))?
        }
        other => {
            return Err(format!(
                "encoding {other:?} of {path} is not known to the simulated guest"
            ));
        }
    };
    let mode = match item.get("permissions") {
        None | Some(Value::Null) => 0o644,
        Some(Value::String(text)) => octal(text).ok_or(format!("permissions {text:?} of {path}"))?,
        // YAML 1.1 reads an unquoted 0600 as octal; what is left of it here are its digits, perhaps as a float.
        Some(Value::Number(number)) => octal(number.to_string().trim_end_matches(".0"))
            .ok_or(format!("permissions {number} of {path}"))?,
        Some(_) => return Err(format!("permissions of {path} are neither text nor a number")),
    };
    let append = item.get("append").and_then(Value::as_bool).unwrap_or(false);
    Ok(WriteFile {
        path: path.to_owned(),
        content,
        mode,
        append,
    })
}

fn octal(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777)
}

impl CloudConfig {
    /// Writes the files below `root`, which stands for the guest's `/`.
    pub fn install(&self, root: &Path) -> io::Result<()> {
        for file in &self.files {
            let path = inside(root, &file.path)
                .ok_or_else(|| io::Error::other(format!("{} leads out of the guest", file.path)))?;
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut options = fs::OpenOptions::new();
            options
                .create(true)
                .write(true)
                .append(file.append)
                .truncate(!file.append);
            options.open(&path)?.write_all(&file.content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        }
        Ok(())
    }
}

/// Where a path of the guest lies below `root`; nothing for one that leads out of it.
pub fn inside(root: &Path, guest_path: &str) -> Option<PathBuf> {
    let mut path = root.to_owned();
    for component in Path::new(guest_path).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => path.push(part),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn file(path: &str, content: &[u8], mode: u32) -> WriteFile {
        WriteFile {
            path: path.to_owned(),
            content: content.to_vec(),
            mode,
            append: false,
        }
    }

    #[rstest]
    #[case::plain("{path: /a, content: hi}", file("/a", b"hi", 0o644))]
    #[case::b64("{path: /a, encoding: b64, content: aGk=}", file("/a", b"hi", 0o644))]
    #[case::base64_over_lines(
        "{path: /a, encoding: base64, content: \"aG\\nk=\"}",
        file("/a", b"hi", 0o644)
    )]
    #[case::quoted_permissions("{path: /a, permissions: '0600'}", file("/a", b"", 0o600))]
    #[case::bare_permissions("{path: /a, permissions: 0600}", file("/a", b"", 0o600))]
    fn a_write_files_entry_is_read_as_cloud_init_reads_it(#[case] entry: &str, #[case] expected: WriteFile) {
        let parsed = parse(format!("#cloud-config\nwrite_files: [{entry}]\n").as_bytes()).unwrap();
        assert_eq!(parsed.files, vec![expected]);
    }

    #[rstest]
    #[case::a_script("#!/bin/sh\n", "does not begin with #cloud-config")]
    #[case::a_header_below_the_first_line("\n#cloud-config\n", "does not begin with #cloud-config")]
    #[case::a_list("#cloud-config\n- a\n", "no mapping")]
    #[case::bad_yaml("#cloud-config\na: [\n", "not a YAML mapping")]
    #[case::a_relative_path(
        "#cloud-config\nwrite_files: [{path: a}]\n",
        "write_files[0]: path \"a\" is not absolute"
    )]
    #[case::bad_base64(
        "#cloud-config\nwrite_files: [{path: /a, encoding: b64, content: '*'}]\n",
        "is not base64"
    )]
    #[case::no_octal(
        "#cloud-config\nwrite_files: [{path: /a, permissions: rw}]\n",
        "permissions \"rw\""
    )]
    #[case::unknown_encoding(
        "#cloud-config\nwrite_files: [{path: /a, encoding: rot13}]\n",
        "encoding \"rot13\""
    )]
    fn what_cloud_init_would_not_take_is_refused(#[case] text: &str, #[case] why: &str) {
        let error = parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[rstest]
    #[case::hostname("hostname: n1", Some("n1"))]
    #[case::fqdn("fqdn: n1.example.org", Some("n1"))]
    #[case::hostname_first("hostname: n1\nfqdn: n2.example.org", Some("n1"))]
    #[case::none("runcmd: []", None)]
    fn the_host_name_is_read(#[case] body: &str, #[case] expected: Option<&str>) {
        let parsed = parse(format!("#cloud-config\n{body}\n").as_bytes()).unwrap();
        assert_eq!(parsed.hostname.as_deref(), expected);
    }

    #[test]
    fn files_are_written_below_the_root_with_their_permissions() {
        let root = tempfile::tempdir().unwrap();
        let mut config = CloudConfig {
            hostname: None,
            files: vec![file("/etc/a/b", b"one\n", 0o600)],
        };
        config.files.push(WriteFile {
            append: true,
            ..file("/etc/a/b", b"two\n", 0o600)
        });
        config.install(root.path()).unwrap();
        let path = root.path().join("etc/a/b");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_path_out_of_the_guest_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let config = CloudConfig {
            hostname: None,
            files: vec![file("/etc/../../x", b"", 0o600)],
        };
        assert!(
            config
                .install(root.path())
                .unwrap_err()
                .to_string()
                .contains("leads out of the guest")
        );
    }
}
