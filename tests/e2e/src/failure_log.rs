//! What the controller logged, for cases that fail: their bed is gone when the failure is read.

use std::{fs, path::PathBuf};

/// Lines of the log that are printed.
const LINES: usize = 120;

/// Prints the end of the controller's log when it is dropped, unless the case has passed.
pub(crate) struct FailureLog(Option<PathBuf>);

impl FailureLog {
    /// Of that log.
    pub(crate) fn of(log: PathBuf) -> Self {
        Self(Some(log))
    }

    /// The case has passed so far: from here on, the bed is another case's.
    pub(crate) fn discard(&mut self) {
        self.0 = None;
    }
}

impl Drop for FailureLog {
    fn drop(&mut self) {
        let log = self.0.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let Some(log) = log else { return };
        let lines: Vec<_> = log.lines().collect();
        println!("The end of the controller's log:");
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            println!("{line}");
        }
    }
}
