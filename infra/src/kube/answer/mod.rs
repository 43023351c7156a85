//! Limits on responses: size, duration and nesting; and only Kubernetes' own errors are passed on.
//!
//! Responses are decoded whole, except lists and watches of [`crate::cache::watch`], so each has a maximum size. Those
//! of infra clusters share a budget, because an author of a Machine can name a server with endless responses.

mod depth;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::PollSemaphore;
use tower::{BoxError, Service};

use self::depth::Pruner;
use crate::kube::error::{TooLarge, TooSlow};
use crate::kube::layer::{Middleware, layer};
use crate::telemetry::requests::is_watch;

/// Marks a request with a streamed response; the reader applies its own limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streamed;

/// Limits of a response.
#[derive(Debug, Clone)]
pub struct AnswerLimits {
    /// Maximum bytes.
    bytes: usize,
    /// The budget that all responses longer than [`SMALL`] share.
    shared: Option<Arc<Semaphore>>,
    /// Timeout from the response's head to its end, for reads and writes.
    time: (Duration, Duration),
}

/// A response up to this size needs no slot. Objects have a few KiB.
const SMALL: usize = 32 * 1024;
/// For an infra cluster: its API server stores no larger object.
const INFRA_BYTES: usize = 2 * 1024 * 1024;
/// For the user cluster, where for example the pods of a Node are listed.
const USER_BYTES: usize = 64 * 1024 * 1024;
/// Maximum number of concurrent responses of infra clusters above [`SMALL`].
const LARGE_AT_ONCE: usize = 4;
/// How long one of those may take, because others wait.
const LARGE_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum bytes removed from one document, which other limits do not count. Objects in API servers stay below a tenth
/// of it.
const CUT_BYTES: usize = 16 * 1024 * 1024;
/// Maximum bytes of an error that are read.
const ERROR_BYTES: usize = 64 * 1024;

impl AnswerLimits {
    /// For infra clusters, whose servers authors of Machines choose.
    pub fn infra(read: Duration, write: Duration) -> Self {
        static SHARED: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(LARGE_AT_ONCE)));
        Self {
            bytes: INFRA_BYTES,
            shared: Some(Arc::clone(&SHARED)),
            time: (read, write),
        }
    }

    /// For the user cluster, whose objects others write.
    pub fn user(read: Duration, write: Duration) -> Self {
        Self {
            bytes: USER_BYTES,
            shared: None,
            time: (read, write),
        }
    }
}

/// The body of any response.
pub type AnyBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

layer!(AnswerLimits);

/// Limits responses.
impl<S, B> Middleware<S, Body> for AnswerLimits
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Answer = Response<AnyBody>;

    fn call(
        &self,
        inner: &mut S,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Self::Answer, S::Error>> {
        let is_watch = request.uri().query().is_some_and(is_watch);
        let is_streamed = request.extensions().get::<Streamed>().is_some();
        let limits = self.clone();
        let time = match *request.method() {
            Method::GET => limits.time.0,
            _ => limits.time.1,
        };
        let answer = inner.call(request);
        Box::pin(async move {
            let (head, body) = answer.await?.into_parts();
            let body: AnyBody = body.map_err(Into::into).boxed_unsync();
            let body = if head.status.is_client_error() || head.status.is_server_error() {
                let error = error_of_kubernetes(body, time).await;
                Full::new(error).map_err(|never| match never {}).boxed_unsync()
            } else {
                let limits = (!is_streamed && !is_watch).then_some((limits, time));
                LimitedBody::new(body, Pruner::new(is_watch), limits).boxed_unsync()
            };
            Ok(Response::from_parts(head, body))
        })
    }
}

/// The error, if it is a `Status`; otherwise nothing: it may come from a server that only this process can reach, and
/// the author of the spec with its address must not see it.
async fn error_of_kubernetes(mut body: AnyBody, time: Duration) -> Bytes {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(borrow)]
        kind: std::borrow::Cow<'a, str>,
    }
    let mut text = BytesMut::new();
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            text.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
            if text.len() > ERROR_BYTES {
                break;
            }
        }
    };
    // An incomplete Status is not a Status.
    let _ = tokio::time::timeout(time, read).await;
    let body = text.freeze();
    let is_status = serde_json::from_slice::<Kind<'_>>(&body).is_ok_and(|found| found.kind == "Status");
    if is_status { body } else { Bytes::new() }
}

/// A body with limits.
struct LimitedBody {
    inner: AnyBody,
    pruner: Pruner,
    limits: Option<ReadState>,
}

/// The limits of a body, and the used part.
struct ReadState {
    bytes: usize,
    read: usize,
    shared: Option<PollSemaphore>,
    /// Held until the body ends.
    permit: Option<OwnedSemaphorePermit>,
    end: (Duration, Pin<Box<Sleep>>),
}

impl LimitedBody {
    fn new(inner: AnyBody, pruner: Pruner, limits: Option<(AnswerLimits, Duration)>) -> Self {
        let held = |(limits, time): (AnswerLimits, Duration)| ReadState {
            read: 0,
            shared: limits.shared.map(PollSemaphore::new),
            permit: None,
            end: (time, Box::pin(tokio::time::sleep(time))),
            bytes: limits.bytes,
        };
        Self {
            inner,
            pruner,
            limits: limits.map(held),
        }
    }
}

impl ReadState {
    /// Ready to continue, with the required part of the budget.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.end.1.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(TooSlow(self.end.0).into()));
        }
        if self.read > SMALL
            && self.permit.is_none()
            && let Some(shared) = &mut self.shared
        {
            self.permit = ready!(shared.poll_acquire(context));
            let time = self.end.0.min(LARGE_ANSWER_TIMEOUT);
            self.end = (time, Box::pin(tokio::time::sleep(time)));
            // Wakes the task at the timeout.
            let _ = self.end.1.as_mut().poll(context);
        }
        Poll::Ready(Ok(()))
    }
}

impl http_body::Body for LimitedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(held) = &mut this.limits
            && let Err(error) = ready!(held.poll_room(context))
        {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        if let Some(held) = &mut this.limits {
            let chunk = frame.data_ref().map_or(&[][..], |chunk| chunk.as_ref());
            // Requests are for objects: a response that starts differently is refused without reading it whole.
            if held.read == 0 && chunk.trim_ascii_start().first().is_some_and(|byte| *byte != b'{') {
                return Poll::Ready(None);
            }
            held.read += chunk.len();
            if held.read > held.bytes {
                return Poll::Ready(Some(Err(TooLarge(held.bytes / 1024).into())));
            }
        }
        let pruner = &mut this.pruner;
        let frame = frame.map_data(|chunk| pruner.prune(&chunk));
        if pruner.cut() > CUT_BYTES {
            return Poll::Ready(Some(Err(TooLarge(CUT_BYTES / 1024).into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{StreamExt as _, stream};
    use http_body_util::StreamBody;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{Api, Client};
    use rstest::rstest;
    use tower::{ServiceBuilder, service_fn};

    use super::*;
    use crate::cache::watch::{Selector, Source, Trust};
    use crate::kube::error::RemoteError;

    /// A client of a server that answers with that status and these chunks, each after a pause.
    fn client(status: u16, chunks: Vec<&'static str>, pause: Duration) -> Client {
        let answer = move |_: Request<Body>| {
            let chunks = stream::iter(chunks.clone()).then(move |chunk| async move {
                tokio::time::sleep(pause).await;
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(chunk.as_bytes())))
            });
            let answer = Response::builder().status(status).body(StreamBody::new(chunks));
            async move { answer.map_err(|error| -> BoxError { error.into() }) }
        };
        let limits = AnswerLimits::infra(Duration::from_secs(10), Duration::from_secs(3));
        let service = ServiceBuilder::new().layer(limits).service(service_fn(answer));
        Client::new(service, "default")
    }

    async fn get(client: Client) -> Result<ConfigMap, RemoteError> {
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        api.get("a").await.map_err(RemoteError::from)
    }

    /// 1,024 arrays, one in the other.
    const DEEP: &str = match std::str::from_utf8(&[b'['; 1024]) {
        Ok(deep) => deep,
        Err(_) => "",
    };

    /// 1,024 bytes of JSON's white space.
    const SPACE: &str = match std::str::from_utf8(&[b' '; 1024]) {
        Ok(space) => space,
        Err(_) => "",
    };

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_a_limit_in_bytes() {
        let mut chunks = vec![r#"{"metadata":{"name":"a"},"data":{"#];
        chunks.extend(std::iter::repeat_n(SPACE, 2 * 1024 - 1));
        let whole = [chunks.clone(), vec!["}}"]].concat();
        assert!(get(client(200, whole, Duration::ZERO)).await.is_ok());
        chunks.extend([SPACE, SPACE, "}}"]);
        let error = get(client(200, chunks, Duration::ZERO)).await.unwrap_err();
        assert_eq!(error.to_string(), "the answer is larger than 2048 KiB");
        assert!(!error.is_unanswered(), "the server is there");
    }

    /// Nothing is held of it, so no other limit ends it.
    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_nested_without_end_is_not_read_on() {
        let mut chunks = vec![r#"{"metadata":{"resourceVersion":"1"},"items":["#];
        chunks.extend(std::iter::repeat_n(DEEP, 17 * 1024));
        let api: Api<ConfigMap> = Api::all(client(200, chunks, Duration::ZERO));
        let mut source = Source::new(api, Selector::default(), Trust::Infra);
        let error = source.run(|_| {}).await;
        assert_eq!(error.to_string(), "the answer is larger than 16384 KiB");
        assert!(!error.is_unanswered(), "the server is there");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_object_is_not_read_to_its_end() {
        let error = get(client(200, vec!["x"; 100], Duration::from_secs(1)))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "the response is not one of a Kubernetes API");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_a_limit_in_time_whatever_it_brings() {
        let chunks = [vec!["{"], vec![" "; 30], vec!["}"]].concat();
        let error = get(client(200, chunks, Duration::from_secs(1)))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "the answer did not end within 10s");
    }

    #[tokio::test(start_paused = true)]
    async fn large_answers_take_turns_and_none_waits_long_for_one_that_does_not_end() {
        let endless = || {
            let chunks = std::iter::repeat_n(SPACE, 65).chain(std::iter::repeat_n(" ", 30));
            get(client(200, chunks.collect(), Duration::from_millis(100)))
        };
        let ends = {
            let chunks = [vec!["{"], vec![SPACE; 70], vec!["}"]].concat();
            get(client(200, chunks, Duration::ZERO))
        };
        let slow: Vec<_> = (0..LARGE_AT_ONCE).map(|_| tokio::spawn(endless())).collect();
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert!(ends.await.is_ok());
        for slow in slow {
            let error = slow.await.unwrap().unwrap_err();
            assert_eq!(error.to_string(), "the answer did not end within 2s");
        }
    }

    #[rstest]
    #[case::of_kubernetes(r#"{"kind":"Status","message":"no","code":403,"reason":"Forbidden"}"#, "no")]
    #[case::of_another_server(r#"{"message":"a secret of another server","code":403}"#, "HTTP 403")]
    #[case::of_another_kind(r#"{"kind":"Secret","message":"a secret"}"#, "HTTP 403")]
    #[case::no_json("a secret", "HTTP 403")]
    #[tokio::test(start_paused = true)]
    async fn an_error_is_shown_if_it_is_a_status(#[case] body: &'static str, #[case] shown: &str) {
        let error = get(client(403, vec![body], Duration::ZERO)).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.code()), (shown, Some(403)));
    }
}
