//! Admissions without a pause, through the API server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::manifest::NAMESPACE;
use crate::objects;

/// Their results.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// How many were sent.
    pub sent: usize,
    /// The API server's messages about refused ones.
    pub failed: Vec<String>,
    /// The longest.
    pub longest: Duration,
}

/// Clients that repeatedly create an object with a dry run.
pub struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    clients: JoinSet<()>,
    began: Instant,
}

impl Load {
    /// So many clients begin.
    pub fn start(client: &Client, count: usize, object: &Value) -> anyhow::Result<Self> {
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let kind = object.types.clone().unwrap_or_default().kind;
        let mut load = Self {
            stop: Arc::default(),
            tally: Arc::default(),
            clients: JoinSet::new(),
            began: Instant::now(),
        };
        for _ in 0..count {
            let api = Api::namespaced_with(client.clone(), NAMESPACE, &objects::ours(&kind));
            let (stop, tally) = (Arc::clone(&load.stop), Arc::clone(&load.tally));
            load.clients.spawn(create(api, object.clone(), stop, tally));
        }
        Ok(load)
    }

    /// One creation in dry-run.
    pub async fn once(client: &Client, object: &Value) -> anyhow::Result<()> {
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let kind = object.types.clone().unwrap_or_default().kind;
        let api = Api::namespaced_with(client.clone(), NAMESPACE, &objects::ours(&kind));
        api.create(&dry_run(), &object).await?;
        Ok(())
    }

    /// Their results so far.
    pub fn so_far(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops them, and prints their results.
    pub async fn end(mut self, what: &str) -> Tally {
        self.stop.store(true, Ordering::Release);
        while self.clients.join_next().await.is_some() {}
        let (tally, took) = (self.so_far(), self.began.elapsed().as_secs_f64());
        println!(
            "{what}: {} requests sent in {took:.1} s, {} failed, longest {} ms",
            tally.sent,
            tally.failed.len(),
            tally.longest.as_millis()
        );
        tally
    }
}

async fn create(
    api: Api<DynamicObject>,
    object: DynamicObject,
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
) {
    while !stop.load(Ordering::Acquire) {
        let began = Instant::now();
        let answer = api.create(&dry_run(), &object).await;
        let took = began.elapsed();
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.sent += 1;
        tally.longest = tally.longest.max(took);
        if let Err(error) = answer {
            tally.failed.push(error.to_string());
        }
    }
}

fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}
