//! Several replicas of the webhook behind its Service. Replicas are processes, and the test takes the role of kubelet and
//! EndpointSlice controller.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use machinist_certs::{Served, served};
use serde_json::json;
use testbed::Testbed;
use testbed::server::Server;
use tokio::net::{TcpListener, TcpStream};

/// Name of the Service.
const SERVICE: &str = "machinist-webhook";

/// One replica, reached at an address that endpoints may have.
pub struct Replica {
    name: String,
    address: SocketAddr,
    slices: Api<EndpointSlice>,
    forwarder: tokio::task::JoinHandle<()>,
}

impl Replica {
    /// Makes a running webhook an endpoint of the Service.
    pub async fn join(bed: &Testbed, namespace: &str, webhook: &Server) -> Result<Self> {
        let Some(port) = webhook.ports().next() else {
            bail!("{} has no port", webhook.client());
        };
        let listener = TcpListener::bind((own_address()?, 0)).await?;
        let address = listener.local_addr()?;
        let replica = Self {
            name: format!("{SERVICE}-{}", webhook.client()),
            address,
            slices: Api::namespaced(bed.user().client(), namespace),
            forwarder: tokio::spawn(forward(listener, port)),
        };
        replica.ready(true).await?;
        Ok(replica)
    }

    /// Sets whether it is ready for requests.
    pub async fn ready(&self, ready: bool) -> Result<()> {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": self.name, "labels": {"kubernetes.io/service-name": SERVICE}},
            "addressType": "IPv4", "ports": [{"name": "webhook", "port": self.address.port()}],
            "endpoints": [{"addresses": [self.address.ip()], "conditions": {"ready": ready}}],
        });
        let params = PatchParams::apply("kubelet").force();
        self.slices
            .patch(&self.name, &params, &Patch::Apply(slice))
            .await?;
        Ok(())
    }

    /// The certificate that it serves with.
    pub async fn served(&self) -> Result<Vec<u8>> {
        match served(self.address, "localhost", Duration::from_secs(5)).await {
            Served::Certificate(leaf) => Ok(leaf),
            other => bail!("{} shows {other:?}", self.name),
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

/// An address of this machine other than loopback, which endpoints may not have.
fn own_address() -> Result<Ipv4Addr> {
    // Nothing is sent: the kernel only chooses a source.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 200), 9))?;
    let SocketAddr::V4(address) = socket.local_addr()? else {
        bail!("the socket is not of IPv4");
    };
    ensure!(
        !address.ip().is_loopback(),
        "this machine has no address but loopback"
    );
    Ok(*address.ip())
}

async fn forward(listener: TcpListener, port: u16) {
    while let Ok((mut from, _)) = listener.accept().await {
        tokio::spawn(async move {
            // A stopped replica refuses connections; closing the connection has the same effect.
            if let Ok(mut to) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}
