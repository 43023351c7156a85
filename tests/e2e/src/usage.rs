//! CPU time and memory of a server.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use testbed::Server;

/// Its CPU time.
pub fn cpu(server: &Server) -> Result<Duration> {
    let pid = server.pid().context("it does not run")?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may have spaces.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("a short stat")?.parse()?) };
    // User and system time, in hundredths of a second on every Linux that Rust runs on.
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// Its memory in MB: now, and the maximum so far.
pub fn rss(server: &Server) -> Result<(u64, u64)> {
    let pid = server.pid().context("it does not run")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let megabytes = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.with_context(|| format!("no {name}"))?.parse::<u64>()? / 1024)
    };
    Ok((megabytes("VmRSS:")?, megabytes("VmHWM:")?))
}
