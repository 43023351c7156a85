//! Every rule of admission: in process, and through a real API server with the real webhook, as users see it.

use std::collections::BTreeMap;

use anyhow::Result;
use e2e::{
    Case,
    rules::{self, Api, EnforcedBy, Row},
};
use testbed::bed::{Machinist, Options};

#[test]
fn every_rule_holds_for_the_functions() {
    let rows = rules::all();
    let judged = rows.iter().filter(|row| row.enforced_by == EnforcedBy::Everyone);
    none_is_broken(judged.map(|row| (row, row.judge(&rules::in_process(row)))));
}

#[tokio::test]
async fn every_rule_holds_through_the_api_server() -> Result<()> {
    let case = Case::start_with(Options {
        boot: None,
        // No controller, which would create virtual machines for the rows.
        machinist: Machinist::Webhook,
        // The rows need no infra cluster; most of them name none.
        webhook_args: vec!["--infra-unreachable=off".to_owned()],
        ..Options::default()
    })
    .await?;
    let api = Api::open(&case.bed).await?;
    let rows = rules::all();
    let mut verdicts = Vec::new();
    // One by one, because most Machines have the same name.
    for row in &rows {
        let verdict = match api.run(row).await {
            Ok(outcome) => row.judge(&outcome),
            Err(error) => Err(format!("{}: {error:#}", row.id)),
        };
        verdicts.push((row, verdict));
    }
    none_is_broken(verdicts.into_iter());
    let log = std::fs::read_to_string(case.bed.webhook().log())?;
    assert!(!log.contains("panicked"), "{log}");
    case.end().await
}

/// Prints how many rows of each section hold, and fails with those that do not.
fn none_is_broken<'a>(verdicts: impl Iterator<Item = (&'a Row, Result<(), String>)>) {
    let (mut held, mut broken) = (BTreeMap::<_, usize>::new(), Vec::new());
    for (row, verdict) in verdicts {
        match verdict {
            Ok(()) => {
                *held
                    .entry(row.id.split('/').next().unwrap_or_default())
                    .or_default() += 1;
            }
            Err(why) => broken.push(why),
        }
    }
    println!("rules that hold: {held:?}");
    assert!(
        broken.is_empty(),
        "{} rules are broken:\n{}",
        broken.len(),
        broken.join("\n")
    );
}
