//! The laws of a rollout, checked against watch events during the rollout: each law on one watch, whose events arrive in the
//! order of the writes.

use std::sync::{Arc, Mutex, PoisonError};

use kube::{Resource as _, ResourceExt as _};
use machinist_shared::admission::template;
use machinist_shared::api::{Machine, MachineSet};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::{
    Case,
    rollout::{follow, has_joined},
};

/// How many Machines there may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// No more that are not being deleted.
    pub most: usize,
    /// No fewer that have joined and are not being deleted.
    pub least: usize,
}

/// The observations.
#[derive(Debug, Clone, Default)]
pub struct Observations {
    /// Violations of the laws, in their order.
    pub violations: Vec<String>,
    /// Most Machines at one time.
    pub most: usize,
    /// Fewest joined ones at one time.
    pub least: Option<usize>,
    /// Most sets at one time.
    pub sets: usize,
}

/// Checks the laws, until it is stopped.
pub struct Laws {
    seen: Arc<Mutex<Observations>>,
    tasks: [JoinHandle<()>; 2],
}

/// What counts of a set.
#[derive(Debug, Clone)]
struct Set {
    name: String,
    wanted: usize,
    template: Arc<Value>,
}

impl Laws {
    /// Watches from now on; all Machines and sets of the namespace belong to one MachineDeployment.
    pub fn watch(case: &Case, bounds: Bounds) -> Self {
        let seen = Arc::new(Mutex::new(Observations::default()));
        let machines = follow(
            case.machines(),
            |machine: &Machine| (machine.meta().deletion_timestamp.is_none(), has_joined(machine)),
            {
                let seen = Arc::clone(&seen);
                move |machines| {
                    let machines: Vec<(bool, bool)> = machines.collect();
                    let alive = machines.iter().filter(|(alive, _)| *alive).count();
                    let joined = machines.iter().filter(|(_, joined)| *joined).count();
                    note(&seen, |seen| {
                        seen.most = seen.most.max(alive);
                        seen.least = Some(seen.least.map_or(joined, |least| least.min(joined)));
                        if alive > bounds.most {
                            seen.violations
                                .push(format!("{alive} Machines, and {} are allowed", bounds.most));
                        }
                        if joined < bounds.least {
                            seen.violations.push(format!(
                                "{joined} Machines have joined, and {} must have",
                                bounds.least
                            ));
                        }
                    });
                }
            },
        );
        let sets = follow(case.machine_sets(), set, {
            let seen = Arc::clone(&seen);
            move |sets| {
                let sets: Vec<Set> = sets.flatten().collect();
                note(&seen, |seen| {
                    seen.sets = seen.sets.max(sets.len());
                    let wanted: usize = sets.iter().map(|set| set.wanted).sum();
                    if wanted > bounds.most {
                        seen.violations.push(format!(
                            "{wanted} Machines are asked for, and {} are allowed",
                            bounds.most
                        ));
                    }
                    seen.violations.extend(doubles(&sets));
                });
            }
        });
        Self {
            seen,
            tasks: [tokio::spawn(machines), tokio::spawn(sets)],
        }
    }

    /// The observations so far.
    pub fn stop(self) -> Observations {
        for task in &self.tasks {
            task.abort();
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn note(seen: &Mutex<Observations>, change: impl FnOnce(&mut Observations)) {
    change(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
}

/// What counts of a set; nothing of one that is being deleted.
fn set(set: &MachineSet) -> Option<Set> {
    let wanted = usize::try_from(set.spec.replicas.unwrap_or_default()).unwrap_or_default();
    set.meta().deletion_timestamp.is_none().then(|| Set {
        name: set.name_any(),
        wanted,
        template: Arc::new(serde_json::to_value(&set.spec.template).unwrap_or_default()),
    })
}

/// Sets of one template.
fn doubles(sets: &[Set]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, one) in sets.iter().enumerate() {
        for other in sets.iter().skip(index + 1) {
            if template::equal(&one.template, &other.template) {
                found.push(format!("{} and {} are of one template", one.name, other.name));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinist_shared::api::names::label;
    use serde_json::json;

    #[test]
    fn two_sets_of_one_template_are_found_whatever_their_hash() {
        let set = |name: &str, kubelet: &str| Set {
            name: name.to_owned(),
            wanted: 1,
            template: Arc::new(json!({
                "metadata": {"labels": {"a": "b", label::TEMPLATE_HASH: name}},
                "spec": {"versions": {"kubelet": kubelet}},
            })),
        };
        assert!(doubles(&[set("one", "1.34.0"), set("two", "1.35.0")]).is_empty());
        let found = doubles(&[set("one", "1.34.0"), set("two", "1.35.0"), set("three", "1.34.0")]);
        assert_eq!(found, ["one and three are of one template"]);
    }
}
