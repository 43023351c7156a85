//! Disks, volumes and the DataVolume templates behind them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::RenderInput;
use crate::api::names::annotation;
use crate::kubevirt::resolved::{Disk, ResolvedSpec};
use crate::kubevirt::source::{SourceKind, source_kind};

/// Name of the operating system's volume.
pub(crate) const PRIMARY_DISK: &str = "datavolumedisk";
const CLOUD_INIT: &str = "cloudinitdisk";

/// Name of a secondary disk: of its volume, its DataVolume and its claim.
pub(crate) fn secondary_disk(name: &str, index: usize) -> String {
    format!("{name}-secondarydisk{index}")
}

/// Names of the DataVolumes, and so of the claims, of a Machine's VM.
pub fn disk_names(name: &str, spec: &ResolvedSpec) -> Vec<String> {
    let further = (0..spec.secondary_disks.len()).map(|index| secondary_disk(name, index));
    std::iter::once(name.to_owned()).chain(further).collect()
}

pub(super) fn disks(input: &RenderInput<'_>) -> Value {
    let further = (0..input.spec.secondary_disks.len()).map(|index| secondary_disk(input.name, index));
    let names = [PRIMARY_DISK.to_owned(), CLOUD_INIT.to_owned()]
        .into_iter()
        .chain(further);
    names
        .map(|name| json!({"name": name, "disk": {"bus": "virtio"}}))
        .collect()
}

pub(super) fn volumes(input: &RenderInput<'_>) -> Value {
    let primary = json!({"name": PRIMARY_DISK, "dataVolume": {"name": input.name}});
    let cloud_init =
        json!({"name": CLOUD_INIT, "cloudInitNoCloud": {"secretRef": {"name": input.user_data_secret}}});
    let further = (0..input.spec.secondary_disks.len()).map(|index| {
        let name = secondary_disk(input.name, index);
        json!({"name": name, "dataVolume": {"name": name}})
    });
    [primary, cloud_init].into_iter().chain(further).collect()
}

pub(super) fn data_volume_templates(
    input: &RenderInput<'_>,
    annotations: &BTreeMap<String, String>,
) -> Value {
    let spec = input.spec;
    let mut metadata = json!({"name": input.name});
    if !annotations.is_empty() {
        metadata["annotations"] = json!(annotations);
    }
    let target = if spec.storage_target_pvc {
        Target::Pvc
    } else {
        Target::Storage
    };
    let primary = json!({
        "metadata": metadata,
        "spec": {"source": source(input), target.key(): claim(input, &spec.primary_disk, target)},
    });
    let copies = input
        .annotations
        .get(annotation::SECONDARY_DISKS)
        .map(String::as_str)
        == Some("copy");
    let content = if copies {
        source(input)
    } else {
        json!({"blank": {}})
    };
    let further = spec.secondary_disks.iter().enumerate().map(|(index, disk)| {
        json!({
            "metadata": {"name": secondary_disk(input.name, index)},
            "spec": {"source": content, Target::Pvc.key(): claim(input, disk, Target::Pvc)},
        })
    });
    std::iter::once(primary).chain(further).collect()
}

/// The field of a DataVolume that describes its claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// CDI sets the volume mode that matches the access mode.
    Storage,
    /// Used as it is.
    Pvc,
}

impl Target {
    fn key(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Pvc => "pvc",
        }
    }
}

fn claim(input: &RenderInput<'_>, disk: &Disk, target: Target) -> Value {
    let known = input
        .facts
        .access_modes
        .get(&disk.storage_class)
        .map_or("ReadWriteOnce", String::as_str);
    let mode = if disk.access_mode.is_empty() {
        known
    } else {
        &disk.access_mode
    };
    let mut claim = json!({
        "storageClassName": disk.storage_class,
        "accessModes": [mode],
        "resources": {"requests": {"storage": disk.size}},
    });
    // Without it the claim is for a file system, which the class does not support with this access mode.
    let as_offered = (disk.storage_class.clone(), mode.to_owned());
    if target == Target::Pvc && disk.by_profile && input.facts.block_only.contains(&as_offered) {
        claim["volumeMode"] = json!("Block");
    }
    claim
}

fn source(input: &RenderInput<'_>) -> Value {
    let image = &input.spec.image;
    match source_kind(image) {
        SourceKind::Http => {
            let mut http = Map::from_iter([("url".to_owned(), json!(image.location))]);
            let headers = if image.extra_headers.is_empty() {
                &input.facts.extra_headers
            } else {
                &image.extra_headers
            };
            if !headers.is_empty() {
                http.insert("extraHeaders".to_owned(), json!(headers));
            }
            if !image.secret.is_empty() {
                http.insert("secretRef".to_owned(), json!(image.secret));
            }
            json!({"http": http})
        }
        SourceKind::Registry => {
            let pull_method = if image.pull_method.is_empty() {
                "node"
            } else {
                &image.pull_method
            };
            json!({"registry": {"url": image.location, "pullMethod": pull_method}})
        }
        SourceKind::Claim => {
            let mut parts = image.location.split('/');
            let (first, second) = (parts.next().unwrap_or_default(), parts.next());
            let (namespace, name) = second.map_or((input.namespace, first), |name| (first, name));
            json!({"pvc": {"namespace": namespace, "name": name}})
        }
    }
}
