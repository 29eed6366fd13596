//! OTLP over gRPC.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, trace_service_client::TraceServiceClient,
};
use prost::Message;
use tokio::runtime::Runtime;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::http::taken;
use super::sender::SenderError;
use super::{Destination, Reply, Wire};

/// A receiver that speaks gRPC.
pub(super) struct Grpc {
    runtime: Runtime,
    traces: TraceServiceClient<Channel>,
    metrics: MetricsServiceClient<Channel>,
    headers: MetadataMap,
}

impl Grpc {
    pub(super) fn new(destination: &Destination) -> Result<Self, SenderError> {
        let unusable = |what: String| SenderError { what };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| unusable(format!("start its runtime: {error}")))?;
        let channel = |url: &str| -> Result<Channel, SenderError> {
            let endpoint = Endpoint::from_shared(url.to_owned())
                .map_err(|error| unusable(format!("send telemetry to {url}: {error}")))?;
            // Connecting is part of a request, so that a receiver may come and go.
            let _entered = runtime.enter();
            Ok(endpoint.connect_timeout(destination.timeout).connect_lazy())
        };
        let traces = TraceServiceClient::new(channel(&destination.traces)?);
        let metrics = MetricsServiceClient::new(channel(&destination.metrics)?);
        let mut headers = MetadataMap::new();
        for (name, value) in &destination.headers {
            let wrong = || unusable(format!("send the header {name}: gRPC cannot carry it"));
            let key: MetadataKey<Ascii> = name.to_ascii_lowercase().parse().map_err(|_| wrong())?;
            let value: MetadataValue<Ascii> = value.parse().map_err(|_| wrong())?;
            headers.insert(key, value);
        }
        Ok(Self { runtime, traces, metrics, headers })
    }

    fn request<T>(&self, message: T, most: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(most);
        for entry in self.headers.iter() {
            if let tonic::metadata::KeyAndValueRef::Ascii(key, value) = entry {
                request.metadata_mut().insert(key.clone(), value.clone());
            }
        }
        request
    }
}

impl Wire for Grpc {
    fn spans(&mut self, request: &ExportTraceServiceRequest, most: Duration) -> Reply {
        let request = self.request(request.clone(), most);
        let client = &mut self.traces;
        let call = async move { tokio::time::timeout(most, client.export(request)).await };
        match self.runtime.block_on(call) {
            Ok(Ok(answer)) => {
                let partial = answer.into_inner().partial_success.unwrap_or_default();
                taken(partial.rejected_spans, partial.error_message)
            }
            Ok(Err(status)) => refusal(&status),
            Err(_) => late(),
        }
    }

    fn metrics(&mut self, request: &ExportMetricsServiceRequest, most: Duration) -> Reply {
        let request = self.request(request.clone(), most);
        let client = &mut self.metrics;
        let call = async move { tokio::time::timeout(most, client.export(request)).await };
        match self.runtime.block_on(call) {
            Ok(Ok(answer)) => {
                let partial = answer.into_inner().partial_success.unwrap_or_default();
                taken(partial.rejected_data_points, partial.error_message)
            }
            Ok(Err(status)) => refusal(&status),
            Err(_) => late(),
        }
    }
}

fn late() -> Reply {
    Reply::Later { why: "it did not answer in time".to_owned(), after: None }
}

/// What a status means by OTLP's specification.
fn refusal(status: &Status) -> Reply {
    let after = retry_delay(status.details());
    let why = format!("it answered {:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Reply::Later { why, after },
        // Only a receiver that says when will have recovered.
        Code::ResourceExhausted if after.is_some() => Reply::Later { why, after },
        _ => Reply::Refused { why },
    }
}

/// `google.rpc.Status`, as far as it is needed.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcDetail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct RpcDetail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<RpcDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct RpcDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// How long the receiver asks to wait.
fn retry_delay(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let info = status.details.iter().find(|d| d.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    let (seconds, nanos) = (u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?);
    Some(Duration::from_secs(seconds) + Duration::from_nanos(nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_delay(seconds: i64) -> Vec<u8> {
        let retry_delay = Some(RpcDuration { seconds, nanos: 5 });
        let value = RetryInfo { retry_delay }.encode_to_vec();
        let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
        RpcStatus { details: vec![RpcDetail { type_url, value }] }.encode_to_vec()
    }

    #[test]
    fn what_may_be_tried_again_is_what_the_specification_says() {
        let details = with_delay(3);
        for (code, details, later) in [
            (Code::Unavailable, &[][..], true),
            (Code::DeadlineExceeded, &[], true),
            (Code::ResourceExhausted, &[], false),
            (Code::ResourceExhausted, &details, true),
            (Code::InvalidArgument, &[], false),
            (Code::Unauthenticated, &[], false),
            (Code::Unimplemented, &details, false),
        ] {
            let status = Status::with_details(code, "no", details.to_vec().into());
            let reply = refusal(&status);
            assert_eq!(matches!(reply, Reply::Later { .. }), later, "{code:?}: {reply:?}");
        }
    }

    #[test]
    fn a_delay_is_read_and_nonsense_is_none() {
        let three = Duration::from_secs(3) + Duration::from_nanos(5);
        assert_eq!(retry_delay(&with_delay(3)), Some(three));
        for bytes in [&[][..], &[0xff; 9], &with_delay(-1)] {
            assert_eq!(retry_delay(bytes), None);
        }
    }
}
