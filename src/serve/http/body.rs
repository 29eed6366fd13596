//! Reading a request's body within its limits, and answering with JSON.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Bytes;
use serde_json::Value;

use crate::serve::Limits;
use crate::serve::api::ApiError;

/// The whole body, which claims to be JSON in UTF-8.
pub(super) async fn read(request: Request, limits: Limits) -> Result<Bytes, ApiError> {
    check_headers(request.headers(), limits.body_bytes)?;
    let reading = to_bytes(request.into_body(), limits.body_bytes);
    let seconds = limits.read.0 / 1_000_000_000;
    let read = tokio::time::timeout(Duration::from_nanos(limits.read.0), reading).await;
    read.map_err(|_| ApiError::slow_body(seconds))?.map_err(|error| {
        let text = error.to_string();
        // Without a length the limit is met while reading.
        match text.contains("length limit") {
            true => ApiError::too_large(limits.body_bytes),
            false => ApiError::malformed(&text),
        }
    })
}

fn check_headers(headers: &HeaderMap, most: usize) -> Result<(), ApiError> {
    let text = |name| {
        headers
            .get(name)
            .map(|value: &HeaderValue| value.to_str().unwrap_or("?").trim().to_ascii_lowercase())
    };
    if let Some(found) = text(header::CONTENT_ENCODING).filter(|found| found != "identity") {
        return Err(ApiError::encoding("Content-Encoding", &found, "identity"));
    }
    if let Some(found) = text(header::CONTENT_TYPE) {
        let mut parts = found.split(';').map(str::trim);
        let json = parts.next() == Some("application/json");
        let utf8 = parts
            .filter_map(|part| part.strip_prefix("charset="))
            .all(|charset| matches!(charset.trim_matches('"'), "utf-8" | "utf8"));
        if !json || !utf8 {
            let expected = "application/json in UTF-8";
            return Err(ApiError::encoding("Content-Type", &found, expected));
        }
    }
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    match length.is_some_and(|length| length > most as u64) {
        true => Err(ApiError::too_large(most)),
        false => Ok(()),
    }
}

/// An answer in JSON.
pub(super) fn json(value: &Value) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], value.to_string()).into_response()
}

/// An answer in a text format.
pub(super) fn text(kind: &'static str, text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
}

/// An answer that comes piece by piece.
pub(super) fn stream(kind: &'static str, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, body).into_response()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json(&self.body());
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == 401 {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        // What is left of a body that was not read cannot be told from the next request.
        if matches!(self.status, 408 | 413 | 415) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}
