//! Spans of both servers at an OpenTelemetry collector, and collectors that do not accept any.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use e2e::{
    Case,
    collector::{Collector, Span},
    manifest,
};
use rstest::rstest;
use testbed::bed::Options;

const MACHINE: &str = "worker-1";

/// All attributes of spans. A new one must never contain a secret.
const ATTRIBUTES: [&str; 12] = [
    "http.response.status_code",
    "k8s.namespace.name",
    "k8s.object.name",
    "k8s.resource",
    "k8s.subresource",
    "k8s.verb",
    "level",
    "operation",
    "server.address",
    "target",
    "uid",
    "verdict",
];

fn exporting_to(url: &str) -> Options {
    let args = vec![format!("--otlp-endpoint={url}")];
    Options {
        webhook_args: args.clone(),
        controller_args: args,
        ..Options::default()
    }
}

#[tokio::test]
async fn the_life_of_a_machine_can_be_traced() -> Result<()> {
    let collector = Collector::start().await?;
    let case = Case::start_with(exporting_to(collector.url())).await?;
    case.apply(&manifest::machine(MACHINE)).await?;
    case.node_ready(MACHINE).await?;

    let admission = |step: &'static str, verdict: &'static str| {
        move |span: &Span| {
            span.service == "machinist-webhook"
                && span.name == step
                && span.tells("k8s.resource") == "machines"
                && span.tells("operation") == "CREATE"
                && span.tells("verdict") == verdict
        }
    };
    let mutated = collector.span("the mutating admission", admission("mutate", "patched"));
    mutated.await?;
    let validated = collector.span("the validating admission", admission("validate", "allowed"));
    let validated = validated.await?;
    let asked = collector.span("a question in its course", |span| {
        span.is_part_of(&validated) && span.name == "create subjectaccessreviews"
    });
    asked.await?;

    let created = collector.span("the VM's creation", |span| {
        span.service == "machinist-controller"
            && span.name == "create virtualmachines"
            && !span.tells("server.address").is_empty()
            && span.tells("http.response.status_code") == "201"
    });
    let created = created.await?;
    let pass = collector.span("the pass that made it", |span| created.is_part_of(span));
    let pass = pass.await?;
    ensure!(pass.name == "reconcile machine" && !pass.failed, "{pass:?}");
    ensure!(pass.tells("k8s.object.name") == MACHINE, "{pass:?}");

    case.delete_machine(MACHINE).await?;
    // Long before the next delivery: the last spans of a server, like the release of its Lease, are delivered at its shutdown.
    let terminated_at = SystemTime::now().duration_since(UNIX_EPOCH)?;
    case.bed.controller().terminate().await?;
    let at_the_end = collector.all();
    let last = |span: &Span| {
        span.service == "machinist-controller"
            && span.tells("k8s.resource") == "leases"
            && span.ended >= terminated_at
    };
    ensure!(at_the_end.iter().any(last), "the last spans are lost");
    let keys: BTreeSet<_> = at_the_end
        .iter()
        .flat_map(|span| span.attributes.keys())
        .collect();
    let known: BTreeSet<_> = ATTRIBUTES.iter().map(|key| (*key).to_owned()).collect();
    ensure!(keys.iter().all(|key| known.contains(*key)), "{keys:?}");
    case.finish(&[]).await
}

#[rstest]
#[case::refuses_connections(false)]
#[case::never_answers(true)]
#[tokio::test]
async fn an_unresponsive_collector_blocks_nothing(#[case] listens: bool) -> Result<()> {
    // Connections to a listening port succeed, and the data is never read.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let _listener = listens.then_some(listener);
    let case = Case::start_with(exporting_to(&url)).await?;
    case.apply(&manifest::machine(MACHINE)).await?;
    case.node_ready(MACHINE).await?;
    case.delete_machine(MACHINE).await?;

    let begun = Instant::now();
    let ended = case.bed.controller().terminate().await?;
    ensure!(ended.success(), "{ended}");
    println!("the end took {:.1} s", begun.elapsed().as_secs_f64());
    let log = std::fs::read_to_string(case.bed.controller().log())?;
    let complaints = log.matches("the collector does not accept spans").count();
    ensure!(complaints <= 1, "{complaints} complaints");
    ensure!(listens || complaints == 1, "the failure is not logged: {log}");
    case.finish(&[]).await
}
