//! Faults between one client and the API server, which tests switch on and off.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::request::Target;

/// The faults of one client's connections to the API server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Nothing is answered: handshakes, requests and watches hang.
    pub(crate) black_hole: bool,
    /// Connections are closed without an answer.
    pub(crate) refuse: bool,
    /// Every request waits this long before it is forwarded.
    pub(crate) delay: Duration,
    /// Watches that stay open, but whose events are held back.
    pub(crate) frozen: FrozenWatches,
    /// Writes of this resource, like `machines`, are answered with 500 and not forwarded.
    pub(crate) failing: Option<String>,
    /// Lists are answered as of this resourceVersion.
    pub(crate) past: Option<u64>,
    /// Events of watches of this resource are delayed by this.
    pub(crate) late: Option<(String, Duration)>,
    /// Counts the times that open watches were cut.
    pub(crate) cuts: u64,
    /// The same for the watches of one resource.
    pub(crate) cuts_by_resource: BTreeMap<String, u64>,
    /// Armed by [`super::FaultProxy::arm`].
    pub(crate) fuse: Option<Arc<WriteFuse>>,
}

impl Faults {
    /// How often watches of this resource were cut.
    pub(crate) fn cuts_of(&self, resource: &str) -> u64 {
        self.cuts + self.cuts_by_resource.get(resource).copied().unwrap_or_default()
    }

    /// The delay of events of watches of this resource.
    pub(crate) fn delay_of(&self, resource: &str) -> Option<Duration> {
        let (late, delay) = self.late.as_ref()?;
        (late == resource).then_some(*delay)
    }

    /// The same without any fault that can be healed.
    pub(crate) fn healed(&self) -> Self {
        Self {
            cuts: self.cuts,
            cuts_by_resource: self.cuts_by_resource.clone(),
            ..Self::default()
        }
    }
}

/// Which watches are held back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum FrozenWatches {
    #[default]
    None,
    /// Those of this resource, like `machines`.
    Of(String),
    All,
}

impl FrozenWatches {
    pub(crate) fn is(&self, resource: &str) -> bool {
        match self {
            Self::None => false,
            Self::Of(frozen) => frozen == resource,
            Self::All => true,
        }
    }
}

/// Fires once, after the API server has stored the n-th write, before the client gets the answer. May be armed at several
/// proxies, so that it counts the writes to both clusters.
pub struct WriteFuse {
    counts: Box<dyn Fn(&Target) -> bool + Send + Sync>,
    left: AtomicUsize,
    action: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    fired: watch::Sender<bool>,
}

impl WriteFuse {
    /// Runs `action` at the `nth` write, counted from 1. It must not block: a SIGKILL does not.
    pub fn after(nth: usize, action: impl FnOnce() + Send + 'static) -> Arc<Self> {
        Self::after_one_of(|_| true, nth, action)
    }

    /// The same, where only those writes count.
    pub fn after_one_of(
        counts: impl Fn(&Target) -> bool + Send + Sync + 'static,
        nth: usize,
        action: impl FnOnce() + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            counts: Box::new(counts),
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

    /// Counts a write; `true` if its response must not be passed on, because the client is dead.
    pub(crate) fn burn(&self, write: &Target) -> bool {
        if !(self.counts)(write) {
            return false;
        }
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
    use http::Method;

    use super::*;

    fn write(path: &'static str) -> Target {
        Target::parse(&Method::POST, &http::Uri::from_static(path))
    }

    #[test]
    fn a_fuse_fires_once_at_the_nth_write_that_counts() {
        let count = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&count);
        let fuse = WriteFuse::after_one_of(
            |write| write.resource == "secrets",
            3,
            move || {
                seen.fetch_add(1, Ordering::SeqCst);
            },
        );
        let (secret, node) = (write("/api/v1/namespaces/a/secrets"), write("/api/v1/nodes"));
        assert!(!fuse.burn(&secret));
        assert!(!fuse.burn(&secret));
        assert!(!fuse.burn(&node));
        assert!(!fuse.has_fired());
        assert!(fuse.burn(&secret));
        assert!(!fuse.burn(&secret), "a successor's writes pass");
        assert!(fuse.has_fired());
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn watches_of_one_resource_are_late_or_cut_and_a_cut_is_not_healed() {
        let mut faults = Faults {
            late: Some(("nodes".to_owned(), Duration::from_secs(1))),
            ..Faults::default()
        };
        assert_eq!(faults.delay_of("nodes"), Some(Duration::from_secs(1)));
        assert_eq!(faults.delay_of("secrets"), None);
        *faults.cuts_by_resource.entry("nodes".to_owned()).or_default() += 1;
        let healed = faults.healed();
        assert_eq!((healed.cuts_of("nodes"), healed.cuts_of("secrets")), (1, 0));
        assert_eq!(healed.delay_of("nodes"), None);
    }
}
