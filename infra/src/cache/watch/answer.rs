//! The answer to a list or watch, chunk by chunk, and how much of an object may be held.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::kube::error::RemoteError;

/// An object up to this size is held without asking.
const SMALL: usize = 64 * 1024;
/// How many larger ones of infra clusters may be held at once.
const LARGE_AT_ONCE: usize = 4;
/// How long one of those may take to come: others wait.
const LARGE_OBJECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whose servers they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The user cluster's.
    UserCluster,
    /// Servers that authors of Machines name: all of them share what is held of large objects.
    Infra,
}

/// An answer that is being read.
pub(super) struct Answer {
    body: Body,
    read: usize,
}

/// Why there is no further chunk.
#[derive(Debug)]
pub(super) enum NoChunk {
    /// Nothing came for so long.
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

    /// Bytes so far.
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

    /// So many bytes are held of an object whose end has not come: waits until there is room for all of it.
    pub(super) async fn hold(&mut self, bytes: usize) -> Result<(), RemoteError> {
        if bytes <= SMALL {
            self.taken = None;
            return Ok(());
        }
        match (&self.taken, &self.shared) {
            (Some((_, since)), _) if since.elapsed() > LARGE_OBJECT_TIMEOUT => {
                self.taken = None;
                Err(RemoteError::other(format!(
                    "an object of over {} KiB did not come within {LARGE_OBJECT_TIMEOUT:?}",
                    SMALL / 1024
                )))
            }
            (None, Some(shared)) => {
                let permit = Arc::clone(shared).acquire_owned().await;
                // It is never closed.
                self.taken = permit.ok().map(|permit| (permit, Instant::now()));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
