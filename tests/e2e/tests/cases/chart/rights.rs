//! The table of rights in docs/security.md matches the rights that the chart grants.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use e2e::helm::{self, Helm};
use serde_json::Value;

use super::NAMESPACE;

/// A row without its last column: account, namespace, API group, resources, names and verbs.
type Row = [String; 6];

#[tokio::test]
async fn the_table_of_rights_is_what_the_chart_grants() -> Result<()> {
    let helm = Helm::alone().await?;
    let mut objects = helm.render(NAMESPACE, &[]).await?;
    let separate = helm.render(NAMESPACE, &["--set=approver.separate=true"]).await?;
    objects.extend(separate.into_iter().filter(|object| {
        is_role(object) && text(&object["metadata"]["name"]).starts_with("machinist-approver")
    }));
    let mut granted = BTreeSet::new();
    for role in objects
        .iter()
        .filter(|object| is_role(object) && !helm::is_role_for_people(object))
    {
        let name = text(&role["metadata"]["name"]);
        let account = name.split('-').nth(1).context("a role is an account's")?;
        for rule in role["rules"].as_array().context("a role has rules")? {
            granted.insert([
                account.to_owned(),
                text(&role["metadata"]["namespace"]),
                list(&rule["apiGroups"], ""),
                list(&rule["resources"], "`"),
                list(&rule["resourceNames"], "`"),
                list(&rule["verbs"], ""),
            ]);
        }
    }
    let document = std::fs::read_to_string(format!("{}/../../docs/security.md", helm::chart()))?;
    let written: BTreeSet<Row> = document.lines().filter_map(row).collect();
    let missing: Vec<_> = granted.difference(&written).collect();
    let untrue: Vec<_> = written.difference(&granted).collect();
    assert!(
        missing.is_empty() && untrue.is_empty(),
        "missing: {missing:#?}, untrue: {untrue:#?}"
    );
    Ok(())
}

fn is_role(object: &Value) -> bool {
    object["kind"] == "Role" || object["kind"] == "ClusterRole"
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value, quote: &str) -> String {
    let items = value.as_array().into_iter().flatten();
    let items: Vec<_> = items
        .map(|item| format!("{quote}{}{quote}", text(item)))
        .collect();
    items.join(", ")
}

fn row(line: &str) -> Option<Row> {
    let cells: Vec<_> = line
        .strip_prefix('|')?
        .split('|')
        .map(|cell| cell.trim().to_owned())
        .collect();
    let row: Row = cells.get(..6)?.to_vec().try_into().ok()?;
    matches!(&*row[0], "controller" | "approver" | "webhook").then_some(row)
}
