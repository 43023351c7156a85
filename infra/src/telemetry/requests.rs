//! The target of a request to an API server, and its span.

use http::{Method, Request};
use tracing::Span;
use tracing::field::Empty;

/// The verbs of RBAC.
pub const VERBS: [&str; 7] = ["get", "list", "watch", "create", "update", "patch", "delete"];

/// The target of an API path. Missing parts are empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Target<'a> {
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
    subresource: &'a str,
}

impl<'a> Target<'a> {
    /// Parses `/api/v1/nodes`, `/apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE` and similar paths.
    fn of(path: &'a str) -> Self {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let before = match parts.next() {
            Some("api") => 1,
            Some("apis") => 2,
            _ => return Self::default(),
        };
        let rest: Vec<_> = parts.skip(before).collect();
        let (namespace, rest) = match rest.as_slice() {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let part = |i: usize| rest.get(i).copied().unwrap_or_default();
        Self {
            resource: part(0),
            namespace,
            name: part(1),
            subresource: part(2),
        }
    }

    fn is_collection(&self) -> bool {
        !self.resource.is_empty() && self.name.is_empty()
    }
}

/// Index in [`VERBS`].
pub(crate) fn verb<B>(request: &Request<B>) -> usize {
    let name = match *request.method() {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ if is_watch(request.uri().query().unwrap_or_default()) => "watch",
        _ if Target::of(request.uri().path()).is_collection() => "list",
        _ => "get",
    };
    VERBS.iter().position(|verb| *verb == name).unwrap_or_default()
}

/// Whether a query requests a watch.
pub(crate) fn is_watch(query: &str) -> bool {
    let mut pairs = query.split('&');
    pairs.any(|pair| matches!(pair, "watch=true" | "watch=1" | "watch"))
}

/// The span of a request to `server`. A watch's span ends with its first response, not with the watch.
pub(crate) fn span<B>(request: &Request<B>, verb: usize, server: &str) -> Span {
    // Spans are rarely exported: the others cost nothing.
    if !tracing::span_enabled!(tracing::Level::INFO) {
        return Span::none();
    }
    let target = Target::of(request.uri().path());
    let (verb, resource) = (VERBS[verb], target.resource);
    let name = match target.subresource {
        "" => format!("{verb} {resource}"),
        subresource => format!("{verb} {resource}/{subresource}"),
    };
    tracing::info_span!(
        "request",
        otel.name = name,
        otel.kind = "client",
        otel.status_code = Empty,
        server.address = server,
        k8s.verb = verb,
        k8s.resource = resource,
        k8s.subresource = target.subresource,
        k8s.namespace.name = target.namespace,
        k8s.object.name = target.name,
        http.response.status_code = Empty,
    )
}

/// Records the response to a span's request: this code, or none. Returns whether it failed.
pub(crate) fn answered(span: &Span, code: Option<http::StatusCode>) -> bool {
    if let Some(code) = code {
        span.record("http.response.status_code", code.as_u16());
    }
    let failed = code.is_none_or(|code| code.is_client_error() || code.is_server_error());
    if failed {
        span.record("otel.status_code", "ERROR");
    }
    failed
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("GET", "/api/v1/nodes", "list")]
    #[case("GET", "/api/v1/nodes?watch=true&fieldSelector=a", "watch")]
    #[case("GET", "/api/v1/nodes/a", "get")]
    #[case("GET", "/api/v1/namespaces", "list")]
    #[case("GET", "/api/v1/namespaces/kube-system", "get")]
    #[case("GET", "/api/v1/namespaces/a/secrets", "list")]
    #[case("GET", "/api/v1/namespaces/a/secrets/b", "get")]
    #[case("GET", "/apis/kubevirt.io/v1/namespaces/a/virtualmachines", "list")]
    #[case("GET", "/apis/kubevirt.io/v1/namespaces/a/virtualmachines/b", "get")]
    #[case("GET", "/version", "get")]
    #[case("POST", "/api/v1/namespaces/a/pods/b/eviction", "create")]
    #[case("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "update")]
    #[case("PATCH", "/api/v1/nodes/a", "patch")]
    #[case("DELETE", "/api/v1/nodes/a", "delete")]
    fn a_request_has_the_verb_of_its_right(#[case] method: &str, #[case] target: &str, #[case] want: &str) {
        let request = Request::builder().method(method).uri(target).body(()).unwrap();
        assert_eq!(VERBS[verb(&request)], want);
    }

    #[rstest]
    #[case("/api/v1/nodes/a", "nodes", "", "a", "")]
    #[case("/api/v1/namespaces/a/pods/b/eviction", "pods", "a", "b", "eviction")]
    #[case("/api/v1/namespaces/a", "namespaces", "", "a", "")]
    #[case(
        "/apis/kubevirt.io/v1/namespaces/a/virtualmachines",
        "virtualmachines",
        "a",
        "",
        ""
    )]
    #[case("/version", "", "", "", "")]
    fn a_path_says_what_it_is_about(
        #[case] path: &str,
        #[case] resource: &str,
        #[case] namespace: &str,
        #[case] name: &str,
        #[case] subresource: &str,
    ) {
        let want = Target {
            resource,
            namespace,
            name,
            subresource,
        };
        assert_eq!(Target::of(path), want);
    }
}
