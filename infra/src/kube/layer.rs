//! What is common to the layers of a client: each sees every request and its response.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::Request;
use tower::Service;

/// A layer of a client, around the service `S`.
pub trait Middleware<S: Service<Request<A>>, A>: Clone {
    /// The response.
    type Answer;

    /// Sends the request with `inner`, or does not.
    fn call(&self, inner: &mut S, request: Request<A>) -> BoxFuture<'static, Result<Self::Answer, S::Error>>;
}

/// A service with a layer around it.
#[derive(Debug, Clone)]
pub struct With<S, M> {
    pub(super) inner: S,
    pub(super) middleware: M,
}

impl<S, A, M> Service<Request<A>> for With<S, M>
where
    S: Service<Request<A>>,
    M: Middleware<S, A>,
{
    type Response = M::Answer;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<M::Answer, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        self.middleware.call(&mut self.inner, request)
    }
}

/// Implements [`tower::Layer`] for a [`Middleware`].
macro_rules! layer {
    ($middleware:ty) => {
        impl<S> tower::Layer<S> for $middleware {
            type Service = crate::kube::layer::With<S, Self>;

            fn layer(&self, inner: S) -> Self::Service {
                crate::kube::layer::With {
                    inner,
                    middleware: self.clone(),
                }
            }
        }
    };
}

pub(super) use layer;
