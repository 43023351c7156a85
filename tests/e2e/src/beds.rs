//! A pool of test beds: a case gets a bed that an earlier case returned in its initial state, or a new one.
//!
//! A bed belongs to one case at a time. Between two cases the servers restart, so that no cache, counter or log of
//! one case reaches the next, and the clusters are restored to the bed's first inventory. A bed that still differs then is
//! discarded.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::Result;
use testbed::{Testbed, bed::Options, inventory::Inventory, timings};

/// Idle beds at most; each costs a few percent of a core. Cases of one program run so many at a time.
const MOST_IDLE: usize = 4;

/// The oldest first.
static IDLE: Mutex<Vec<Shared>> = Mutex::new(Vec::new());

/// A bed with the initial inventory of its clusters.
pub(crate) struct Shared {
    pub(crate) bed: Testbed,
    pub(crate) baseline: Inventory,
}

/// Whether a bed had to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    New,
    HandedOn,
}

impl Origin {
    /// As the summary of timings shows it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::HandedOn => "handed on",
        }
    }
}

/// A bed of this shape, with fresh servers.
pub(crate) async fn lease(options: Options) -> Result<(Shared, Origin)> {
    let foundation = options.foundation();
    let kept = {
        let mut idle = idle();
        let found = idle
            .iter()
            .position(|shared| shared.bed.foundation() == foundation);
        found.map(|found| idle.remove(found))
    };
    if let Some(mut shared) = kept {
        match shared.bed.resume(options.clone()).await {
            Ok(()) => return Ok((shared, Origin::HandedOn)),
            Err(error) => given_up(&format!("{error:#}")),
        }
    }
    let surplus = {
        let mut idle = idle();
        let surplus = (idle.len() + 1).saturating_sub(MOST_IDLE);
        idle.drain(..surplus).collect::<Vec<_>>()
    };
    for shared in surplus {
        shared.bed.shut_down().await?;
    }
    let bed = Testbed::start(options).await?;
    let baseline = Inventory::take(&bed).await?;
    Ok((Shared { bed, baseline }, Origin::New))
}

/// Stops the servers, which must exit without an error, and keeps the bed for another case if its state is the initial one.
pub(crate) async fn hand_on(mut shared: Shared) -> Result<()> {
    shared.bed.pause().await?;
    if shared.bed.user().has_refused() || shared.bed.infra().has_refused() {
        given_up("rights were taken away");
        return Ok(());
    }
    let differences = shared.baseline.restore(&shared.bed).await?;
    if differences.is_empty() {
        idle().push(shared);
    } else {
        given_up(&differences.join("; "));
    }
    Ok(())
}

fn given_up(why: &str) {
    let case = thread::current().name().unwrap_or("?").to_owned();
    timings::record("beds-given-up", &format!("{case}\t{why}"));
}

/// Ends all idle beds.
pub async fn shut_down() -> Result<()> {
    let beds = mem::take(&mut *idle());
    for shared in beds {
        shared.bed.shut_down().await?;
    }
    Ok(())
}

fn idle() -> MutexGuard<'static, Vec<Shared>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}
