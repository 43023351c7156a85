//! What every reconciler runs on: the queue of keys, workers, and limits of what is tried again.

pub mod backoff;
pub mod creation_limit;
pub mod queue;
pub mod recreation;
pub mod worker;
