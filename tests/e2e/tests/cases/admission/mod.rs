//! Admission as a user of kubectl sees it, and objects that other programs have stored: a real API server with the real
//! webhook, without a controller.

mod manifests;
mod stored;
mod updates;

use anyhow::Result;
use e2e::{
    Case,
    manifest::NAMESPACE,
    rules::{Api, Writer, collection},
};
use http::Method;
use serde_json::{Value, json};
use testbed::bed::{Machinist, Options};

/// The webhook with a client that bypasses it.
struct Admission {
    case: Case,
    api: Api,
}

/// The output of kubectl, and whether it succeeded.
struct Printed {
    success: bool,
    out: String,
    err: String,
}

impl Admission {
    async fn start() -> Result<Self> {
        let case = Case::start_with(Options {
            boot: None,
            machinist: Machinist::Webhook,
            // These cases need no infra cluster; `cases/preflight` has those that do.
            webhook_args: vec!["--infra-unreachable=off".to_owned()],
            ..Options::default()
        })
        .await?;
        let api = Api::open(&case.bed).await?;
        Ok(Self { case, api })
    }

    async fn end(self) -> Result<()> {
        self.case.end().await
    }

    async fn kubectl(&self, args: &[&str], stdin: &str) -> Result<Printed> {
        let output = self.case.bed.user().kubectl(args, stdin).await?;
        Ok(Printed {
            success: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// kubectl with a merge patch of the Machine `m`.
    async fn patch(&self, patch: &Value) -> Result<Printed> {
        let patch = patch.to_string();
        let args = [
            "patch",
            "machine",
            "m",
            "-n",
            NAMESPACE,
            "--type=merge",
            "-p",
            &patch,
        ];
        self.kubectl(&args, "").await
    }

    async fn get(&self, plural: &str, name: &str) -> Result<Value> {
        let path = format!("{}/{name}", collection(plural));
        self.api
            .send(Method::GET, &path, &json!({}), Writer::Admin)
            .await?
            .ok()
    }
}
