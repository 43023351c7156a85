//! Forwards requests and answers, frame by frame, with one client's faults.

use std::{convert::Infallible, io, sync::Arc, time::Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::stream;
use http::{HeaderName, Response, StatusCode, Uri, header, uri::Authority};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_rustls::TlsAcceptor;

use super::{
    fault::Faults,
    request::{Request, Target},
};

type Body = BoxBody<Bytes, io::Error>;

/// The API server, over pooled HTTP/1.1 connections.
#[derive(Clone)]
pub(super) struct Upstream {
    authority: Authority,
    client: Client<HttpsConnector<HttpConnector>, Incoming>,
}

impl Upstream {
    pub(super) fn new(server: &str, ca: CertificateDer<'static>) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca)?;
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .wrap_connector(http);
        let authority = server.parse::<Uri>()?.authority().cloned();
        Ok(Self {
            authority: authority.with_context(|| format!("{server} names no host"))?,
            client: Client::builder(TokioExecutor::new()).build(connector),
        })
    }
}

/// One client's connection to the API server.
#[derive(Clone)]
pub(super) struct ClientRoute {
    pub(super) client: String,
    pub(super) faults: watch::Sender<Faults>,
    pub(super) upstream: Upstream,
    pub(super) requests: watch::Sender<Vec<Request>>,
}

/// Serves one client's port until the runtime ends.
pub(super) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, route: ClientRoute) {
    loop {
        // A lack of file descriptors is temporary; other errors of `accept` affect a single connection.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(connection(stream, acceptor.clone(), route.clone()));
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, route: ClientRoute) {
    if route.faults.borrow().refuse {
        return;
    }
    passable(&route.faults).await;
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let route = Arc::new(route);
    let service = service_fn(move |request| {
        let route = Arc::clone(&route);
        async move { exchange(&route, request).await }
    });
    // A client that disconnects is not an error of the proxy.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Returns when no black hole is in the way.
async fn passable(faults: &watch::Sender<Faults>) {
    // The sender is at hand, so it is not closed.
    let _ = faults.subscribe().wait_for(|faults| !faults.black_hole).await;
}

/// Headers that belong to one connection, not to the request.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// One request and its answer. An error closes the client's connection without an answer.
async fn exchange(route: &ClientRoute, request: hyper::Request<Incoming>) -> io::Result<Response<Body>> {
    let (at, start) = (jiff::Timestamp::now(), Instant::now());
    passable(&route.faults).await;
    let target = Target::parse(request.method(), request.uri());
    let (refuse, delay, cuts) = {
        let faults = route.faults.borrow();
        (faults.refuse, faults.delay, faults.cuts_of(&target.resource))
    };
    if refuse {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    tokio::time::sleep(delay).await;

    let header = request.headers().get(header::USER_AGENT);
    let user_agent = header
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    if target.is_write() && route.faults.borrow().failing.as_ref() == Some(&target.resource) {
        let record = Request {
            client: route.client.clone(),
            user_agent,
            target,
            status: StatusCode::INTERNAL_SERVER_ERROR.as_u16(),
            at,
            took: start.elapsed(),
        };
        route.requests.send_modify(|requests| requests.push(record));
        return Ok(internal_error());
    }
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let past = route.faults.borrow().past;
    let path = match past {
        Some(version) if target.verb == "list" && !asks_for_metadata(&parts.headers) => as_of(path, version),
        _ => path.to_owned(),
    };
    let uri = Uri::builder()
        .scheme("https")
        .authority(route.upstream.authority.clone())
        .path_and_query(path);
    parts.uri = uri.build().map_err(io::Error::other)?;
    parts.version = http::Version::HTTP_11;
    for name in &HOP_BY_HOP {
        parts.headers.remove(name);
    }
    let answer = match route
        .upstream
        .client
        .request(hyper::Request::from_parts(parts, body))
        .await
    {
        Ok(answer) => answer,
        Err(error) => return Ok(bad_gateway(&error)),
    };

    let watching = (target.verb == "watch").then(|| target.resource.clone());
    let record = Request {
        client: route.client.clone(),
        user_agent,
        target,
        status: answer.status().as_u16(),
        at,
        took: start.elapsed(),
    };
    let fuse = route
        .faults
        .borrow()
        .fuse
        .clone()
        .filter(|_| record.is_successful_write());
    let is_cut_off = fuse.is_some_and(|fuse| fuse.burn(&record.target));
    route.requests.send_modify(|requests| requests.push(record));
    if is_cut_off {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    // The API server has processed it; a black hole that opened meanwhile only swallows the answer.
    passable(&route.faults).await;

    let (mut head, body) = answer.into_parts();
    for name in &HOP_BY_HOP {
        head.headers.remove(name);
    }
    let (frames, received) = mpsc::channel(16);
    tokio::spawn(pump(
        body,
        frames,
        route.faults.clone(),
        watching.map(|resource| (resource, cuts)),
    ));
    let body = stream::unfold(received, async |mut received| {
        let frame: io::Result<Frame<Bytes>> = received.recv().await?;
        Some((frame, received))
    });
    Ok(Response::from_parts(head, StreamBody::new(body).boxed()))
}

/// A client that lists only metadata needs the current objects.
fn asks_for_metadata(headers: &http::HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("as=PartialObjectMetadataList"))
}

/// Changes a list into one of that resourceVersion. Later pages of a list have the version of the first already.
fn as_of(path: &str, version: u64) -> String {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let pairs: Vec<_> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    if pairs.iter().any(|pair| pair.starts_with("continue=")) {
        return format!("{path}?{query}");
    }
    let kept = pairs
        .into_iter()
        .filter(|pair| !pair.starts_with("resourceVersion"));
    let then = [
        format!("resourceVersion={version}"),
        "resourceVersionMatch=Exact".to_owned(),
    ];
    let query: Vec<_> = kept.map(str::to_owned).chain(then).collect();
    format!("{path}?{}", query.join("&"))
}

/// Copies the frames of an answer's body. `watching` is the resource of a watch, and the number of cuts when it was opened.
async fn pump(
    mut body: Incoming,
    frames: mpsc::Sender<io::Result<Frame<Bytes>>>,
    faults: watch::Sender<Faults>,
    watching: Option<(String, u64)>,
) {
    let mut changes = faults.subscribe();
    let cut = |faults: &Faults| {
        watching
            .as_ref()
            .is_some_and(|(resource, cuts)| faults.cuts_of(resource) != *cuts)
    };
    let frozen = |faults: &Faults| {
        watching
            .as_ref()
            .is_some_and(|(resource, _)| faults.frozen.is(resource))
    };
    let held = |faults: &Faults| faults.black_hole || frozen(faults);
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = frames.closed() => return,
            _ = changes.wait_for(cut) => None,
        };
        let late = watching
            .as_ref()
            .and_then(|(resource, _)| faults.borrow().delay_of(resource));
        if let Some(delay) = late {
            tokio::time::sleep(delay).await;
        }
        let waited = tokio::select! {
            waited = changes.wait_for(|faults| cut(faults) || !held(faults)) => waited.is_ok_and(|faults| cut(&faults)),
            () = frames.closed() => return,
        };
        let frame = match frame {
            _ if waited => Err(io::ErrorKind::ConnectionReset.into()),
            None => return,
            Some(frame) => frame.map_err(io::Error::other),
        };
        let broken = frame.is_err();
        if frames.send(frame).await.is_err() || broken {
            return;
        }
    }
}

/// The answer of an API server whose storage fails.
fn internal_error() -> Response<Body> {
    let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"etcdserver: request timed out","reason":"InternalError","code":500}"#;
    let body = Full::new(Bytes::from_static(status.as_bytes()))
        .map_err(|never: Infallible| match never {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn bad_gateway(error: &dyn std::error::Error) -> Response<Body> {
    let text = format!("the proxy cannot reach the API server: {error}");
    let body = Full::new(Bytes::from(text))
        .map_err(|never: Infallible| match never {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::consistent(
        "/api/v1/nodes?limit=500",
        "/api/v1/nodes?limit=500&resourceVersion=7&resourceVersionMatch=Exact"
    )]
    #[case::from_a_cache(
        "/api/v1/nodes?resourceVersion=0&resourceVersionMatch=NotOlderThan",
        "/api/v1/nodes?resourceVersion=7&resourceVersionMatch=Exact"
    )]
    #[case::without_a_query("/api/v1/nodes", "/api/v1/nodes?resourceVersion=7&resourceVersionMatch=Exact")]
    #[case::next_page("/api/v1/nodes?limit=500&continue=x", "/api/v1/nodes?limit=500&continue=x")]
    fn a_list_is_of_the_past(#[case] path: &str, #[case] expected: &str) {
        assert_eq!(as_of(path, 7), expected);
    }
}
