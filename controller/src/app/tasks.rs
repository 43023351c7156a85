//! Tasks that run as long as the process: one that ends before ends the process, with the reason.

use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use futures::FutureExt as _;
use tokio::task::JoinSet;

/// What became of a task, by its name.
type Ended = (&'static str, Option<io::Result<()>>);

/// Tasks that run as long as the process. Dropped, all end.
#[derive(Debug, Default)]
pub struct Tasks(JoinSet<Ended>);

impl Tasks {
    /// Begins a task. `name` completes "… has ended".
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = io::Result<()>> + Send + 'static) {
        // Boxed: a future as large as a watch's would be moved about otherwise.
        let task: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(task);
        let task = AssertUnwindSafe(task).catch_unwind();
        self.0.spawn(async move { (name, task.await.ok()) });
    }

    /// Begins a task that has nothing to say.
    pub fn run(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, task.map(Ok));
    }

    /// Returns once one has ended; why.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.0.join_next().await {
            None => std::future::pending().await,
            Some(Ok((name, None))) => anyhow::anyhow!("{name} has panicked"),
            Some(Ok((name, Some(Ok(()))))) => anyhow::anyhow!("{name} has ended"),
            Some(Ok((name, Some(Err(error))))) => {
                anyhow::Error::new(error).context(format!("{name} has ended"))
            }
            Some(Err(error)) => anyhow::Error::new(error).context("a task has ended"),
        }
    }

    /// Returns once all have ended.
    pub async fn all_ended(&mut self) {
        while self.0.join_next().await.is_some() {}
    }

    /// Ends all that have not ended.
    pub async fn shut_down(&mut self) {
        self.0.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::with_a_panic(async { panic!("sesame") }.boxed(), "the worker has panicked")]
    #[case::with_an_error(std::future::ready(Err(io::Error::from(io::ErrorKind::AddrInUse))).boxed(), "the worker has ended: address in use")]
    #[case::without_one(async { Ok(()) }.boxed(), "the worker has ended")]
    #[tokio::test]
    async fn a_task_that_ends_is_reported_by_its_name(
        #[case] task: Pin<Box<dyn Future<Output = io::Result<()>> + Send>>,
        #[case] want: &str,
    ) {
        let mut tasks = Tasks::default();
        tasks.run("the other", std::future::pending());
        assert!(tasks.ended().now_or_never().is_none());
        tasks.spawn("the worker", task);
        assert_eq!(format!("{:#}", tasks.ended().await), want);
    }

    #[tokio::test]
    async fn none_is_not_one_that_has_ended() {
        assert!(Tasks::default().ended().now_or_never().is_none());
    }
}
