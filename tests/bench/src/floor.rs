//! The floor of the benchmark: the webhook's server with a handler that only reads the request.

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::routing::post;
use clap::Args;
use machinist_certs::{CertificateFiles, Clients, MinimumTls, Reloader, server_config};
use machinist_webhook::body::{self, Incomplete};
use machinist_webhook::server::{Draining, Handle, Limits, bind, json_response, limited, serve_tls};

/// Flags of the floor.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Address to listen on.
    #[arg(long)]
    listen_address: SocketAddr,
    /// Serving certificate.
    #[arg(long)]
    tls_cert_path: PathBuf,
    /// Its key.
    #[arg(long)]
    tls_key_path: PathBuf,
    /// File with the bytes to answer.
    #[arg(long)]
    answer: PathBuf,
}

/// Serves until killed.
pub(crate) fn serve(options: &Options) -> anyhow::Result<()> {
    let answer = std::fs::read(&options.answer)?;
    let limits = Limits::default();
    let incomplete = Incomplete::default();
    let handler = move |ConnectInfo(client): ConnectInfo<SocketAddr>, request: Request| {
        let (answer, incomplete) = (answer.clone(), incomplete.clone());
        async move {
            match body::json(request, Limits::default().body, client.ip(), &incomplete).await {
                Ok(body) => {
                    std::hint::black_box(&body);
                    json_response(answer)
                }
                Err(response) => response,
            }
        }
    };
    let router = Router::new()
        .route("/mutate", post(handler.clone()))
        .route("/validate", post(handler));
    let router = limited(router, &limits.timeouts, Draining::default());
    // The runtime is the webhook's, too.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let files = CertificateFiles::new(&options.tls_cert_path, &options.tls_key_path);
        let (certificate, _reloader) = Reloader::start(files)?;
        let listener = bind(options.listen_address)?;
        Ok(serve_tls(
            listener,
            server_config(certificate, MinimumTls::default(), Clients::Any)?,
            router,
            &limits.timeouts,
            Handle::new(),
        )
        .await?)
    })
}
