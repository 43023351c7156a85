//! Rotation of the serving certificate, seen from a client with real handshakes.
//! Helpers panic where a test would.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; helpers outside of test functions are no exception"
)]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use machinist_certs::{
    CertificateFiles, Clients, CurrentCertificate, DevelopmentCa, Identity, MinimumTls, Reloader, Served,
    ServingCertificate, served as served_at, server_config,
};
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
    accept(certificate).await
}

/// A server that echoes.
async fn accept(certificate: Arc<CurrentCertificate>) -> std::net::SocketAddr {
    let acceptor =
        TlsAcceptor::from(server_config(certificate, MinimumTls::default(), Clients::Any).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else {
                    return;
                };
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

fn write(directory: &Path, leaf: &ServingCertificate) {
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

fn der(leaf: &ServingCertificate) -> CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()
}

#[tokio::test]
async fn rewritten_files_are_served_and_the_old_connection_continues() {
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
    let swap = |generation: usize, leaf: &ServingCertificate| {
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
async fn who_has_no_certificate_yet_refuses_until_there_is_one() {
    let (ca, none) = (
        DevelopmentCa::new("test").unwrap(),
        Arc::new(CurrentCertificate::none()),
    );
    let address = accept(none.clone()).await;
    let seen = || served_at(address, "localhost", Duration::from_secs(5));
    assert_eq!((none.expires(), seen().await), (None, Served::Nothing));
    let leaf = ca.serving(&["localhost"], DAY).unwrap();
    let (certificate, key) = (leaf.certificate.as_bytes(), leaf.key.as_bytes());
    none.replace(Identity::of_secret("n/s", certificate, key, SystemTime::now()).unwrap());
    assert_eq!(seen().await, Served::Certificate(der(&leaf).to_vec()));
    echoes(&mut connect(address, &ca).await).await;
}

#[tokio::test]
async fn who_does_not_answer_or_speaks_no_tls_is_not_known() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = served_at(address, "localhost", Duration::from_millis(100)).await;
    assert_eq!(silent, Served::Unknown);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let other = served_at(address, "localhost", Duration::from_secs(5)).await;
    assert_eq!(other, Served::Unknown);
    // The receiver is gone.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(served_at(closed, "localhost", DAY).await, Served::Unknown);
}

#[tokio::test]
async fn a_broken_rotation_leaves_the_old_certificate_until_it_is_fixed() {
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
