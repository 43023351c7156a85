//! The command lines of etcd, kube-apiserver and kube-controller-manager.

use std::path::Path;

use crate::{control_plane::Options, virtualization::Virtualization};

/// Controllers that a cluster of Machines needs. Controllers for running pods, volumes or a cloud are left out, because they
/// would only cost CPU.
const CONTROLLERS: &[&str] = &[
    // CSRs: its approver runs, so that tests show that it does not approve requests of Machinist's tokens.
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "certificatesigningrequest-signing-controller",
    "clusterrole-aggregation-controller",
    "disruption-controller",
    "garbage-collector-controller",
    // The HorizontalPodAutoscaler. It is idle where there is none.
    "horizontal-pod-autoscaler-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    // The API server adds the finalizer that this one removes.
    "persistentvolumeclaim-protection-controller",
    "pod-garbage-collector-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "taint-eviction-controller",
    // Off by default, but kubeadm turns it on: it deletes expired bootstrap tokens.
    "token-cleaner-controller",
    "validatingadmissionpolicy-status-controller",
];

/// Controllers that bind claims to volumes and delete them.
const VOLUME_CONTROLLERS: &[&str] = &[
    "persistentvolume-binder-controller",
    "persistentvolume-protection-controller",
];

pub(crate) fn etcd(data: &Path, client: &str, peer: &str) -> Vec<String> {
    vec![
        "--name=default".into(),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls=http://{client}"),
        format!("--advertise-client-urls=http://{client}"),
        format!("--listen-peer-urls=http://{peer}"),
        format!("--initial-advertise-peer-urls=http://{peer}"),
        format!("--initial-cluster=default=http://{peer}"),
        // The data need not survive a power failure.
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]
}

/// Name of the file with the API server's egress configuration for nodes.
pub(crate) const EGRESS: &str = "egress.yaml";

/// An egress selector that reaches nodes through a Unix socket.
pub(crate) fn egress(socket: &Path) -> String {
    format!(
        "apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: HTTPConnect
    transport:
      uds:
        udsName: {}
",
        socket.display()
    )
}

/// Name of the file with the audit policy.
pub(crate) const AUDIT_POLICY: &str = "audit-policy.yaml";

pub(crate) fn apiserver(
    dir: &Path,
    etcd: &str,
    port: u16,
    options: &Options,
    audit_log: Option<&Path>,
) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    let mut flags = vec![
        format!("--etcd-servers=http://{etcd}"),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
        // Endpoints must not be loopback addresses, so there are none for the Service `kubernetes`.
        "--endpoint-reconciler-type=none".into(),
        format!("--cert-dir={}", file("certs")),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        // As in kubeadm's clusters: aggregated API servers read from a ConfigMap which proxies they may trust.
        format!("--requestheader-client-ca-file={}", file("ca.crt")),
        "--requestheader-allowed-names=front-proxy-client".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--enable-bootstrap-token-auth=true".into(),
        // There is no kube-proxy: webhooks that are Services are called at their endpoints.
        "--enable-aggregator-routing=true".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={}", file("service-account.pub")),
        format!(
            "--service-account-signing-key-file={}",
            file("service-account.key")
        ),
        "--service-cluster-ip-range=10.96.0.0/16".into(),
        format!(
            "--kubelet-client-certificate={}",
            file("apiserver-kubelet-client.crt")
        ),
        format!("--kubelet-client-key={}", file("apiserver-kubelet-client.key")),
        format!("--kubelet-certificate-authority={}", file("ca.crt")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--allow-privileged=true".into(),
        "--profiling=false".into(),
    ];
    if options.egress.is_some() {
        flags.push(format!("--egress-selector-config-file={}", file(EGRESS)));
    }
    if let Some(log) = audit_log {
        flags.push(format!("--audit-policy-file={}", file(AUDIT_POLICY)));
        flags.push(format!("--audit-log-path={}", log.display()));
        // One file of any size.
        flags.push("--audit-log-maxsize=100000".into());
    }
    flags
}

pub(crate) fn controller_manager(dir: &Path, port: u16, options: &Options) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    let volumes = if options.virtualization == Some(Virtualization::Real) {
        VOLUME_CONTROLLERS
    } else {
        &[]
    };
    vec![
        // After a conflict, it would wait 15 seconds.
        "--pvclaimbinder-sync-period=1s".into(),
        format!("--kubeconfig={}", file("controller-manager.kubeconfig")),
        format!("--controllers={}", [CONTROLLERS, volumes].concat().join(",")),
        "--leader-elect=false".into(),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
        format!("--tls-cert-file={}", file("controller-manager.crt")),
        format!("--tls-private-key-file={}", file("controller-manager.key")),
        format!("--root-ca-file={}", file("ca.crt")),
        format!(
            "--service-account-private-key-file={}",
            file("service-account.key")
        ),
        format!("--cluster-signing-cert-file={}", file("ca.crt")),
        format!("--cluster-signing-key-file={}", file("ca.key")),
        "--kube-api-qps=100".into(),
        "--kube-api-burst=200".into(),
        "--min-resync-period=1h".into(),
        // Shorter than the default of 15 seconds.
        "--horizontal-pod-autoscaler-sync-period=2s".into(),
        "--profiling=false".into(),
    ]
}
