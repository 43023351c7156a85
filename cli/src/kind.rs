//! The kinds of objects that a Machine can leave behind.

use k8s_openapi::api::core::v1::Secret;
use kube::core::ApiResource;
use machinist_infra::kubevirt::objects::{Claim, DataVolume, Vm};

/// A kind, in the order of ownership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// KubeVirt's VirtualMachine.
    VirtualMachine,
    /// CDI's DataVolume.
    DataVolume,
    /// PersistentVolumeClaim.
    PersistentVolumeClaim,
    /// Secret, with user data.
    Secret,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::VirtualMachine,
        Self::DataVolume,
        Self::PersistentVolumeClaim,
        Self::Secret,
    ];

    /// Its name in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::VirtualMachine => "VirtualMachine",
            Self::DataVolume => "DataVolume",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Secret => "Secret",
        }
    }

    /// Its name in RBAC.
    pub const fn resource_name(self) -> &'static str {
        match self {
            Self::VirtualMachine => "virtualmachines.kubevirt.io",
            Self::DataVolume => "datavolumes.cdi.kubevirt.io",
            Self::PersistentVolumeClaim => "persistentvolumeclaims",
            Self::Secret => "secrets",
        }
    }

    /// Parses a kind: as in a manifest, as a resource or by its short name, in any letter case.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (text, group) = text.split_once('.').unwrap_or((&text, ""));
        let one = text.strip_suffix('s').unwrap_or(text);
        let kind = match one {
            "virtualmachine" | "vm" => Self::VirtualMachine,
            "datavolume" | "dv" => Self::DataVolume,
            "persistentvolumeclaim" | "pvc" => Self::PersistentVolumeClaim,
            "secret" => Self::Secret,
            _ => return None,
        };
        let (_, own_group) = kind.resource_name().split_once('.').unwrap_or_default();
        (group.is_empty() || group == own_group).then_some(kind)
    }

    /// Its API resource.
    pub fn resource(self) -> ApiResource {
        match self {
            Self::VirtualMachine => ApiResource::erase::<Vm>(&()),
            Self::DataVolume => ApiResource::erase::<DataVolume>(&()),
            Self::PersistentVolumeClaim => ApiResource::erase::<Claim>(&()),
            Self::Secret => ApiResource::erase::<Secret>(&()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("VirtualMachine", Some(Kind::VirtualMachine))]
    #[case("vms", Some(Kind::VirtualMachine))]
    #[case("virtualmachines.kubevirt.io", Some(Kind::VirtualMachine))]
    #[case("virtualmachines.example.com", None)]
    #[case("DV", Some(Kind::DataVolume))]
    #[case("pvc", Some(Kind::PersistentVolumeClaim))]
    #[case("persistentvolumeclaims", Some(Kind::PersistentVolumeClaim))]
    #[case("secret", Some(Kind::Secret))]
    #[case("node", None)]
    #[case("", None)]
    fn kinds_are_called_as_with_kubectl(#[case] text: &str, #[case] want: Option<Kind>) {
        assert_eq!(Kind::parse(text), want);
    }

    #[test]
    fn every_kind_is_where_its_name_says() {
        for kind in Kind::ALL {
            let resource = kind.resource();
            let group = if resource.group.is_empty() {
                String::new()
            } else {
                format!(".{}", resource.group)
            };
            assert_eq!(kind.resource_name(), format!("{}{group}", resource.plural));
            assert_eq!(resource.kind, kind.name());
            assert_eq!(Kind::parse(kind.resource_name()), Some(kind));
        }
    }
}
