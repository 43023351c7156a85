//! Decides on a request: selects the rules, and turns their results into a response to the API server.

use std::time::Duration;

use machinist_infra::kube::kubeconfig::AddressPolicy;
use machinist_infra::kubevirt::preflight::SecretDisclosure;
use machinist_shared::admission::{
    AdmissionSettings, Author, Reference, Subject, mutate_create, mutate_deployment, mutate_set,
    mutate_update, new_references, patch, validate_create_subject, validate_deployment_subject,
    validate_set_subject, validate_update,
};
use machinist_shared::admission::{autoscaler, template};
use machinist_shared::api::ValueAt;
use machinist_shared::api::field::{ErrorKind, FieldPath, Report, reported};
use machinist_shared::kubevirt::spec::Matcher;
use machinist_shared::kubevirt::topology;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::access::Access;
use crate::infra::{Infra, NewObject};
pub use crate::kind::Kind;
use crate::kubeconfig::ValidationCache;
use crate::names::{Names, NewMachine};
use crate::refusal::Status;
pub use crate::review::{Operation, Verdict};
use crate::review::{Request, User};
use crate::skew::Skew;

/// The rules, with their settings.
#[derive(Debug)]
pub struct Admission {
    settings: AdmissionSettings,
    kubeconfigs: ValidationCache,
    /// Whether the environment has a kubeconfig, so that specs need none.
    environment_has_kubeconfig: bool,
    cluster: Cluster,
}

/// Checks against the user cluster, if there is one.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Whether names are free.
    pub names: Option<Names>,
    /// Checks the permissions of authors.
    pub access: Option<Access>,
    /// Checks against the infra clusters of specs.
    pub infra: Option<Infra>,
    /// Whether the API server supports kubelets.
    pub skew: Option<Skew>,
}

/// Warnings of what the defaults replace, and validation therefore does not see: settings of the operating system, and
/// the providerID of a template.
fn dropped(sent: &Reviewed<'_>, mutated: &Value) -> Vec<String> {
    let at = sent.new.at();
    let settings = |object: &Value| object.pointer(at.pointer)?.get("operatingSystemSpec").cloned();
    let (written, kept) = (settings(sent.new.object()), settings(mutated));
    let mut report = Report::new();
    // Only then is the spec decoded for it.
    if written != kept
        && let Some(os) = sent.new.config().operating_system
    {
        let path = FieldPath::new(at.path).child("operatingSystemSpec");
        os.warn_settings(written.as_ref(), &path, &mut report);
    }
    let id = "/spec/template/spec/providerID";
    let is_set = |id: &&Value| !id.is_null() && *id != "";
    if sent.new.object().pointer(id).is_some_and(|id| is_set(&id)) && mutated.pointer(id).is_none() {
        let path = FieldPath::new("spec.template.spec.providerID");
        report.warn(
            &path,
            "removed: it belongs to one Machine, and the controller gives each its own",
        );
    }
    report.warnings
}

impl Admission {
    /// Admission with these settings; `policy` limits the addresses of kubeconfigs in specs, which are optional if the
    /// environment has one.
    pub fn new(
        settings: AdmissionSettings,
        policy: AddressPolicy,
        environment_has_kubeconfig: bool,
        cluster: Cluster,
    ) -> Self {
        Self {
            settings,
            kubeconfigs: ValidationCache::new(policy),
            environment_has_kubeconfig,
            cluster,
        }
    }

    /// The object of a request, if it is one of Machinist's kinds.
    fn reviewed<'a>(&self, request: &'a Request<'_, Value>) -> Option<Reviewed<'a>> {
        let object = request.object.as_ref()?;
        let at = match request.kind() {
            Kind::Machine => ValueAt::MACHINE,
            Kind::MachineSet | Kind::MachineDeployment => ValueAt::TEMPLATE,
            Kind::Other => return None,
        };
        let old = match request.operation() {
            Operation::Create => None,
            Operation::Update => request.old_object.as_ref(),
            Operation::Other => return None,
        };
        Some(Reviewed {
            kind: request.kind(),
            operation: request.operation(),
            author: self.settings.author(request.username()),
            user: request.user(),
            old: old.map(|old| Subject::new(old, at)),
            new: Subject::new(object, at),
        })
    }

    /// Defaults: a patch, never a refusal.
    pub(crate) async fn mutate(&self, request: &Request<'_, Value>) -> Verdict {
        let Some(sent) = self.reviewed(request) else {
            return Verdict::default();
        };
        let (old, object) = (sent.stored(), sent.new.object());
        let mutated = match sent.kind {
            Kind::Machine if sent.is_update() => mutate_update(old.unwrap_or(&Value::Null), object),
            Kind::Machine => mutate_create(object, &self.settings),
            Kind::MachineSet => mutate_set(old, object, sent.author, &self.settings),
            Kind::MachineDeployment => mutate_deployment(old, object, &self.settings),
            Kind::Other => return Verdict::default(),
        };
        let mutated = self.with_outside_defaults(&sent, mutated).await;
        Verdict {
            patch: patch(object, &mutated),
            warnings: reported(dropped(&sent, &mutated).into_iter()),
            ..Verdict::default()
        }
    }

    /// Adds defaults from the infra cluster: region and zone of the disk, and the capacity of the instancetype, if the
    /// object is a node group of the cluster-autoscaler with unknown capacity. Values that cannot be read in time are
    /// omitted, and validation reports them.
    async fn with_outside_defaults(&self, sent: &Reviewed<'_>, object: Value) -> Value {
        let (Some(infra), Some(wanted)) = (&self.cluster.infra, sent.outside_defaults()) else {
            return object;
        };
        let deadline = Instant::now() + infra.time_for_defaults();
        let (old, at) = (sent.stored(), sent.new.at());
        let (topology, instancetype) = {
            let completed = Subject::new(&object, at);
            // No lookups for an author without permission.
            let references = new_references(old, &object, at);
            let rights = timeout_at(deadline, self.ask_for_rights(sent, &references)).await;
            if !rights.is_ok_and(|report| report.is_ok() && report.warnings.is_empty()) {
                return object;
            }
            let new_object = NewObject {
                subject: &completed,
                old,
                secrets: SecretDisclosure::Hidden,
                must: false,
            };
            let topology = async {
                if wanted.topology {
                    Box::pin(infra.topology(new_object, deadline)).await
                } else {
                    None
                }
            };
            let instancetype = sent.instancetype(&completed);
            let instancetype = async {
                match &instancetype {
                    Some(wanted) => Box::pin(infra.instancetype(new_object, wanted, deadline)).await,
                    None => None,
                }
            };
            tokio::join!(topology, instancetype)
        };
        let object = match topology {
            Some(found) => topology::write(object, at, found),
            None => object,
        };
        match instancetype {
            Some(spec) => autoscaler::write(old, object, Some(&spec)),
            None => object,
        }
    }

    /// Validates the object: refuses it with every reason, or allows it, with warnings in both cases.
    pub(crate) async fn validate(&self, request: &Request<'_, Value>) -> Verdict {
        let Some(it) = self.reviewed(request) else {
            return Verdict::default();
        };
        let outside = it.outside_defaults();
        // Both steps together take no longer than one alone.
        let deadline = self.cluster.infra.as_ref().map(|infra| {
            let spent = outside.map_or(Duration::ZERO, |_| infra.time_for_defaults());
            infra.deadline(spent)
        });
        let mut report = self.check(&it);
        let references = new_references(it.stored(), it.new.object(), it.new.at());
        let (name, rights, skew) = tokio::join!(
            self.ask_for_name(&it),
            self.ask_for_rights(&it, &references),
            self.check_skew(&it)
        );
        report.extend(name);
        report.extend(skew);
        // No lookups for an author without permission, even if that is only a warning.
        let may_read = rights.is_ok() && rights.warnings.is_empty();
        report.extend(rights);
        if let (Some(infra), Some(deadline)) = (&self.cluster.infra, deadline)
            && may_read
            && report.is_ok()
            && it.is_to_be_asked_for()
        {
            let (old, object, at) = (it.stored(), it.new.object(), it.new.at());
            let new_object = NewObject {
                subject: &it.new,
                old,
                secrets: self.secrets(&it, &references),
                must: outside.is_some_and(|outside| outside.topology) && !topology::known(old, object, at),
            };
            report.extend(infra.check(new_object, deadline).await);
        }
        Verdict {
            refusal: Status::of(it.kind, text(it.new.object(), "/metadata/name"), &report),
            warnings: reported(report.warnings.into_iter()),
            ..Verdict::default()
        }
    }

    /// Whether the API server supports the kubelet, if a person writes another version than is stored.
    async fn check_skew(&self, it: &Reviewed<'_>) -> Report {
        let pointer = if it.new.at() == ValueAt::MACHINE {
            "/spec/versions/kubelet"
        } else {
            "/spec/template/spec/versions/kubelet"
        };
        let kubelet = |object: &Value| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let wanted = kubelet(it.new.object());
        match (&self.cluster.skew, wanted) {
            (Some(skew), Some(wanted))
                if it.author == Author::Person && it.stored().and_then(kubelet).as_ref() != Some(&wanted) =>
            {
                let path = pointer.split('/').skip(2);
                let path = path.fold(FieldPath::new("spec"), |path, part| path.child(part));
                skew.judge(&wanted, &path).await
            }
            _ => Report::new(),
        }
    }

    /// All checks without requests.
    fn check(&self, it: &Reviewed<'_>) -> Report {
        let (author, object) = (it.author, it.new.object());
        match it.kind {
            Kind::Machine if it.is_update() => {
                let old = it.stored().unwrap_or(&Value::Null);
                validate_update(old, object, author, &self.settings)
            }
            Kind::Machine => {
                let mut report = validate_create_subject(&it.new, author, &self.settings);
                self.check_kubeconfig(&it.new, author, &mut report);
                report
            }
            Kind::MachineSet | Kind::MachineDeployment => {
                let old = it.old.as_ref();
                let (author, mut report) = if it.kind == Kind::MachineSet {
                    (author, validate_set_subject(old, &it.new, author, &self.settings))
                } else {
                    (
                        Author::Person,
                        validate_deployment_subject(old, &it.new, &self.settings),
                    )
                };
                // Stored values are never a reason to refuse.
                if !is_deleting(object)
                    && old.is_none_or(|old| Kubeconfig::of(old) != Kubeconfig::of(&it.new))
                {
                    self.check_kubeconfig(&it.new, author, &mut report);
                }
                report
            }
            Kind::Other => Report::new(),
        }
    }

    /// Whether the author can read the kubeconfig: always if it is in the spec; a referenced one if this request
    /// checked it.
    fn secrets(&self, it: &Reviewed<'_>, references: &[Reference]) -> SecretDisclosure {
        let may_read = match Kubeconfig::of(&it.new) {
            Some(Kubeconfig::Inline(_)) => true,
            Some(Kubeconfig::Elsewhere) => {
                let field = format!("{}.", kubeconfig_path(it.new.at())).to_lowercase();
                let new_object = |path: String| path.to_lowercase().starts_with(&field);
                self.cluster.access.is_some() && references.iter().any(|it| new_object(it.path.to_string()))
            }
            Some(Kubeconfig::Absent) | None => false,
        };
        if may_read {
            SecretDisclosure::Allowed
        } else {
            SecretDisclosure::Hidden
        }
    }

    async fn ask_for_name(&self, it: &Reviewed<'_>) -> Report {
        match (&self.cluster.names, it.new_machine()) {
            (Some(names), Some(new_machine)) => names.check(&new_machine).await,
            _ => Report::new(),
        }
    }

    /// Checks that the author can read newly referenced objects. Machines of the MachineSet controller have the
    /// references of a MachineSet whose author was checked.
    async fn ask_for_rights(&self, it: &Reviewed<'_>, references: &[Reference]) -> Report {
        match &self.cluster.access {
            Some(access) if it.author == Author::Person => access.check(it.user, references).await,
            _ => Report::new(),
        }
    }

    fn check_kubeconfig(&self, subject: &Subject<'_>, author: Author, report: &mut Report) {
        let Some(found) = Kubeconfig::of(subject) else {
            return;
        };
        let path = || kubeconfig_path(subject.at());
        let wrong = match found {
            Kubeconfig::Inline(text) => self
                .kubeconfigs
                .check(text)
                .map(|why| (ErrorKind::Invalid, why.to_string())),
            Kubeconfig::Absent if self.environment_has_kubeconfig => None,
            Kubeconfig::Absent => {
                let why = "must be set: the environment (KUBEVIRT_KUBECONFIG) has none";
                Some((ErrorKind::Required, why.to_owned()))
            }
            Kubeconfig::Elsewhere => None,
        };
        match (wrong, author) {
            (None, _) => {}
            (Some(_), _) if report.has_error_at(&path()) => {}
            (Some((kind, why)), Author::Person) => report.error(&path(), kind, why),
            (Some((_, why)), Author::SetController) => report.warn(&path(), why),
        }
    }
}

/// An object under review, and the request. Each spec is decoded once.
struct Reviewed<'a> {
    kind: Kind,
    operation: Operation,
    author: Author,
    user: &'a User<'a>,
    /// The stored object, if this is an update.
    old: Option<Subject<'a>>,
    new: Subject<'a>,
}

/// Defaults from the infra cluster.
#[derive(Debug, Clone, Copy)]
struct OutsideDefaults {
    /// Region and zone of the StorageClass.
    topology: bool,
}

impl<'a> Reviewed<'a> {
    fn is_update(&self) -> bool {
        self.operation == Operation::Update
    }

    fn stored(&self) -> Option<&'a Value> {
        self.old.as_ref().map(Subject::object)
    }

    /// The defaults that an object needs from its infra cluster; `None` if it needs none. Machines of Machinist's
    /// MachineSet controller have those of their MachineSet.
    fn outside_defaults(&self) -> Option<OutsideDefaults> {
        let (old, object) = (self.stored(), self.new.object());
        let is_new = self.kind != Kind::Machine || !self.is_update();
        if self.author != Author::Person || is_deleting(object) || !is_new {
            return None;
        }
        let topology = topology::needed(old, object, self.new.at());
        (topology || self.instancetype(&self.new).is_some()).then_some(OutsideDefaults { topology })
    }

    /// The instancetype that determines the capacity of a node group.
    fn instancetype(&self, subject: &Subject<'_>) -> Option<Matcher> {
        let set = self.kind != Kind::Machine;
        set.then(|| autoscaler::instancetype_needed(self.stored(), subject))
            .flatten()
    }

    /// Whether to check it against its infra cluster: a Machine that a user creates, or a MachineSet or
    /// MachineDeployment with new or changed Machines.
    fn is_to_be_asked_for(&self) -> bool {
        let object = self.new.object();
        let template = |object: &Value| object.pointer("/spec/template").cloned().unwrap_or_default();
        let is_new = match (self.kind, self.stored()) {
            (Kind::Machine, _) => !self.is_update(),
            (_, None) => true,
            (_, Some(old)) => !template::equal_in_place(&template(old), &template(object)),
        };
        self.author == Author::Person && !is_deleting(object) && is_new
    }

    /// The Machine whose name must be checked: one that a user creates.
    fn new_machine(&self) -> Option<NewMachine> {
        let object = self.new.object();
        let (name, namespace) = (
            text(object, "/metadata/name"),
            text(object, "/metadata/namespace"),
        );
        let new_object = self.kind == Kind::Machine
            && !self.is_update()
            && self.author == Author::Person
            && !name.is_empty();
        new_object.then(|| NewMachine {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            provider_id: text(object, "/spec/providerID").to_owned(),
        })
    }
}

/// The field of a kubeconfig.
fn kubeconfig_path(at: ValueAt) -> FieldPath {
    let cloud = FieldPath::new(at.path).child("cloudProviderSpec");
    cloud.child("auth").child("kubeconfig")
}

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

/// The location of a spec's kubeconfig.
#[derive(Debug, PartialEq, Eq)]
enum Kubeconfig<'a> {
    /// In the spec itself. It wins over a reference, as in machine-controller.
    Inline(&'a str),
    /// In a referenced object.
    Elsewhere,
    /// Not in the spec.
    Absent,
}

impl<'a> Kubeconfig<'a> {
    /// The location of the decoded kubeconfig; `None` without a provider's spec.
    fn of(subject: &'a Subject<'_>) -> Option<Self> {
        let credential = subject.config().cloud_provider_spec.as_ref()?.credential();
        let inline = credential.value.as_deref().filter(|text| !text.is_empty());
        Some(match (inline, credential.reference()) {
            (Some(text), _) => Self::Inline(text),
            (None, Some(_)) => Self::Elsewhere,
            // A value of a wrong type is already reported.
            (None, None) if subject.faults().has_error_at(&kubeconfig_path(subject.at())) => Self::Elsewhere,
            (None, None) => Self::Absent,
        })
    }
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
        let machine = machine(&auth);
        let subject = Subject::new(&machine, ValueAt::MACHINE);
        assert_eq!(Kubeconfig::of(&subject), Some(want));
    }

    #[test]
    fn another_providers_spec_has_none() {
        let mut machine = machine(&json!({"kubeconfig": "x"}));
        machine["spec"]["providerSpec"]["value"]["cloudProvider"] = json!("aws");
        assert_eq!(Kubeconfig::of(&Subject::new(&machine, ValueAt::MACHINE)), None);
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
            let machine = machine(&json!({}));
            let subject = Subject::new(&machine, ValueAt::MACHINE);
            admission.check_kubeconfig(&subject, author, &mut report);
            (
                report.has_error_at(&FieldPath::new(path)),
                report.warnings.iter().any(|w| w.starts_with(path)),
            )
        };
        assert_eq!(blamed(false, Author::Person), (true, false));
        assert_eq!(blamed(false, Author::SetController), (false, true));
        assert_eq!(blamed(true, Author::Person), (false, false));
    }
}
