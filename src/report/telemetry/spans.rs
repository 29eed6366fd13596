//! Facts in, spans out: a request → its phases → the steps that had rows of it.
//!
//! Memory is bounded by the requests under way: of each at most [`STEPS`] steps are kept.

use std::collections::{HashMap, VecDeque};

use sha2::{Digest, Sha256};

use crate::event::{Arrival, Fact, Finish, Outcome, Phase, Row, Step};
use crate::unit::UnixNanos;

/// Steps of a request that its trace holds.
const STEPS: usize = 4096;

/// Steps that may pass after a request's end until all its rows are said.
const LATE_STEPS: u8 = 2;

/// What is said of a span or a point.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// Its name, one of [`NAMES`](super::NAMES).
    pub name: &'static str,
    /// Its value.
    pub value: AttributeValue,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    /// A word or a text.
    Text(String),
    /// A count or a number.
    Count(i64),
}

impl Attribute {
    pub(super) fn text(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, value: AttributeValue::Text(text.into()) }
    }

    fn count(name: &'static str, count: impl TryInto<i64>) -> Self {
        Self { name, value: AttributeValue::Count(count.try_into().unwrap_or(i64::MAX)) }
    }
}

/// A span.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace it belongs to: one for each request.
    pub trace: [u8; 16],
    /// What tells it from the others of its trace.
    pub id: [u8; 8],
    /// The span it lies in; `None` for the request itself.
    pub parent: Option<[u8; 8]>,
    /// The request whose answer this one builds on: its trace and span.
    pub link: Option<([u8; 16], [u8; 8])>,
    /// What it is.
    pub name: String,
    /// When it began.
    pub start: UnixNanos,
    /// When it ended.
    pub end: UnixNanos,
    /// What is said of it.
    pub attributes: Vec<Attribute>,
    /// How it failed, if it did.
    pub error: Option<&'static str>,
}

/// How much of a request is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// A span for each request.
    Request,
    /// Its phases too.
    Phase,
    /// And the steps in them.
    #[default]
    Step,
}

/// A request's rows in a step.
#[derive(Clone, Copy, Debug)]
struct Visit {
    step: Step,
    phase: Phase,
    rows: u32,
    fate: &'static str,
}

/// A request that is under way or has just ended.
#[derive(Debug)]
struct Open {
    arrival: Arrival,
    visits: Vec<Visit>,
    left_out: u64,
}

/// Makes spans of facts as they come.
#[derive(Debug)]
pub struct SpanMaker {
    salt: [u8; 32],
    model: String,
    begin: UnixNanos,
    detail: Detail,
    step: Option<Step>,
    open: HashMap<u64, Open>,
    ended: VecDeque<(Finish, u8)>,
}

impl SpanMaker {
    /// A maker for a run of `model` whose run time was zero at `begin`. The same run gives the
    /// same ids.
    #[must_use]
    pub fn new(model: &str, begin: UnixNanos, detail: Detail) -> Self {
        let mut salt = Sha256::new();
        salt.update(model.as_bytes());
        salt.update(begin.0.to_le_bytes());
        Self {
            salt: salt.finalize().into(),
            model: model.to_owned(),
            begin,
            detail,
            step: None,
            open: HashMap::new(),
            ended: VecDeque::new(),
        }
    }

    /// Takes a fact; appends the spans of requests of which nothing more is to come.
    pub fn take(&mut self, fact: &Fact, spans: &mut Vec<Span>) {
        match fact {
            Fact::Arrival(arrival) => {
                let open = Open { arrival: arrival.clone(), visits: Vec::new(), left_out: 0 };
                self.open.insert(arrival.request.0, open);
            }
            Fact::Step(step) => {
                self.step = Some(*step);
                // Rows of a request's last step may come after its end.
                self.ended.iter_mut().for_each(|(_, steps)| *steps += 1);
                while self.ended.front().is_some_and(|(_, steps)| *steps > LATE_STEPS) {
                    self.tell_first(spans);
                }
            }
            Fact::Row(row) => self.row(row),
            Fact::Finish(finish) => self.ended.push_back((*finish, 0)),
            _ => {}
        }
    }

    /// No row of a request that has ended is to come any more.
    pub fn settle(&mut self, spans: &mut Vec<Span>) {
        while !self.ended.is_empty() {
            self.tell_first(spans);
        }
    }

    /// Requests whose end is not known.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.open.len() - self.ended.len().min(self.open.len())
    }

    fn row(&mut self, row: &Row) {
        if self.detail != Detail::Step {
            return;
        }
        let Some(step) = self.step.filter(|step| step.step == row.step) else { return };
        let open = row.request.and_then(|id| self.open.get_mut(&id.0));
        let Some(open) = open else { return };
        let (phase, rows, fate) = (row.phase, row.rows, row.fate.code());
        let full = open.visits.len() >= STEPS;
        match open.visits.last_mut().filter(|v| v.step.step == step.step && v.phase == phase) {
            // Rows of one step that met different fates.
            Some(visit) => visit.rows = visit.rows.saturating_add(rows),
            None if full => open.left_out += 1,
            None => open.visits.push(Visit { step, phase, rows, fate }),
        }
    }

    fn tell_first(&mut self, spans: &mut Vec<Span>) {
        let Some((finish, _)) = self.ended.pop_front() else { return };
        let Some(open) = self.open.remove(&finish.request.0) else { return };
        self.tell(&open, &finish, spans);
    }

    fn tell(&self, open: &Open, finish: &Finish, spans: &mut Vec<Span>) {
        let arrival = &open.arrival;
        let (trace, id) = self.ids(arrival.request.0);
        let at = |nanos| self.begin.after(nanos);
        let (start, end) = (at(arrival.at), at(finish.at));
        let failed = finish.outcome != Outcome::Completed;
        let error = failed.then(|| finish.outcome.code());
        let name = format!("text_completion {}", self.model);
        let attributes = self.of_request(open, finish, error);
        let link = arrival.parent.map(|parent| self.ids(parent.0));
        spans.push(Span { trace, id, parent: None, link, name, start, end, attributes, error });
        if self.detail == Detail::Request {
            return;
        }
        let scheduled = finish.first_scheduled.map_or(end, at).clamp(start, end);
        let first = finish.first_token.map_or(end, at).clamp(scheduled, end);
        let phases =
            [("queue", start, scheduled), ("prefill", scheduled, first), ("decode", first, end)];
        let mut phase_ids = [id; 3];
        for (place, (name, from, to)) in phases.into_iter().enumerate() {
            if to > from {
                let span = child(trace, id, &trace, place as u64, name, (from, to), Vec::new());
                phase_ids[place] = span.id;
                spans.push(span);
            }
        }
        for (place, visit) in open.visits.iter().enumerate() {
            let (from, to) = (at(visit.step.host_start), at(visit.step.end));
            // A step that gave the first token is the last of the prefill.
            let parent = if to > first { phase_ids[2] } else { phase_ids[1] };
            let place = 3 + place as u64;
            spans.push(child(trace, parent, &trace, place, "step", (from, to), of_visit(visit)));
        }
    }

    fn of_request(
        &self,
        open: &Open,
        finish: &Finish,
        error: Option<&'static str>,
    ) -> Vec<Attribute> {
        let arrival = &open.arrival;
        let mut attributes = vec![
            Attribute::text("gen_ai.operation.name", "text_completion"),
            Attribute::text("gen_ai.provider.name", "gemba"),
            Attribute::text("gen_ai.request.model", self.model.clone()),
            Attribute::count("gen_ai.request.max_tokens", arrival.max_tokens),
            Attribute::count("gen_ai.usage.input_tokens", arrival.prompt_tokens),
            Attribute::count("gen_ai.usage.output_tokens", finish.output_tokens),
            Attribute::count("gen_ai.usage.cache_read.input_tokens", finish.cached_tokens),
            Attribute::count("gemba.request.id", arrival.request.0),
            Attribute::count("gemba.request.attempt", arrival.attempt),
        ];
        if !arrival.class.is_empty() {
            attributes.push(Attribute::text("gemba.request.class", arrival.class.clone()));
        }
        if open.left_out > 0 {
            attributes.push(Attribute::count("gemba.request.steps_left_out", open.left_out));
        }
        if let Some(error) = error {
            attributes.push(Attribute::text("error.type", error));
        }
        attributes
    }

    /// The trace of a request and the span of it.
    fn ids(&self, request: u64) -> ([u8; 16], [u8; 8]) {
        let mut hash = Sha256::new();
        hash.update(self.salt);
        hash.update(request.to_le_bytes());
        let hash: [u8; 32] = hash.finalize().into();
        (cut(&hash), cut(&hash[16..]))
    }
}

fn of_visit(visit: &Visit) -> Vec<Attribute> {
    let step = &visit.step;
    vec![
        Attribute::count("gemba.step.id", step.step.0),
        Attribute::count("gemba.step.device", step.device),
        Attribute::text("gemba.step.phase", visit.phase.code()),
        Attribute::count("gemba.step.rows", visit.rows),
        Attribute::count("gemba.step.rows_all", step.rows()),
        Attribute::count("gemba.step.requests", step.requests),
        Attribute::count("gemba.step.queued", step.queued),
        Attribute::text("gemba.step.fate", visit.fate),
    ]
}

fn child(
    trace: [u8; 16],
    parent: [u8; 8],
    salt: &[u8; 16],
    place: u64,
    name: &str,
    (start, end): (UnixNanos, UnixNanos),
    attributes: Vec<Attribute>,
) -> Span {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(place.to_le_bytes());
    let id = cut(&hash.finalize());
    let (parent, name) = (Some(parent), name.to_owned());
    Span { trace, id, parent, link: None, name, start, end, attributes, error: None }
}

/// The first bytes of a hash. An id of zeros would be none; a hash is not.
fn cut<const N: usize>(hash: &[u8]) -> [u8; N] {
    std::array::from_fn(|place| hash.get(place).copied().unwrap_or(1))
}
