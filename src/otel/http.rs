//! OTLP over HTTP: a protobuf in the body, a protobuf in the answer.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use ureq::Agent;

use super::{Destination, Reply, Wire};

/// An answer is read this far.
const ANSWER_BYTES: u64 = 1 << 20;

const TYPE: &str = "application/x-protobuf";

/// A receiver that speaks HTTP.
pub(super) struct Http {
    agent: Agent,
    traces: String,
    metrics: String,
    headers: Vec<(String, String)>,
}

impl Http {
    pub(super) fn new(destination: &Destination) -> Self {
        let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).build();
        Self {
            agent: config.into(),
            traces: destination.traces.clone(),
            metrics: destination.metrics.clone(),
            headers: destination.headers.clone(),
        }
    }

    /// Sends a body; gives the answer's, or why there is none.
    fn post(&self, url: &str, body: &[u8], most: Duration) -> Result<Vec<u8>, Reply> {
        let mut request = self.agent.post(url).config().timeout_global(Some(most)).build();
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.header("content-type", TYPE);
        let later = |error: ureq::Error| match error {
            // What can never be sent is no matter of waiting.
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Reply::Refused { why: error.to_string() }
            }
            error => Reply::Later { why: error.to_string(), after: None },
        };
        let mut response = request.send(body).map_err(later)?;
        let status = response.status().as_u16();
        let after = response.headers().get("retry-after");
        let after = after.and_then(|after| after.to_str().ok()?.trim().parse().ok());
        let answer = response.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec();
        match status {
            200..=299 => Ok(answer.unwrap_or_default()),
            429 | 502 | 503 | 504 => Err(Reply::Later {
                why: format!("it answered {status}"),
                after: after.map(Duration::from_secs),
            }),
            _ => Err(Reply::Refused { why: format!("it answered {status}") }),
        }
    }
}

impl Wire for Http {
    fn spans(&mut self, request: &ExportTraceServiceRequest, most: Duration) -> Reply {
        let answer = match self.post(&self.traces, &request.encode_to_vec(), most) {
            Ok(answer) => ExportTraceServiceResponse::decode(answer.as_slice()),
            Err(reply) => return reply,
        };
        // A receiver that answers 200 has taken it, whatever it puts into its answer.
        let partial = answer.ok().and_then(|answer| answer.partial_success);
        let partial = partial.unwrap_or_default();
        taken(partial.rejected_spans, partial.error_message)
    }

    fn metrics(&mut self, request: &ExportMetricsServiceRequest, most: Duration) -> Reply {
        let answer = match self.post(&self.metrics, &request.encode_to_vec(), most) {
            Ok(answer) => ExportMetricsServiceResponse::decode(answer.as_slice()),
            Err(reply) => return reply,
        };
        let partial = answer.ok().and_then(|answer| answer.partial_success);
        let partial = partial.unwrap_or_default();
        taken(partial.rejected_data_points, partial.error_message)
    }
}

/// It was taken, but for what the receiver says it was not.
pub(super) fn taken(rejected: i64, message: String) -> Reply {
    Reply::Taken { rejected: u64::try_from(rejected).unwrap_or(0), message }
}
