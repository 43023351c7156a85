//! The target of a request to an API server: verb, resource and name, parsed from method, path and query.

use std::time::Duration;

use http::{Method, Uri};
use serde::Serialize;

/// One answered request.
#[derive(Debug, Clone, Serialize)]
pub struct Request {
    /// The name under which the listener was opened.
    pub client: String,
    /// The `User-Agent` header, empty if absent.
    pub user_agent: String,
    /// The target.
    #[serde(flatten)]
    pub target: Target,
    /// HTTP status of the answer.
    pub status: u16,
    /// When it arrived at the proxy.
    pub at: jiff::Timestamp,
    /// From its arrival to the head of the answer.
    pub took: Duration,
}

/// The target of a request, in the API server's terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// get, list, watch, create, update, patch, delete or deletecollection.
    pub verb: &'static str,
    /// API group, empty for core and for non-resource paths.
    pub group: String,
    /// API version, empty for non-resource paths.
    pub version: String,
    /// Plural, or the whole non-resource path (`/readyz`, `/apis`).
    pub resource: String,
    /// Such as `status`, else empty.
    pub subresource: String,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// Empty for collections, but for a list or watch that selects one object by its name.
    pub name: String,
    /// `?dryRun=All`: nothing is stored.
    pub dry_run: bool,
}

impl Request {
    /// Whether it changed the API server's store.
    pub fn is_successful_write(&self) -> bool {
        self.target.is_write() && (200..300).contains(&self.status)
    }
}

impl Target {
    /// Reads the target of a request.
    pub fn parse(method: &Method, uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        let has = |pair: &str| query.split('&').any(|given| given == pair);
        let parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => ("", "", [].as_slice()),
        };
        let (namespace, rest) = match rest {
            // `namespaces/NAME/status` is the Namespace's own.
            ["namespaces", _, "status" | "finalize"] | ["namespaces"] | ["namespaces", _] => ("", rest),
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            _ => ("", rest),
        };
        let part = |index: usize| rest.get(index).copied().unwrap_or_default();
        let (name, subresource) = (part(1), rest.get(2..).unwrap_or_default().join("/"));
        let named = query.split('&').find_map(one_object).filter(|_| name.is_empty());
        let verb = match *method {
            Method::GET if has("watch=true") || has("watch=1") => "watch",
            Method::GET if name.is_empty() && !rest.is_empty() => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ => "get",
        };
        Self {
            verb,
            group: group.into(),
            version: version.into(),
            resource: if rest.is_empty() {
                uri.path().into()
            } else {
                part(0).into()
            },
            subresource,
            namespace: namespace.into(),
            name: named.unwrap_or(name).into(),
            dry_run: has("dryRun=All"),
        }
    }

    /// Whether it changes stored objects. Reviews and token requests store nothing.
    pub fn is_write(&self) -> bool {
        let question = match self.resource.as_str() {
            "serviceaccounts" => self.subresource == "token",
            resource => {
                matches!(
                    self.group.as_str(),
                    "authorization.k8s.io" | "authentication.k8s.io"
                ) && resource.ends_with("reviews")
            }
        };
        !self.dry_run && !question && !matches!(self.verb, "get" | "list" | "watch")
    }

    /// `resource.group/subresource`, as RBAC rules write it.
    pub fn resource_name(&self) -> String {
        let mut text = self.resource.clone();
        if !self.group.is_empty() {
            text = format!("{text}.{}", self.group);
        }
        if !self.subresource.is_empty() {
            text = format!("{text}/{}", self.subresource);
        }
        text
    }
}

/// The name in a field selector that has no other term.
fn one_object(pair: &str) -> Option<&str> {
    let selector = pair.strip_prefix("fieldSelector=metadata.name")?;
    let name = selector
        .strip_prefix("%3D")
        .or_else(|| selector.strip_prefix('='))?;
    (!name.contains(['%', ','])).then_some(name)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::core_object("GET", "/api/v1/namespaces/a/secrets/s", "get secrets a s")]
    #[case::core_list("GET", "/api/v1/nodes?limit=500", "list nodes  ")]
    #[case::watch(
        "GET",
        "/apis/kubevirt.io/v1/namespaces/a/virtualmachines?watch=true&x=y",
        "watch virtualmachines.kubevirt.io a "
    )]
    #[case::watch_of_one(
        "GET",
        "/api/v1/namespaces/a/secrets?&watch=true&fieldSelector=metadata.name%3Ds",
        "watch secrets a s"
    )]
    #[case::list_of_one(
        "GET",
        "/api/v1/namespaces/a/secrets?fieldSelector=metadata.name=s&limit=5",
        "list secrets a s"
    )]
    #[case::list_by_type(
        "GET",
        "/api/v1/namespaces/a/secrets?fieldSelector=type%3Dt",
        "list secrets a "
    )]
    #[case::create(
        "POST",
        "/apis/cdi.kubevirt.io/v1beta1/namespaces/a/datavolumes",
        "create datavolumes.cdi.kubevirt.io a "
    )]
    #[case::status("PATCH", "/api/v1/nodes/n/status", "patch nodes/status  n")]
    #[case::approval(
        "PUT",
        "/apis/certificates.k8s.io/v1/certificatesigningrequests/c/approval",
        "update certificatesigningrequests.certificates.k8s.io/approval  c"
    )]
    #[case::namespace_itself("GET", "/api/v1/namespaces/kube-system", "get namespaces  kube-system")]
    #[case::namespaces("GET", "/api/v1/namespaces", "list namespaces  ")]
    #[case::finalize("PUT", "/api/v1/namespaces/a/finalize", "update namespaces/finalize  a")]
    #[case::delete("DELETE", "/api/v1/namespaces/a/pods/p", "delete pods a p")]
    #[case::delete_all("DELETE", "/api/v1/namespaces/a/pods", "deletecollection pods a ")]
    #[case::eviction("POST", "/api/v1/namespaces/a/pods/p/eviction", "create pods/eviction a p")]
    #[case::no_resource("GET", "/readyz", "get /readyz  ")]
    #[case::discovery("GET", "/apis/apps/v1", "get /apis/apps/v1  ")]
    fn a_path_names_verb_resource_namespace_and_name(
        #[case] method: Method,
        #[case] uri: Uri,
        #[case] expected: &str,
    ) {
        let target = Target::parse(&method, &uri);
        let read = format!(
            "{} {} {} {}",
            target.verb,
            target.resource_name(),
            target.namespace,
            target.name
        );
        assert_eq!(read, expected);
    }

    #[rstest]
    #[case::create("POST", "/api/v1/namespaces/a/secrets", true)]
    #[case::dry_run("POST", "/apis/kubevirt.io/v1/namespaces/a/virtualmachines?dryRun=All", false)]
    #[case::review("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", false)]
    #[case::token("POST", "/api/v1/namespaces/a/serviceaccounts/s/token", false)]
    #[case::read("GET", "/api/v1/nodes/n", false)]
    fn only_what_is_stored_is_a_write(#[case] method: Method, #[case] uri: Uri, #[case] expected: bool) {
        assert_eq!(Target::parse(&method, &uri).is_write(), expected);
    }
}
