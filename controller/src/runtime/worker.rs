//! Works on the keys of one queue, several at a time, and never on one key twice at a time.

use std::sync::Arc;

use machinist_infra::cache::store::Key;
use tokio::task::JoinSet;

use crate::runtime::queue::Queue;

/// Does a `pass` over each key of `queue`, at most `at_once` at a time, until the queue is closed; then waits for those
/// that have begun.
pub(super) async fn work<P>(queue: Arc<Queue<Key>>, at_once: usize, pass: impl Fn(Key) -> P)
where
    P: Future<Output = ()> + Send + 'static,
{
    let mut passes = JoinSet::new();
    loop {
        if passes.len() >= at_once.max(1) {
            passes.join_next().await;
            continue;
        }
        let key = tokio::select! {
            key = queue.next() => key,
            Some(_) = passes.join_next() => continue,
        };
        let Some(key) = key else { break };
        let working = Working {
            queue: Arc::clone(&queue),
            key: key.clone(),
        };
        let pass = pass(key);
        passes.spawn(async move {
            let _working = working;
            pass.await;
        });
    }
    while passes.join_next().await.is_some() {}
}

/// A key that is being worked on, until this is dropped: also when its pass panics.
struct Working {
    queue: Arc<Queue<Key>>,
    key: Key,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.queue.done(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn so_many_passes_run_at_once_and_no_more_and_all_end() {
        let queue = Arc::new(Queue::default());
        for name in ["a", "b", "c", "d"] {
            queue.add(Key::new("ns", name));
        }
        let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let pass = {
            let (begun, gate) = (begun.clone(), gate.clone());
            move |_| {
                let (begun, gate) = (begun.clone(), gate.clone());
                async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.unwrap().forget();
                }
            }
        };
        let worker = tokio::spawn(work(queue.clone(), 2, pass));
        while begun.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!((begun.load(Ordering::SeqCst), queue.depth()), (2, 2));
        gate.add_permits(4);
        while begun.load(Ordering::SeqCst) < 4 {
            tokio::task::yield_now().await;
        }
        queue.close();
        worker.await.unwrap();
    }

    #[tokio::test]
    async fn a_pass_that_panics_gives_its_key_back() {
        let queue = Arc::new(Queue::default());
        queue.add(Key::new("ns", "a"));
        let begun = Arc::new(AtomicUsize::new(0));
        let pass = {
            let begun = begun.clone();
            move |_| {
                let nth = begun.fetch_add(1, Ordering::SeqCst);
                async move { assert!(nth > 0, "the first pass panics") }
            }
        };
        let worker = tokio::spawn(work(queue.clone(), 1, pass));
        while begun.load(Ordering::SeqCst) < 2 {
            queue.add(Key::new("ns", "a"));
            tokio::task::yield_now().await;
        }
        queue.close();
        worker.await.unwrap();
    }
}
