//! Locks of what is changed in one step.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it, whatever another thread panicked at: every change under these locks is complete before anything can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
