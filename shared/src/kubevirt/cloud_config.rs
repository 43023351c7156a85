//! `GetCloudConfig`: the configuration of a cloud provider for KubeVirt, in the guest and next to the control plane.

use semver::Version;
use serde_json::Value;

use crate::provider::Secret;

/// The component that implements the cloud provider for a kubelet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudProvider {
    /// The kubelet itself, in versions with built-in providers.
    InTree,
    /// A cloud controller manager.
    External,
}

/// A kubelet's `/etc/kubernetes/cloud-config`, as operating-system-manager writes it: YAML with the kubeconfig of the
/// infra cluster. It is empty where no kubelet reads it: from 1.29 on, and with a cloud controller manager.
pub fn for_kubelet(
    kubeconfig: &Secret,
    infra_namespace: &str,
    kubelet: &Version,
    provider: CloudProvider,
) -> Secret {
    if provider == CloudProvider::External || (kubelet.major, kubelet.minor) >= (1, 29) {
        return Secret::default();
    }
    Secret::new(format!(
        "global:\n  kubeconfig: {}\n  namespace: {}\n",
        quoted(kubeconfig.expose()),
        quoted(infra_namespace),
    ))
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    const KUBECONFIG: &str = "apiVersion: v1\nkind: Config\nclusters:\n- name: \"infra\"\n  cluster: {server: 'https://[::1]:6443'}\n";

    /// The `--cloud-config` of cloud-provider-kubevirt, the cloud controller manager: YAML with the path of the infra
    /// kubeconfig and the namespace of the VMs. Its other settings have defaults, with which it sets the providerID
    /// `kubevirt://<VM name>` on Nodes.
    fn for_cloud_controller_manager(kubeconfig_path: &str, infra_namespace: &str) -> String {
        format!(
            "kubeconfig: {}\nnamespace: {}\n",
            quoted(kubeconfig_path),
            quoted(infra_namespace),
        )
    }

    fn of_kubelet(version: &str, provider: CloudProvider) -> Secret {
        let kubeconfig = Secret::new(KUBECONFIG.to_owned());
        for_kubelet(
            &kubeconfig,
            "tenant-7",
            &Version::parse(version).unwrap(),
            provider,
        )
    }

    #[test]
    fn a_kubelet_gets_kubeconfig_and_namespace() {
        let made = of_kubelet("1.28.9", CloudProvider::InTree);
        insta::assert_snapshot!("kubelet", made.expose());
        let read: Value = serde_saphyr::from_str(made.expose()).unwrap();
        assert_eq!(
            read,
            json!({"global": {"kubeconfig": KUBECONFIG, "namespace": "tenant-7"}})
        );
        assert_eq!(format!("{made:?}"), "[hidden]");
    }

    #[rstest]
    #[case::without_providers_built_in("1.29.0", CloudProvider::InTree)]
    #[case::a_pre_release_without("1.29.0-alpha.0", CloudProvider::InTree)]
    #[case::a_later_one("1.33.4", CloudProvider::InTree)]
    #[case::an_external_provider("1.28.9", CloudProvider::External)]
    fn a_kubelet_that_reads_none_gets_none(#[case] version: &str, #[case] provider: CloudProvider) {
        assert_eq!(of_kubelet(version, provider).expose(), "");
    }

    #[test]
    fn the_documentation_shows_what_a_cloud_controller_manager_needs() {
        let documentation = include_str!("../../../docs/provider-ids.md");
        let made = for_cloud_controller_manager("/etc/infra/kubeconfig", "machinist-infra");
        assert!(documentation.contains(&format!("```yaml\n{made}```")), "{made}");
    }

    #[test]
    fn a_cloud_controller_manager_gets_its_kubeconfig_and_namespace() {
        let made = for_cloud_controller_manager("/etc/infra/kubeconfig", "tenant-7");
        insta::assert_snapshot!("cloud_controller_manager", made);
        let read: Value = serde_saphyr::from_str(&made).unwrap();
        assert_eq!(
            read,
            json!({"kubeconfig": "/etc/infra/kubeconfig", "namespace": "tenant-7"})
        );
    }
}
