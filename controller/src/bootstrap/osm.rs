//! The Secret by which operating-system-manager hands user data over: one per MachineDeployment, remade at each revision.

use k8s_openapi::api::core::v1::Secret;
use machinist_shared::api::names::{annotation, osm};

use super::size;
use super::user_data::{UserData, UserDataError};

/// Stands for the Machine's name; in Ignition's data URLs it is escaped.
const PLACEHOLDER: (&str, &str) = ("<MACHINE_NAME>", "%3CMACHINE_NAME%3E");

/// Name of the Secret of a MachineDeployment, in the namespace [`osm::NAMESPACE`].
pub fn secret_name(deployment: &str, namespace: &str) -> String {
    format!("{deployment}-{namespace}-bootstrap-config")
}

/// Why there is no user data in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OsmError {
    /// It does not exist.
    #[error("operating-system-manager has not made the Secret {}/{name}", osm::NAMESPACE)]
    Absent {
        /// Its name.
        name: String,
    },
    /// It is about to be remade.
    #[error("operating-system-manager is remaking the Secret {}/{name}", osm::NAMESPACE)]
    Deleting {
        /// Its name.
        name: String,
    },
    /// It has no text where it should.
    #[error("the Secret {}/{name} has no text in its key {}", osm::NAMESPACE, osm::KEY)]
    Empty {
        /// Its name.
        name: String,
    },
    /// It is for another revision of the MachineDeployment.
    #[error(
        "the Secret {}/{name} is of revision {found}, and the Machine's MachineSet of revision {wanted}: {}",
        osm::NAMESPACE,
        meaning(found, wanted)
    )]
    Revision {
        /// Its name.
        name: String,
        /// The revision that it is for.
        found: String,
        /// The revision that is needed.
        wanted: String,
    },
    /// It holds more than a guest can be given.
    #[error("the Secret {}/{name}: {error}", osm::NAMESPACE)]
    Unusable {
        /// Its name.
        name: String,
        /// Why.
        error: UserDataError,
    },
}

/// What it means that a Secret is of another revision: revisions are numbers that grow.
fn meaning(found: &str, wanted: &str) -> &'static str {
    match (found.parse::<u64>(), wanted.parse::<u64>()) {
        (Ok(found), Ok(wanted)) if found > wanted => {
            "operating-system-manager keeps the newest only, so a Machine of a former revision cannot be bootstrapped any more"
        }
        _ => "operating-system-manager has not remade it yet",
    }
}

/// User data of operating-system-manager, for one Machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsmUserData {
    /// Revision of the MachineSet that it is for, or empty.
    pub revision: String,
    /// The user data.
    pub user_data: UserData,
}

/// Reads the Secret of that name for the Machine of a MachineSet of that revision.
pub fn read(
    secret: Option<&Secret>,
    name: &str,
    revision: Option<&str>,
    machine: &str,
) -> Result<OsmUserData, OsmError> {
    let name = || name.to_owned();
    let secret = secret.ok_or_else(|| OsmError::Absent { name: name() })?;
    if secret.metadata.deletion_timestamp.is_some() {
        return Err(OsmError::Deleting { name: name() });
    }
    let annotations = secret.metadata.annotations.as_ref();
    let found = annotations.and_then(|a| a.get(annotation::BOOTSTRAP_REVISION));
    let found = found.map(String::as_str);
    // As text, and two absent ones are equal.
    if found != revision {
        let shown = |revision: Option<&str>| revision.unwrap_or("(none)").to_owned();
        return Err(OsmError::Revision {
            name: name(),
            found: shown(found),
            wanted: shown(revision),
        });
    }
    let bytes = secret.data.as_ref().and_then(|data| data.get(osm::KEY));
    let text = bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
    let text = text.filter(|text| !text.trim().is_empty());
    let text = text.ok_or_else(|| OsmError::Empty { name: name() })?;
    let text = filled(text, machine);
    let user_data = if text.trim_start().starts_with('{') {
        size::ignition(text).map(UserData::Ignition)
    } else {
        size::cloud_config(text).map(UserData::CloudConfig)
    };
    Ok(OsmUserData {
        revision: revision.unwrap_or_default().to_owned(),
        user_data: user_data.map_err(|error| OsmError::Unusable { name: name(), error })?,
    })
}

/// The text with the Machine's name in it, and without what is left of lines that held nothing else but blanks.
fn filled(text: &str, machine: &str) -> String {
    // A Machine's name is a DNS name, which escaping leaves as it is.
    let text = text
        .replace(PLACEHOLDER.0, machine)
        .replace(PLACEHOLDER.1, machine);
    let lines = text.split('\n').map(|line| {
        if line.chars().all(|c| c == ' ' || c == '\t') {
            ""
        } else {
            line
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn secret(text: &str, metadata: &Value) -> Secret {
        let mut secret: Secret = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        let data = [(osm::KEY.to_owned(), ByteString(text.as_bytes().to_vec()))];
        secret.data = Some(data.into());
        secret
    }

    fn of_revision(revision: &str) -> Value {
        json!({"annotations": {"k8c.io/machine-deployment-revision": revision}})
    }

    fn text(secret: &Secret) -> String {
        let read = read(Some(secret), "s", Some("3"), "web-1").unwrap();
        String::from_utf8(read.user_data.bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_name_is_filled_in_everywhere_and_blank_lines_are_emptied() {
        let secret = secret(
            "#cloud-config\nhostname: <MACHINE_NAME>\n \t \nx: data:,%3CMACHINE_NAME%3E <MACHINE_NAME>\n  y: 1 \n",
            &of_revision("3"),
        );
        assert_eq!(
            text(&secret),
            "#cloud-config\nhostname: web-1\n\nx: data:,web-1 web-1\n  y: 1 \n"
        );
    }

    #[rstest]
    #[case("#cloud-config\n", false)]
    #[case("\n {\"ignition\": {\"version\": \"2.3.0\"}}", true)]
    fn ignition_is_reported_from_a_cloud_config(#[case] text: &str, #[case] ignition: bool) {
        let read = read(Some(&secret(text, &of_revision("3"))), "s", Some("3"), "m").unwrap();
        assert_eq!(read.user_data.ignition().is_some(), ignition);
        assert_eq!(read.revision, "3");
    }

    #[rstest]
    #[case::absent(None, "has not made")]
    #[case::going(Some(secret("x", &json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}))), "remaking")]
    #[case::newer(
        Some(secret("x", &of_revision("4"))),
        "of revision 4, and the Machine's MachineSet of revision 3: operating-system-manager keeps the newest only"
    )]
    #[case::older(
        Some(secret("x", &of_revision("2"))),
        "of revision 2, and the Machine's MachineSet of revision 3: operating-system-manager has not remade it yet"
    )]
    #[case::much_newer(Some(secret("x", &of_revision("10"))), "keeps the newest only")]
    #[case::none(
        Some(secret("x", &json!({}))),
        "of revision (none), and the Machine's MachineSet of revision 3: operating-system-manager has not remade it yet"
    )]
    #[case::as_text(Some(secret("x", &of_revision("03"))), "of revision 03")]
    #[case::empty(Some(secret(" \n", &of_revision("3"))), "has no text")]
    fn what_cannot_be_used_is_reported(#[case] secret: Option<Secret>, #[case] why: &str) {
        let error = read(secret.as_ref(), "web-ns-bootstrap-config", Some("3"), "m").unwrap_err();
        let reported = error.to_string();
        assert!(
            reported.contains(why) && reported.contains("cloud-init-settings/web-ns-bootstrap-config"),
            "{reported}"
        );
    }

    #[test]
    fn two_absent_revisions_are_equal() {
        assert!(read(Some(&secret("x", &json!({}))), "s", None, "m").is_ok());
    }

    #[test]
    fn the_secret_is_named_after_deployment_and_namespace() {
        assert_eq!(
            secret_name("web", "kube-system"),
            "web-kube-system-bootstrap-config"
        );
    }
}
