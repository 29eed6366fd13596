//! Spans and metrics in the published protobufs.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric as ProtoMetric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span as ProtoSpan, Status,
    span::{Link, SpanKind},
    status::StatusCode,
};

use crate::report::telemetry::{
    Attribute, AttributeValue, HistogramPoint, Metric, MetricData, Point, Span,
};
use crate::unit::UnixNanos;

/// The sampled flag of a trace context.
const SAMPLED: u32 = 1;

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The service's name.
    pub service: String,
    /// The version of the program that made the run.
    pub version: String,
    /// More attributes of the resource.
    pub resource: Vec<(String, String)>,
}

impl Identity {
    fn resource(&self) -> Resource {
        let mut attributes = vec![
            text("service.name", self.service.clone()),
            text("service.version", self.version.clone()),
        ];
        attributes.extend(self.resource.iter().map(|(name, value)| text(name, value.clone())));
        Resource { attributes, ..Resource::default() }
    }

    fn scope(&self) -> InstrumentationScope {
        InstrumentationScope {
            name: "gemba".to_owned(),
            version: self.version.clone(),
            ..InstrumentationScope::default()
        }
    }
}

fn key(name: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: name.to_owned(), value, ..KeyValue::default() }
}

fn text(name: &str, text: String) -> KeyValue {
    key(name, Value::StringValue(text))
}

fn attributes(attributes: &[Attribute]) -> Vec<KeyValue> {
    let one = |attribute: &Attribute| match &attribute.value {
        AttributeValue::Text(word) => text(attribute.name, word.clone()),
        AttributeValue::Count(count) => key(attribute.name, Value::IntValue(*count)),
    };
    attributes.iter().map(one).collect()
}

/// A request that exports `spans`.
pub(super) fn spans(identity: &Identity, spans: &[Span]) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(identity.resource()),
            scope_spans: vec![ScopeSpans {
                scope: Some(identity.scope()),
                spans: spans.iter().map(span).collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

fn span(span: &Span) -> ProtoSpan {
    let kind = if span.parent.is_none() { SpanKind::Server } else { SpanKind::Internal };
    let link = |(trace, id): &([u8; 16], [u8; 8])| Link {
        trace_id: trace.to_vec(),
        span_id: id.to_vec(),
        ..Link::default()
    };
    let status = span
        .error
        .map(|error| Status { message: error.to_owned(), code: StatusCode::Error.into() });
    ProtoSpan {
        trace_id: span.trace.to_vec(),
        span_id: span.id.to_vec(),
        parent_span_id: span.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        flags: SAMPLED,
        name: span.name.clone(),
        kind: kind.into(),
        start_time_unix_nano: span.start.0,
        end_time_unix_nano: span.end.0,
        attributes: attributes(&span.attributes),
        links: span.link.iter().map(link).collect(),
        status,
        ..ProtoSpan::default()
    }
}

/// A request that exports `metrics` of a run that began at `start`, as they stood at `now`.
pub(super) fn metrics(
    identity: &Identity,
    metrics: &[Metric],
    (start, now): (UnixNanos, UnixNanos),
) -> ExportMetricsServiceRequest {
    let metric = |metric: &Metric| ProtoMetric {
        name: metric.name.name.to_owned(),
        description: metric.name.meaning.to_owned(),
        unit: metric.name.unit.to_owned(),
        data: Some(data(&metric.data, (start, now))),
        ..ProtoMetric::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(identity.resource()),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(identity.scope()),
                metrics: metrics.iter().map(metric).collect(),
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
}

fn data(data: &MetricData, time: (UnixNanos, UnixNanos)) -> Data {
    let cumulative = AggregationTemporality::Cumulative.into();
    let points = |points: &[Point]| points.iter().map(|point| number(point, time)).collect();
    match data {
        MetricData::Gauge(values) => Data::Gauge(Gauge { data_points: points(values) }),
        MetricData::Sum(values) => Data::Sum(Sum {
            data_points: points(values),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        MetricData::Histogram(values) => Data::Histogram(Histogram {
            data_points: values.iter().map(|point| histogram(point, time)).collect(),
            aggregation_temporality: cumulative,
        }),
    }
}

fn number(point: &Point, (start, now): (UnixNanos, UnixNanos)) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(&point.attributes),
        start_time_unix_nano: start.0,
        time_unix_nano: now.0,
        value: Some(number_data_point::Value::AsDouble(point.value)),
        ..NumberDataPoint::default()
    }
}

fn histogram(point: &HistogramPoint, (start, now): (UnixNanos, UnixNanos)) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: attributes(&point.attributes),
        start_time_unix_nano: start.0,
        time_unix_nano: now.0,
        count: point.count(),
        sum: Some(point.sum),
        bucket_counts: point.counts.clone(),
        explicit_bounds: point.bounds.to_vec(),
        min: point.range.map(|range| range.0),
        max: point.range.map(|range| range.1),
        ..HistogramDataPoint::default()
    }
}
