//! Valid objects, and edits of them.

use serde_json::{Map, Value, json};

/// Namespace of the VMs, which a flag of the webhook under test names.
pub const INFRA_NAMESPACE: &str = testbed::seed::INFRA_NAMESPACE;

/// Place of `providerSpec.value` in a Machine.
pub(super) const VALUE: &str = "/spec/providerSpec/value";
/// Place of `cloudProviderSpec` in a Machine.
pub(super) const CLOUD: &str = "/spec/providerSpec/value/cloudProviderSpec";
/// Place of the VM's template in a Machine.
pub(super) const TEMPLATE: &str = "/spec/providerSpec/value/cloudProviderSpec/virtualMachine/template";

/// A valid SSH key.
pub(super) const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJa9IV9papNfkLQvGSqhTbbfHPixDI1P5gZVciP+4YjQ";

/// A valid Machine, as kubectl sends it.
pub fn machine() -> Value {
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1",
        "kind": "Machine",
        "metadata": {"name": "m", "namespace": "kube-system"},
        "spec": spec(),
    })
}

/// A valid MachineDeployment, as kubectl sends it.
pub(super) fn deployment() -> Value {
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1",
        "kind": "MachineDeployment",
        "metadata": {"name": "d", "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": {"name": "foo"}},
            "template": {"metadata": {"labels": {"name": "foo"}}, "spec": spec()},
        },
    })
}

/// A valid MachineSet, as kubectl sends it.
pub(super) fn set() -> Value {
    let deployment = deployment();
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1",
        "kind": "MachineSet",
        "metadata": {"name": "s", "namespace": "kube-system"},
        "spec": deployment["spec"],
    })
}

fn spec() -> Value {
    json!({
        "versions": {"kubelet": "1.33.4"},
        "providerSpec": {"value": {
            "cloudProvider": "kubevirt",
            "operatingSystem": "ubuntu",
            "cloudProviderSpec": {
                "auth": {"kubeconfig": {"secretKeyRef": {"namespace": "kube-system", "name": "infra", "key": "kubeconfig"}}},
                "clusterName": "cluster",
                "virtualMachine": {"template": {
                    "cpus": "2",
                    "memory": "4Gi",
                    "primaryDisk": {
                        "osImage": "http://images.example.com/ubuntu.img",
                        "size": "10Gi",
                        "storageClassName": "standard",
                    },
                }},
            },
        }},
    })
}

/// Edits of JSON by pointer.
pub(super) trait Edit {
    /// Sets the value at that pointer, and creates missing objects on the path.
    fn with(self, pointer: &str, value: Value) -> Value;
    /// Removes the value at that pointer.
    fn without(self, pointer: &str) -> Value;
}

impl Edit for Value {
    fn with(mut self, pointer: &str, value: Value) -> Value {
        let mut place = &mut self;
        for key in pointer.split('/').skip(1) {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[key.replace("~1", "/")];
        }
        *place = value;
        self
    }

    fn without(mut self, pointer: &str) -> Value {
        if let Some((parent, key)) = pointer.rsplit_once('/')
            && let Some(object) = self.pointer_mut(parent).and_then(Value::as_object_mut)
        {
            object.remove(&key.replace("~1", "/"));
        }
        self
    }
}

/// The Machine with this in its `providerSpec.value`.
pub(super) fn value(key: &str, value: Value) -> Value {
    machine().with(&format!("{VALUE}/{key}"), value)
}

/// The Machine with this in its `cloudProviderSpec`.
pub(super) fn cloud(path: &str, value: Value) -> Value {
    machine().with(&format!("{CLOUD}/{path}"), value)
}

/// The Machine with this in its VM's template.
pub(super) fn template(path: &str, value: Value) -> Value {
    machine().with(&format!("{TEMPLATE}/{path}"), value)
}

/// The Machine on that operating system, with that spec of it.
pub(super) fn on(os: &str, spec: Value) -> Value {
    value("operatingSystem", json!(os)).with(&format!("{VALUE}/operatingSystemSpec"), spec)
}

/// The Machine with that annotation.
pub(super) fn annotated(machine: Value, key: &str, text: &str) -> Value {
    machine.with(
        &format!("/metadata/annotations/{}", key.replace('/', "~1")),
        json!(text),
    )
}
