//! Every operation under every interference, after the three classes of Sieve (Sun et al., OSDI '22): *intermediate states*
//! (the controller is killed after each of its writes), *stale* and *unobserved states* (each of its watches is frozen, late,
//! cut or loses events), and each cluster's etcd put back to an earlier state. After each, the same holds ([`oracle`]).
//!
//! What is tried is learned from runs without interference: which writes there are, and which watches. `SIEVE` names the parts,
//! like `kills-scale,restores-infra`; `SIEVE_ONLY` selects trials by a part of their name; `SIEVE_SECONDS` is how long trials
//! are begun; and `SIEVE_HELD` is a file of trials that held before, which are not repeated.

mod bed;
mod operation;
mod oracle;
mod trial;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use self::{
    bed::Bed,
    operation::Operation,
    trial::{Cluster, Fault, RestorePoint, Trial, Watching},
};

/// A part of `make nightly`: one class of interference with some operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Kills,
    Watches,
    Restores(Cluster),
}

const PARTS: [(&str, Class, &[Operation]); 10] = {
    use Operation::{Create, Delete, Evacuate, Rollout, ScaleDown, ScaleUp};
    const ALL: &[Operation] = &[Create, Delete, ScaleUp, ScaleDown, Rollout, Evacuate];
    [
        ("kills-create", Class::Kills, &[Create, Delete]),
        ("kills-scale", Class::Kills, &[ScaleUp, ScaleDown]),
        ("kills-rollout", Class::Kills, &[Rollout]),
        ("kills-evacuation", Class::Kills, &[Evacuate]),
        ("watches-create", Class::Watches, &[Create, Delete]),
        ("watches-scale", Class::Watches, &[ScaleUp, ScaleDown]),
        ("watches-rollout", Class::Watches, &[Rollout]),
        ("watches-evacuation", Class::Watches, &[Evacuate]),
        ("restores-user", Class::Restores(Cluster::User), ALL),
        ("restores-infra", Class::Restores(Cluster::Infra), ALL),
    ]
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_survives_every_interference() -> Result<()> {
    let asked = env::var("SIEVE").unwrap_or_default();
    let names: Vec<&str> = asked.split(',').filter(|name| !name.is_empty()).collect();
    for name in &names {
        ensure!(
            PARTS.iter().any(|(part, ..)| part == name),
            "there is no part {name}"
        );
    }
    let mut table = Table::read()?;
    for (part, class, operations) in PARTS {
        if names.is_empty() || names.contains(&part) {
            Box::pin(run(&mut table, part, class, operations)).await?;
        }
    }
    table.print();
    ensure!(table.failed.is_empty(), "{} trials failed", table.failed.len());
    ensure!(table.left == 0, "{} trials are left: run it again", table.left);
    Ok(())
}

async fn run(table: &mut Table, part: &str, class: Class, operations: &[Operation]) -> Result<()> {
    let two_clusters = matches!(class, Class::Restores(_));
    let mut bed = Bed::start(two_clusters).await?;
    let mut trials = Vec::new();
    for operation in operations {
        let learned = trial::learn(&mut bed, *operation).await;
        let (writes, watches) = learned.with_context(|| format!("{operation} without interference"))?;
        let of_one: Vec<Fault> = match class {
            Class::Kills => writes.into_iter().map(Fault::Kill).collect(),
            Class::Watches => watches
                .into_iter()
                .flat_map(|watch| Watching::ALL.map(|how| Fault::Watch(watch.clone(), how)))
                .collect(),
            Class::Restores(cluster) => RestorePoint::ALL
                .map(|state| Fault::Restore(cluster, state))
                .into(),
        };
        trials.push(
            of_one
                .into_iter()
                .map(|fault| Trial {
                    operation: *operation,
                    fault,
                })
                .collect::<Vec<_>>(),
        );
    }
    for trial in interleaved(trials) {
        if !table.is_asked(&trial) {
            continue;
        }
        if table.is_over() {
            table.left += 1;
            continue;
        }
        let began = Instant::now();
        let result = Box::pin(trial::run(&mut bed, &trial)).await;
        let failed = result.is_err();
        table.note(part, &trial, began.elapsed(), result, &bed)?;
        if failed {
            // It is left as it is, for its logs.
            bed = Bed::start(two_clusters).await?;
        }
    }
    bed.end().await
}

/// One of each after the other: where a creation ends, a deletion begins.
fn interleaved(lists: Vec<Vec<Trial>>) -> Vec<Trial> {
    let mut lists: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(lists.iter_mut().filter_map(Iterator::next));
        if all.len() == before {
            return all;
        }
    }
}

/// What was tried, and what held.
struct Table {
    only: String,
    until: Option<Instant>,
    held_before: BTreeSet<String>,
    file: Option<fs::File>,
    /// By part and operation: how many held, and in how many of them the interference took place.
    held: BTreeMap<String, [usize; 2]>,
    failed: Vec<String>,
    left: usize,
}

impl Table {
    fn read() -> Result<Self> {
        let seconds = env::var("SIEVE_SECONDS").ok();
        let seconds = seconds.map(|text| text.parse().context("SIEVE_SECONDS is a number"));
        let path = env::var_os("SIEVE_HELD");
        let held = path
            .as_ref()
            .map(fs::read_to_string)
            .and_then(Result::ok)
            .unwrap_or_default();
        let open = |path| fs::OpenOptions::new().create(true).append(true).open(path);
        Ok(Self {
            only: env::var("SIEVE_ONLY").unwrap_or_default(),
            until: seconds
                .transpose()?
                .map(|seconds| Instant::now() + Duration::from_secs(seconds)),
            held_before: held.lines().map(str::to_owned).collect(),
            file: path.map(open).transpose()?,
            held: BTreeMap::new(),
            failed: Vec::new(),
            left: 0,
        })
    }

    fn is_asked(&self, trial: &Trial) -> bool {
        let name = trial.to_string();
        name.contains(&self.only) && !self.held_before.contains(&name)
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    fn note(
        &mut self,
        part: &str,
        trial: &Trial,
        took: Duration,
        result: Result<trial::Happened>,
        bed: &Bed,
    ) -> Result<()> {
        let took = took.as_secs_f64();
        match result {
            Ok(happened) => {
                println!("{took:6.1} s  held    {trial}{happened}");
                let held = self
                    .held
                    .entry(format!("{part} {}", trial.operation))
                    .or_default();
                held[0] += 1;
                held[1] += usize::from(happened == trial::Happened::Yes);
                if let Some(file) = &mut self.file {
                    writeln!(file, "{trial}")?;
                }
            }
            Err(error) => {
                println!(
                    "{took:6.1} s  FAILED  {trial}: {error:#}\n          logs: {}",
                    bed.logs()
                );
                self.failed.push(format!("{part}: {trial}"));
            }
        }
        Ok(())
    }

    fn print(&self) {
        println!(
            "\n{:40} {:>6} {:>13}",
            "part and operation", "held", "of those hit"
        );
        for (name, [held, hit]) in &self.held {
            println!("{name:40} {held:>6} {hit:>13}");
        }
        println!(
            "{} held before, {} left, {} failed",
            self.held_before.len(),
            self.left,
            self.failed.len()
        );
        for failed in &self.failed {
            println!("FAILED  {failed}");
        }
    }
}
