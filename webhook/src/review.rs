//! AdmissionReview on the wire: decoded once, borrowing from the body; encoded without an intermediate tree.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use json_patch::Patch;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::kind::Kind;
use crate::object::Object;
use crate::refusal::Status;

/// Supported versions of AdmissionReview; the response has the version of the request.
const VERSIONS: [&str; 2] = ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"];

/// A review as the API server sends it; `O` is the type of its objects.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound = "O: Deserialize<'de>")]
pub(crate) struct Review<'a, O> {
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, bound = "O: Deserialize<'de>")]
    request: Option<Request<'a, O>>,
}

/// The request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound = "O: Deserialize<'de>")]
pub(crate) struct Request<'a, O> {
    /// Repeated in the response.
    #[serde(borrow)]
    pub(crate) uid: Cow<'a, str>,
    #[serde(borrow, default)]
    resource: Resource<'a>,
    #[serde(borrow, default)]
    sub_resource: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    operation: Cow<'a, str>,
    #[serde(borrow, default)]
    user_info: User<'a>,
    /// The object, absent on DELETE.
    #[serde(default)]
    pub(crate) object: Option<O>,
    /// The stored object, absent on CREATE.
    #[serde(default)]
    pub(crate) old_object: Option<O>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Resource<'a> {
    #[serde(borrow)]
    group: Cow<'a, str>,
    #[serde(borrow)]
    resource: Cow<'a, str>,
}

/// The authenticated user.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct User<'a> {
    #[serde(borrow)]
    pub(crate) username: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) uid: Cow<'a, str>,
    /// Decoded only for permission checks.
    #[serde(borrow)]
    pub(crate) groups: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) extra: Option<&'a RawValue>,
}

/// The operation on the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Creation.
    Create,
    /// Update.
    Update,
    /// Anything else is allowed.
    Other,
}

impl Operation {
    /// Its label in metrics and spans.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Other => "other",
        }
    }
}

impl<O> Request<'_, O> {
    /// The kind of its object; requests for subresources are not validated.
    pub(crate) fn kind(&self) -> Kind {
        let main = self.sub_resource.as_deref().is_none_or(str::is_empty);
        if !main || self.resource.group != machinist_shared::api::names::GROUP {
            return Kind::Other;
        }
        match self.resource.resource.as_ref() {
            "machines" => Kind::Machine,
            "machinedeployments" => Kind::MachineDeployment,
            "machinesets" => Kind::MachineSet,
            _ => Kind::Other,
        }
    }

    /// The operation.
    pub(crate) fn operation(&self) -> Operation {
        match self.operation.as_ref() {
            "CREATE" => Operation::Create,
            "UPDATE" => Operation::Update,
            _ => Operation::Other,
        }
    }

    /// The user.
    pub(crate) fn user(&self) -> &User<'_> {
        &self.user_info
    }

    /// The user name.
    pub(crate) fn username(&self) -> &str {
        &self.user_info.username
    }
}

/// Why a body is not a review.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReviewError {
    /// It is not JSON of that shape.
    #[error("the body is not an AdmissionReview: {0}")]
    Malformed(serde_json::Error),
    /// It has another kind or an unknown version.
    #[error("{0:?} of {1:?} is not supported; send an AdmissionReview of admission.k8s.io/v1")]
    Unknown(String, String),
    /// It has no request.
    #[error("the AdmissionReview has no request")]
    NoRequest,
    /// The object in a well-formed review cannot be decoded, for example because it is nested too deeply.
    #[error("the object cannot be read: {reason}")]
    Object {
        /// Why.
        reason: serde_json::Error,
        /// Version of the response.
        version: &'static str,
        /// UID of the request.
        uid: String,
        /// The kind of the object.
        of: Kind,
    },
}

/// Parses a review: its version, and the request.
pub(crate) fn read(body: &[u8]) -> Result<(&'static str, Request<'_, Value>), ReviewError> {
    match serde_json::from_slice::<Review<'_, Object>>(body) {
        Ok(review) => checked(review).map(|(version, request)| (version, values(request))),
        // If only the object is invalid, the review can be answered.
        Err(reason) => match serde_json::from_slice::<Review<'_, &RawValue>>(body).map(checked) {
            Ok(Ok((version, request))) => Err(ReviewError::Object {
                reason,
                version,
                of: request.kind(),
                uid: request.uid.into_owned(),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ReviewError::Malformed(reason)),
        },
    }
}

fn values(request: Request<'_, Object>) -> Request<'_, Value> {
    Request {
        object: request.object.map(|object| object.0),
        old_object: request.old_object.map(|object| object.0),
        uid: request.uid,
        resource: request.resource,
        sub_resource: request.sub_resource,
        operation: request.operation,
        user_info: request.user_info,
    }
}

fn checked<O>(review: Review<'_, O>) -> Result<(&'static str, Request<'_, O>), ReviewError> {
    let version = VERSIONS
        .into_iter()
        .find(|version| *version == review.api_version);
    let (Some(version), "AdmissionReview") = (version, review.kind.as_ref()) else {
        return Err(ReviewError::Unknown(
            review.kind.into_owned(),
            review.api_version.into_owned(),
        ));
    };
    Ok((version, review.request.ok_or(ReviewError::NoRequest)?))
}

/// The response to a review.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    api_version: &'a str,
    kind: &'a str,
    response: Response<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

/// The decision.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The patch; may be empty.
    pub patch: Patch,
    /// The refusal, if any.
    pub refusal: Option<Status>,
    /// Warnings for kubectl.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Its label in metrics and spans.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self { refusal: Some(_), .. } => "refused",
            Self { patch, .. } if !patch.0.is_empty() => "patched",
            _ => "allowed",
        }
    }
}

/// Encodes the response to the review with that version and UID.
pub(crate) fn write(version: &str, uid: &str, verdict: &Verdict) -> Vec<u8> {
    let patch = (!verdict.patch.0.is_empty()).then(|| STANDARD.encode(json(&verdict.patch)));
    json(&Answer {
        api_version: version,
        kind: "AdmissionReview",
        response: Response {
            uid,
            allowed: verdict.refusal.is_none(),
            status: verdict.refusal.as_ref(),
            patch_type: patch.is_some().then_some("JSONPatch"),
            patch,
            warnings: &verdict.warnings,
        },
    })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Writing into memory cannot fail, nor can types whose map keys are all strings.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn review(object: &Value) -> Vec<u8> {
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "u", "resource": {"group": "cluster.k8s.io", "version": "v1alpha1", "resource": "machines"},
                "operation": "CREATE", "userInfo": {"username": "a\"b", "groups": ["g"]}, "object": object, "oldObject": null},
        })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn a_review_is_read() {
        let body = review(&json!({"a": 1}));
        let (version, request) = read(&body).unwrap();
        assert_eq!((version, request.uid.as_ref()), ("admission.k8s.io/v1", "u"));
        assert_eq!(
            (request.kind(), request.operation()),
            (Kind::Machine, Operation::Create)
        );
        assert_eq!(request.username(), "a\"b");
        assert_eq!(
            (request.object, request.old_object),
            (Some(json!({"a": 1})), None)
        );
    }

    #[rstest]
    #[case::no_json("}", "the body is not an AdmissionReview")]
    #[case::a_list("[]", "the body is not an AdmissionReview")]
    #[case::another_kind(r#"{"apiVersion":"v1","kind":"Pod"}"#, "\"Pod\" of \"v1\" is not supported")]
    #[case::a_version_from_the_future(
        r#"{"apiVersion":"admission.k8s.io/v2","kind":"AdmissionReview"}"#,
        "\"AdmissionReview\" of"
    )]
    #[case::no_request(
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#,
        "the AdmissionReview has no request"
    )]
    #[case::no_uid(
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}"#,
        "the body is not an AdmissionReview"
    )]
    #[case::a_key_twice(
        r#"{"apiVersion":"v1","apiVersion":"v1"}"#,
        "the body is not an AdmissionReview"
    )]
    fn what_is_no_review_is_reported(#[case] body: &str, #[case] want: &str) {
        let error = read(body.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }

    #[test]
    fn an_undecodable_object_is_reported_to_its_uid() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let body = String::from_utf8(review(&json!("DEEP")))
            .unwrap()
            .replace("\"DEEP\"", &deep);
        let error = read(body.as_bytes()).unwrap_err();
        assert!(
            matches!(&error, ReviewError::Object { uid, .. } if uid == "u"),
            "{error}"
        );
    }

    #[rstest]
    #[case("cluster.k8s.io", "machines", "", Kind::Machine)]
    #[case("cluster.k8s.io", "machines", "status", Kind::Other)]
    #[case("cluster.k8s.io", "machinedeployments", "", Kind::MachineDeployment)]
    #[case("cluster.k8s.io", "machinesets", "", Kind::MachineSet)]
    #[case("", "machines", "", Kind::Other)]
    fn machines_and_their_deployments_are_judged(
        #[case] group: &str,
        #[case] resource: &str,
        #[case] sub: &str,
        #[case] want: Kind,
    ) {
        let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "", "subResource": sub, "resource": {"group": group, "resource": resource}}})
        .to_string();
        assert_eq!(read(body.as_bytes()).unwrap().1.kind(), want);
    }

    #[test]
    fn an_answer_is_written_as_the_api_server_reads_it() {
        let patch = serde_json::from_value(json!([{"op": "add", "path": "/a", "value": 1}])).unwrap();
        let verdict = Verdict {
            patch,
            refusal: None,
            warnings: vec!["w".to_owned()],
        };
        let answer: Value =
            serde_json::from_slice(&write("admission.k8s.io/v1beta1", "u", &verdict)).unwrap();
        let encoded = answer["response"]["patch"].as_str().unwrap().to_owned();
        let want = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": {
            "uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": encoded, "warnings": ["w"]}});
        assert_eq!(answer, want);
        assert_eq!(
            STANDARD.decode(encoded).unwrap(),
            br#"[{"op":"add","path":"/a","value":1}]"#
        );
    }

    #[test]
    fn nothing_to_say_is_one_word() {
        let answer: Value =
            serde_json::from_slice(&write("admission.k8s.io/v1", "u", &Verdict::default())).unwrap();
        assert_eq!(answer["response"], json!({"uid": "u", "allowed": true}));
    }
}
