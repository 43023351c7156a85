//! What every reconciler runs on: the queue of keys, workers, and limits of what is tried again.

pub mod backoff;
pub mod creation_limit;
pub mod failure;
pub mod kernel;
pub mod queue;
pub mod recreation;
mod worker;
pub mod write;
