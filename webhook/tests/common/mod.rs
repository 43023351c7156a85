//! A webhook in this process, and clients that reach it over real TLS.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses another part of this"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Parser as _;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use machinist_certs::{DevelopmentCa, ServingCertificate};
use machinist_shared::provider::Env;
use machinist_webhook::admit::Cluster;
use machinist_webhook::certificate::Source;
use machinist_webhook::flags::Flags;
use machinist_webhook::run::Webhook;
use machinist_webhook::server::{Limits, Timeouts};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A webhook that ends with this value.
pub struct Server {
    pub address: SocketAddr,
    pub ops_address: SocketAddr,
    pub ca: DevelopmentCa,
    pub certificates: TempDir,
    pub task: JoinHandle<anyhow::Result<()>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// A webhook with short limits, so that tests need not wait.
    pub fn start() -> Self {
        let limits = Limits {
            timeouts: Timeouts {
                request: Duration::from_millis(500),
                handshake: Duration::from_millis(500),
                ..Timeouts::default()
            },
            ..Limits::default()
        };
        Self::with(limits, Duration::from_millis(500))
    }

    pub fn with(limits: Limits, notice: Duration) -> Self {
        Self::with_args(limits, notice, &[])
    }

    /// One with more flags.
    pub fn with_args(limits: Limits, notice: Duration, more: &[String]) -> Self {
        let (ca, certificates) = (
            DevelopmentCa::new("webhook-test").unwrap(),
            tempfile::tempdir().unwrap(),
        );
        write(
            certificates.path(),
            &ca.serving(&["localhost"], Duration::from_hours(1)).unwrap(),
        );
        let args = [
            "machinist-webhook".to_owned(),
            "--listen-address=127.0.0.1:0".to_owned(),
            "--ops-address=127.0.0.1:0".to_owned(),
            format!(
                "--tls-cert-path={}",
                certificates.path().join("tls.crt").display()
            ),
            format!("--tls-key-path={}", certificates.path().join("tls.key").display()),
        ];
        let flags = Flags::parse_from(args.iter().chain(more));
        let env = Env::new(|name| (name == "POD_NAMESPACE").then(|| "vms".to_owned()));
        let source = Source::new(&flags, None).unwrap();
        let webhook = Webhook::start(&flags, &env, limits, Cluster::default(), source).unwrap();
        let (stop, stopped) = oneshot::channel();
        Self {
            address: webhook.address,
            ops_address: webhook.ops_address,
            ca,
            certificates,
            task: tokio::spawn(webhook.run(
                async {
                    let _ = stopped.await;
                },
                notice,
            )),
            stop: Some(stop),
        }
    }

    /// What SIGTERM does.
    pub fn terminate(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub fn rotate(&self) -> ServingCertificate {
        let leaf = self.ca.serving(&["localhost"], Duration::from_hours(1)).unwrap();
        write(self.certificates.path(), &leaf);
        leaf
    }

    async fn tls(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        tls(self.address, &self.ca, versions, alpn, None).await
    }

    /// What a client with this certificate gets for an unreadable review: status and body, or nothing if it is turned away.
    pub async fn asked_with(&self, certificate: Option<&ServingCertificate>) -> std::io::Result<String> {
        let mut stream = tls(self.address, &self.ca, &[&TLS13], &[], certificate).await?;
        let request = "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                       content-length: 2\r\nconnection: close\r\n\r\n{}";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// The certificate that a new connection is shown.
    pub async fn served(&self) -> CertificateDer<'static> {
        let stream = self.raw().await;
        let (_, session) = stream.get_ref();
        session.peer_certificates().unwrap()[0].clone()
    }

    /// A bare TLS connection, to be misused.
    pub async fn raw(&self) -> TlsStream<TcpStream> {
        self.tls(&[&TLS13], &[]).await.unwrap()
    }

    pub async fn raw_tls12(&self) -> std::io::Result<TlsStream<TcpStream>> {
        self.tls(&[&TLS12], &[]).await
    }

    /// An HTTP/1.1 client on a connection of its own.
    pub async fn client(&self) -> Client {
        Client::connect(self.address, &self.ca).await
    }

    /// An HTTP/2 client, as Go's clients are.
    pub async fn client2(&self) -> http2::SendRequest<Full<Bytes>> {
        let stream = self.tls(&[&TLS13], &[b"h2"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    /// The whole answer to a GET on the port without TLS: status and body.
    pub async fn ops(&self, path: &str) -> (u16, String) {
        get(self.ops_address, path).await
    }
}

/// A CA of clients (PEM), and the certificates of some of them, by their common names.
pub fn client_ca<const N: usize>(names: [&str; N]) -> (String, [ServingCertificate; N]) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let leaves = names.map(|name| {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        ServingCertificate {
            certificate: params.signed_by(&key, &ca).unwrap().pem(),
            key: key.serialize_pem(),
        }
    });
    (ca.pem(), leaves)
}

/// The whole answer to a GET without TLS: status and body.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn tls(
    address: SocketAddr,
    ca: &DevelopmentCa,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
    certificate: Option<&ServingCertificate>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), tcp)
        .await
}

pub fn write(directory: &Path, leaf: &ServingCertificate) {
    std::fs::write(directory.join("tls.crt"), &leaf.certificate).unwrap();
    std::fs::write(directory.join("tls.key"), &leaf.key).unwrap();
}

pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{:?}", self.body);
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub fn request(method: &str, path: &str, content_type: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost");
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    request.body(Full::new(body.into())).unwrap()
}

impl Client {
    /// An HTTP/1.1 client on a connection of its own.
    pub async fn connect(address: SocketAddr, ca: &DevelopmentCa) -> Self {
        let io = TokioIo::new(tls(address, ca, &[&TLS13], &[b"http/1.1"], None).await.unwrap());
        let (sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.sender.ready().await.unwrap();
        let (head, body) = self.sender.send_request(request).await.unwrap().into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(request("POST", path, "application/json", body)).await
    }

    /// The response to a review.
    pub async fn review(&mut self, path: &str, review: &Value) -> Value {
        let answer = self.post(path, review.to_string()).await.json();
        assert_eq!(answer["apiVersion"], review["apiVersion"]);
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
        answer["response"].clone()
    }
}

/// The patch of a response.
pub fn patch(response: &Value) -> json_patch::Patch {
    assert_eq!(response["patchType"], "JSONPatch");
    serde_json::from_slice(&STANDARD.decode(response["patch"].as_str().unwrap()).unwrap()).unwrap()
}

pub fn review(operation: &str, object: &Value, old: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "cluster.k8s.io", "version": "v1alpha1", "kind": "Machine"},
            "resource": {"group": "cluster.k8s.io", "version": "v1alpha1", "resource": "machines"},
            "requestKind": {"group": "cluster.k8s.io", "version": "v1alpha1", "kind": "Machine"},
            "requestResource": {"group": "cluster.k8s.io", "version": "v1alpha1", "resource": "machines"},
            "name": "m", "namespace": "kube-system", "operation": operation,
            "userInfo": {"username": "admin", "uid": "1", "groups": ["system:masters"], "extra": {"a": ["b"]}},
            "object": object, "oldObject": old, "dryRun": false, "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

/// A good Machine as kubectl sends it: without `spec.metadata`.
pub fn machine() -> Value {
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1",
        "kind": "Machine",
        "metadata": {"name": "m", "namespace": "kube-system"},
        "spec": {
            "versions": {"kubelet": "1.33.4"},
            "providerSpec": {"value": {
                "cloudProvider": "kubevirt",
                "operatingSystem": "ubuntu",
                "cloudProviderSpec": {
                    "clusterName": "c",
                    "auth": {"kubeconfig": {"secretKeyRef": {"namespace": "kube-system", "name": "infra", "key": "kubeconfig"}}},
                    "virtualMachine": {"template": {
                        "cpus": "2", "memory": "4Gi",
                        "primaryDisk": {"osImage": "https://images.example/ubuntu.img", "size": "20Gi", "storageClassName": "fast"},
                    }},
                },
            }},
        },
    })
}
