//! What is on disk: `<site>/key`, and per namespace `<name>/instance.json`, `<name>/guest.json` and `.disks/<name>`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::core::ObjectMeta;
use serde::{Deserialize, Serialize};

/// The credential that opens a site.
pub const KEY: &str = "key";
/// What an instance is.
pub const INSTANCE: &str = "instance.json";
/// What its guest reports.
pub const GUEST: &str = "guest.json";
/// Folder of a namespace's disks.
pub const DISKS: &str = ".disks";

/// `instance.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stored {
    /// Its name, which is the directory's.
    pub name: String,
    /// Unique, assigned at creation.
    pub uid: String,
    /// Counts its changes.
    pub version: u64,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Name of the file with its user data.
    pub user_data: Option<String>,
    /// Its disks, which are created and deleted with it.
    pub disks: Vec<String>,
    /// The cluster whose machine-controller made it.
    pub peer: Option<String>,
}

impl Stored {
    /// As every provider shows it.
    pub fn metadata(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            resource_version: Some(self.version.to_string()),
            creation_timestamp: self.created.map(Time),
            labels: Some(self.labels.clone()),
            ..ObjectMeta::default()
        }
    }
}

/// `guest.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFile {
    /// Its addresses.
    pub addresses: Vec<String>,
}

/// Metadata of a disk. `owner` is the UID of its instance, and empty for a foreign disk.
pub fn disk_metadata(name: &str, owner: &str) -> ObjectMeta {
    let reference = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Directory".to_owned(),
        uid: owner.to_owned(),
        controller: Some(true),
        ..OwnerReference::default()
    };
    ObjectMeta {
        name: Some(name.to_owned()),
        owner_references: (!owner.is_empty()).then(|| vec![reference]),
        ..ObjectMeta::default()
    }
}

/// Everything in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Text of the site's key.
    pub key: String,
    /// Instances with their guests, by name.
    pub instances: BTreeMap<String, (Stored, Option<GuestFile>)>,
    /// Owners of disks, by name.
    pub disks: BTreeMap<String, String>,
}

/// Reads a namespace; an error if any of it cannot be read, for half of it would look as if the rest were gone.
pub fn read(site: &Path, namespace: &Path) -> io::Result<Contents> {
    let mut contents = Contents {
        key: fs::read_to_string(site.join(KEY))?,
        ..Contents::default()
    };
    for entry in fs::read_dir(namespace)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        // One that is being removed has no file any more.
        let Some(stored) = parsed(&namespace.join(&name).join(INSTANCE))? else {
            continue;
        };
        let guest = parsed(&namespace.join(&name).join(GUEST))?;
        contents.instances.insert(name, (stored, guest));
    }
    for entry in fs::read_dir(namespace.join(DISKS))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(owner) = present(fs::read_to_string(entry.path()))? {
            contents.disks.insert(name, owner);
        }
    }
    // Files that were not found may have been carried away with everything around them.
    fs::metadata(namespace)?;
    Ok(contents)
}

/// The object in a file; `None` if there is no such file.
pub fn parsed<T: for<'de> Deserialize<'de>>(file: &Path) -> io::Result<Option<T>> {
    let Some(text) = present(fs::read_to_string(file))? else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_str(&text)?))
}

/// Writes a file as a whole or not at all.
pub fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = file.with_file_name(name);
    fs::write(&new, text)?;
    fs::rename(new, file)
}

/// A UID.
pub fn new_uid() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?
        .trim()
        .to_owned())
}

/// Creates an instance with its disks; `AlreadyExists` if there is one of its name. Gives it UID and version.
pub fn make(namespace: &Path, mut stored: Stored, created: Timestamp) -> io::Result<()> {
    stored.uid = new_uid()?;
    stored.version = 1;
    stored.created = Some(created);
    let new = namespace.join(format!(".new-{}", stored.uid));
    fs::create_dir(&new)?;
    write(&new.join(INSTANCE), &serde_json::to_string(&stored)?)?;
    // It appears as a whole, and over nothing: a directory with something in it is not replaced.
    if let Err(error) = fs::rename(&new, namespace.join(&stored.name)) {
        fs::remove_dir_all(&new)?;
        return Err(match error.kind() {
            io::ErrorKind::DirectoryNotEmpty => io::ErrorKind::AlreadyExists.into(),
            _ => error,
        });
    }
    for disk in &stored.disks {
        match fs::File::create_new(namespace.join(DISKS).join(disk)) {
            Ok(_) => write(&namespace.join(DISKS).join(disk), &stored.uid)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes an instance with its disks.
pub fn remove(namespace: &Path, stored: &Stored) -> io::Result<()> {
    let old = namespace.join(format!(".old-{}", stored.uid));
    fs::rename(namespace.join(&stored.name), &old)?;
    fs::remove_dir_all(old)?;
    for disk in &stored.disks {
        let disk = namespace.join(DISKS).join(disk);
        if present(fs::read_to_string(&disk))?.as_deref() == Some(&stored.uid) {
            fs::remove_file(disk)?;
        }
    }
    Ok(())
}

fn present<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
