//! Reads the response to a list or watch chunk by chunk, and limits the buffered size of an object.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::kube::error::RemoteError;

/// An object up to this size is buffered without a reservation.
const SMALL: usize = 64 * 1024;
/// Maximum number of larger objects of infra clusters in memory at the same time.
const LARGE_AT_ONCE: usize = 4;
/// How long one of those may take to arrive, because others wait.
const LARGE_OBJECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the server is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The server of the user cluster.
    UserCluster,
    /// Servers in kubeconfigs of Machine authors: all of them share one budget for large objects.
    Infra,
}

/// A response in progress.
pub(super) struct Answer {
    body: Body,
    read: usize,
}

/// Why there is no further chunk.
#[derive(Debug)]
pub(super) enum NoChunk {
    /// Nothing arrived for this long.
    Silent(Duration),
    /// The connection failed.
    Failed(RemoteError),
}

impl From<NoChunk> for RemoteError {
    fn from(error: NoChunk) -> Self {
        match error {
            NoChunk::Silent(time) => Self::no_answer(time),
            NoChunk::Failed(error) => error,
        }
    }
}

impl Answer {
    pub(super) fn new(body: Body) -> Self {
        Self { body, read: 0 }
    }

    /// The next chunk; `None` at the end.
    pub(super) async fn next(&mut self, pause: Duration) -> Result<Option<Bytes>, NoChunk> {
        loop {
            let frame = timeout(pause, self.body.frame()).await;
            let frame = match frame.map_err(|_| NoChunk::Silent(pause))? {
                None => return Ok(None),
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(NoChunk::Failed(RemoteError::from(error))),
            };
            if let Ok(chunk) = frame.into_data() {
                self.read += chunk.len();
                return Ok(Some(chunk));
            }
        }
    }

    /// Bytes read so far.
    pub(super) fn read(&self) -> usize {
        self.read
    }
}

/// Reservation for the object that is being read. Small ones take none.
#[derive(Debug)]
pub(super) struct Reservation {
    shared: Option<Arc<Semaphore>>,
    taken: Option<(OwnedSemaphorePermit, Instant)>,
}

impl Reservation {
    pub(super) fn of(trust: Trust) -> Self {
        static SHARED: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(LARGE_AT_ONCE)));
        Self {
            shared: (trust == Trust::Infra).then(|| Arc::clone(&SHARED)),
            taken: None,
        }
    }

    /// Reports the buffered bytes of an incomplete object; waits until there is memory for all of it.
    pub(super) async fn hold(&mut self, bytes: usize) -> Result<(), RemoteError> {
        if bytes <= SMALL {
            self.taken = None;
            return Ok(());
        }
        match (&self.taken, &self.shared) {
            (Some((_, since)), _) if since.elapsed() > LARGE_OBJECT_TIMEOUT => {
                self.taken = None;
                Err(RemoteError::other(format!(
                    "an object of over {} KiB did not arrive within {LARGE_OBJECT_TIMEOUT:?}",
                    SMALL / 1024
                )))
            }
            (None, Some(shared)) => {
                let permit = Arc::clone(shared).acquire_owned().await;
                // The semaphore is never closed.
                self.taken = permit.ok().map(|permit| (permit, Instant::now()));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
