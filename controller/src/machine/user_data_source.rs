//! Where the user data of a Machine's VM comes from.

use k8s_openapi::jiff::Timestamp;

use super::plan::UserDataSource;
use super::record::{BootstrapSecret, Record};
use super::snapshot::types::{Bootstrap, Snapshot};

/// Name of the Secret with the user data: bound to one Machine and one VM of it, by the ID of its token or of its
/// [`BootstrapSecret`], so that an existing Secret of this name can only be our own.
pub fn user_data_secret_name(machine_uid: &str, id: &str) -> String {
    format!("userdata-{machine_uid}-{id}")
}

/// What has become of the user data of a VM that is there.
#[derive(Debug, PartialEq, Eq)]
pub enum UserDataIs {
    /// It can be given; and the ID in the name of its Secret.
    Here(UserDataSource, String),
    /// It is gone, why, and the VM with it: its guest was never started.
    Gone(&'static str),
    /// It may come back.
    Awaited,
}

/// The bootstrap Secret that the record says a VM is made with.
fn begun(record: Option<&Record>) -> Option<&BootstrapSecret> {
    record?.bootstrap_secret.as_ref()
}

/// That of a VM that is to be made, if it is there to be given.
pub fn of_new_vm(observed: &Snapshot, record: Option<&Record>, now: Timestamp) -> Option<UserDataSource> {
    match &observed.bootstrap {
        Bootstrap::Builtin => Some(UserDataSource::Token),
        Bootstrap::Osm(revision) => {
            let begun = begun(record).filter(|begun| begun.revision == *revision);
            // A VM of it may have been made already, and is only not seen yet.
            let id = begun.map(|begun| begun.id.clone());
            let id = id.unwrap_or_else(|| format!("osm-{:x}", now.as_millisecond()));
            Some(UserDataSource::BootstrapSecret(id))
        }
        Bootstrap::Waiting(_) | Bootstrap::OtherRevision(_) | Bootstrap::Invalid(_) => None,
    }
}

/// That of a VM that is there, and not on record yet.
pub fn of_vm(observed: &Snapshot, record: Option<&Record>) -> UserDataIs {
    let Some(begun) = begun(record) else {
        return match &observed.token {
            Some(token) => UserDataIs::Here(UserDataSource::Token, token.id.to_string()),
            None => UserDataIs::Gone("its bootstrap token is gone before its guest was started"),
        };
    };
    match &observed.bootstrap {
        Bootstrap::Osm(revision) if begun.revision == *revision => UserDataIs::Here(
            UserDataSource::BootstrapSecret(begun.id.clone()),
            begun.id.clone(),
        ),
        Bootstrap::Osm(_) => {
            UserDataIs::Gone("its bootstrap Secret was replaced before its guest was started")
        }
        Bootstrap::Builtin => UserDataIs::Gone("its bootstrap mode was changed before its guest was started"),
        Bootstrap::Waiting(_) | Bootstrap::OtherRevision(_) | Bootstrap::Invalid(_) => UserDataIs::Awaited,
    }
}
