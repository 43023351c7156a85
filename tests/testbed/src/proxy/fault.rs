//! What goes wrong between one client and the API server, switched on and off by tests.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

/// The state of one client's way to the API server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Nothing is answered: handshakes, requests and watches hang.
    pub(crate) black_hole: bool,
    /// Connections are closed without an answer.
    pub(crate) refuse: bool,
    /// Every request waits this long before it is passed on.
    pub(crate) delay: Duration,
    /// Watches that stay open, but whose events are held back.
    pub(crate) frozen: Frozen,
    /// Writes of this resource, like `machines`, are answered with 500 and not passed on.
    pub(crate) failing: Option<String>,
    /// Lists are answered as of this resourceVersion.
    pub(crate) past: Option<u64>,
    /// Counts the times that open watches were cut.
    pub(crate) cuts: u64,
    /// Armed by [`super::FaultProxy::arm`].
    pub(crate) fuse: Option<Arc<WriteFuse>>,
}

/// Which watches are held back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Frozen {
    #[default]
    None,
    /// Those of this resource, like `machines`.
    Of(String),
    All,
}

impl Frozen {
    pub(crate) fn is(&self, resource: &str) -> bool {
        match self {
            Self::None => false,
            Self::Of(frozen) => frozen == resource,
            Self::All => true,
        }
    }
}

/// Fires once, after the n-th write that the API server took, before the client learns of it. May be armed at several
/// proxies, so that it counts the writes to both clusters.
pub struct WriteFuse {
    left: AtomicUsize,
    action: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    fired: watch::Sender<bool>,
}

impl WriteFuse {
    /// Runs `action` at the `nth` write, counted from 1. It must not block: a SIGKILL does not.
    pub fn after(nth: usize, action: impl FnOnce() + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(nth),
            action: Mutex::new(Some(Box::new(action))),
            fired: watch::Sender::new(false),
        })
    }

    /// Returns when it has fired.
    pub async fn fired(&self) {
        // The sender lives as long as `self`.
        let _ = self.fired.subscribe().wait_for(|fired| *fired).await;
    }

    /// Whether it has fired.
    pub fn has_fired(&self) -> bool {
        *self.fired.borrow()
    }

    /// Counts a write; `true` if its answer must not be passed on, as whoever waits for it is dead.
    pub(crate) fn burn(&self) -> bool {
        let count = |left: usize| left.checked_sub(1);
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count);
        if left == Ok(1)
            && let Some(action) = self.action.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            action();
            self.fired.send_replace(true);
            return true;
        }
        false
    }
}

impl fmt::Debug for WriteFuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteFuse")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuse_fires_once_at_the_nth_write() {
        let count = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&count);
        let fuse = WriteFuse::after(3, move || {
            seen.fetch_add(1, Ordering::SeqCst);
        });
        assert!(!fuse.burn());
        assert!(!fuse.burn());
        assert!(!fuse.has_fired());
        assert!(fuse.burn());
        assert!(!fuse.burn(), "a successor's writes pass");
        assert!(fuse.has_fired());
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}
