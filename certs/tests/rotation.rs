//! Rotation of the serving certificate, seen from a client with real handshakes.
//! Helpers panic where a test would.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use machinist_certs::{CertificateFiles, DevelopmentCa, Leaf, Reloader, server_config};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const DAY: Duration = Duration::from_hours(24);

/// A server that echoes, behind the certificate in `directory`.
async fn serve(directory: &Path) -> std::net::SocketAddr {
    let files = CertificateFiles::new(directory.join("tls.crt"), directory.join("tls.key"));
    let (certificate, reloader) = Reloader::start(files).unwrap();
    tokio::spawn(reloader.run());
    let acceptor = TlsAcceptor::from(server_config(certificate).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(tcp).await.unwrap();
                let (mut read, mut write) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn connect(address: std::net::SocketAddr, ca: &DevelopmentCa) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), tcp)
        .await
        .unwrap()
}

fn served(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

async fn echoes(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
}

fn write(directory: &Path, leaf: &Leaf) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("tls.crt"), &leaf.certificate).unwrap();
    std::fs::write(directory.join("tls.key"), &leaf.key).unwrap();
}

/// Connects until another certificate than `old` is served.
async fn served_after(
    address: std::net::SocketAddr,
    ca: &DevelopmentCa,
    old: &CertificateDer<'_>,
) -> CertificateDer<'static> {
    let wait = async {
        loop {
            let now = served(&connect(address, ca).await);
            if now != *old {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .expect("the new certificate is served")
}

fn der(leaf: &Leaf) -> CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()
}

#[tokio::test]
async fn files_written_anew_are_served_and_the_old_connection_lives_on() {
    let (ca, directory) = (DevelopmentCa::new("test").unwrap(), tempfile::tempdir().unwrap());
    let [first, second] = [0, 1].map(|_| ca.serving(&["localhost"], DAY).unwrap());
    write(directory.path(), &first);
    let address = serve(directory.path()).await;
    let mut old = connect(address, &ca).await;
    assert_eq!(served(&old), der(&first));
    write(directory.path(), &second);
    assert_eq!(served_after(address, &ca, &der(&first)).await, der(&second));
    echoes(&mut old).await;
}

/// What the kubelet does with a Secret's volume: files are links into `..data`, which is a link that is swapped.
#[tokio::test]
async fn a_link_swapped_by_the_kubelet_is_noticed_every_time() {
    let (ca, directory) = (DevelopmentCa::new("test").unwrap(), tempfile::tempdir().unwrap());
    let volume = directory.path();
    let swap = |generation: usize, leaf: &Leaf| {
        write(&volume.join(format!("..{generation}")), leaf);
        symlink(format!("..{generation}"), volume.join("..data_tmp")).unwrap();
        std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
        if generation > 0 {
            std::fs::remove_dir_all(volume.join(format!("..{}", generation - 1))).unwrap();
        }
    };
    let leaves: Vec<_> = (0..4).map(|_| ca.serving(&["localhost"], DAY).unwrap()).collect();
    swap(0, &leaves[0]);
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), volume.join(file)).unwrap();
    }
    let address = serve(volume).await;
    let mut old = connect(address, &ca).await;
    for generation in 1..leaves.len() {
        swap(generation, &leaves[generation]);
        let now = served_after(address, &ca, &der(&leaves[generation - 1])).await;
        assert_eq!(now, der(&leaves[generation]));
    }
    echoes(&mut old).await;
}

#[tokio::test]
async fn a_broken_rotation_leaves_the_old_certificate_until_it_is_mended() {
    let (ca, directory) = (DevelopmentCa::new("test").unwrap(), tempfile::tempdir().unwrap());
    let [first, second] = [0, 1].map(|_| ca.serving(&["localhost"], DAY).unwrap());
    write(directory.path(), &first);
    let address = serve(directory.path()).await;
    std::fs::write(directory.path().join("tls.crt"), &second.certificate).unwrap();
    // Longer than the reloader waits for a writer to finish.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(served(&connect(address, &ca).await), der(&first));
    std::fs::write(directory.path().join("tls.key"), &second.key).unwrap();
    assert_eq!(served_after(address, &ca, &der(&first)).await, der(&second));
}
