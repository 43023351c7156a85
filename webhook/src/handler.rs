//! `/mutate` and `/validate`: a review in, a review out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::StatusCode;
use machinist_infra::telemetry;
use tokio::sync::Semaphore;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::admit::Admission;
use crate::body::{self, Incomplete};
use crate::metrics::{Metrics, Step};
use crate::refusal::Status;
use crate::review::{self, ReviewError, Verdict};
use crate::server::{Limits, json_response, overloaded};

/// Shared state of the handlers.
#[derive(Debug)]
struct Answers {
    admission: Admission,
    metrics: Metrics,
    body_limit: usize,
    incomplete: Incomplete,
    /// Held by complete requests.
    slots: Semaphore,
}

/// The two routes.
pub(crate) fn router(admission: Admission, metrics: Metrics, limits: &Limits) -> Router {
    let answers = Arc::new(Answers {
        admission,
        metrics,
        body_limit: limits.body,
        incomplete: Incomplete::default(),
        slots: Semaphore::new(limits.in_flight),
    });
    Router::new()
        .route("/mutate", post(mutate))
        .route("/validate", post(validate))
        .with_state(answers)
}

async fn mutate(
    State(answers): State<Arc<Answers>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    answers.answer(Step::Mutate, client.ip(), request).await
}

async fn validate(
    State(answers): State<Arc<Answers>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    answers.answer(Step::Validate, client.ip(), request).await
}

impl Answers {
    async fn answer(&self, step: Step, client: IpAddr, request: Request) -> Response {
        let span = span(step);
        telemetry::set_parent(&span, request.headers());
        let answer = async {
            let body = match body::json(request, self.body_limit, client, &self.incomplete).await {
                Ok(body) => body,
                Err(response) => return response,
            };
            match self.slots.try_acquire() {
                Ok(_slot) => self.review(step, &body).await,
                Err(_) => overloaded(),
            }
        };
        answer.instrument(span).await
    }

    async fn review(&self, step: Step, body: &[u8]) -> Response {
        let start = Instant::now();
        let (version, request) = match review::read(body) {
            Ok(review) => review,
            Err(error) => {
                self.metrics.unreadable(step);
                return unreadable(step, error);
            }
        };
        let verdict = match step {
            Step::Mutate => self.admission.mutate(&request).await,
            Step::Validate => self.admission.validate(&request).await,
        };
        let answer = review::write(version, &request.uid, &verdict);
        let (kind, operation) = (request.kind(), request.operation());
        self.metrics
            .answered(step, kind, operation, &verdict, start.elapsed());
        let span = Span::current();
        span.record("k8s.resource", kind.label())
            .record("operation", operation.label())
            .record("uid", &*request.uid)
            .record("verdict", verdict.label());
        tracing::debug!(
            step = ?step, uid = %request.uid, user = request.username(), kind = ?kind, operation = ?operation,
            refused = verdict.refusal.is_some(), operations = verdict.patch.0.len(), warnings = verdict.warnings.len(),
            "admission"
        );
        json_response(answer)
    }
}

/// The span of one admission.
fn span(step: Step) -> Span {
    tracing::info_span!(
        "admission",
        otel.name = step.label(),
        otel.kind = "server",
        k8s.resource = Empty,
        operation = Empty,
        uid = Empty,
        verdict = Empty,
    )
}

fn unreadable(step: Step, error: ReviewError) -> Response {
    let text = error.to_string();
    tracing::debug!(step = ?step, error = text, "unreadable review");
    match error {
        // The mutating step never refuses; the validating step does.
        ReviewError::Object { version, uid, .. } if step == Step::Mutate => {
            json_response(review::write(version, &uid, &Verdict::default()))
        }
        ReviewError::Object { version, uid, of, .. } => {
            let verdict = Verdict {
                refusal: Some(Status::unreadable(of, text)),
                ..Verdict::default()
            };
            json_response(review::write(version, &uid, &verdict))
        }
        _ => (StatusCode::BAD_REQUEST, text).into_response(),
    }
}
