//! Facts in, metrics out: the durations of requests and the books as they stand.

use std::collections::BTreeMap;

use super::names::{Name, metric_named, of_commodity};
use super::spans::Attribute;
use crate::event::{Arrival, Fact, Finish, Outcome};
use crate::report::exposition::by_cause;
use crate::unit::Nanos;
use crate::waste::live::{LiveBooks, Sums};
use crate::waste::{Cause, Commodity, Level};

/// Bounds as the GenAI semantic conventions advise, in seconds.
const DURATION: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const TO_FIRST_TOKEN: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const PER_OUTPUT_TOKEN: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];

/// A metric with its points at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// What it is.
    pub name: &'static Name,
    /// Its points.
    pub data: MetricData,
}

/// The points of a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricData {
    /// Values as they stand.
    Gauge(Vec<Point>),
    /// A count that only grows.
    Sum(Vec<Point>),
    /// How often what was how large, since the run began.
    Histogram(Vec<HistogramPoint>),
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// What tells it from the others of its metric.
    pub attributes: Vec<Attribute>,
    /// The value.
    pub value: f64,
}

/// How often a quantity fell where.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramPoint {
    /// What tells it from the others of its metric.
    pub attributes: Vec<Attribute>,
    /// Upper bounds, ascending.
    pub bounds: &'static [f64],
    /// How many are at most each bound and above the one before; the last is beyond all.
    pub counts: Vec<u64>,
    /// The sum of all.
    pub sum: f64,
    /// The smallest and the largest, if there is any.
    pub range: Option<(f64, f64)>,
}

impl HistogramPoint {
    fn new(attributes: Vec<Attribute>, bounds: &'static [f64]) -> Self {
        Self { attributes, bounds, counts: vec![0; bounds.len() + 1], sum: 0.0, range: None }
    }

    fn observe(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
        let (low, high) = self.range.unwrap_or((value, value));
        self.range = Some((low.min(value), high.max(value)));
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Counts what requests experienced.
#[derive(Debug)]
pub struct Metrics {
    model: String,
    arrivals: BTreeMap<u64, Nanos>,
    duration: BTreeMap<Option<Outcome>, HistogramPoint>,
    to_first_token: HistogramPoint,
    per_output_token: HistogramPoint,
}

impl Metrics {
    /// Nothing has been counted of a run of `model`.
    #[must_use]
    pub fn new(model: &str) -> Self {
        let attributes = || of_requests(model, None);
        Self {
            model: model.to_owned(),
            arrivals: BTreeMap::new(),
            duration: BTreeMap::new(),
            to_first_token: HistogramPoint::new(attributes(), TO_FIRST_TOKEN),
            per_output_token: HistogramPoint::new(attributes(), PER_OUTPUT_TOKEN),
        }
    }

    /// Takes a fact.
    pub fn take(&mut self, fact: &Fact) {
        match fact {
            Fact::Arrival(Arrival { request, at, .. }) => {
                self.arrivals.insert(request.0, *at);
            }
            Fact::Finish(finish) => self.finish(finish),
            _ => {}
        }
    }

    fn finish(&mut self, finish: &Finish) {
        let Some(arrival) = self.arrivals.remove(&finish.request.0) else { return };
        let seconds = |from: Nanos, to: Nanos| to.saturating_sub(from).0 as f64 / 1e9;
        let completed = finish.outcome == Outcome::Completed;
        let error = (!completed).then_some(finish.outcome);
        let model = &self.model;
        let duration = self
            .duration
            .entry(error)
            .or_insert_with(|| HistogramPoint::new(of_requests(model, error), DURATION));
        duration.observe(seconds(arrival, finish.at));
        let Some(first) = finish.first_token.filter(|_| completed) else { return };
        self.to_first_token.observe(seconds(arrival, first));
        if finish.output_tokens > 1 {
            let after_first = f64::from(finish.output_tokens - 1);
            self.per_output_token.observe(seconds(first, finish.at) / after_first);
        }
    }

    /// Every metric as it stands; `dropped` is how many spans were not sent.
    #[must_use]
    pub fn read(&self, books: &LiveBooks, dropped: u64) -> Vec<Metric> {
        let sums = books.sums();
        let mut metrics = vec![
            histogram("gen_ai.server.request.duration", self.duration.values()),
            histogram("gen_ai.server.time_to_first_token", [&self.to_first_token]),
            histogram("gen_ai.server.time_per_output_token", [&self.per_output_token]),
        ];
        metrics.extend(Commodity::ALL.iter().map(|commodity| amounts(books, &sums, *commodity)));
        let residuals = books.trial_balances(&sums).into_iter().map(|(commodity, balance)| Point {
            attributes: vec![Attribute::text("gemba.ledger", commodity.code())],
            value: balance.residual() as f64,
        });
        metrics.push(gauge("gemba.ledger.residual", residuals.collect()));
        let point = |value| vec![Point { attributes: Vec::new(), value }];
        metrics.push(gauge("gemba.books.time", point(books.now().0 as f64 / 1e9)));
        let dropped = MetricData::Sum(point(dropped as f64));
        metrics.push(
            metric_named("gemba.telemetry.dropped").map(|name| Metric { name, data: dropped }),
        );
        metrics.into_iter().flatten().collect()
    }
}

fn of_requests(model: &str, error: Option<Outcome>) -> Vec<Attribute> {
    let mut attributes = vec![
        Attribute::text("gen_ai.operation.name", "text_completion"),
        Attribute::text("gen_ai.provider.name", "gemba"),
        Attribute::text("gen_ai.request.model", model),
    ];
    attributes.extend(error.map(|outcome| Attribute::text("error.type", outcome.code())));
    attributes
}

fn gauge(name: &str, points: Vec<Point>) -> Option<Metric> {
    Some(Metric { name: metric_named(name)?, data: MetricData::Gauge(points) })
}

/// Those of the points that counted anything; nothing where none did.
fn histogram<'a>(
    name: &str,
    points: impl IntoIterator<Item = &'a HistogramPoint>,
) -> Option<Metric> {
    let points: Vec<_> = points.into_iter().filter(|point| point.count() > 0).cloned().collect();
    let name = metric_named(name)?;
    (!points.is_empty()).then_some(Metric { name, data: MetricData::Histogram(points) })
}

/// What is booked of a commodity, by cause and level.
fn amounts(books: &LiveBooks, sums: &Sums, commodity: Commodity) -> Option<Metric> {
    let (name, parts) = of_commodity(commodity)?;
    let point = |((cause, level), amount): ((Cause, Level), u128)| {
        let attributes = vec![
            Attribute::text("gemba.cause", cause.code()),
            Attribute::text("gemba.muda", books.muda(cause).code()),
            Attribute::text("gemba.level", level.code()),
        ];
        Point { attributes, value: amount as f64 / parts }
    };
    let points = by_cause(books, sums, commodity).into_iter().map(point).collect();
    gauge(name, points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let mut point = HistogramPoint::new(Vec::new(), &[1.0, 2.0]);
        [0.5, 1.0, 1.5, 2.0, 7.0].into_iter().for_each(|value| point.observe(value));
        assert_eq!((point.counts.as_slice(), point.count()), (&[2, 2, 1][..], 5));
        assert_eq!((point.sum, point.range), (12.0, Some((0.5, 7.0))));
    }
}
