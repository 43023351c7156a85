//! Timings for the summary of `make test` (`hack/timings.sh`): a file of lines for each kind.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
};

use crate::paths;

/// Adds a line to `target/timings/NAME.tsv`. Errors are ignored: a missing line in the summary does not matter.
pub fn record(name: &str, line: &str) {
    let dir = paths::timings();
    let written = fs::create_dir_all(&dir).and_then(|()| {
        let file = dir.join(name).with_extension("tsv");
        let mut file = OpenOptions::new().create(true).append(true).open(file)?;
        writeln!(file, "{line}")
    });
    drop(written);
}
