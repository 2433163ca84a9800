//! What strangers may ask a node: whether it lives, whether it may serve, and its counts. Served on the listener of the admin
//! API, or on one of its own, never on one for requests of the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use serde::Serialize;
use tokio::sync::watch;

use crate::access::time::Timestamp;
use crate::clock::Clock;
use crate::index::IndexReader;
use crate::sync::{OLD, StoreState, SyncState};
use crate::telemetry::metrics::{self, Metrics};

/// What the answers are made of.
#[derive(Clone, Debug)]
pub struct Health {
    pub index: IndexReader,
    pub sync: watch::Receiver<SyncState>,
    pub metrics: Metrics,
    pub clock: Clock,
    pub draining: Draining,
}

/// Whether the node has been told to stop: from then on nobody is to send it anything new. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    /// Begins, for good.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// `/healthz`, `/readyz` and `/metrics`.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(|| async { ([(CACHE_CONTROL, "no-store")], "ok\n") }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .with_state(health)
}

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    /// A word of advice, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    revision: Option<u64>,
    keys: usize,
    /// Since the store was last heard from.
    age_seconds: Option<f64>,
    heard_at: Option<Timestamp>,
    lease_ends: Option<Timestamp>,
    store: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let now = health.clock.now();
    let draining = health.draining.has_begun();
    let ready = health.index.may_serve(now) && !draining;
    let state = health.sync.borrow().clone();
    let age = health.index.heard_at().map(|heard_at| now.since(heard_at));
    let readiness = Readiness {
        ready,
        warning: if draining {
            Some("the node stops: it finishes open requests and takes no new ones".to_owned())
        } else {
            warning(ready, age)
        },
        revision: health.index.heard_at().map(|_| health.index.revision()),
        keys: health.index.len(),
        age_seconds: age.map(|age| age.as_secs_f64()),
        heard_at: health.index.heard_at(),
        lease_ends: health.index.lease_ends(),
        store: match state.store {
            StoreState::Unreachable => "unreachable",
            StoreState::Followed => "followed",
            StoreState::Refused => "refused",
        },
        problem: state.problem.filter(|_| state.store != StoreState::Followed),
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(CACHE_CONTROL, "no-store")], Json(readiness))
}

fn warning(ready: bool, age: Option<Duration>) -> Option<String> {
    match age {
        None => Some("there is no index yet: neither the store nor a snapshot could be read".to_owned()),
        Some(_) if !ready => Some("the store was not heard from for longer than snapshot.max_staleness".to_owned()),
        Some(age) if age >= OLD => Some(format!("the store was not heard from for {} seconds", age.as_secs())),
        Some(_) => None,
    }
}

async fn metrics_page(State(health): State<Health>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE), (CACHE_CONTROL, "no-store")], health.metrics.encode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TestClock;
    use crate::index::{IndexWriter, new_index};

    #[tokio::test]
    async fn a_node_is_not_ready_from_the_moment_on_that_it_drains() {
        let clock = TestClock::at(Timestamp::from_millis(1_700_000_000_000)).clock();
        let (mut writer, index) = new_index(None);
        writer.swap(IndexWriter::load(1), 1, clock.now());
        let state = SyncState { store: StoreState::Followed, store_since: clock.now(), index: None, problem: None };
        let (_state, sync) = watch::channel(state);
        let metrics = Metrics::new(clock.clone());
        let health = Health { index, sync, metrics, clock, draining: Draining::default() };
        let status = async || readyz(State(health.clone())).await.into_response().status();
        assert_eq!(status().await, StatusCode::OK);
        health.draining.begin();
        assert_eq!(status().await, StatusCode::SERVICE_UNAVAILABLE);
    }
}
