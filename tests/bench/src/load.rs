//! Clients that use less CPU than the measured server: prebuilt requests over keep-alive TLS, and minimal parsing of answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The clients.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The trusted CA.
    pub(crate) ca: CertificateDer<'static>,
    /// How many connections send requests at once, each one request after the other.
    pub(crate) connections: usize,
}

/// The measurements.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// The latency of each answer, in nanoseconds.
    pub(crate) latencies: Vec<u32>,
    /// From the first request to the last answer.
    pub(crate) time: Duration,
}

impl Load {
    /// Sends the same request repeatedly for `time`.
    pub(crate) async fn run(
        &self,
        address: SocketAddr,
        request: &[u8],
        time: Duration,
    ) -> anyhow::Result<Measured> {
        let mut clients = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            clients.push(Client::connect(self, address).await?);
        }
        let (request, start) = (Arc::<[u8]>::from(request), Instant::now());
        let mut tasks = JoinSet::new();
        for mut client in clients {
            let request = request.clone();
            tasks.spawn(async move {
                let mut latencies = Vec::with_capacity(1 << 16);
                while start.elapsed() < time {
                    let asked = Instant::now();
                    client.exchange(&request).await?;
                    latencies.push(u32::try_from(asked.elapsed().as_nanos()).unwrap_or(u32::MAX));
                }
                anyhow::Ok(latencies)
            });
        }
        let mut measured = Measured::default();
        while let Some(latencies) = tasks.join_next().await {
            measured.latencies.extend(latencies??);
        }
        measured.time = start.elapsed();
        Ok(measured)
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(load: &Load, address: SocketAddr) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(load.ca.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("localhost")?, tcp)
            .await?;
        Ok(Self {
            stream,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Sends one request, and returns the answer's body.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (start, end) = self.exchange(request).await?;
        Ok(self.buffer[start..end].to_vec())
    }

    /// Sends one request, and returns the range of the answer's body in the buffer. Any status other than 200 is an error.
    async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<(usize, usize)> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            ensure!(read > 0, "the server closed the connection");
            filled += read;
            let Some(head) = self.buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") else {
                continue;
            };
            let length = content_length(&self.buffer[..head])?;
            if filled >= head + 4 + length {
                return Ok((head + 4, head + 4 + length));
            }
            ensure!(filled < self.buffer.len(), "the answer is longer than expected");
        }
    }
}

fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    let head = std::str::from_utf8(head)?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("unexpected answer: {}", head.lines().next().unwrap_or_default());
    }
    let value = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    Ok(value.context("an answer without its length")?.parse()?)
}
