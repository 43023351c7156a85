//! Hot reload: when the files' directories change, the files are read again; new handshakes use what is new, old
//! connections live on.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use inotify::{Inotify, WatchMask};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::identity::{CertificateFiles, Identity, LoadError};

/// Writers write several files: wait until nothing has happened for this long.
const SETTLE: Duration = Duration::from_millis(50);

/// The certificate that new handshakes are served with.
#[derive(Debug, Default)]
pub struct CurrentCertificate {
    identity: RwLock<Option<Identity>>,
}

impl CurrentCertificate {
    /// A certificate that never changes, unless a [`Reloader`] holds it.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity: RwLock::new(Some(identity)),
        }
    }

    /// None yet: handshakes fail until there is one.
    pub fn none() -> Self {
        Self::default()
    }

    /// When it ends to be valid; nothing while there is none.
    pub fn expires(&self) -> Option<SystemTime> {
        let current = self.identity.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(Identity::expires)
    }

    /// New handshakes are served with this one; connections that there are live on.
    pub fn replace(&self, identity: Identity) {
        let expires = identity.expires();
        let mut current = self.identity.write().unwrap_or_else(PoisonError::into_inner);
        let changed = !current.as_ref().is_some_and(|old| old.is_same(&identity));
        *current = Some(identity);
        drop(current);
        if changed {
            let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
            tracing::info!(
                valid_for_seconds = left.as_secs(),
                "serving with a new certificate"
            );
        }
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.identity.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(Identity::certified)
    }
}

/// Watches the files' directories and keeps a [`CurrentCertificate`] current.
///
/// Directories, not files: the kubelet swaps a symbolic link (`..data`) beside the files, so the files themselves
/// never change.
#[derive(Debug)]
pub struct Reloader {
    files: CertificateFiles,
    current: Arc<CurrentCertificate>,
    watch: Inotify,
}

impl Reloader {
    /// Loads the files and begins to watch them. What cannot be served with is an error now; later on, it leaves the
    /// certificate as it is.
    pub fn start(files: CertificateFiles) -> Result<(Arc<CurrentCertificate>, Self), LoadError> {
        // The watch comes first: a change between the two would be lost otherwise.
        let watch = watch(&files)?;
        let identity = Identity::load(&files, SystemTime::now())?;
        let current = Arc::new(CurrentCertificate::new(identity));
        Ok((
            current.clone(),
            Self {
                files,
                current,
                watch,
            },
        ))
    }

    /// Reloads until the watch ends, which it does only when the kernel takes it away.
    pub async fn run(self) -> io::Result<()> {
        let mut events = self.watch.into_event_stream(vec![0; 4096])?;
        loop {
            let Some(event) = events.next().await else {
                return Err(io::Error::other("the watch of the certificate's directory ended"));
            };
            event?;
            while let Ok(more) = tokio::time::timeout(SETTLE, events.next()).await {
                if more.is_none() {
                    break;
                }
            }
            reload(&self.files, &self.current);
        }
    }
}

fn watch(files: &CertificateFiles) -> Result<Inotify, LoadError> {
    let failed = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| LoadError::Watch { path, source }
    };
    let inotify = Inotify::init().map_err(failed(&files.certificate))?;
    let mask = WatchMask::CREATE | WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::ONLYDIR;
    for directory in files.directories() {
        inotify
            .watches()
            .add(directory, mask)
            .map_err(failed(directory))?;
    }
    Ok(inotify)
}

fn reload(files: &CertificateFiles, current: &CurrentCertificate) {
    match Identity::load(files, SystemTime::now()) {
        Ok(identity) => current.replace(identity),
        // A writer may be half-way through; its next write is another event.
        Err(error) => {
            tracing::warn!(%error, "the changed certificate is not usable; still serving with the old one");
        }
    }
}
