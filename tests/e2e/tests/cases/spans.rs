//! Spans of both servers at an OpenTelemetry collector, and collectors that take none.

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

/// All that spans tell. Whatever is added here must never hold a secret.
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
async fn a_machines_way_can_be_followed() -> Result<()> {
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
    // Long before the next delivery: what a server does last, as giving its Lease back, is delivered at its end.
    let told_to_end = SystemTime::now().duration_since(UNIX_EPOCH)?;
    case.bed.controller().terminate().await?;
    let at_the_end = collector.all();
    let last = |span: &Span| {
        span.service == "machinist-controller"
            && span.tells("k8s.resource") == "leases"
            && span.ended >= told_to_end
    };
    ensure!(at_the_end.iter().any(last), "the last spans are lost");
    let told: BTreeSet<_> = at_the_end
        .iter()
        .flat_map(|span| span.attributes.keys())
        .collect();
    let known: BTreeSet<_> = ATTRIBUTES.iter().map(|key| (*key).to_owned()).collect();
    ensure!(told.iter().all(|key| known.contains(*key)), "{told:?}");
    case.finish(&[]).await
}

#[rstest]
#[case::refuses_connections(false)]
#[case::never_answers(true)]
#[tokio::test]
async fn a_collector_that_takes_nothing_holds_nothing_up(#[case] listens: bool) -> Result<()> {
    // Connections to a port that listens are made, and whatever is sent is never read.
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
    ensure!(listens || complaints == 1, "nobody was told: {log}");
    case.finish(&[]).await
}
