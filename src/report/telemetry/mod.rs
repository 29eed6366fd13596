//! A run as spans and metrics: what goes to OpenTelemetry. Plain data with names; how it is
//! encoded and sent is the business of `otel`.
//!
//! Names of the GenAI semantic conventions where one means the same, `gemba.*` else. [`NAMES`]
//! lists all of them.

mod metrics;
mod names;
mod spans;

pub use metrics::{HistogramPoint, Metric, MetricData, Metrics, Point};
pub use names::{NAMES, Name, NameKind};
pub use spans::{Attribute, AttributeValue, Detail, Span, SpanMaker};
