//! `make infra-role`: the rights on the infra cluster, for any namespace.

use std::process::Command;

use anyhow::{Result, ensure};
use rstest::rstest;
use serde_json::Value;
use testbed::paths;

#[rstest]
#[case::as_the_example_has_it(&[], "machinist-infra", None)]
#[case::elsewhere(&["NAMESPACE=vms"], "vms", None)]
#[case::of_a_user_that_exists(&["NAMESPACE=vms", "USER=system:serviceaccount:machinist-infra:mc"], "vms", Some("system:serviceaccount:machinist-infra:mc"))]
fn the_printed_rights_are_for_that_namespace_only(
    #[case] args: &[&str],
    #[case] namespace: &str,
    #[case] user: Option<&str>,
) -> Result<()> {
    let root = paths::examples().join("..");
    let make = Command::new("make")
        .args(["--silent", "infra-role"])
        .args(args)
        .current_dir(root)
        .env_remove("NAMESPACE")
        // A shell's own is not meant.
        .env("USER", "admin")
        .output()?;
    ensure!(make.status.success(), "{}", String::from_utf8_lossy(&make.stderr));
    let objects: Vec<Value> = serde_saphyr::from_multiple(&String::from_utf8(make.stdout)?)?;
    let accounts = usize::from(user.is_none());
    assert_eq!(objects.len(), 5 + accounts, "{objects:#?}");
    for object in &objects {
        let (kind, metadata) = (object["kind"].as_str().unwrap_or_default(), &object["metadata"]);
        let cluster_wide = format!("machinist:{namespace}");
        match kind {
            "Namespace" => assert_eq!(metadata["name"], namespace),
            // No other namespace is named, whatever the name of this one.
            "ClusterRole" | "ClusterRoleBinding" => assert_eq!(metadata["name"], *cluster_wide, "{object:#}"),
            _ => assert_eq!(metadata["namespace"], namespace, "{object:#}"),
        }
        for subject in object["subjects"].as_array().into_iter().flatten() {
            match user {
                None => assert_eq!(subject["namespace"], namespace, "{object:#}"),
                Some(user) => assert_eq!(
                    (&subject["kind"], &subject["name"]),
                    (&"User".into(), &user.into())
                ),
            }
        }
    }
    Ok(())
}
