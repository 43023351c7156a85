//! Every field of a manifest is rendered into a field of the VirtualMachine: in process, and on an API server with KubeVirt's
//! schemas, which refuses unknown fields.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use e2e::fields::{self, CONTRACT, Form, VARS};
use http::{Request, header::CONTENT_TYPE};
use kube::client::Body;
use kubevirt_sim::admission::validate;
use kubevirt_sim::instancetype::Found;
use serde_json::{Value, json};
use testbed::{ControlPlane, control_plane::Options};

/// Fails with a list of all errors.
fn none_is_wrong(verdicts: impl Iterator<Item = Result<(), String>>) {
    let wrong: Vec<String> = verdicts.filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_row_holds() {
    let rows = fields::all();
    none_is_wrong(rows.iter().map(|row| row.judge(&row.render(Form::Literal)?)));
}

#[test]
fn no_row_of_the_contract_is_missing_and_ids_are_unique() {
    let rows = fields::all();
    let ids: BTreeSet<_> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids.len(), rows.len());
    let have: BTreeSet<_> = rows.iter().map(fields::Row::rule).collect();
    let want: BTreeSet<_> = CONTRACT
        .iter()
        .flat_map(|(section, _, rules)| rules.iter().map(|rule| (*section, *rule)))
        .collect();
    let missing: Vec<_> = want.difference(&have).collect();
    assert!(missing.is_empty(), "without a row: {missing:?}");
    let unknown: Vec<_> = have.difference(&want).collect();
    assert!(unknown.is_empty(), "not in the contract: {unknown:?}");
    assert!(
        rows.iter()
            .all(|row| !row.becomes.is_empty() || !row.nowhere.is_empty())
    );
}

#[test]
fn a_row_of_a_field_sets_that_field() {
    for row in fields::all()
        .iter()
        .filter(|row| row.rule().0 == "2" && row.id.split('/').count() == 2)
    {
        let field = row.rule().1.replace("[]", "");
        let given = |(path, value): &(&str, Value)| {
            *path == field
                || field.strip_prefix(path).is_some_and(|rest| {
                    value
                        .to_string()
                        .contains(rest.rsplit('.').next().unwrap_or(rest))
                })
        };
        assert!(row.given.iter().any(given), "{}: {:?}", row.id, row.given);
    }
}

#[test]
fn every_form_of_a_value_renders_the_same_virtual_machine() {
    let rows = fields::all();
    let mut seen = BTreeSet::new();
    for row in &rows {
        seen.extend(
            row.given
                .iter()
                .map(|(path, _)| *path)
                .filter(|path| VARS.contains(path)),
        );
        let literal = row.render(Form::Literal).unwrap();
        for form in [Form::Value, Form::Secret, Form::ConfigMap] {
            let same = row
                .render(form)
                .unwrap_or_else(|error| panic!("{form:?}: {error}"));
            assert_eq!(same, literal, "{} as {form:?}", row.id);
        }
    }
    assert_eq!(seen, VARS.iter().copied().collect());
}

#[test]
fn kubevirts_admission_refuses_none_but_for_a_feature_gate() {
    for row in fields::all() {
        let causes = validate::causes(&row.render(Form::Literal).unwrap(), &Found::default());
        let messages: Vec<_> = causes.iter().map(|cause| cause.message.as_str()).collect();
        if row.ignition.is_some() {
            assert!(
                messages.concat().contains("ExperimentalIgnitionSupport"),
                "{messages:?}"
            );
        } else {
            assert!(messages.is_empty(), "{}: {messages:?}", row.id);
        }
    }
}

#[test]
fn the_document_matches_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/kubevirt-fields.md");
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == fields::markdown(),
        "docs/kubevirt-fields.md is stale; run: make fields"
    );
}

#[tokio::test]
async fn kubevirts_schemas_accept_every_virtual_machine() -> Result<()> {
    let plane = ControlPlane::start(Options::infra()).await?;
    let mut namespaces = BTreeSet::new();
    let mut verdicts = BTreeMap::new();
    for row in fields::all() {
        let mut vm = row.render(Form::Literal).map_err(anyhow::Error::msg)?;
        let namespace = vm["metadata"]["namespace"]
            .as_str()
            .context("no namespace")?
            .to_owned();
        if namespaces.insert(namespace.clone()) {
            plane.ensure_namespace(&namespace).await?;
        }
        let (code, answer) = create(&plane, &namespace, &vm).await?;
        let verdict = if code == 201 {
            row.judge(&answer)
        } else {
            Err(format!("{}: {code}: {}", row.id, answer["message"]))
        };
        verdicts.insert(row.id, verdict);
        // The schema is KubeVirt's and not one that accepts everything.
        vm["spec"]["template"]["spec"]["domain"]["devices"]["diskz"] = json!([]);
        let (code, answer) = create(&plane, &namespace, &vm).await?;
        anyhow::ensure!(code == 400, "{}: an unknown field was taken: {answer}", row.id);
    }
    println!(
        "virtual machines that KubeVirt's schemas take: {}",
        verdicts.len()
    );
    none_is_wrong(verdicts.into_values());
    Ok(())
}

/// The API server's answer to a dry run of a VirtualMachine.
async fn create(plane: &ControlPlane, namespace: &str, vm: &Value) -> Result<(u16, Value)> {
    let path = format!(
        "/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines?dryRun=All&fieldValidation=Strict"
    );
    let request = Request::post(path).header(CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(serde_json::to_vec(vm)?))?;
    let answer = plane.client().send(request).await?;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect_bytes().await?;
    Ok((code, serde_json::from_slice(&body)?))
}
