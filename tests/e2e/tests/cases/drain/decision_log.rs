//! Log lines of a deletion with an eviction.

use anyhow::{Result, ensure};
use e2e::drain::pod;
use serde_json::Value;

use super::{WORKER, finish, start};

/// One line for each write, with the Machine, its UID and the reason.
#[tokio::test]
async fn each_decision_is_logged_once_with_its_machine_and_its_reason() -> Result<()> {
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    case.delete_machine(WORKER).await?;
    let log = std::fs::read_to_string(case.bed.controller().log())?;
    let lines: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    for message in ["approved", "evict a pod", "delete the VirtualMachine"] {
        let mut logged = lines.iter().filter(|line| line["message"] == message).peekable();
        ensure!(logged.peek().is_some(), "no line {message:?} in the log");
        for line in logged {
            let text = |key: &str| line[key].as_str().unwrap_or_default();
            let is_whole =
                text("machine").contains('/') && !text("uid").is_empty() && !text("why").is_empty();
            ensure!(is_whole, "{line}");
        }
    }
    for change in ["approve a signing request", "evict pods", "watch the Node's pods"] {
        ensure!(
            lines.iter().all(|line| line["message"] != change),
            "{change:?} is logged, too"
        );
    }
    finish(case).await
}
