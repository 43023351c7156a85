//! Sees that the Lease is released, so that who stands by need not wait for its next try.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};

use super::lease::is_free;

/// From the newest version that the API server has at hand, which it tells first.
const ANY: &str = "0";

type Events = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<Lease>>> + Send>>;

/// A watch of one Lease. It only wakes: what is done follows from a read. So a watch that fails, or is not allowed, costs
/// nothing but time.
pub(super) struct Released {
    api: Api<Lease>,
    name: String,
    watch: Watch,
}

enum Watch {
    /// To be opened.
    Due,
    Open(Events),
    /// It ended, and waits for [`Released::may_open`]: who cannot watch must not try without a pause.
    Ended,
}

impl Released {
    pub(super) fn new(api: Api<Lease>, name: String) -> Self {
        Self {
            api,
            name,
            watch: Watch::Due,
        }
    }

    /// A pause is over.
    pub(super) fn may_open(&mut self) {
        if matches!(self.watch, Watch::Ended) {
            self.watch = Watch::Due;
        }
    }

    /// Returns once the Lease is seen without a holder, or deleted; never, if it cannot be watched.
    pub(super) async fn seen(&mut self) {
        if matches!(self.watch, Watch::Due) {
            let params = WatchParams::default().fields(&format!("metadata.name={}", self.name));
            // Dropped while it opens, it is opened again.
            self.watch = match self.api.watch(&params, ANY).await {
                Ok(events) => Watch::Open(Box::pin(events)),
                Err(error) => {
                    tracing::debug!(lease = %self.name, %error, "cannot watch the Lease");
                    Watch::Ended
                }
            };
        }
        if let Watch::Open(events) = &mut self.watch {
            while let Some(event) = events.next().await {
                match event {
                    Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease)) if is_free(&lease) => return,
                    Ok(WatchEvent::Deleted(_)) => return,
                    Ok(WatchEvent::Added(_) | WatchEvent::Modified(_) | WatchEvent::Bookmark(_)) => {}
                    Ok(WatchEvent::Error(_)) | Err(_) => break,
                }
            }
            self.watch = Watch::Ended;
        }
        std::future::pending::<()>().await;
    }
}
