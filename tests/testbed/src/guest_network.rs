//! The network of real guests: a network namespace with a bridge, where kubelets reach the API server and it reaches
//! them.
//!
//! It is invisible on the host and has no name: it ends with the last process in it. The API server stays on the host's loopback.
//! Guests reach it at [`GATEWAY`], from where connections are forwarded unchanged, so client certificates work. In the other
//! direction, for `kubectl logs`, the API server uses an egress selector, as with a konnectivity server.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    runtime::Runtime,
};

/// Where guests reach the API server.
pub const GATEWAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 201, 0, 1), 6443);

/// The bridge that the simulated KubeVirt plugs guests into.
const BRIDGE: [&str; 4] = [
    "link set lo up",
    "link add guests type bridge",
    "address add 10.201.0.1/16 dev guests",
    "link set guests up",
];

/// A network for guests. It ends when this is dropped and the last guest is off.
pub struct GuestNetwork {
    namespace: File,
    folder: TempDir,
    // Two, as a socket belongs to the network of the thread that opened it.
    outside: Option<Runtime>,
    inside: Option<Runtime>,
}

impl GuestNetwork {
    /// Makes the namespace and its bridge; root only.
    pub fn create() -> Result<Self> {
        let namespace = thread::spawn(namespace_with_bridge)
            .join()
            .map_err(|_| anyhow::anyhow!("the thread of the guests' network panicked"))??;
        let entered = namespace.try_clone()?;
        let inside = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("guest-network")
            .on_thread_start(move || {
                // It works for the thread that created it; a thread outside of it reaches no guest.
                if let Err(error) = setns(&entered, CloneFlags::CLONE_NEWNET) {
                    tracing::error!(%error, "cannot enter the guests' network");
                }
            })
            .enable_all()
            .build()?;
        let outside = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("guest-gateway")
            .enable_all()
            .build()?;
        Ok(Self {
            namespace,
            // A Unix socket's path must be short.
            folder: TempDir::with_prefix("machinist-guests-")?,
            outside: Some(outside),
            inside: Some(inside),
        })
    }

    /// The error that `create` would have, determined without side effects; `None` if it would succeed.
    pub fn obstacle() -> Option<String> {
        let tried = thread::spawn(namespace_with_bridge).join();
        let problem = match tried {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("the thread of the guests' network panicked".to_owned()),
        };
        problem.or_else(|| {
            let tun = Path::new("/dev/net/tun");
            (!tun.exists()).then(|| format!("there is no {}", tun.display()))
        })
    }

    /// The namespace's file, to be opened by other processes as long as this one lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()).into()
    }

    /// The Unix socket through which the API server reaches guests, by HTTP CONNECT.
    pub fn egress_socket(&self) -> PathBuf {
        self.folder.path().join("egress.sock")
    }

    /// Starts to forward connections: from [`GATEWAY`] to the API server, from the egress socket to guests.
    pub fn open(&self, api_server: SocketAddr) -> Result<()> {
        // Both are `None` only while this is dropped.
        let (Some(inside), Some(outside)) = (&self.inside, &self.outside) else {
            bail!("the guests' network is going down");
        };
        let gateway = block_on(inside, async { TcpListener::bind(GATEWAY).await?.into_std() })
            .with_context(|| format!("listening on {GATEWAY} in the guests' network"))?;
        let _runtime = outside.enter();
        let gateway = TcpListener::from_std(gateway)?;
        outside.spawn(async move {
            while let Ok((guest, _)) = gateway.accept().await {
                tokio::spawn(pass_on(guest, api_server));
            }
        });
        let _runtime = inside.enter();
        let egress =
            UnixListener::bind(self.egress_socket()).context("opening the API server's way to guests")?;
        inside.spawn(async move {
            while let Ok((caller, _)) = egress.accept().await {
                tokio::spawn(tunnel(caller));
            }
        });
        Ok(())
    }
}

impl Drop for GuestNetwork {
    fn drop(&mut self) {
        for runtime in [self.inside.take(), self.outside.take()].into_iter().flatten() {
            runtime.shutdown_background();
        }
    }
}

/// Runs a future on that runtime's own threads, whatever runtime the caller is in.
fn block_on<T: Send + 'static>(
    runtime: &Runtime,
    future: impl Future<Output = io::Result<T>> + Send + 'static,
) -> Result<T> {
    let (done, answer) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        // The receiver is gone if the caller is.
        let _ = done.send(future.await);
    });
    Ok(answer.recv()??)
}

/// Moves the calling thread into a new network namespace with a bridge, and returns its file. The thread must end after that.
fn namespace_with_bridge() -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace, which takes root")?;
    for words in BRIDGE {
        let output = Command::new("ip")
            .args(words.split(' '))
            .stdin(Stdio::null())
            .output()
            .context("starting ip (Debian's package iproute2)")?;
        if !output.status.success() {
            bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    File::open("/proc/thread-self/ns/net").context("opening the network namespace")
}

async fn pass_on(mut guest: TcpStream, api_server: SocketAddr) {
    let passed = async {
        let mut server = TcpStream::connect(api_server).await?;
        copy_bidirectional(&mut guest, &mut server).await
    };
    if let Err(error) = passed.await {
        tracing::debug!(%error, "connection of a guest");
    }
}

/// Serves one `CONNECT HOST:PORT` of the API server.
async fn tunnel(caller: UnixStream) {
    if let Err(error) = try_tunnel(caller).await {
        tracing::debug!(%error, "connection to a guest");
    }
}

async fn try_tunnel(caller: UnixStream) -> Result<()> {
    // Longer than any CONNECT.
    const HEAD: u64 = 8 * 1024;
    let mut caller = BufReader::new(caller);
    let mut request = String::new();
    let mut head = (&mut caller).take(HEAD);
    head.read_line(&mut request).await?;
    let mut line = String::from("-");
    while !line.trim_end().is_empty() {
        line.clear();
        if head.read_line(&mut line).await? == 0 {
            bail!("a request without an end of its head");
        }
    }
    let target = target(&request).with_context(|| format!("not a CONNECT: {request:?}"))?;
    match TcpStream::connect(target).await {
        Ok(mut guest) => {
            caller
                .write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n")
                .await?;
            copy_bidirectional(&mut caller, &mut guest).await?;
        }
        Err(error) => {
            let answer = format!("HTTP/1.1 502 Bad Gateway\r\n\r\n{target}: {error}\n");
            caller.write_all(answer.as_bytes()).await?;
        }
    }
    Ok(())
}

/// The address in `CONNECT HOST:PORT HTTP/1.1`.
fn target(request: &str) -> Option<&str> {
    let mut words = request.split_whitespace();
    (words.next()? == "CONNECT").then_some(())?;
    words.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connect_opens_a_tunnel() {
        assert_eq!(
            target("CONNECT 10.201.1.7:10250 HTTP/1.1\r\n"),
            Some("10.201.1.7:10250")
        );
        assert_eq!(target("GET / HTTP/1.1\r\n"), None);
        assert_eq!(target(""), None);
    }
}
