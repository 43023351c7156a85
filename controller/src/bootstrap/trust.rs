//! Whom the guest trusts: further CAs for TLS, and an SSH CA for users who log in.

use machinist_shared::provider_spec::operating_system::OperatingSystem;

use super::guest::{File, mode};
use super::input::UserDataError;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// One file per certificate, for Debian's tool wants it so; the installation takes them into the system's bundle.
pub(super) fn certificates(bundle: &str, os: OperatingSystem) -> Result<Vec<File>, UserDataError> {
    if bundle.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for (index, rest) in bundle.split(BEGIN).skip(1).enumerate() {
        let (body, _) = rest.split_once(END).ok_or(UserDataError::CaBundle)?;
        let path = match os {
            OperatingSystem::Flatcar => format!("/etc/ssl/certs/machinist-{index}.pem"),
            OperatingSystem::Rhel | OperatingSystem::RockyLinux | OperatingSystem::AmazonLinux2 => {
                format!("/etc/pki/ca-trust/source/anchors/machinist-{index}.pem")
            }
            OperatingSystem::Ubuntu => format!("/usr/local/share/ca-certificates/machinist-{index}.crt"),
        };
        files.push(File::new(path, mode::PUBLIC, format!("{BEGIN}{body}{END}\n")));
    }
    if files.is_empty() {
        return Err(UserDataError::CaBundle);
    }
    Ok(files)
}

/// `caPublicKey`: the one that has a certificate of this SSH CA may log in.
pub(super) fn ssh_ca(key: &str) -> Result<Vec<File>, UserDataError> {
    let key = key.trim();
    if key.is_empty() {
        return Ok(Vec::new());
    }
    if key.chars().any(char::is_control) {
        return Err(UserDataError::ControlCharacter { field: "caPublicKey" });
    }
    let keys = "/etc/ssh/trusted-user-ca-keys.pem";
    Ok(vec![
        File::new(keys, mode::PUBLIC, format!("{key}\n")),
        File::new(
            "/etc/ssh/sshd_config.d/40-machinist.conf",
            mode::SECRET,
            format!("TrustedUserCAKeys {keys}\n"),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_of_a_bundle_gets_its_file() {
        let bundle = format!("# a\n{BEGIN}\nMA==\n{END}\ntext\n{BEGIN}\nMQ==\n{END}\n");
        let files = certificates(&bundle, OperatingSystem::Rhel).unwrap();
        let found: Vec<_> = files
            .iter()
            .map(|f| (f.path.as_str(), f.content.as_str()))
            .collect();
        let want = [
            (
                "/etc/pki/ca-trust/source/anchors/machinist-0.pem",
                format!("{BEGIN}\nMA==\n{END}\n"),
            ),
            (
                "/etc/pki/ca-trust/source/anchors/machinist-1.pem",
                format!("{BEGIN}\nMQ==\n{END}\n"),
            ),
        ];
        assert_eq!(
            found,
            want.iter().map(|(p, c)| (*p, c.as_str())).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_bundle_without_certificates_is_refused() {
        assert!(certificates("x", OperatingSystem::Ubuntu).is_err());
        assert!(certificates(&format!("{BEGIN}\nMA=="), OperatingSystem::Ubuntu).is_err());
        assert!(certificates(" ", OperatingSystem::Ubuntu).unwrap().is_empty());
    }
}
