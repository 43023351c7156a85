//! Runs rows through a real API server, which calls the real webhook.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::{Method, Request, StatusCode, header::CONTENT_TYPE};
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::{
    Client,
    api::{Patch, PatchParams},
    client::Body,
};
use machinist_shared::admission::Author;
use serde_json::{Value, json};
use testbed::{Testbed, bed::SYSTEM_NAMESPACE, binaries};

use super::{Kind, Outcome, Row, machine};
use crate::manifest::NAMESPACE;

/// Group of users whose writes bypass the webhooks, like objects that are older than the webhooks.
const PAST_THE_WEBHOOK: &str = "e2e:past-the-webhook";
/// How long the API server may take to see a changed webhook configuration, and the interval of checks.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// An API server with the webhooks of the chart.
pub struct Api {
    client: Client,
}

/// The client of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// The admin.
    Admin,
    /// Machinist's controller.
    Controller,
    /// machine-controller, which bypasses the webhooks, as if they were not installed yet.
    Exempt,
}

/// The API server's answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub code: StatusCode,
    /// The object, or a `Status`.
    pub body: Value,
    /// Warnings.
    pub warnings: Vec<String>,
}

impl Api {
    /// Excludes a group of users from the webhooks of the bed, and returns when that is in effect.
    pub async fn open(bed: &Testbed) -> Result<Self> {
        let api = Self {
            client: bed.user().client(),
        };
        api.exempt().await?;
        let mut bad = machine();
        bad["spec"] = json!({});
        let dry = format!("{}?dryRun=All", collection("machines"));
        tokio::time::timeout(WAIT_TIMEOUT, async {
            loop {
                let past = api.send(Method::POST, &dry, &bad, Writer::Exempt).await?;
                let judged = api.send(Method::POST, &dry, &bad, Writer::Admin).await?;
                if past.code == StatusCode::CREATED && judged.code == StatusCode::UNPROCESSABLE_ENTITY {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        })
        .await
        .context("the webhooks are not asked")??;
        Ok(api)
    }

    /// Runs a row, and deletes its objects.
    pub async fn run(&self, row: &Row) -> Result<Outcome> {
        let outcome = self.answer(row).await.and_then(|answer| outcome(&answer));
        self.clear().await.context("clearing up")?;
        outcome
    }

    async fn answer(&self, row: &Row) -> Result<Answer> {
        let path = collection(plural(row.kind));
        let author = match row.author {
            Author::Person => Writer::Admin,
            Author::SetController => Writer::Controller,
        };
        let Some(old) = &row.old else {
            return self.send(Method::POST, &path, &row.object, author).await;
        };
        let stored = self.store(row.kind, old).await?;
        let mut new = row.object.clone();
        let mut known = vec!["resourceVersion"];
        if forget_deletion(&mut new) {
            known.extend(["deletionTimestamp", "deletionGracePeriodSeconds"]);
        }
        for key in known {
            // A client that updates an object sends what it read.
            new["metadata"][key] = stored["metadata"][key].clone();
        }
        let path = format!("{path}/{}", name(&stored)?);
        self.send(Method::PUT, &path, &new, author).await
    }

    /// Stores an object without the webhooks, and deletes it if it has a `deletionTimestamp`. Returns it as stored.
    async fn store(&self, kind: Kind, object: &Value) -> Result<Value> {
        let mut object = object.clone();
        let deleting = forget_deletion(&mut object);
        let path = collection(plural(kind));
        let stored = self
            .send(Method::POST, &path, &object, Writer::Exempt)
            .await?
            .ok()?;
        if !deleting {
            return Ok(stored);
        }
        let path = format!("{path}/{}", name(&stored)?);
        let deleted = self
            .send(Method::DELETE, &path, &json!({}), Writer::Exempt)
            .await?
            .ok()?;
        ensure!(
            deleted["metadata"]["deletionTimestamp"].is_string(),
            "it needs a finalizer to stay: {deleted}"
        );
        Ok(deleted)
    }

    /// Deletes all Machines, MachineSets and MachineDeployments.
    pub async fn clear(&self) -> Result<()> {
        for plural in ["machines", "machinesets", "machinedeployments"] {
            let path = collection(plural);
            let list = self
                .send(Method::GET, &path, &json!({}), Writer::Exempt)
                .await?
                .ok()?;
            for item in list["items"].as_array().into_iter().flatten() {
                let path = format!("{path}/{}", name(item)?);
                if item["metadata"].get("finalizers").is_some() {
                    let nothing = json!({"metadata": {"finalizers": null}});
                    self.send(Method::PATCH, &path, &nothing, Writer::Exempt)
                        .await?
                        .ok()?;
                }
                let gone = self
                    .send(Method::DELETE, &path, &json!({}), Writer::Exempt)
                    .await?;
                if gone.code != StatusCode::NOT_FOUND {
                    gone.ok()?;
                }
            }
        }
        Ok(())
    }

    /// Sends one request. A refusal is not an error.
    pub async fn send(&self, method: Method, path: &str, body: &Value, who: Writer) -> Result<Answer> {
        let content_type = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .header(CONTENT_TYPE, content_type);
        let controller = format!(
            "system:serviceaccount:{SYSTEM_NAMESPACE}:{}",
            binaries::CONTROLLER
        );
        let user = match who {
            Writer::Admin => None,
            Writer::Controller => Some((controller.as_str(), "system:masters")),
            Writer::Exempt => Some((
                "system:serviceaccount:kube-system:machine-controller",
                PAST_THE_WEBHOOK,
            )),
        };
        if let Some((user, group)) = user {
            request = request.header("Impersonate-User", user);
            for group in ["system:masters", group] {
                request = request.header("Impersonate-Group", group);
            }
        }
        let body = if method == Method::GET {
            Vec::new()
        } else {
            serde_json::to_vec(body)?
        };
        let answer = self.client.send(request.body(Body::from(body))?).await?;
        let (head, body) = answer.into_parts();
        let warnings = head.headers.get_all("warning").iter();
        let warnings = warnings
            .filter_map(|warning| text_of(std::str::from_utf8(warning.as_bytes()).ok()?))
            .collect();
        let body = body.collect_bytes().await?;
        Ok(Answer {
            code: head.status,
            body: serde_json::from_slice(&body).with_context(|| format!("{}: {body:?}", head.status))?,
            warnings,
        })
    }

    /// Adds to every webhook the condition that the writer is not of [`PAST_THE_WEBHOOK`].
    async fn exempt(&self) -> Result<()> {
        let condition = || MatchCondition {
            name: "not-past-the-webhook".to_owned(),
            expression: format!("!({PAST_THE_WEBHOOK:?} in request.userInfo.groups)"),
        };
        let mutating = kube::Api::<MutatingWebhookConfiguration>::all(self.client.clone());
        let mut found = mutating.get("machinist").await?;
        for webhook in found.webhooks.iter_mut().flatten() {
            webhook.match_conditions.get_or_insert_default().push(condition());
        }
        let patch = Patch::Merge(json!({"webhooks": found.webhooks}));
        mutating
            .patch("machinist", &PatchParams::default(), &patch)
            .await?;

        let validating = kube::Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        let mut found = validating.get("machinist").await?;
        for webhook in found.webhooks.iter_mut().flatten() {
            webhook.match_conditions.get_or_insert_default().push(condition());
        }
        let patch = Patch::Merge(json!({"webhooks": found.webhooks}));
        validating
            .patch("machinist", &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }
}

impl Answer {
    /// The object, or an error with the refusal.
    pub fn ok(self) -> Result<Value> {
        if !self.code.is_success() {
            bail!("{}: {}", self.code, self.body);
        }
        Ok(self.body)
    }

    /// Fields that the refusal names as causes. An error unless the refusal has the documented form: 422, `Invalid`, and each
    /// cause in the message as well.
    pub fn rejected(&self) -> Result<Vec<String>> {
        Ok(self.causes()?.into_iter().map(|(field, _)| field).collect())
    }

    /// The same with the message about each field.
    pub fn causes(&self) -> Result<Vec<(String, String)>> {
        let (body, mut found) = (&self.body, Vec::new());
        let message = body["message"].as_str().unwrap_or_default();
        ensure!(
            self.code == StatusCode::UNPROCESSABLE_ENTITY
                && body["code"] == 422
                && body["reason"] == "Invalid",
            "not 422 Invalid: {body}"
        );
        let causes = body["details"]["causes"].as_array().into_iter().flatten();
        for cause in causes {
            let [field, text] = ["field", "message"].map(|key| cause[key].as_str().unwrap_or_default());
            ensure!(
                message.contains(&format!("{field}: {text}")),
                "{field}: {text} is not in the message: {message}"
            );
            // The API server writes the path of an invalid scale with a leading dot.
            found.push((field.trim_start_matches('.').to_owned(), text.to_owned()));
        }
        ensure!(!found.is_empty(), "a refusal without causes: {body}");
        Ok(found)
    }
}

fn outcome(answer: &Answer) -> Result<Outcome> {
    let admitted = answer.code.is_success();
    let (causes, stored) = if admitted {
        (Vec::new(), answer.body.clone())
    } else {
        (answer.causes()?, Value::Null)
    };
    Ok(Outcome {
        rejected: causes.iter().map(|(field, _)| field.clone()).collect(),
        causes,
        stored,
        warnings: answer.warnings.clone(),
        message: answer.body["message"].as_str().unwrap_or_default().to_owned(),
    })
}

/// Removes the `deletionTimestamp`, and returns whether there was one.
fn forget_deletion(object: &mut Value) -> bool {
    let metadata = object["metadata"].as_object_mut();
    metadata.is_some_and(|metadata| metadata.remove("deletionTimestamp").is_some())
}

fn name(object: &Value) -> Result<&str> {
    object["metadata"]["name"]
        .as_str()
        .context("an object without a name")
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Machine => "machines",
        Kind::Set => "machinesets",
        Kind::Deployment => "machinedeployments",
    }
}

/// Path of all objects of a kind.
pub fn collection(plural: &str) -> String {
    format!("/apis/cluster.k8s.io/v1alpha1/namespaces/{NAMESPACE}/{plural}")
}

/// The text of a header `299 - "text"`.
fn text_of(header: &str) -> Option<String> {
    let quoted = header.strip_prefix("299 - \"")?.strip_suffix('"')?;
    Some(quoted.replace("\\\"", "\"").replace("\\\\", "\\"))
}
