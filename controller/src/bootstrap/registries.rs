//! Where containerd takes images from: mirrors, and credentials of registries.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinist_shared::provider::machinist::Registries;
use machinist_shared::provider_spec::operating_system::OperatingSystem;
use serde_json::Value;

use super::guest::{File, mode};
use super::input::UserDataError;

const CONFIG: &str = include_str!("../../templates/containerd.toml");
const CONFIG_PATH: &str = "/etc/containerd/config.toml";
/// Flatcar's unit names a configuration of its own below /usr.
const FLATCAR_DROP_IN: &str =
    "[Service]\nExecStart=\nExecStart=/usr/bin/containerd --config /etc/containerd/config.toml\n";

/// containerd's files.
pub(super) fn files(
    registries: &Registries,
    credentials: &str,
    os: OperatingSystem,
) -> Result<Vec<File>, UserDataError> {
    let credentials = self::credentials(credentials)?;
    let mut config = CONFIG.to_owned();
    for Credential {
        registry,
        user,
        password,
    } in &credentials
    {
        // Writing to memory does not fail.
        let _ = write!(
            config,
            "\n[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.{}.auth]\nusername = {}\npassword = {}\n",
            quoted(registry)?,
            quoted(user)?,
            quoted(password)?
        );
    }
    let secrecy = if credentials.is_empty() {
        mode::PUBLIC
    } else {
        mode::SECRET
    };
    let mut files = vec![File::new(CONFIG_PATH, secrecy, config)];
    for (registry, mirrors) in &registries.mirrors {
        let folder = if registry == "*" { "_default" } else { registry };
        files.push(File::new(
            format!("/etc/containerd/certs.d/{folder}/hosts.toml"),
            mode::PUBLIC,
            hosts(registry, mirrors)?,
        ));
    }
    if os == OperatingSystem::Flatcar {
        let path = "/etc/systemd/system/containerd.service.d/10-machinist.conf";
        files.push(File::new(path, mode::PUBLIC, FLATCAR_DROP_IN));
    }
    Ok(files)
}

/// `hosts.toml`: the mirrors in their order, then the registry itself.
fn hosts(registry: &str, mirrors: &[String]) -> Result<String, UserDataError> {
    let mut text = String::new();
    let server = match registry {
        "*" => None,
        // The host behind the name.
        "docker.io" => Some("https://registry-1.docker.io".to_owned()),
        other => Some(format!("https://{other}")),
    };
    if let Some(server) = server {
        let _ = writeln!(text, "server = {}", quoted(&server)?);
    }
    for mirror in mirrors {
        let mirror = mirror.trim_end_matches('/');
        let _ = write!(
            text,
            "\n[host.{}]\ncapabilities = [\"pull\", \"resolve\"]\n",
            quoted(mirror)?
        );
        // containerd would add another /v2 at the end.
        if mirror.split('/').skip(3).any(|part| part == "v2") {
            text.push_str("override_path = true\n");
        }
    }
    Ok(text)
}

struct Credential {
    registry: String,
    user: String,
    password: String,
}

/// Reads a `.dockerconfigjson`. What is in it is never shown.
fn credentials(text: &str) -> Result<Vec<Credential>, UserDataError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let wrong = |why| UserDataError::Credentials(why);
    let config: Value = serde_json::from_str(text).map_err(|_| wrong("is no JSON"))?;
    let auths = config["auths"].as_object().ok_or(wrong("has no auths"))?;
    let mut found = Vec::new();
    for (registry, auth) in auths {
        let plain = auth["username"].as_str().zip(auth["password"].as_str());
        let plain = plain.map(|(user, password)| (user.to_owned(), password.to_owned()));
        let encoded = || {
            let bytes = STANDARD.decode(auth["auth"].as_str()?.trim()).ok()?;
            let text = String::from_utf8(bytes).ok()?;
            let (user, password) = text.split_once(':')?;
            Some((user.to_owned(), password.to_owned()))
        };
        let (user, password) = plain
            .or_else(encoded)
            .ok_or(wrong("has an entry with neither username and password nor auth"))?;
        found.push(Credential {
            registry: host(registry).to_owned(),
            user,
            password,
        });
    }
    found.sort_by(|a, b| a.registry.cmp(&b.registry));
    found.dedup_by(|a, b| a.registry == b.registry);
    Ok(found)
}

/// The host by which containerd looks credentials up: `docker login` writes a whole URL for Docker's own registry.
fn host(registry: &str) -> &str {
    let bare = registry
        .strip_prefix("https://")
        .or_else(|| registry.strip_prefix("http://"))
        .unwrap_or(registry);
    match bare.split('/').next().unwrap_or_default() {
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        host => host,
    }
}

/// A TOML string. JSON's are TOML's, but for DEL, which TOML wants escaped.
fn quoted(text: &str) -> Result<String, UserDataError> {
    if text.chars().any(char::is_control) {
        return Err(UserDataError::ControlCharacter {
            field: "a registry, a mirror or a credential",
        });
    }
    Ok(Value::from(text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn with(mirrors: &[(&str, &[&str])], credentials: &str) -> Result<Vec<File>, UserDataError> {
        let mirrors = mirrors
            .iter()
            .map(|(registry, mirrors)| {
                let mirrors = mirrors.iter().map(|&mirror| mirror.to_owned()).collect();
                ((*registry).to_owned(), mirrors)
            })
            .collect();
        let registries = Registries {
            mirrors,
            ..Registries::default()
        };
        files(&registries, credentials, OperatingSystem::Ubuntu)
    }

    fn of<'a>(files: &'a [File], path: &str) -> &'a File {
        files.iter().find(|file| file.path == path).unwrap()
    }

    #[test]
    fn mirrors_are_asked_in_their_order_before_the_registry() {
        let files = with(
            &[
                ("docker.io", &["https://a", "https://b/v2/docker/"]),
                ("*", &["http://10.0.0.1:5000"]),
            ],
            "",
        )
        .unwrap();
        assert_eq!(
            of(&files, "/etc/containerd/certs.d/docker.io/hosts.toml").content,
            "server = \"https://registry-1.docker.io\"\n\n\
             [host.\"https://a\"]\ncapabilities = [\"pull\", \"resolve\"]\n\n\
             [host.\"https://b/v2/docker\"]\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n"
        );
        let default = of(&files, "/etc/containerd/certs.d/_default/hosts.toml");
        assert!(!default.content.contains("server"), "{}", default.content);
        assert_eq!(of(&files, CONFIG_PATH).mode, 0o644);
    }

    #[rstest]
    #[case::apart(json!({"auths": {"r.example.com": {"username": "me", "password": "se\"same"}}}), "r.example.com")]
    #[case::encoded(json!({"auths": {"r.example.com": {"auth": STANDARD.encode("me:se\"same")}}}), "r.example.com")]
    #[case::dockers_own(json!({"auths": {"https://index.docker.io/v1/": {"auth": STANDARD.encode("me:se\"same")}}}), "registry-1.docker.io")]
    fn credentials_are_for_root_alone(#[case] config: Value, #[case] host: &str) {
        let files = with(&[], &config.to_string()).unwrap();
        let config = of(&files, CONFIG_PATH);
        assert_eq!(config.mode, 0o600);
        let want =
            format!("registry.configs.\"{host}\".auth]\nusername = \"me\"\npassword = \"se\\\"same\"\n");
        assert!(config.content.ends_with(&want), "{}", config.content);
    }

    #[rstest]
    #[case("sesame")]
    #[case("{\"sesame\": 1}")]
    #[case("{\"auths\": {\"a\": {\"auth\": \"sesame\"}}}")]
    #[case("{\"auths\": {\"a\": {\"username\": \"a\\nb\", \"password\": \"sesame\"}}}")]
    fn credentials_of_no_use_are_reported_and_not_shown(#[case] text: &str) {
        let error = with(&[], text).err().unwrap();
        assert!(!format!("{error} {error:?}").contains("sesame"));
    }
}
