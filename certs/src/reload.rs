//! Hot reload: when the files' directories change, the files are read again; new handshakes use what is new, old
//! connections live on. Where the directories cannot be watched, the files are read every few seconds.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use inotify::{Inotify, WatchMask};
use parking_lot::RwLock;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::identity::{CertificateFiles, Identity, LoadError};

/// Writers write several files: wait until nothing has happened for this long.
const SETTLE: Duration = Duration::from_millis(50);

/// How often the files are read while their directories are not watched. The kubelet itself takes up to a minute.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Begins to watch the files' directories.
type Watch = fn(&CertificateFiles) -> Result<Inotify, LoadError>;

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
        let current = self.identity.read();
        current.as_ref().map(Identity::expires)
    }

    /// New handshakes are served with this one; connections that there are live on.
    pub fn replace(&self, identity: Identity) {
        let expires = identity.expires();
        let mut current = self.identity.write();
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
        let current = self.identity.read();
        current.as_ref().map(Identity::certified)
    }
}

/// Watches the files' directories and keeps a [`CurrentCertificate`] current.
///
/// Directories, not files: the kubelet swaps a symbolic link (`..data`) beside the files, so the files themselves
/// never change.
///
/// The number of inotify instances is limited per user of the host, and other processes may use up all of them.
#[derive(Debug)]
pub struct Reloader {
    files: CertificateFiles,
    current: Arc<CurrentCertificate>,
    watch: Watch,
    /// The watch, while there is one.
    watched: Option<Inotify>,
}

impl Reloader {
    /// Loads the files and begins to watch them. What cannot be served with is an error now; later on, it leaves the
    /// certificate as it is.
    pub fn start(files: CertificateFiles) -> Result<(Arc<CurrentCertificate>, Self), LoadError> {
        Self::start_with(files, watch)
    }

    fn start_with(
        files: CertificateFiles,
        watch: Watch,
    ) -> Result<(Arc<CurrentCertificate>, Self), LoadError> {
        // The watch comes first: a change between the two would be lost otherwise.
        let watched = match watch(&files) {
            Ok(watched) => Some(watched),
            Err(error) => {
                let seconds = POLL_INTERVAL.as_secs();
                tracing::warn!(%error, "reading the certificate every {seconds} s instead");
                None
            }
        };
        let identity = Identity::load(&files, SystemTime::now())?;
        let current = Arc::new(CurrentCertificate::new(identity));
        let reloader = Self {
            files,
            current: current.clone(),
            watch,
            watched,
        };
        Ok((current, reloader))
    }

    /// Reloads for ever.
    pub async fn run(mut self) {
        loop {
            if let Some(watched) = self.watched.take() {
                let error = self.follow(watched).await;
                tracing::warn!(%error, "the watch of the certificate's directory ended");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
            self.watched = (self.watch)(&self.files).ok();
            if self.watched.is_some() {
                tracing::info!("watching the certificate's directory again");
            }
            self.reload();
        }
    }

    /// Reloads until the watch ends; why it did.
    async fn follow(&self, watch: Inotify) -> io::Error {
        let mut events = match watch.into_event_stream(vec![0; 4096]) {
            Ok(events) => events,
            Err(error) => return error,
        };
        loop {
            match events.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                None => return io::ErrorKind::UnexpectedEof.into(),
            }
            while let Ok(Some(_)) = tokio::time::timeout(SETTLE, events.next()).await {}
            self.reload();
        }
    }

    fn reload(&self) {
        match Identity::load(&self.files, SystemTime::now()) {
            Ok(identity) => self.current.replace(identity),
            // A writer may be half-way through: it is read again after its next write, or the next time.
            Err(error) => {
                tracing::warn!(%error, "the changed certificate is not usable; still serving with the old one");
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DevelopmentCa, Leaf};

    const DAY: Duration = Duration::from_hours(24);

    fn exhausted(files: &CertificateFiles) -> Result<Inotify, LoadError> {
        Err(LoadError::Watch {
            path: files.certificate.clone(),
            source: io::Error::from_raw_os_error(24),
        })
    }

    fn write(directory: &std::path::Path, leaf: &Leaf) -> CertificateFiles {
        let files = CertificateFiles::new(directory.join("tls.crt"), directory.join("tls.key"));
        std::fs::write(&files.certificate, &leaf.certificate).unwrap();
        std::fs::write(directory.join("tls.key"), &leaf.key).unwrap();
        files
    }

    #[tokio::test(start_paused = true)]
    async fn without_inotify_a_rotated_certificate_is_taken_up_by_reading_it_now_and_then() {
        let (ca, directory) = (DevelopmentCa::new("test").unwrap(), tempfile::tempdir().unwrap());
        let [first, second] = [DAY, DAY * 2].map(|valid| ca.serving(&["localhost"], valid).unwrap());
        let files = write(directory.path(), &first);
        let (current, reloader) = Reloader::start_with(files, exhausted).unwrap();
        tokio::spawn(reloader.run());
        let before = current.expires().unwrap();
        write(directory.path(), &second);
        tokio::time::sleep(POLL_INTERVAL / 2).await;
        assert_eq!(current.expires(), Some(before));
        tokio::time::sleep(POLL_INTERVAL).await;
        assert!(current.expires().unwrap() > before + DAY / 2);
        // And the next one.
        write(directory.path(), &first);
        tokio::time::sleep(POLL_INTERVAL).await;
        assert_eq!(current.expires(), Some(before));
    }
}
