//! Compares the rights that RBAC grants Machinist with the audit logs of all runs: unused rights and forbidden requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use serde::Deserialize;
use serde_json::Value;

/// One verb on one resource: as a rule grants it, or as a request asks for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub account: String,
    /// Like `list`.
    pub verb: String,
    /// `resource.group/subresource`.
    pub resource: String,
    /// Where a Role grants it, or where the object is; empty: in the whole cluster.
    pub namespace: String,
    /// The object's name; empty: any.
    pub name: String,
}

impl Right {
    /// Whether this granted right allows `asked`.
    fn allows(&self, asked: &Self) -> bool {
        let within = |granted: &str, asked: &str| granted.is_empty() || granted == asked;
        (&self.account, &self.verb, &self.resource) == (&asked.account, &asked.verb, &asked.resource)
            && within(&self.namespace, &asked.namespace)
            && within(&self.name, &asked.name)
    }

    fn is(&self, account: &str, verb: &str, resource: &str) -> bool {
        self.account.ends_with(&format!(":{account}")) && (&*self.verb, &*self.resource) == (verb, resource)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            account,
            verb,
            resource,
            namespace,
            name,
        } = self;
        let (_, account) = account.rsplit_once(':').unwrap_or(("", account));
        let place = if namespace.is_empty() {
            "the whole cluster"
        } else {
            namespace
        };
        let name = if name.is_empty() { "any" } else { name };
        write!(f, "{account}: {verb} {resource} {name} in {place}")
    }
}

#[derive(Deserialize)]
struct Object {
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    rules: Vec<PolicyRule>,
    #[serde(rename = "roleRef")]
    role_ref: Option<RoleRef>,
    #[serde(default)]
    subjects: Vec<Subject>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
}

/// What Roles and ClusterRoles among these objects grant to ServiceAccounts. Every one of them must be bound to one, except
/// those for people.
pub fn granted(objects: &[Value]) -> Result<BTreeSet<Right>> {
    let rbac = objects
        .iter()
        .filter(|object| object["apiVersion"] == "rbac.authorization.k8s.io/v1")
        .filter(|object| !crate::helm::is_role_for_people(object))
        .map(|object| Object::deserialize(object).context("reading a role or binding"))
        .collect::<Result<Vec<_>>>()?;
    let (bindings, roles): (Vec<_>, Vec<_>) = rbac.into_iter().partition(|object| object.role_ref.is_some());
    let mut rights = BTreeSet::new();
    for role in &roles {
        let before = rights.len();
        let of_role = |binding: &&Object| {
            let to = binding.role_ref.as_ref();
            to.is_some_and(|to| (&to.kind, &to.name) == (&role.kind, &role.metadata.name))
                && (role.kind == "ClusterRole" || role.metadata.namespace == binding.metadata.namespace)
        };
        for binding in bindings.iter().filter(of_role) {
            let accounts = binding
                .subjects
                .iter()
                .filter(|subject| subject.kind == "ServiceAccount");
            for account in accounts {
                let namespace = account.namespace.as_deref().unwrap_or_default();
                let account = format!("system:serviceaccount:{namespace}:{}", account.name);
                for rule in &role.rules {
                    rights.extend(of_rule(rule, &account, &binding.metadata.namespace));
                }
            }
        }
        ensure!(
            rights.len() > before,
            "{} {} gives no ServiceAccount anything that it does not have",
            role.kind,
            role.metadata.name
        );
    }
    ensure!(!rights.is_empty(), "nothing is granted");
    Ok(rights)
}

fn of_rule(rule: &PolicyRule, account: &str, namespace: &str) -> Vec<Right> {
    let any = [String::new()];
    let names = rule
        .resource_names
        .as_deref()
        .filter(|names| !names.is_empty())
        .unwrap_or(&any);
    let mut rights = Vec::new();
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            for verb in &rule.verbs {
                rights.extend(names.iter().map(|name| Right {
                    account: account.to_owned(),
                    verb: verb.clone(),
                    resource: full_name(resource, group, subresource),
                    namespace: namespace.to_owned(),
                    name: name.clone(),
                }));
            }
        }
    }
    rights
}

fn full_name(resource: &str, group: &str, subresource: &str) -> String {
    let group = if group.is_empty() {
        String::new()
    } else {
        format!(".{group}")
    };
    let subresource = if subresource.is_empty() {
        String::new()
    } else {
        format!("/{subresource}")
    };
    format!("{resource}{group}{subresource}")
}

/// The contents of one audit log.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// Name of its run, for messages.
    pub name: String,
    /// Allowed requests.
    pub allowed: BTreeSet<Right>,
    /// Forbidden requests.
    pub forbidden: BTreeSet<Right>,
    /// Resources that are refused on purpose there; `*`: any, where all rights were taken away.
    pub on_purpose: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    user: User,
    verb: String,
    object_ref: Option<ObjectRef>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ObjectRef {
    resource: String,
    api_group: String,
    subresource: String,
    namespace: String,
    name: String,
}

impl Log {
    /// Takes one line in. The last one may be cut off: servers are killed.
    pub fn read(&mut self, line: &str) {
        let Ok(event) = serde_json::from_str::<Event>(line) else {
            return;
        };
        // All users may request non-resource paths.
        let Some(target) = event.object_ref.filter(|target| !target.resource.is_empty()) else {
            return;
        };
        // RBAC does not see the name of a new object. Audit logs show a Namespace as inside itself.
        let is_new = event.verb == "create" && target.subresource.is_empty();
        let namespace = if target.resource == "namespaces" {
            ""
        } else {
            &target.namespace
        };
        let right = Right {
            account: event.user.username,
            verb: event.verb,
            resource: full_name(&target.resource, &target.api_group, &target.subresource),
            namespace: namespace.to_owned(),
            name: if is_new { String::new() } else { target.name },
        };
        match event
            .annotations
            .get("authorization.k8s.io/decision")
            .map(String::as_str)
        {
            Some("allow") => self.allowed.insert(right),
            Some("forbid") => self.forbidden.insert(right),
            // Requests without authentication do not reach RBAC.
            _ => false,
        };
    }
}

/// An exception: account, verb, resource, and the reason.
pub type Exception = (&'static str, &'static str, &'static str, &'static str);

/// The comparison of granted rights with the requests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// How many rights are granted, without those that no request shows.
    pub granted: usize,
    /// How many of them were used.
    pub used: usize,
    /// How many requests were forbidden without the test declaring it.
    pub forbidden: usize,
    /// All errors, as messages.
    pub wrong: Vec<String>,
}

/// `unseen` rights are granted and show in no request. `tried` requests may be forbidden; Machinist can do without them.
pub fn replay(granted: &BTreeSet<Right>, logs: &[Log], unseen: &[Exception], tried: &[Exception]) -> Replay {
    let mut replay = Replay::default();
    let accounts: BTreeSet<_> = granted.iter().map(|right| &right.account).collect();
    let allowed: BTreeSet<_> = logs.iter().flat_map(|log| &log.allowed).collect();
    let mut wrong = Vec::new();
    for right in granted {
        let used = allowed.iter().any(|asked| right.allows(asked));
        match (is_among(unseen, right), used) {
            (true, true) => wrong.push(format!("{right}: a request shows it after all")),
            (true, false) => {}
            (false, used) => {
                replay.granted += 1;
                replay.used += usize::from(used);
                if !used {
                    wrong.push(format!("{right}: granted, and never used"));
                }
            }
        }
    }
    let mut refused = BTreeSet::new();
    for log in logs {
        let mut expected = BTreeSet::new();
        // A test that grants fewer rights on purpose uses another account.
        for right in log
            .forbidden
            .iter()
            .filter(|right| accounts.contains(&right.account))
        {
            if is_among(tried, right) {
                refused.insert(right);
            } else if let Some(resource) = log
                .on_purpose
                .get(&right.resource)
                .or_else(|| log.on_purpose.get("*"))
            {
                expected.insert(resource);
            } else {
                replay.forbidden += 1;
                wrong.push(format!("{right}: forbidden, in {}", log.name));
            }
        }
        for resource in &log.on_purpose {
            if !expected.contains(resource) {
                wrong.push(format!(
                    "{resource}: to be refused in {}, and never was",
                    log.name
                ));
            }
        }
    }
    for (account, verb, resource, _) in unseen {
        if !granted.iter().any(|right| right.is(account, verb, resource)) {
            wrong.push(format!(
                "{account}: {verb} {resource}: an exception that is not granted"
            ));
        }
    }
    for (account, verb, resource, _) in tried {
        if !refused.iter().any(|right| right.is(account, verb, resource)) {
            wrong.push(format!(
                "{account}: {verb} {resource}: an exception that was never refused"
            ));
        }
    }
    replay.wrong = wrong;
    replay
}

fn is_among(exceptions: &[Exception], right: &Right) -> bool {
    exceptions
        .iter()
        .any(|(account, verb, resource, _)| right.is(account, verb, resource))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// A Role in `there` and a ClusterRole, both bound to the ServiceAccount `a` of `home`.
    fn roles() -> Vec<Value> {
        let rbac = "rbac.authorization.k8s.io/v1";
        let subjects = json!([{"kind": "ServiceAccount", "name": "a", "namespace": "home"}]);
        let binding = |kind: &str, role: &str, namespace: &str| {
            json!({
                "apiVersion": rbac, "kind": format!("{kind}Binding"), "subjects": subjects,
                "metadata": {"name": role, "namespace": namespace},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            })
        };
        vec![
            json!({
                "apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "wide"},
                "rules": [
                    {"apiGroups": [""], "resources": ["nodes", "pods/eviction"], "verbs": ["create"]},
                    {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["s"], "verbs": ["approve"]},
                ],
            }),
            binding("ClusterRole", "wide", ""),
            json!({
                "apiVersion": rbac, "kind": "Role", "metadata": {"name": "narrow", "namespace": "there"},
                "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["watch"]}],
            }),
            binding("Role", "narrow", "there"),
        ]
    }

    const UNSEEN: Exception = ("a", "approve", "signers.certificates.k8s.io", "of the API server");
    const TRIED: Exception = ("a", "list", "nodes", "a hint");

    fn event(decision: &str, verb: &str, target: &Value) -> String {
        json!({
            "user": {"username": "system:serviceaccount:home:a"}, "verb": verb, "objectRef": target,
            "annotations": {"authorization.k8s.io/decision": decision},
        })
        .to_string()
    }

    /// A log without errors.
    fn good() -> Vec<String> {
        vec![
            event(
                "allow",
                "create",
                &json!({"resource": "nodes", "apiVersion": "v1", "name": "n"}),
            ),
            event(
                "allow",
                "create",
                &json!({"resource": "pods", "subresource": "eviction", "namespace": "x", "name": "p"}),
            ),
            event(
                "allow",
                "watch",
                &json!({"resource": "secrets", "namespace": "there", "name": "one"}),
            ),
            event("forbid", "list", &json!({"resource": "nodes"})),
        ]
    }

    fn wrong(
        lines: &[String],
        on_purpose: &[&str],
        unseen: &[Exception],
        tried: &[Exception],
    ) -> Vec<String> {
        let mut log = Log {
            name: "run".to_owned(),
            on_purpose: on_purpose.iter().map(ToString::to_string).collect(),
            ..Log::default()
        };
        for line in lines {
            log.read(line);
        }
        replay(&granted(&roles()).unwrap(), &[log], unseen, tried).wrong
    }

    #[test]
    fn what_is_used_and_granted_is_counted() {
        let mut log = Log::default();
        for line in good() {
            log.read(&line);
        }
        log.read(r#"{"user": {"usern"#);
        let found = replay(&granted(&roles()).unwrap(), &[log], &[UNSEEN], &[TRIED]);
        assert_eq!(
            found,
            Replay {
                granted: 3,
                used: 3,
                forbidden: 0,
                wrong: Vec::new()
            }
        );
    }

    #[rstest]
    #[case::another_namespace(
        2, &json!({"resource": "secrets", "namespace": "elsewhere", "name": "one"}), "watch",
        "a: watch secrets one in there: granted, and never used"
    )]
    #[case::another_name(
        2, &json!({"resource": "secrets", "namespace": "there", "name": "two"}), "watch",
        "a: watch secrets one in there: granted, and never used"
    )]
    #[case::another_verb(
        0, &json!({"resource": "nodes"}), "get",
        "a: create nodes any in the whole cluster: granted, and never used"
    )]
    #[case::another_group(
        0, &json!({"resource": "nodes", "apiGroup": "x"}), "create",
        "a: create nodes any in the whole cluster: granted, and never used"
    )]
    #[case::no_subresource(
        1, &json!({"resource": "pods"}), "create",
        "a: create pods/eviction any in the whole cluster: granted, and never used"
    )]
    fn a_right_that_no_request_used_is_reported(
        #[case] line: usize,
        #[case] target: &Value,
        #[case] verb: &str,
        #[case] said: &str,
    ) {
        let mut lines = good();
        lines[line] = event("allow", verb, target);
        assert_eq!(wrong(&lines, &[], &[UNSEEN], &[TRIED]), [said]);
    }

    #[test]
    fn a_forbidden_request_is_reported_unless_the_test_declares_it() {
        let mut lines = good();
        lines.push(event(
            "forbid",
            "get",
            &json!({"resource": "secrets", "namespace": "x", "name": "y"}),
        ));
        assert_eq!(
            wrong(&lines, &[], &[UNSEEN], &[TRIED]),
            ["a: get secrets y in x: forbidden, in run"]
        );
        for on_purpose in ["secrets", "*"] {
            assert!(wrong(&lines, &[on_purpose], &[UNSEEN], &[TRIED]).is_empty());
        }
        let of_another = lines.pop().unwrap().replace("home:a", "home:powerless");
        lines.push(of_another);
        assert!(wrong(&lines, &[], &[UNSEEN], &[TRIED]).is_empty());
    }

    #[rstest]
    #[case::refused_on_purpose(&["secrets"], &[UNSEEN], &[TRIED], "secrets: to be refused in run, and never was")]
    #[case::seen_after_all(
        &[], &[UNSEEN, ("a", "create", "nodes", "")], &[TRIED],
        "a: create nodes any in the whole cluster: a request shows it after all"
    )]
    #[case::not_granted(
        &[], &[UNSEEN, ("a", "create", "pods", "")], &[TRIED],
        "a: create pods: an exception that is not granted"
    )]
    #[case::never_refused(
        &[], &[UNSEEN], &[TRIED, ("a", "list", "pods", "")],
        "a: list pods: an exception that was never refused"
    )]
    fn an_unneeded_exception_is_reported(
        #[case] on_purpose: &[&str],
        #[case] unseen: &[Exception],
        #[case] tried: &[Exception],
        #[case] said: &str,
    ) {
        assert_eq!(wrong(&good(), on_purpose, unseen, tried), [said]);
    }

    #[rstest]
    #[case::unbound("/1/roleRef/name", json!("other"))]
    #[case::bound_elsewhere("/3/metadata/namespace", json!("home"))]
    fn a_role_without_a_subject_is_reported(#[case] at: &str, #[case] value: Value) {
        let mut roles = Value::Array(roles());
        *roles.pointer_mut(at).unwrap() = value;
        let said = granted(roles.as_array().unwrap()).unwrap_err().to_string();
        assert!(said.contains("gives no ServiceAccount anything"), "{said}");
    }
}
