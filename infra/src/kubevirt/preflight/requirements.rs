//! The objects that a spec names on the infra cluster.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use machinist_shared::api::field::FieldPath;
use machinist_shared::kubevirt::kinds::{
    CLUSTER_INSTANCETYPE, CLUSTER_PREFERENCE, INSTANCETYPE, INSTANCETYPES, PREFERENCE, canonical,
    instancetypes,
};
use machinist_shared::kubevirt::source::downloads;
use machinist_shared::kubevirt::spec::Matcher;

use super::request::{PreflightRequest, SecretDisclosure};

/// Kinds of objects that a spec can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Instancetype,
    ClusterInstancetype,
    Preference,
    ClusterPreference,
    StorageClass,
    /// In the VMs' namespace. Only its metadata is read.
    Secret,
    /// CDI's, named like its StorageClass. Only its metadata is read.
    StorageProfile,
    /// In any namespace, named `namespace/name`.
    Claim,
}

impl Kind {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Instancetype => INSTANCETYPE,
            Self::ClusterInstancetype => CLUSTER_INSTANCETYPE,
            Self::Preference => PREFERENCE,
            Self::ClusterPreference => CLUSTER_PREFERENCE,
            Self::StorageClass => "StorageClass",
            Self::StorageProfile => "StorageProfile",
            Self::Secret => "Secret",
            Self::Claim => "PersistentVolumeClaim",
        }
    }

    pub(super) fn is_instancetype(self) -> bool {
        matches!(self, Self::Instancetype | Self::ClusterInstancetype)
    }

    pub(super) fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        let gvk = match self {
            Self::StorageClass => GroupVersionKind::gvk("storage.k8s.io", "v1", self.text()),
            Self::StorageProfile => GroupVersionKind::gvk("cdi.kubevirt.io", "v1beta1", self.text()),
            Self::Secret | Self::Claim => GroupVersionKind::gvk("", "v1", self.text()),
            _ => GroupVersionKind::gvk("instancetype.kubevirt.io", "v1beta1", self.text()),
        };
        let resource = ApiResource::from_gvk(&gvk);
        match self {
            Self::ClusterInstancetype
            | Self::ClusterPreference
            | Self::StorageClass
            | Self::StorageProfile => Api::all_with(client.clone(), &resource),
            _ => Api::namespaced_with(client.clone(), namespace, &resource),
        }
    }
}

/// The consequence of a missing object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// The VM cannot be created.
    Error,
    /// It can be created later.
    Warning,
}

/// A required object: a name, and its possible kinds.
#[derive(Debug)]
pub(super) struct Requirement {
    pub(super) path: FieldPath,
    /// The preferred kind first.
    pub(super) kinds: Vec<Kind>,
    pub(super) name: String,
    pub(super) weight: Severity,
}

/// All objects that the spec names.
pub(super) fn requirements(request: &PreflightRequest<'_>) -> Vec<Requirement> {
    let (spec, vm) = (request.spec, request.path.child("virtualMachine"));
    let template = vm.child("template");
    let mut requirements = Vec::new();
    let mut want = |path: FieldPath, kinds: Vec<Kind>, name: &str, weight| {
        if !name.is_empty() {
            let name = name.to_owned();
            requirements.push(Requirement {
                path,
                kinds,
                name,
                weight,
            });
        }
    };
    if let Some(it) = &spec.instancetype {
        let path = vm.child("instancetype").child("name");
        want(path, instancetype_kinds(it), &it.name, Severity::Error);
    }
    if let Some(it) = &spec.preference {
        let kind = match it.kind.as_str() {
            PREFERENCE => Kind::Preference,
            // KubeVirt treats it as the cluster-wide kind.
            _ => Kind::ClusterPreference,
        };
        let path = vm.child("preference").child("name");
        want(path, vec![kind], &it.name, Severity::Error);
    }
    let primary = template.child("primaryDisk");
    let class = |disk: &FieldPath| disk.child("storageClassName");
    let classes = vec![Kind::StorageClass];
    want(
        class(&primary),
        classes.clone(),
        &spec.primary_disk.storage_class,
        Severity::Error,
    );
    for (index, disk) in spec.secondary_disks.iter().enumerate() {
        let path = class(&template.child("secondaryDisks").index(index));
        want(path, classes.clone(), &disk.storage_class, Severity::Error);
    }
    if request.secrets == SecretDisclosure::Allowed && downloads(&spec.image) {
        let secrets = vec![Kind::Secret];
        let path = primary.child("dataVolumeSecretRef");
        // CDI waits for it.
        want(path, secrets.clone(), &spec.image.secret, Severity::Warning);
        let path = primary.child("extraHeadersSecretRef");
        want(path, secrets, &spec.image.extra_headers_secret, Severity::Error);
    }
    requirements
}

/// Both kinds of instancetypes, the requested one first.
pub(super) fn instancetype_kinds(matcher: &Matcher) -> Vec<Kind> {
    let asked = canonical(&matcher.kind, INSTANCETYPES).unwrap_or_default();
    instancetypes(asked)
        .into_iter()
        .map(|kind| match kind {
            INSTANCETYPE => Kind::Instancetype,
            _ => Kind::ClusterInstancetype,
        })
        .collect()
}
