//! A TLS proxy in front of an API server that records every request by client and injects the faults of tests.
//!
//! Each client has its own port, by which the proxy identifies it. The proxy terminates TLS with a certificate of the cluster's
//! CA, so kubeconfigs only need another server URL. Tokens are forwarded; client certificates cannot be.

mod fault;
mod forward;
mod request;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use tokio_rustls::TlsAcceptor;

pub use self::{
    fault::WriteFuse,
    request::{Request, Target},
};
use self::{
    fault::{Faults, FrozenWatches},
    forward::Upstream,
};
use crate::{ControlPlane, kubeconfig};

/// The proxy of one API server. Its ports close when it is dropped.
pub struct FaultProxy {
    acceptor: TlsAcceptor,
    upstream: Upstream,
    shared: Arc<Shared>,
    /// A separate runtime, so that it outlives the runtime of the test that created it, and runs while a test computes.
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct Shared {
    clients: Mutex<HashMap<String, Client>>,
    requests: watch::Sender<Vec<Request>>,
}

#[derive(Clone)]
struct Client {
    address: SocketAddr,
    faults: watch::Sender<Faults>,
}

impl FaultProxy {
    /// Starts a proxy in front of this API server.
    pub fn start(plane: &ControlPlane) -> Result<Self> {
        kubeconfig::install_crypto();
        let leaf = plane
            .ca()
            .serving("fault-proxy", &["kubernetes", "kubernetes.default.svc"])?;
        let chain = rustls::pki_types::CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes())?;
        let mut tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("fault-proxy")
            .enable_all()
            .build()?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            upstream: Upstream::new(plane.server(), plane.ca().der())?,
            shared: Arc::default(),
            runtime: Some(runtime),
        })
    }

    /// URL for this client; the port is opened at the first call.
    pub fn listen_as(&self, client: &str) -> Result<String> {
        let mut clients = lock(&self.shared.clients);
        if let Some(known) = clients.get(client) {
            return Ok(format!("https://{}", known.address));
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("opening a port of the proxy")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let faults = watch::Sender::new(Faults::default());
        // It is `None` only while it is dropped.
        let runtime = self.runtime.as_ref().context("the proxy has stopped")?;
        let _inside = runtime.enter();
        runtime.spawn(forward::serve(
            TcpListener::from_std(listener)?,
            self.acceptor.clone(),
            forward::ClientRoute {
                client: client.into(),
                faults: faults.clone(),
                upstream: self.upstream.clone(),
                requests: self.shared.requests.clone(),
            },
        ));
        clients.insert(client.into(), Client { address, faults });
        Ok(format!("https://{address}"))
    }

    /// Every answered request so far, in the order of the answers.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.borrow().clone()
    }

    /// The requests of one client.
    pub fn requests_of(&self, client: &str) -> Vec<Request> {
        self.shared
            .requests
            .borrow()
            .iter()
            .filter(|request| request.client == client)
            .cloned()
            .collect()
    }

    /// Clears the recorded requests.
    pub fn clear_requests(&self) {
        self.shared.requests.send_modify(Vec::clear);
    }

    /// Waits until some recorded request fits.
    pub async fn seen(&self, fits: impl Fn(&Request) -> bool) -> Request {
        let mut requests = self.shared.requests.subscribe();
        let found = requests.wait_for(|requests| requests.iter().any(&fits)).await;
        // The sender lives as long as `self`, and the closure has just found one.
        found
            .ok()
            .and_then(|requests| requests.iter().find(|request| fits(request)).cloned())
            .unwrap_or_else(|| unreachable!("the recorder outlives its readers"))
    }

    /// Nothing is answered until [`Self::heal`]: handshakes, requests and watches hang.
    pub fn black_hole(&self, client: &str) {
        self.change(client, |faults| faults.black_hole = true);
    }

    /// Connections are closed without an answer until [`Self::heal`]; open watches are cut.
    pub fn refuse(&self, client: &str) {
        self.change(client, |faults| {
            faults.refuse = true;
            faults.cuts += 1;
        });
    }

    /// Every request waits this long before it is forwarded.
    pub fn delay(&self, client: &str, delay: Duration) {
        self.change(client, |faults| faults.delay = delay);
    }

    /// Every write of this resource, like `machines`, is answered with 500 and changes nothing, until [`Self::heal`].
    pub fn fail_writes_of(&self, client: &str, resource: &str) {
        self.change(client, |faults| faults.failing = Some(resource.to_owned()));
    }

    /// Breaks the client's open watches now; new ones are fine.
    pub fn cut_watches(&self, client: &str) {
        self.change(client, |faults| faults.cuts += 1);
    }

    /// Holds back all events of open and new watches until [`Self::heal`].
    pub fn freeze_watches(&self, client: &str) {
        self.change(client, |faults| faults.frozen = FrozenWatches::All);
    }

    /// The same for the watches of one resource, like `machines`.
    pub fn freeze_watches_of(&self, client: &str, resource: &str) {
        self.change(client, |faults| {
            faults.frozen = FrozenWatches::Of(resource.to_owned());
        });
    }

    /// Breaks the client's open watches of one resource, like `machines`; new ones are fine.
    pub fn cut_watches_of(&self, client: &str, resource: &str) {
        self.change(client, |faults| {
            *faults.cuts_by_resource.entry(resource.to_owned()).or_default() += 1;
        });
    }

    /// Every event of the watches of one resource, like `machines`, is delayed by this, until [`Self::heal`].
    pub fn delay_watches_of(&self, client: &str, resource: &str, delay: Duration) {
        self.change(client, |faults| faults.late = Some((resource.to_owned(), delay)));
    }

    /// Shows the client the cluster as it was at this resourceVersion, until [`Self::heal`]: lists of objects are of then,
    /// and watches bring nothing newer. Writes, single reads and lists of metadata only are of now.
    pub fn show_past(&self, client: &str, version: u64) {
        self.change(client, |faults| {
            faults.past = Some(version);
            faults.frozen = FrozenWatches::All;
        });
    }

    /// Ends every fault except an armed fuse; delayed events and requests are forwarded.
    pub fn heal(&self, client: &str) {
        self.change(client, |faults| {
            *faults = Faults {
                fuse: faults.fuse.clone(),
                ..faults.healed()
            };
        });
    }

    /// Clears the recorded requests, and ends every fault and fuse of every client.
    pub fn reset(&self) {
        for client in lock(&self.shared.clients).values() {
            client.faults.send_modify(|faults| *faults = faults.healed());
        }
        self.clear_requests();
    }

    /// Counts the client's writes with this fuse.
    pub fn arm(&self, client: &str, fuse: &Arc<WriteFuse>) {
        self.change(client, |faults| faults.fuse = Some(Arc::clone(fuse)));
    }

    /// The answer to the client's `nth` write (from 1) is lost: it is stored, and the connection breaks.
    pub fn lose_answer(&self, client: &str, nth: usize) -> Arc<WriteFuse> {
        let fuse = WriteFuse::after(nth, || {});
        self.arm(client, &fuse);
        fuse
    }

    /// Removes the client's fuse, whether or not it has fired.
    pub fn disarm(&self, client: &str) {
        self.change(client, |faults| faults.fuse = None);
    }

    /// Runs `kill` after the client's `nth` write (from 1) was stored and before it is answered.
    pub fn kill_after_write(
        &self,
        client: &str,
        nth: usize,
        kill: impl FnOnce() + Send + 'static,
    ) -> Arc<WriteFuse> {
        let fuse = WriteFuse::after(nth, kill);
        self.arm(client, &fuse);
        fuse
    }

    fn change(&self, client: &str, change: impl FnOnce(&mut Faults)) {
        let clients = lock(&self.shared.clients);
        let known = clients.get(client);
        assert!(
            known.is_some(),
            "no client {client:?} was registered by listen_as"
        );
        if let Some(known) = known {
            known.faults.send_modify(change);
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
