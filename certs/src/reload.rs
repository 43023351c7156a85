//! Hot reload: when the files' directories change, the files are read again. New handshakes use the new certificate,
//! existing connections continue. If the directories cannot be watched, the files are read every few seconds.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use inotify::{Inotify, WatchMask};
use parking_lot::RwLock;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::identity::{CertificateFiles, Identity, LoadError};

/// Writers write several files: wait until there has been no change for this long.
const SETTLE_TIME: Duration = Duration::from_millis(50);

/// How often the files are read while their directories are not watched. The kubelet itself takes up to a minute.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Starts to watch the files' directories.
type Watch = fn(&CertificateFiles) -> Result<Inotify, LoadError>;

/// The certificate for new handshakes.
#[derive(Debug, Default)]
pub struct CurrentCertificate {
    identity: RwLock<Option<Identity>>,
}

impl CurrentCertificate {
    /// A certificate that never changes, unless a [`Reloader`] updates it.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity: RwLock::new(Some(identity)),
        }
    }

    /// No certificate: handshakes fail until one is set.
    pub fn none() -> Self {
        Self::default()
    }

    /// Its expiry time; `None` without a certificate.
    pub fn expires(&self) -> Option<SystemTime> {
        let current = self.identity.read();
        current.as_ref().map(Identity::expires)
    }

    /// Replaces the certificate for new handshakes; existing connections continue.
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
/// It watches directories, not files: the kubelet replaces a symbolic link (`..data`) next to the files, so the files
/// themselves never change.
///
/// The host limits the number of inotify instances per user, and other processes may exhaust it.
#[derive(Debug)]
pub struct Reloader {
    files: CertificateFiles,
    current: Arc<CurrentCertificate>,
    watch: Watch,
    /// The watch, if it is open.
    watched: Option<Inotify>,
}

impl Reloader {
    /// Loads the files and starts to watch them. An invalid certificate is an error now; later, it leaves the current
    /// certificate in place.
    pub fn start(files: CertificateFiles) -> Result<(Arc<CurrentCertificate>, Self), LoadError> {
        Self::start_with(files, watch)
    }

    fn start_with(
        files: CertificateFiles,
        watch: Watch,
    ) -> Result<(Arc<CurrentCertificate>, Self), LoadError> {
        // The watch starts first, so that no change between the two is lost.
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

    /// Reloads until dropped.
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

    /// Reloads until the watch ends; returns the error.
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
            while let Ok(Some(_)) = tokio::time::timeout(SETTLE_TIME, events.next()).await {}
            self.reload();
        }
    }

    fn reload(&self) {
        match Identity::load(&self.files, SystemTime::now()) {
            Ok(identity) => self.current.replace(identity),
            // A writer may not be finished: the next change or poll reads the files again.
            Err(error) => {
                tracing::warn!(%error, "the changed certificate is not usable; still serving with the previous one");
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
    use crate::{DevelopmentCa, ServingCertificate};

    const DAY: Duration = Duration::from_hours(24);

    fn exhausted(files: &CertificateFiles) -> Result<Inotify, LoadError> {
        Err(LoadError::Watch {
            path: files.certificate.clone(),
            source: io::Error::from_raw_os_error(24),
        })
    }

    fn write(directory: &std::path::Path, leaf: &ServingCertificate) -> CertificateFiles {
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
