//! From a request to a verdict: which rule is asked, and what its answer means to the API server.

use std::time::Duration;

use machinist_infra::kube::kubeconfig::AddressPolicy;
use machinist_infra::kubevirt::inquiry::Secrets;
use machinist_shared::admission::{
    AdmissionSettings, Author, ValueAt, mutate_create, mutate_deployment, mutate_set, mutate_update,
    new_references, patch, validate_create, validate_deployment, validate_set, validate_update,
};
use machinist_shared::admission::{autoscaler, template};
use machinist_shared::api::field::{ErrorKind, FieldPath, Report, reported};
use machinist_shared::kubevirt::spec::Matcher;
use machinist_shared::kubevirt::topology;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::access::Access;
use crate::infra::{Asked, Infra};
use crate::kubeconfig::Verdicts;
use crate::names::{Names, Newcomer};
use crate::refusal::Status;
use crate::review::Request;
pub use crate::review::{Kind, Operation, Verdict};

/// The rules, and what they were told from outside.
#[derive(Debug)]
pub struct Admission {
    settings: AdmissionSettings,
    kubeconfigs: Verdicts,
    /// Specs may leave the kubeconfig to the environment.
    environment_has_kubeconfig: bool,
    cluster: Cluster,
}

/// What is asked of the user cluster; nothing where there is none to ask.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Whether names are free.
    pub names: Option<Names>,
    /// What authors may read.
    pub access: Option<Access>,
    /// What the infra clusters of specs say.
    pub infra: Option<Infra>,
}

/// Everything that is asked, of whomever, is answered by then.
const PATIENCE: Duration = Duration::from_millis(1900);

/// The same where all that is asked for is a default that an object can do without.
const PATIENCE_FOR_DEFAULTS: Duration = Duration::from_millis(900);

impl Admission {
    /// Admission under these settings; kubeconfigs in specs may lead where `policy` says, and may be absent if the
    /// environment has one.
    pub fn new(
        settings: AdmissionSettings,
        policy: AddressPolicy,
        environment_has_kubeconfig: bool,
        cluster: Cluster,
    ) -> Self {
        Self {
            settings,
            kubeconfigs: Verdicts::new(policy),
            environment_has_kubeconfig,
            cluster,
        }
    }

    /// Defaults: a patch, never a refusal.
    pub(crate) async fn mutate(&self, request: &Request<'_, Value>) -> Verdict {
        let Some(object) = &request.object else {
            return Verdict::default();
        };
        let old = match request.operation() {
            Operation::Create => None,
            Operation::Update => Some(request.old_object.as_ref().unwrap_or(&Value::Null)),
            Operation::Other => return Verdict::default(),
        };
        let author = self.settings.author(request.username());
        let mutated = match (request.kind(), old) {
            (Kind::Machine, None) => mutate_create(object, &self.settings),
            (Kind::Machine, Some(old)) => mutate_update(old, object),
            (Kind::MachineSet, old) => mutate_set(old, object, author, &self.settings),
            (Kind::MachineDeployment, old) => mutate_deployment(old, object, &self.settings),
            (Kind::Other, _) => return Verdict::default(),
        };
        let mutated = self.with_outside_defaults(request, old, mutated).await;
        Verdict {
            patch: patch(object, &mutated),
            ..Verdict::default()
        }
    }

    /// The object with what only the infra cluster knows: region and zone of its disk, and the capacity of its instancetype,
    /// if it is a node group of the cluster-autoscaler whose capacity is not known otherwise. What cannot be had in time
    /// is left out, and told when the object is judged.
    async fn with_outside_defaults(
        &self,
        request: &Request<'_, Value>,
        old: Option<&Value>,
        object: Value,
    ) -> Value {
        let (Some(infra), Some(wanted)) = (&self.cluster.infra, self.outside_defaults(request, old)) else {
            return object;
        };
        let deadline = Instant::now() + PATIENCE_FOR_DEFAULTS;
        // Nothing is looked up for who may not.
        let rights = timeout_at(deadline, self.ask_for_rights(request, &object)).await;
        if !rights.is_ok_and(|report| report.is_ok() && report.warnings.is_empty()) {
            return object;
        }
        let asked = Asked {
            object: &object,
            old,
            at: wanted.at,
            secrets: Secrets::Untold,
            must: false,
        };
        let topology = async {
            if wanted.topology {
                Box::pin(infra.topology(asked, deadline)).await
            } else {
                None
            }
        };
        let instancetype = wanted.instancetype(old, &object);
        let instancetype = async {
            match &instancetype {
                Some(wanted) => Box::pin(infra.instancetype(asked, wanted, deadline)).await,
                None => None,
            }
        };
        let (topology, instancetype) = tokio::join!(topology, instancetype);
        let object = match topology {
            Some(found) => topology::write(object, wanted.at, found),
            None => object,
        };
        match instancetype {
            Some(spec) => autoscaler::write(old, object, Some(&spec)),
            None => object,
        }
    }

    /// Which defaults of an object come from its infra cluster; nothing if none does. Machines of our own set controller
    /// have those of their set.
    fn outside_defaults(&self, request: &Request<'_, Value>, old: Option<&Value>) -> Option<OutsideDefaults> {
        let object = request.object.as_ref()?;
        if self.settings.author(request.username()) != Author::Person || is_deleting(object) {
            return None;
        }
        let at = match (request.kind(), old) {
            (Kind::Machine, None) => ValueAt::MACHINE,
            (Kind::MachineSet | Kind::MachineDeployment, _) => ValueAt::TEMPLATE,
            (Kind::Machine, Some(_)) | (Kind::Other, _) => return None,
        };
        let wanted = OutsideDefaults {
            at,
            topology: topology::needed(old, object, at),
        };
        (wanted.topology || wanted.instancetype(old, object).is_some()).then_some(wanted)
    }

    /// The verdict: refused with every reason, or allowed, with warnings either way.
    pub(crate) async fn validate(&self, request: &Request<'_, Value>) -> Verdict {
        let Some(object) = &request.object else {
            return Verdict::default();
        };
        let old = request
            .old_object
            .as_ref()
            .filter(|_| request.operation() == Operation::Update);
        // Both steps together take no longer than one does alone.
        let spent = match self.outside_defaults(request, old) {
            Some(_) => PATIENCE_FOR_DEFAULTS,
            None => Duration::ZERO,
        };
        let deadline = Instant::now() + PATIENCE.saturating_sub(spent);
        let mut report = self.judge(request, object);
        let (name, references) = tokio::join!(
            self.ask_for_name(request, object),
            self.ask_for_rights(request, object)
        );
        report.extend(name);
        // Nothing is looked up for who may not, not even where that is only a warning.
        let may_read = references.is_ok() && references.warnings.is_empty();
        report.extend(references);
        let asked = self
            .placed(request, object)
            .filter(|_| may_read && report.is_ok());
        if let (Some(infra), Some(asked)) = (&self.cluster.infra, asked) {
            report.extend(infra.judge(asked, deadline).await);
        }
        Verdict {
            refusal: Status::of(request.kind(), text(object, "/metadata/name"), &report),
            warnings: reported(report.warnings.into_iter()),
            ..Verdict::default()
        }
    }

    /// Everything that needs nobody else.
    fn judge(&self, request: &Request<'_, Value>, object: &Value) -> Report {
        let old = request.old_object.as_ref();
        match (request.kind(), request.operation()) {
            (Kind::Machine, Operation::Create) => {
                let author = self.settings.author(request.username());
                let mut report = validate_create(object, author, &self.settings);
                self.judge_kubeconfig(object, &SPEC, author, &mut report);
                report
            }
            (Kind::Machine, Operation::Update) => {
                let author = self.settings.author(request.username());
                validate_update(old.unwrap_or(&Value::Null), object, author, &self.settings)
            }
            (kind @ (Kind::MachineSet | Kind::MachineDeployment), Operation::Create | Operation::Update) => {
                let old = old.filter(|_| request.operation() == Operation::Update);
                let (author, mut report) = if kind == Kind::MachineSet {
                    let author = self.settings.author(request.username());
                    (author, validate_set(old, object, author, &self.settings))
                } else {
                    (Author::Person, validate_deployment(old, object, &self.settings))
                };
                let kubeconfig = |object| Kubeconfig::of(object, &TEMPLATE);
                // What is stored already is no reason to refuse.
                if old.is_none_or(|old| kubeconfig(old) != kubeconfig(object)) && !is_deleting(object) {
                    self.judge_kubeconfig(object, &TEMPLATE, author, &mut report);
                }
                report
            }
            (Kind::Other, _) | (_, Operation::Other) => Report::new(),
        }
    }

    /// What its infra cluster is to be asked for: a Machine that a person makes, a set or a deployment whose Machines are
    /// new or will be others.
    fn placed<'a>(&self, request: &'a Request<'_, Value>, object: &'a Value) -> Option<Asked<'a>> {
        if self.settings.author(request.username()) != Author::Person || is_deleting(object) {
            return None;
        }
        let at = match (request.kind(), request.operation()) {
            (Kind::Machine, Operation::Create) => ValueAt::MACHINE,
            (Kind::MachineSet | Kind::MachineDeployment, Operation::Create) => ValueAt::TEMPLATE,
            (Kind::MachineSet | Kind::MachineDeployment, Operation::Update) => {
                let template = |object: &Value| object.pointer("/spec/template").cloned().unwrap_or_default();
                let same = |old: &Value| template::equal_in_place(&template(old), &template(object));
                (!request.old_object.as_ref().is_some_and(same)).then_some(ValueAt::TEMPLATE)?
            }
            _ => return None,
        };
        let old = request
            .old_object
            .as_ref()
            .filter(|_| request.operation() == Operation::Update);
        Some(Asked {
            object,
            old,
            at,
            secrets: self.secrets(old, object, at),
            must: topology::needed(old, object, at) && !topology::known(old, object, at),
        })
    }

    /// Whether the author may read the kubeconfig: one that is in the spec for sure, one behind a reference if that was
    /// asked for just now.
    fn secrets(&self, old: Option<&Value>, object: &Value, at: ValueAt) -> Secrets {
        let spec = if at == ValueAt::MACHINE { &SPEC } else { &TEMPLATE };
        let may_read = match Kubeconfig::of(object, spec) {
            Some(Kubeconfig::Inline(_)) => true,
            Some(Kubeconfig::Elsewhere) => {
                let new = new_references(old, object, at);
                let field = format!("{}.cloudProviderSpec.auth.kubeconfig.", at.path).to_lowercase();
                let asked = |path: String| path.to_lowercase().starts_with(&field);
                self.cluster.access.is_some() && new.iter().any(|it| asked(it.path.to_string()))
            }
            Some(Kubeconfig::Absent) | None => false,
        };
        if may_read { Secrets::Told } else { Secrets::Untold }
    }

    async fn ask_for_name(&self, request: &Request<'_, Value>, object: &Value) -> Report {
        match (&self.cluster.names, self.newcomer(request, object)) {
            (Some(names), Some(newcomer)) => names.judge(&newcomer).await,
            _ => Report::new(),
        }
    }

    /// Whether the author may read what the object refers to and did not before. The set controller's Machines have
    /// the references of a set whose author was asked for.
    async fn ask_for_rights(&self, request: &Request<'_, Value>, object: &Value) -> Report {
        let at = match request.kind() {
            Kind::Machine => ValueAt::MACHINE,
            Kind::MachineSet | Kind::MachineDeployment => ValueAt::TEMPLATE,
            Kind::Other => return Report::new(),
        };
        let old = match request.operation() {
            Operation::Create => None,
            Operation::Update => request.old_object.as_ref(),
            Operation::Other => return Report::new(),
        };
        match &self.cluster.access {
            Some(access) if self.settings.author(request.username()) == Author::Person => {
                access
                    .judge(request.user(), &new_references(old, object, at))
                    .await
            }
            _ => Report::new(),
        }
    }

    /// The Machine whose name is to be asked for: one that a person makes.
    fn newcomer(&self, request: &Request<'_, Value>, object: &Value) -> Option<Newcomer> {
        let (name, namespace) = (
            text(object, "/metadata/name"),
            text(object, "/metadata/namespace"),
        );
        let asked = request.kind() == Kind::Machine
            && request.operation() == Operation::Create
            && self.settings.author(request.username()) == Author::Person
            && !name.is_empty();
        asked.then(|| Newcomer {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    fn judge_kubeconfig(&self, object: &Value, at: &SpecAt, author: Author, report: &mut Report) {
        let Some(found) = Kubeconfig::of(object, at) else {
            return;
        };
        let path = || {
            let value = FieldPath::new(at.path).child("providerSpec").child("value");
            value.child("cloudProviderSpec").child("auth").child("kubeconfig")
        };
        let wrong = match found {
            Kubeconfig::Inline(text) => self
                .kubeconfigs
                .judge(text)
                .map(|why| (ErrorKind::Invalid, why.to_string())),
            Kubeconfig::Absent if self.environment_has_kubeconfig => None,
            Kubeconfig::Absent => {
                let why = "must be set: there is none in the environment (KUBEVIRT_KUBECONFIG) either";
                Some((ErrorKind::Required, why.to_owned()))
            }
            Kubeconfig::Elsewhere => None,
        };
        match (wrong, author) {
            (None, _) => {}
            (Some(_), _) if report.blames(&path()) => {}
            (Some((kind, why)), Author::Person) => report.error(&path(), kind, why),
            (Some((_, why)), Author::SetController) => report.warn(&path(), why),
        }
    }
}

/// What of an object only its infra cluster knows.
#[derive(Debug, Clone, Copy)]
struct OutsideDefaults {
    at: ValueAt,
    /// Region and zone of the StorageClass.
    topology: bool,
}

impl OutsideDefaults {
    /// The instancetype whose capacity a node group has.
    fn instancetype(self, old: Option<&Value>, object: &Value) -> Option<Matcher> {
        let set = self.at == ValueAt::TEMPLATE;
        set.then(|| autoscaler::instancetype_needed(old, object))
            .flatten()
    }
}

/// Where the spec of a Machine is.
struct SpecAt {
    /// For people.
    path: &'static str,
    /// JSON pointer to `providerSpec.value`.
    value: &'static str,
}

/// In a Machine.
const SPEC: SpecAt = SpecAt {
    path: "spec",
    value: "/spec/providerSpec/value",
};
/// In a MachineSet or MachineDeployment.
const TEMPLATE: SpecAt = SpecAt {
    path: "spec.template.spec",
    value: "/spec/template/spec/providerSpec/value",
};

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn is_deleting(object: &Value) -> bool {
    object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|time| !time.is_null())
}

/// Where a spec's kubeconfig is.
#[derive(Debug, PartialEq, Eq)]
enum Kubeconfig<'a> {
    /// In the spec itself. Wins over a reference, as it always has.
    Inline(&'a str),
    /// Behind a reference.
    Elsewhere,
    /// Nowhere in the spec.
    Absent,
}

impl<'a> Kubeconfig<'a> {
    /// Reads it from an object; nothing if there is no spec of ours to have one.
    fn of(object: &'a Value, at: &SpecAt) -> Option<Self> {
        let value = object.pointer(at.value)?;
        if any_case(value, "cloudProvider")?.as_str() != Some("kubevirt") {
            return None;
        }
        let spec = any_case(value, "cloudProviderSpec").filter(|spec| spec.is_object())?;
        let Some(found) = any_case(spec, "auth").and_then(|auth| any_case(auth, "kubeconfig")) else {
            return Some(Self::Absent);
        };
        let text = if found.is_object() {
            any_case(found, "value").unwrap_or(&Value::Null)
        } else {
            found
        };
        Some(match text {
            Value::String(text) if !text.is_empty() => Self::Inline(text),
            _ if found.is_object() && refers(found) => Self::Elsewhere,
            Value::Null | Value::String(_) => Self::Absent,
            // Of a wrong type, which has been told.
            _ => Self::Elsewhere,
        })
    }
}

/// Whether a value in object form has a reference that counts: one with all three parts.
fn refers(value: &Value) -> bool {
    ["secretKeyRef", "configMapKeyRef"]
        .iter()
        .filter_map(|kind| any_case(value, kind))
        .any(|reference| {
            let text = |part| {
                any_case(reference, part)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            ["namespace", "name", "key"]
                .iter()
                .all(|part| !text(part).is_empty())
        })
}

/// The value at `key`, in any letter case if the exact key is absent, as everywhere in provider specs.
pub(crate) fn any_case<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let map = object.as_object()?;
    map.get(key).or_else(|| {
        map.iter()
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .map(|(_, v)| v)
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn machine(auth: &Value) -> Value {
        json!({"spec": {"providerSpec": {"value": {"cloudProvider": "kubevirt", "cloudProviderSpec": {"auth": auth}}}}})
    }

    #[rstest]
    #[case::inline(json!({"kubeconfig": "x"}), Kubeconfig::Inline("x"))]
    #[case::inline_in_the_object_form(json!({"Kubeconfig": {"value": "x"}}), Kubeconfig::Inline("x"))]
    #[case::inline_beside_a_reference(json!({"kubeconfig": {"value": "x", "secretKeyRef": {"namespace": "a", "name": "b", "key": "c"}}}), Kubeconfig::Inline("x"))]
    #[case::a_secret(json!({"kubeconfig": {"secretKeyRef": {"namespace": "a", "name": "b", "key": "c"}}}), Kubeconfig::Elsewhere)]
    #[case::a_config_map(json!({"kubeconfig": {"value": "", "configMapKeyRef": {"namespace": "a", "name": "b", "key": "c"}}}), Kubeconfig::Elsewhere)]
    #[case::half_a_reference(json!({"kubeconfig": {"secretKeyRef": {"name": "b", "key": "c"}}}), Kubeconfig::Absent)]
    #[case::empty(json!({"kubeconfig": ""}), Kubeconfig::Absent)]
    #[case::null(json!({"kubeconfig": null}), Kubeconfig::Absent)]
    #[case::no_auth(json!(null), Kubeconfig::Absent)]
    #[case::a_list_is_someone_elses_error(json!({"kubeconfig": []}), Kubeconfig::Elsewhere)]
    fn a_kubeconfig_is_found_where_the_decoder_finds_it(#[case] auth: Value, #[case] want: Kubeconfig<'_>) {
        assert_eq!(Kubeconfig::of(&machine(&auth), &SPEC), Some(want));
    }

    #[test]
    fn another_providers_spec_has_none() {
        let mut machine = machine(&json!({"kubeconfig": "x"}));
        machine["spec"]["providerSpec"]["value"]["cloudProvider"] = json!("aws");
        assert_eq!(Kubeconfig::of(&machine, &SPEC), None);
    }

    #[test]
    fn a_missing_kubeconfig_is_an_error_unless_the_environment_has_one() {
        let path = "spec.providerSpec.value.cloudProviderSpec.auth.kubeconfig";
        let blamed = |environment, author| {
            let admission = Admission::new(
                AdmissionSettings::default(),
                AddressPolicy::default(),
                environment,
                Cluster::default(),
            );
            let mut report = Report::new();
            admission.judge_kubeconfig(&machine(&json!({})), &SPEC, author, &mut report);
            (
                report.blames(&FieldPath::new(path)),
                report.warnings.iter().any(|w| w.starts_with(path)),
            )
        };
        assert_eq!(blamed(false, Author::Person), (true, false));
        assert_eq!(blamed(false, Author::SetController), (false, true));
        assert_eq!(blamed(true, Author::Person), (false, false));
    }
}
