//! Addresses, and who may use them.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::sync::watch;

use super::{body, complete, feed};
use crate::serve::api::{ApiError, Form, model_list, model_object};
use crate::serve::door::{Door, Stage};
use crate::serve::server::ExtraMetrics;

/// What the addresses show.
#[derive(Clone)]
pub(in crate::serve) struct Site {
    pub(in crate::serve) door: Arc<Door>,
    pub(in crate::serve) extra_metrics: Option<Arc<ExtraMetrics>>,
}

/// All addresses. `closed` tells streams of facts that nothing more will come.
pub(super) fn router(site: Site, closed: watch::Receiver<bool>) -> Router {
    let door = Arc::clone(&site.door);
    let feeding = (Arc::clone(&door), closed);
    let api = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(text))
        .layer(from_fn_with_state(Arc::clone(&door), authorize))
        .with_state(door);
    let feed = Router::new()
        .route("/gemba/run", get(feed::header))
        .route("/gemba/events", get(feed::events))
        .with_state(feeding);
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(site)
        .merge(api)
        .merge(feed)
        .fallback(nowhere)
        .method_not_allowed_fallback(no_method)
}

type Shared = State<Arc<Door>>;

async fn chat(State(door): Shared, request: Request) -> Result<Response, ApiError> {
    complete::complete(door, Form::Chat, request).await
}

async fn text(State(door): Shared, request: Request) -> Result<Response, ApiError> {
    complete::complete(door, Form::Text, request).await
}

async fn models(State(door): Shared) -> Response {
    body::json(&model_list(described(&door)))
}

async fn model(
    State(door): Shared,
    uri: Uri,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    // What is no text names nothing.
    let Path(name) = name.map_err(|_| ApiError::no_url("GET", uri.path()))?;
    match name == door.served.model {
        true => Ok(body::json(&described(&door))),
        false => Err(ApiError::no_model(&name)),
    }
}

fn described(door: &Door) -> serde_json::Value {
    model_object(&door.served.model, door.started, door.memory.max_sequence_tokens)
}

async fn health(State(site): State<Site>) -> Response {
    let ready = site.door.check_open();
    let word = match site.door.stage() {
        Stage::Starting => "starting",
        Stage::Serving => "serving",
        Stage::Draining => "draining",
        Stage::Failed => "failed",
    };
    match ready {
        Ok(()) => body::json(&json!({"status": word, "requests": site.door.open()})),
        Err(error) => error.into_response(),
    }
}

async fn metrics(State(site): State<Site>) -> Response {
    let door = &site.door;
    let mut page = door.metrics.page(&door.served.model, door.memory.block_tokens);
    if let Some(extra) = site.extra_metrics.clone() {
        // It may have books to catch up with: not on a thread that others wait for.
        page += &tokio::task::spawn_blocking(move || extra()).await.unwrap_or_default();
    }
    body::text("text/plain; version=0.0.4; charset=utf-8", page)
}

async fn nowhere(method: Method, uri: Uri) -> ApiError {
    ApiError::no_url(method.as_str(), uri.path())
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    ApiError::no_method(method.as_str(), uri.path())
}

/// Lets requests through that bring the key, if there is one.
async fn authorize(
    State(door): Shared,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let Some(key) = &door.served.api_key else { return next.run(request).await };
    let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let given = given.and_then(|value| {
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    match given {
        Some(given) if same(given, key.as_bytes()) => next.run(request).await,
        given => ApiError::no_key(given.is_some()).into_response(),
    }
}

/// Whether two keys are the same, in a time that does not tell where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |seen, (a, b)| seen | (a ^ b));
    one.len() == other.len() && differences == 0
}
