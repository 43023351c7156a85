//! Benchmark of admission: the release webhook on one core, the clients on another, and alternating with it a floor: the same TLS,
//! layers and connections with a handler that reads the body, parses nothing and sends prebuilt bytes.

mod floor;
mod load;
mod process;
mod report;
mod reviews;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use machinist_certs::DevelopmentCa;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::load::{Client, Load};
use crate::process::{Certificate, Server};
use crate::report::{Report, Rounds, Starts};
use crate::reviews::Scenario;

/// The floor uses the webhook's allocator, so that they are comparable.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures admission beside its floor.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the floor.
    #[command(hide = true)]
    Floor(floor::Options),
}

#[derive(Debug, Args)]
struct Options {
    /// The webhook's release binary.
    #[arg(long, default_value = "target/release/machinist-webhook")]
    webhook: PathBuf,
    /// Rounds of each scenario; each measures the floor and the webhook once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Keep-alive connections.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Measure only scenarios whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Starts from which the time to the first answer is taken.
    #[arg(long, default_value_t = 20)]
    starts: usize,
    /// Afterwards, send this many more reviews and print the memory after each tenth of them.
    #[arg(long, default_value_t = 1_000_000)]
    soak: usize,
}

/// Core of the servers; the clients have another.
const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(Command::Floor(options)) = cli.command {
        return floor::serve(&options);
    }
    pin(CLIENT_CORE)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The clients' core never idles: waking it would cost the server an interrupt for each answer, most of all the
    // slower of the two servers, and on a virtual machine as much CPU time as the answer itself.
    runtime.spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    runtime.block_on(run(&cli.options))
}

fn pin(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cores).context("cannot pin to a core; two are needed")
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let ca = DevelopmentCa::new("bench")?;
    let certificate = Certificate::write(&ca)?;
    let load = Load {
        ca: ca.der(),
        connections: options.connections,
    };
    let webhook = Server::webhook(&options.webhook, &certificate, SERVER_CORE)?;
    webhook.first_answer(&load).await?;
    println!(
        "{} rounds of {} s each, {} connections, server on core {SERVER_CORE}, clients on core {CLIENT_CORE}\n",
        options.rounds, options.seconds, options.connections
    );

    println!("{}", Report::HEAD);
    let scenarios: Vec<Scenario> = reviews::scenarios()
        .into_iter()
        .filter(|s| s.name.contains(&options.only))
        .collect();
    for scenario in &scenarios {
        measure(options, scenario, &load, &webhook, &certificate).await?;
    }
    println!(
        "\nmemory of the webhook after all that: {:.1} MB RSS",
        webhook.rss()?
    );
    if options.soak > 0 {
        soak(options.soak, &scenarios, &load, &webhook).await?;
    }
    drop(webhook);
    starts(options, &load, &certificate).await
}

/// From the start of the process to its first answer; the floor beside it, in turns.
async fn starts(options: &Options, load: &Load, certificate: &Certificate) -> anyhow::Result<()> {
    let (mut floors, mut webhooks) = (Starts::default(), Starts::default());
    for _ in 0..options.starts {
        let floor = Server::floor(b"{}", certificate, SERVER_CORE)?;
        floors.add(floor.first_answer(load).await?);
        drop(floor);
        let webhook = Server::webhook(&options.webhook, certificate, SERVER_CORE)?;
        webhooks.add(webhook.first_answer(load).await?);
    }
    println!("\nstart to first answer, webhook: {webhooks}\nstart to first answer, floor:   {floors}");
    Ok(())
}

async fn measure(
    options: &Options,
    scenario: &Scenario,
    load: &Load,
    webhook: &Server,
    certificate: &Certificate,
) -> anyhow::Result<()> {
    let request = scenario.request();
    let answer = Client::connect(load, webhook.address())
        .await?
        .ask(&request)
        .await?;
    scenario
        .check(&answer)
        .with_context(|| format!("the answer to {}", scenario.name))?;
    // The floor sends the webhook's answer.
    let floor = Server::floor(&answer, certificate, SERVER_CORE)?;
    floor.first_answer(load).await?;

    let time = Duration::from_secs_f64(options.seconds);
    let (mut floors, mut webhooks) = (Rounds::default(), Rounds::default());
    // Both warm up, which does not count.
    for server in [&floor, webhook] {
        load.run(server.address(), &request, time / 4).await?;
    }
    for _ in 0..options.rounds {
        for (server, rounds) in [(&floor, &mut floors), (webhook, &mut webhooks)] {
            let before = server.cpu()?;
            let measured = load.run(server.address(), &request, time).await?;
            rounds.add(measured, server.cpu()?.saturating_sub(before));
        }
    }
    let report = Report {
        scenario: &scenario.name,
        bytes: scenario.body.len(),
        floor: floors,
        webhook: webhooks,
    };
    println!("{report}");
    Ok(())
}

/// Whether memory stays flat.
async fn soak(reviews: usize, scenarios: &[Scenario], load: &Load, webhook: &Server) -> anyhow::Result<()> {
    let mut sent = 0;
    println!("\n{:>10} reviews {:>8.1} MB RSS", 0, webhook.rss()?);
    for tenth in 1..=10 {
        while sent < reviews * tenth / 10 {
            for scenario in scenarios {
                sent += load
                    .run(webhook.address(), &scenario.request(), Duration::from_millis(200))
                    .await?
                    .latencies
                    .len();
            }
        }
        println!("{sent:>10} reviews {:>8.1} MB RSS", webhook.rss()?);
    }
    Ok(())
}
