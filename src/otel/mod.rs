//! OpenTelemetry: spans and metrics over OTLP, by HTTP and by gRPC.
//!
//! Prints what `report` has worked out in the published protobufs and sends it from a thread of
//! its own, through a queue that is bounded: what a receiver does not take in time is dropped
//! and counted. Neighbours: `report` gives spans and metrics; `command` feeds them from the
//! run's log, so that no engine ever waits for a receiver.

mod destination;
mod encode;
mod grpc;
mod http;
mod sender;

use std::time::Duration;

pub use destination::{Destination, DestinationError, Protocol, VARIABLES};
pub use encode::Identity;
pub use sender::{Sender, SenderError, Tally};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

/// What a receiver says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    /// It took it, but for so many spans or points.
    Taken { rejected: u64, message: String },
    /// It may take it later, at the earliest after this.
    Later { why: String, after: Option<Duration> },
    /// It will never take it.
    Refused { why: String },
}

/// The way to a receiver. A call waits for the answer, at most as long as it is told.
trait Wire: Send {
    fn spans(&mut self, request: &ExportTraceServiceRequest, most: Duration) -> Reply;
    fn metrics(&mut self, request: &ExportMetricsServiceRequest, most: Duration) -> Reply;
}
