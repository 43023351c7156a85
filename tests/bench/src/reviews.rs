//! The AdmissionReviews of the benchmark: Machines as the API server sends them, `managedFields` included.

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// One scenario: a request that is sent repeatedly.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// Its name.
    pub(crate) name: String,
    path: &'static str,
    /// The review.
    pub(crate) body: Vec<u8>,
    patched: bool,
}

impl Scenario {
    fn new(name: &str, path: &'static str, review: &Value, patched: bool) -> Self {
        Self {
            name: name.to_owned(),
            path,
            body: review.to_string().into_bytes(),
            patched,
        }
    }

    /// The whole HTTP request.
    pub(crate) fn request(&self) -> Vec<u8> {
        http_request(self.path, &self.body)
    }

    /// Whether the webhook's answer is the expected one: allowed, with or without a patch.
    pub(crate) fn check(&self, answer: &[u8]) -> anyhow::Result<()> {
        let answer: Value = serde_json::from_slice(answer)?;
        let response = answer.get("response").context("no response")?;
        ensure!(response["allowed"] == true, "refused: {response}");
        ensure!(
            response.get("patch").is_some() == self.patched,
            "unexpected: {response}"
        );
        Ok(())
    }
}

/// A request that both servers answer.
pub(crate) fn trivial() -> Vec<u8> {
    let review =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u"}});
    http_request("/validate", review.to_string().as_bytes())
}

fn http_request(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path}?timeout=10s HTTP/1.1\r\nHost: machinist-webhook.machinist-system.svc:443\r\n\
         User-Agent: kube-apiserver-admission\r\nContent-Length: {}\r\nAccept: application/json, */*\r\n\
         Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// All of them.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let secret = json!({"secretKeyRef": {"namespace": "kube-system", "name": "machinist-infra-kubeconfig", "key": "kubeconfig"}});
    let mut list = Vec::new();
    for (size, kubeconfig) in [("", secret), (", inline", json!(inline_kubeconfig()))] {
        let raw = machine(&kubeconfig);
        let stored = defaulted(&raw);
        let create = |object: &Value| review("CREATE", object, &Value::Null);
        list.push(Scenario::new(
            &format!("mutate create{size}"),
            "/mutate",
            &create(&raw),
            true,
        ));
        list.push(Scenario::new(
            &format!("validate create{size}"),
            "/validate",
            &create(&stored),
            false,
        ));
    }
    let old = defaulted(&machine(&json!(inline_kubeconfig())));
    let mut new = old.clone();
    new["metadata"]["annotations"]["example.com/touched"] = json!("2026-01-01T00:00:00Z");
    let update = review("UPDATE", &new, &old);
    list.push(Scenario::new("mutate update", "/mutate", &update, false));
    list.push(Scenario::new("validate update", "/validate", &update, false));
    list
}

fn review(operation: &str, object: &Value, old: &Value) -> Value {
    let kind = json!({"group": "cluster.k8s.io", "version": "v1alpha1", "kind": "Machine"});
    let resource = json!({"group": "cluster.k8s.io", "version": "v1alpha1", "resource": "machines"});
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource,
            "name": "my-machine", "namespace": "kube-system", "operation": operation,
            "userInfo": {"username": "kubernetes-admin", "groups": ["kubeadm:cluster-admins", "system:authenticated"],
                "extra": {"authentication.kubernetes.io/credential-id": ["X509SHA256=4a5c1ab0e2f4d8b6c39d0f7e1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d"]}},
            "object": object, "oldObject": old, "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "kubectl-client-side-apply", "fieldValidation": "Strict"},
        },
    })
}

fn machine(kubeconfig: &Value) -> Value {
    let fields = |keys: &[&str]| -> Value {
        keys.iter()
            .map(|key| (format!("f:{key}"), json!({})))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1",
        "kind": "Machine",
        "metadata": {
            "name": "my-machine", "namespace": "kube-system", "uid": "3d4c9a0e-96a5-4a3e-8f5a-0a7e6c6f2b11", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"workerset": "pool-a", "app.kubernetes.io/part-of": "my-cluster"},
            "annotations": {"example.com/owner": "platform-team@example.com", "example.com/ticket": "OPS-4711"},
            "managedFields": [{
                "manager": "kubectl-client-side-apply", "operation": "Update", "apiVersion": "cluster.k8s.io/v1alpha1",
                "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": {
                    "f:metadata": {"f:annotations": fields(&[".", "example.com/owner", "example.com/ticket"]), "f:labels": fields(&[".", "workerset", "app.kubernetes.io/part-of"])},
                    "f:spec": {"f:metadata": {"f:labels": fields(&["pool"])}, "f:taints": {}, "f:versions": fields(&["kubelet"]),
                        "f:providerSpec": {"f:value": fields(&["cloudProvider", "cloudProviderSpec", "operatingSystem", "operatingSystemSpec", "sshPublicKeys"])}},
                },
            }],
        },
        "spec": {
            "metadata": {"labels": {"pool": "a", "disk": "fast"}},
            "taints": [{"key": "example.com/fresh", "value": "true", "effect": "PreferNoSchedule"}],
            "versions": {"kubelet": "1.33.4"},
            "providerSpec": {"value": {
                "cloudProvider": "kubevirt",
                "operatingSystem": "ubuntu",
                "sshPublicKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl someone@example.com"],
                "cloudProviderSpec": {
                    "clusterName": "my-cluster",
                    "projectID": "my-project",
                    "auth": {"kubeconfig": kubeconfig},
                    "virtualMachine": {
                        "instancetype": {"name": "standard-2", "kind": "VirtualMachineClusterInstancetype"},
                        "preference": {"name": "sockets-advantage", "kind": "VirtualMachineClusterPreference"},
                        "dnsPolicy": "None",
                        "dnsConfig": {"nameservers": ["10.0.0.10"], "searches": ["svc.example.com"], "options": [{"name": "ndots", "value": "2"}]},
                        "evictionStrategy": "External",
                        "enableNetworkMultiQueue": true,
                        "template": {
                            "primaryDisk": {"osImage": "https://images.example.com/ubuntu-24.04-server-cloudimg-amd64.img", "source": "http",
                                "size": "25Gi", "storageClassName": "standard", "storageAccessType": "ReadWriteOnce"},
                            "secondaryDisks": [{"size": "50Gi", "storageClassName": "standard"}],
                        },
                    },
                    "topologySpreadConstraints": [{"maxSkew": "1", "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}],
                },
            }},
        },
    })
}

/// The same with what the first step adds; `scenarios` are checked to need no patch any more.
fn defaulted(machine: &Value) -> Value {
    let mut machine = machine.clone();
    let metadata = &mut machine["spec"]["metadata"];
    metadata["name"] = json!("my-machine");
    metadata["labels"]["v1.machine-controller.kubermatic.io/operating-system"] = json!("ubuntu");
    metadata["annotations"] = json!({"cluster.x-k8s.io/cluster-namespace": "kube-system"});
    machine["spec"]["providerSpec"]["value"]["operatingSystemSpec"] = json!({"distUpgradeOnBoot": false});
    let annotations = &mut machine["metadata"]["annotations"];
    annotations["v1.kubelet-featuregates.machine-controller.kubermatic.io/RotateKubeletServerCertificate"] =
        json!("true");
    annotations["v1.kubelet-flags.machine-controller.kubermatic.io/ExternalCloudProvider"] = json!("false");
    machine
}

/// As large as those of real clusters: a CA, a client certificate and its key.
fn inline_kubeconfig() -> String {
    let pem = |kind: &str, bytes: usize| {
        let noise: Vec<u8> = (0..bytes)
            .map(|i| u8::try_from(i * 31 % 251).unwrap_or(0))
            .collect();
        STANDARD.encode(format!(
            "-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n",
            STANDARD.encode(noise)
        ))
    };
    STANDARD.encode(format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: infra\ncontexts:\n- name: infra\n  context: {{cluster: infra, user: machinist}}\n\
         clusters:\n- name: infra\n  cluster:\n    server: https://infra.example.com:6443\n    certificate-authority-data: {}\n\
         users:\n- name: machinist\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        pem("CERTIFICATE", 780),
        pem("CERTIFICATE", 820),
        pem("PRIVATE KEY", 700),
    ))
}
