//! A VolumeAttachment, projected to the fields that we use.

use super::raw::Raw;
use kube::core::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

/// Which volume is attached to which Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "Raw")]
pub struct VolumeAttachment {
    /// Metadata, without what is not used.
    pub metadata: ObjectMeta,
    /// The Node.
    pub node: String,
    /// Name of the volume; of the attachment, if it names none.
    pub volume: String,
    /// Whether it is attached, or is still being detached.
    pub attached: bool,
}

impl From<Raw> for VolumeAttachment {
    fn from(raw: Raw) -> Self {
        let volume = raw.spec["source"]["persistentVolumeName"].as_str();
        let volume = volume.or(raw.metadata.name.as_deref()).unwrap_or_default();
        Self {
            node: raw.spec["nodeName"].as_str().unwrap_or_default().to_owned(),
            volume: volume.to_owned(),
            attached: raw.status["attached"] == Value::Bool(true),
            metadata: ObjectMeta {
                name: raw.metadata.name,
                uid: raw.metadata.uid,
                resource_version: raw.metadata.resource_version,
                ..ObjectMeta::default()
            },
        }
    }
}

machinist_infra::projected!(
    VolumeAttachment,
    ClusterResourceScope,
    "VolumeAttachment",
    "storage.k8s.io",
    "v1",
    "volumeattachments"
);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_attachment_is_named_by_its_volume_and_counts_while_it_is_attached() {
        let read = |spec: Value, status: Value| -> VolumeAttachment {
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec, "status": status}))
                .unwrap()
        };
        let attached = read(
            json!({"nodeName": "n", "source": {"persistentVolumeName": "pv"}}),
            json!({"attached": true}),
        );
        assert_eq!(
            (
                attached.node.as_str(),
                attached.volume.as_str(),
                attached.attached
            ),
            ("n", "pv", true)
        );
        let inline = read(
            json!({"nodeName": "n", "source": {"inlineVolumeSpec": {}}}),
            Value::Null,
        );
        assert_eq!((inline.volume.as_str(), inline.attached), ("a", false));
    }
}
