//! What the guest gets of the object, in one form for all its notations.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{GuestFile, Machinist};
use crate::admission::kubelet_settings;

impl GuestFile {
    /// Its permissions as a number.
    pub fn mode(&self) -> u32 {
        u32::from_str_radix(&self.permissions, 8).unwrap_or(0o644)
    }
}

impl Machinist {
    /// The form, for a Machine with these annotations.
    pub fn canonical(&self, annotations: &BTreeMap<String, String>) -> Value {
        let files = self.files.iter();
        let files = files.map(|file| json!([file.path, file.mode(), file.content]));
        let script = |commands: &[String]| (!commands.is_empty()).then(|| commands.join("\n"));
        let mirrors = self.registries.mirrors.iter().map(|(registry, mirrors)| {
            let mirrors = mirrors.iter().map(|mirror| mirror.trim_end_matches('/'));
            (registry, mirrors.collect::<Vec<_>>())
        });
        let proxy = Some(&self.proxy).filter(|proxy| proxy.is_set());
        json!({
            "files": files.collect::<Vec<_>>(),
            "preInstall": script(&self.commands.pre_install),
            "postInstall": script(&self.commands.post_install),
            "extraArgs": self.kubelet.extra_args,
            "kubelet": self.kubelet_configuration(&json!({}), kubelet_settings::read(annotations).0),
            "timeServers": self.time_servers,
            "mirrors": mirrors.collect::<BTreeMap<_, _>>(),
            "credentials": self.registries.credentials.canonical(),
            "proxy": proxy.map(|proxy| json!([proxy.http, proxy.https, proxy.no])),
            "caBundle": self.ca_bundle.canonical(),
        })
    }

    /// The KubeletConfiguration: Machinist's defaults, what depends on the cluster, then the settings in a Machine's
    /// annotations, then `kubelet.extraConfig`.
    pub fn kubelet_configuration(&self, of_cluster: &Value, settings: Map<String, Value>) -> Value {
        // As operating-system-manager reserves them.
        let reserved = json!({"cpu": "200m", "memory": "200Mi", "ephemeral-storage": "1Gi"});
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "systemd",
            "containerLogMaxFiles": 5,
            "containerLogMaxSize": "100Mi",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "10%",
                "nodefs.inodesFree": "5%",
                "imagefs.available": "15%",
            },
            "failSwapOn": false,
            "kubeReserved": reserved,
            "systemReserved": reserved,
            "rotateCertificates": true,
            "staticPodPath": "/etc/kubernetes/manifests",
            // The kubelet's own default is below /usr, which is read-only on Flatcar.
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        });
        json_patch::merge(&mut config, of_cluster);
        for (field, value) in settings {
            // Whole: a threshold that is left out is one that is not wanted.
            config[field] = value;
        }
        json_patch::merge(&mut config, &Value::Object(self.kubelet.extra_config.clone()));
        config
    }
}
