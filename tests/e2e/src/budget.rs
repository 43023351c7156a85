//! Every API request of a Machine's life, by name, as a table and for comparison with a budget.

use std::{collections::BTreeMap, fmt::Write as _};

use testbed::{
    Testbed,
    bed::{CONTROLLER, MACHINES},
    proxy::Request,
};

/// The requests of the controller to both clusters.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Cluster and request, cluster by cluster in the order of the answers.
    pub entries: Vec<(&'static str, Request)>,
}

impl Ledger {
    /// Everything since the last [`forget`], except renewals of the Lease, which do not depend on Machines, and requests of
    /// the webhook to the infra cluster.
    pub fn of_controller(bed: &Testbed) -> Self {
        let user = bed
            .user()
            .proxy()
            .requests_of(CONTROLLER)
            .into_iter()
            .map(|request| ("user", request));
        let infra = bed.infra().proxy().requests_of(MACHINES).into_iter();
        let infra = infra
            .filter(|request| !request.user_agent.contains("webhook"))
            .map(|request| ("infra", request));
        let entries = user
            .chain(infra)
            .filter(|(_, request)| request.target.resource != "leases")
            .collect();
        Self { entries }
    }

    /// Writes, including refused ones.
    pub fn writes(&self) -> usize {
        self.entries
            .iter()
            .filter(|(_, request)| request.target.is_write())
            .count()
    }

    /// Gets and lists, without watches.
    pub fn reads(&self) -> usize {
        self.entries
            .iter()
            .filter(|(_, request)| matches!(request.target.verb, "get" | "list"))
            .count()
    }

    /// Requests with this verb, in the order of the answers: the resource, with namespace and name.
    pub fn asked(&self, verb: &str) -> Vec<String> {
        let targets = self.entries.iter().map(|(_, request)| &request.target);
        targets
            .filter(|target| target.verb == verb)
            .map(|target| format!("{} {}/{}", target.resource_name(), target.namespace, target.name))
            .collect()
    }

    /// All but watches.
    pub fn total(&self) -> usize {
        self.entries
            .iter()
            .filter(|(_, request)| request.target.verb != "watch")
            .count()
    }

    /// A table: one line for each cluster, verb, resource, name and status, with its count.
    pub fn table(&self) -> String {
        let mut rows: BTreeMap<(&str, &str, String, String, u16), usize> = BTreeMap::new();
        let mut order = Vec::new();
        for (cluster, request) in &self.entries {
            let target = &request.target;
            let object = [target.namespace.as_str(), target.name.as_str()].join("/");
            let row = (
                *cluster,
                target.verb,
                target.resource_name(),
                object,
                request.status,
            );
            if !rows.contains_key(&row) {
                order.push(row.clone());
            }
            *rows.entry(row).or_default() += 1;
        }
        let mut text = format!(
            "{:<6} {:<17} {:<58} {:<46} {:>6} {:>5}\n",
            "where", "verb", "resource", "object", "status", "count"
        );
        for row in order {
            let count = rows.get(&row).copied().unwrap_or_default();
            let (cluster, verb, resource, object, status) = row;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{cluster:<6} {verb:<17} {resource:<58} {object:<46} {status:>6} {count:>5}"
            );
        }
        let _ = writeln!(
            text,
            "{} requests: {} writes, {} reads",
            self.total(),
            self.writes(),
            self.reads()
        );
        text
    }
}

/// Forgets all requests so far, on both clusters.
pub fn forget(bed: &Testbed) {
    bed.user().proxy().clear_requests();
    bed.infra().proxy().clear_requests();
}
