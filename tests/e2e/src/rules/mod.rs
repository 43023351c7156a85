//! The rules of admission as a table: one row per rule, with an input and the expected result.
//!
//! The rows are data. They run against the pure functions, and through a real API server with the real webhook, as users see
//! them.

mod accepted_by_kubevirt;
mod api;
mod autoscaler;
mod bad_specs;
mod base;
mod config_vars;
mod deployment;
#[cfg(test)]
mod ids;
mod machine_create;
mod machine_set;
mod machine_update;
mod operating_system;
mod patch;
mod rules_without_row;
mod run;
mod ssh;
mod strict;
mod value;

pub use accepted_by_kubevirt::ACCEPTED_BY_KUBEVIRT;
pub use api::{Answer, Api, Writer, collection};
pub use base::{INFRA_NAMESPACE, machine};
pub use rules_without_row::RULES_WITHOUT_ROW;
pub use run::{Outcome, in_process};

use machinist_shared::admission::Author;
use serde_json::Value;

/// The kind of a row's object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Machine.
    Machine,
    /// A MachineSet.
    Set,
    /// A MachineDeployment.
    Deployment,
}

/// The component that enforces a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnforcedBy {
    /// The pure functions, and so the webhook.
    Everyone,
    /// Only the webhook, which has an environment.
    Webhook,
}

/// One rule.
#[derive(Debug, Clone)]
pub struct Row {
    /// Unique: section of the contract with machine-controller's users, and a word.
    pub id: &'static str,
    /// The kind of the object.
    pub kind: Kind,
    /// The component that enforces the rule.
    pub enforced_by: EnforcedBy,
    /// The author of the write.
    pub author: Author,
    /// The stored object, if it is an update.
    pub old: Option<Value>,
    /// The written object.
    pub object: Value,
    /// Fields that the refusal names as causes; empty if the object is admitted.
    pub rejected: Vec<&'static str>,
    /// All causes of the refusal, if the row is exact: field and message.
    pub causes: Vec<(&'static str, &'static str)>,
    /// JSON pointers, and the stored values; `null`: no value.
    pub stored: Vec<(&'static str, Value)>,
    /// Parts of warnings.
    pub warned: Vec<&'static str>,
    /// Parts of the refusal's message.
    pub messages: Vec<&'static str>,
}

impl Row {
    fn new(id: &'static str, kind: Kind, object: Value) -> Self {
        let (enforced_by, author) = (EnforcedBy::Everyone, Author::Person);
        let (rejected, stored, warned, messages) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            id,
            kind,
            enforced_by,
            author,
            old: None,
            object,
            rejected,
            causes: Vec::new(),
            stored,
            warned,
            messages,
        }
    }

    /// The creation of a Machine.
    fn create(id: &'static str, machine: Value) -> Self {
        Self::new(id, Kind::Machine, machine)
    }

    /// The update of a Machine.
    fn update(id: &'static str, old: Value, new: Value) -> Self {
        Self {
            old: Some(old),
            ..Self::new(id, Kind::Machine, new)
        }
    }

    /// The creation of a MachineDeployment.
    fn roll_out(id: &'static str, deployment: Value) -> Self {
        Self::new(id, Kind::Deployment, deployment)
    }

    /// Expects a refusal for exactly these fields.
    fn rejects(mut self, fields: &[&'static str]) -> Self {
        self.rejected.extend(fields);
        self
    }

    /// Expects a refusal with exactly these causes.
    fn causes(mut self, causes: &[(&'static str, &'static str)]) -> Self {
        self.causes.extend(causes);
        let mut fields = causes.iter().map(|(field, _)| *field).collect::<Vec<_>>();
        fields.sort_unstable();
        fields.dedup();
        self.rejects(&fields)
    }

    /// Expects admission, and this stored value at that pointer.
    fn stores(mut self, pointer: &'static str, value: Value) -> Self {
        self.stored.push((pointer, value));
        self
    }

    /// Expects a warning that contains this.
    fn warns(mut self, part: &'static str) -> Self {
        self.warned.push(part);
        self
    }

    /// Expects a refusal whose message contains this.
    fn message_contains(mut self, part: &'static str) -> Self {
        self.messages.push(part);
        self
    }

    fn enforced_by(mut self, enforced_by: EnforcedBy) -> Self {
        self.enforced_by = enforced_by;
        self
    }

    fn written_by(mut self, author: Author) -> Self {
        self.author = author;
        self
    }

    /// Compares an outcome with the row. The error is the difference.
    pub fn judge(&self, outcome: &Outcome) -> Result<(), String> {
        let mut rejected = outcome.rejected.iter().map(String::as_str).collect::<Vec<_>>();
        rejected.sort_unstable();
        rejected.dedup();
        let mut want = self.rejected.clone();
        want.sort_unstable();
        if rejected != want {
            return Err(format!(
                "{}: rejected {rejected:?}, not {want:?}; {}",
                self.id, outcome.message
            ));
        }
        let mut causes = outcome.causes.clone();
        causes.sort_unstable();
        let mut want = self.causes.clone();
        want.sort_unstable();
        let same = causes.iter().map(|(field, text)| (field.as_str(), text.as_str()));
        if !want.is_empty() && !same.eq(want.iter().copied()) {
            return Err(format!("{}: the causes are {causes:#?}, not {want:#?}", self.id));
        }
        for (pointer, want) in &self.stored {
            let got = outcome.stored.pointer(pointer).unwrap_or(&Value::Null);
            if got != want {
                return Err(format!("{}: {pointer} is {got}, not {want}", self.id));
            }
        }
        for part in &self.messages {
            if !outcome.message.contains(part) {
                return Err(format!(
                    "{}: the refusal does not say {part:?}: {}",
                    self.id, outcome.message
                ));
            }
        }
        for part in &self.warned {
            if !outcome.warnings.iter().any(|warning| warning.contains(part)) {
                return Err(format!(
                    "{}: no warning has {part:?}: {:?}",
                    self.id, outcome.warnings
                ));
            }
        }
        Ok(())
    }
}

/// All rows.
pub fn all() -> Vec<Row> {
    [
        value::rows(),
        strict::rows(),
        config_vars::rows(),
        operating_system::rows(),
        ssh::rows(),
        machine_create::rows(),
        machine_update::rows(),
        deployment::rows(),
        machine_set::rows(),
        autoscaler::rows(),
        patch::rows(),
        bad_specs::rows(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::ids::RULES;
    use super::*;

    #[test]
    fn every_section_has_rows_and_ids_are_unique() {
        let rows = all();
        let ids = rows.iter().map(|row| row.id).collect::<BTreeSet<_>>();
        assert_eq!(ids.len(), rows.len());
        let mut sections = BTreeMap::new();
        for id in ids {
            *sections.entry(id.split('/').next().unwrap()).or_insert(0) += 1;
        }
        let want = [
            "2.1",
            "2.2",
            "2.3",
            "2.4",
            "2.5",
            "2.6",
            "3.3",
            "3.4",
            "3.5",
            "3.6",
            "3.7",
            "4",
            "autoscaler",
            "kubevirt",
        ];
        assert_eq!(sections.keys().copied().collect::<Vec<_>>(), want);
    }

    #[test]
    fn at_least_sixty_invalid_specs_have_exact_causes() {
        let exact = all().into_iter().filter(|row| !row.causes.is_empty()).count();
        assert!(exact >= 60, "{exact}");
    }

    #[test]
    fn rules_without_a_row_say_why_and_which_test_shows_them() {
        let ids = all().into_iter().map(|row| row.id).collect::<BTreeSet<_>>();
        for (rule, why, test) in RULES_WITHOUT_ROW {
            assert!(!ids.contains(rule), "{rule} has a row");
            assert!(rule.contains('/') && why.ends_with('.'), "{rule}: {why}");
            let Some((file, function)) = test.split_once("::") else {
                assert_eq!(*test, "", "{rule}");
                continue;
            };
            let text = std::fs::read_to_string(testbed::paths::workspace().join(file)).unwrap();
            assert!(
                text.contains(&format!("fn {function}(")),
                "{rule}: there is no {test}"
            );
        }
    }

    #[test]
    fn no_rule_of_the_contract_is_dropped() {
        let rows = all();
        let shown = rows
            .iter()
            .map(|row| row.id)
            .chain(RULES_WITHOUT_ROW.iter().map(|(rule, ..)| *rule));
        let shown = shown.filter(|id| id.starts_with(|first: char| "23".contains(first)));
        let shown = shown.collect::<BTreeSet<_>>();
        let listed = RULES
            .iter()
            .flat_map(|(section, rules)| {
                rules
                    .split_whitespace()
                    .map(move |rule| format!("{section}/{rule}"))
            })
            .collect::<Vec<_>>();
        let listed = listed.iter().map(String::as_str).collect::<BTreeSet<_>>();
        let [dropped, new] = [&listed - &shown, &shown - &listed];
        assert!(
            dropped.is_empty() && new.is_empty(),
            "dropped: {dropped:?}, not listed: {new:?}"
        );
    }
}
