//! Counters for Prometheus, under vLLM's names where they mean the same.
//!
//! The engine's thread counts; whoever asks reads. Nothing here waits: every number is atomic,
//! so a page may show a request in one line that it does not yet show in the next.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::{Counts, Engine};
use crate::event::{Finish, Outcome};
use crate::unit::Nanos;

const TTFT: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const INTERVAL: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const LATENCY: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0,
    20_000.0, 50_000.0, 100_000.0, 200_000.0,
];
const STEP: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0];
const NANOS_PER_S: f64 = 1e9;

/// A number that is only added to, or replaced.
#[derive(Debug, Default)]
struct Number(AtomicU64);

impl Number {
    fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often a quantity fell where.
#[derive(Debug)]
struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, one for what is beyond them.
    counts: Vec<Number>,
    /// In the unit's small parts.
    sum: Number,
    /// Small parts of a unit.
    parts: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64], parts: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| Number::default()).collect();
        Self { bounds, counts, sum: Number::default(), parts }
    }

    fn seconds(bounds: &'static [f64]) -> Self {
        Self::new(bounds, NANOS_PER_S)
    }

    fn observe(&self, parts: u64) {
        let value = parts as f64 / self.parts;
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].add(1);
        self.sum.add(parts);
    }

    fn span(&self, from: Nanos, to: Nanos) {
        self.observe(to.saturating_sub(from).0);
    }
}

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct Metrics {
    running: Number,
    waiting: Number,
    blocks: [Number; 2],
    prompt_tokens: Number,
    generation_tokens: Number,
    preemptions: Number,
    prefix_queries: Number,
    prefix_hits: Number,
    finished: [Number; 3],
    refused: Number,
    steps: Number,
    step_tokens: Histogram,
    ttft: Histogram,
    interval: Histogram,
    latency: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    inference: Histogram,
    per_token: Histogram,
    request_prompt: Histogram,
    request_generation: Histogram,
    request_max_tokens: Histogram,
    request_n: Histogram,
}

/// How a request ended, as the interface counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Stop,
    Length,
    Abort,
}

const REASONS: [&str; 3] = ["stop", "length", "abort"];

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            running: Number::default(),
            waiting: Number::default(),
            blocks: Default::default(),
            prompt_tokens: Number::default(),
            generation_tokens: Number::default(),
            preemptions: Number::default(),
            prefix_queries: Number::default(),
            prefix_hits: Number::default(),
            finished: Default::default(),
            refused: Number::default(),
            steps: Number::default(),
            step_tokens: Histogram::new(STEP, 1.0),
            ttft: Histogram::seconds(TTFT),
            interval: Histogram::seconds(INTERVAL),
            latency: Histogram::seconds(LATENCY),
            queue: Histogram::seconds(LATENCY),
            prefill: Histogram::seconds(LATENCY),
            decode: Histogram::seconds(LATENCY),
            inference: Histogram::seconds(LATENCY),
            per_token: Histogram::seconds(INTERVAL),
            request_prompt: Histogram::new(TOKENS, 1.0),
            request_generation: Histogram::new(TOKENS, 1.0),
            request_max_tokens: Histogram::new(TOKENS, 1.0),
            request_n: Histogram::new(&[1.0, 2.0, 5.0, 10.0, 20.0], 1.0),
        }
    }

    /// A request was taken in.
    pub(super) fn accepted(&self, n: u32, max_tokens: u32) {
        self.request_n.observe(n.into());
        self.request_max_tokens.observe(max_tokens.into());
    }

    /// A request was turned away because the queue was full.
    pub(super) fn refused(&self) {
        self.refused.add(1);
    }

    /// A token came; `before` is when the request's last one did.
    pub(super) fn token(&self, arrived: Nanos, before: Option<Nanos>, at: Nanos) {
        match before {
            None => self.ttft.span(arrived, at),
            Some(before) => self.interval.span(before, at),
        }
    }

    /// A request left; `last` is when its last token came.
    pub(super) fn left(
        &self,
        (arrived, prompt_tokens): (Nanos, u32),
        finish: &Finish,
        last: Option<Nanos>,
        ended: Ended,
    ) {
        self.finished[ended as usize].add(1);
        if finish.outcome == Outcome::Rejected {
            return;
        }
        self.latency.span(arrived, finish.at);
        self.request_prompt.observe(prompt_tokens.into());
        self.request_generation.observe(finish.output_tokens.into());
        let Some(scheduled) = finish.first_scheduled else { return };
        self.prefix_queries.add(prompt_tokens.into());
        self.prefix_hits.add(finish.cached_tokens.into());
        self.queue.span(arrived, scheduled);
        let (Some(first), Some(last)) = (finish.first_token, last) else { return };
        self.prefill.span(scheduled, first);
        self.decode.span(first, last);
        self.inference.span(scheduled, last);
        if let Some(gaps @ 1..) = u64::from(finish.output_tokens).checked_sub(1) {
            self.per_token.observe(last.saturating_sub(first).0 / gaps);
        }
    }

    /// The engine went on; `before` is what it had done until then.
    pub(super) fn turned(&self, engine: &Engine<'_>, before: &Counts) {
        let (waiting, running) = engine.scheduler().live();
        let blocks = engine.scheduler().blocks();
        let counts = engine.counts();
        self.running.set(running as u64);
        self.waiting.set(waiting as u64);
        self.blocks[0].set(blocks.held.into());
        self.blocks[1].set(blocks.total().into());
        self.prompt_tokens.set(counts.prompt_tokens);
        self.generation_tokens.set(counts.output_tokens_sampled);
        self.preemptions.set(counts.preemptions);
        self.steps.set(counts.steps);
        if counts.steps > before.steps {
            let prompt = counts.prompt_tokens - before.prompt_tokens;
            let output = counts.output_tokens_sampled - before.output_tokens_sampled;
            self.step_tokens.observe(prompt + output);
        }
    }

    /// Requests that have ended in their own time.
    pub(super) fn completed(&self) -> u64 {
        self.finished[Ended::Stop as usize].get() + self.finished[Ended::Length as usize].get()
    }

    /// The page.
    pub(super) fn page(&self, model: &str, block_tokens: u32) -> String {
        let model = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let mut page =
            Page { text: String::new(), labels: format!("model_name=\"{model}\",engine=\"0\"") };
        let blocks = (self.blocks[0].get(), self.blocks[1].get());
        let used = blocks.0 as f64 / blocks.1.max(1) as f64;
        page.one(
            "vllm:num_requests_running",
            "gauge",
            "Requests with a place in the batch.",
            self.running.get(),
        );
        page.one(
            "vllm:num_requests_waiting",
            "gauge",
            "Requests that wait for a place.",
            self.waiting.get(),
        );
        page.one(
            "vllm:kv_cache_usage_perc",
            "gauge",
            "Share of KV blocks held by requests; 1 is all.",
            used,
        );
        page.one(
            "vllm:num_preemptions_total",
            "counter",
            "Running requests that lost their memory.",
            self.preemptions.get(),
        );
        page.one(
            "vllm:prompt_tokens_total",
            "counter",
            "Prompt tokens computed or found in the cache.",
            self.prompt_tokens.get(),
        );
        page.one(
            "vllm:generation_tokens_total",
            "counter",
            "Tokens generated.",
            self.generation_tokens.get(),
        );
        page.one(
            "vllm:prefix_cache_queries_total",
            "counter",
            "Prompt tokens looked up in the prefix cache.",
            self.prefix_queries.get(),
        );
        page.one(
            "vllm:prefix_cache_hits_total",
            "counter",
            "Prompt tokens found there.",
            self.prefix_hits.get(),
        );
        page.head("vllm:request_success_total", "counter", "Requests that ended, by reason.");
        for (reason, count) in REASONS.iter().zip(&self.finished) {
            let labels = format!("{},finished_reason=\"{reason}\"", page.labels);
            page.line("vllm:request_success_total", &labels, count.get());
        }
        page.head("vllm:cache_config_info", "gauge", "How KV memory is cut.");
        let labels = format!(
            "{},block_size=\"{block_tokens}\",num_gpu_blocks=\"{}\"",
            page.labels, blocks.1
        );
        page.line("vllm:cache_config_info", &labels, 1);
        page.one(
            "gemba_requests_refused_total",
            "counter",
            "Requests turned away because the queue was full.",
            self.refused.get(),
        );
        page.one("gemba_steps_total", "counter", "Steps the engine has run.", self.steps.get());
        for (name, help, histogram) in self.histograms() {
            page.histogram(name, help, histogram);
        }
        page.text
    }

    fn histograms(&self) -> [(&'static str, &'static str, &Histogram); 13] {
        [
            ("vllm:iteration_tokens_total", "Tokens computed in a step.", &self.step_tokens),
            ("vllm:time_to_first_token_seconds", "From arrival to the first token.", &self.ttft),
            (
                "vllm:inter_token_latency_seconds",
                "Between two tokens of a request.",
                &self.interval,
            ),
            ("vllm:e2e_request_latency_seconds", "From arrival to the end.", &self.latency),
            ("vllm:request_queue_time_seconds", "From arrival to the first step.", &self.queue),
            (
                "vllm:request_prefill_time_seconds",
                "From the first step to the first token.",
                &self.prefill,
            ),
            ("vllm:request_decode_time_seconds", "From the first token to the last.", &self.decode),
            (
                "vllm:request_inference_time_seconds",
                "From the first step to the last token.",
                &self.inference,
            ),
            (
                "vllm:request_time_per_output_token_seconds",
                "Mean time per token after the first.",
                &self.per_token,
            ),
            ("vllm:request_prompt_tokens", "Tokens of a prompt.", &self.request_prompt),
            ("vllm:request_generation_tokens", "Tokens of an answer.", &self.request_generation),
            (
                "vllm:request_params_max_tokens",
                "Tokens an answer may have.",
                &self.request_max_tokens,
            ),
            ("vllm:request_params_n", "Answers asked for.", &self.request_n),
        ]
    }
}

/// A page in Prometheus' text format.
struct Page {
    text: String,
    labels: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{name}{{{labels}}} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        let labels = self.labels.clone();
        self.line(name, &labels, value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let labels = self.labels.clone();
        let bounds = histogram.bounds.iter().map(ToString::to_string);
        let mut count = 0;
        for (bound, found) in bounds.chain(["+Inf".to_owned()]).zip(&histogram.counts) {
            count += found.get();
            self.line(&format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), count);
        }
        let sum = histogram.sum.get() as f64 / histogram.parts;
        self.line(&format!("{name}_sum"), &labels, sum);
        self.line(&format!("{name}_count"), &labels, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::RequestId;

    #[test]
    fn a_page_counts_what_happened() {
        let metrics = Metrics::new();
        let finish = Finish {
            request: RequestId(0),
            at: Nanos(2_000_000_000),
            first_scheduled: Some(Nanos(500_000_000)),
            first_token: Some(Nanos(1_000_000_000)),
            cached_tokens: 16,
            output_tokens: 3,
            outcome: Outcome::Completed,
        };
        metrics.token(Nanos(0), None, Nanos(1_000_000_000));
        metrics.token(Nanos(0), Some(Nanos(1_000_000_000)), Nanos(1_020_000_000));
        metrics.left((Nanos(0), 20), &finish, Some(Nanos(2_000_000_000)), Ended::Stop);
        metrics.refused();
        let page = metrics.page("a \"model\"", 16);
        let labels = "model_name=\"a \\\"model\\\"\",engine=\"0\"";
        for line in [
            format!("vllm:request_success_total{{{labels},finished_reason=\"stop\"}} 1"),
            format!("vllm:time_to_first_token_seconds_bucket{{{labels},le=\"0.75\"}} 0"),
            format!("vllm:time_to_first_token_seconds_bucket{{{labels},le=\"1\"}} 1"),
            format!("vllm:time_to_first_token_seconds_bucket{{{labels},le=\"+Inf\"}} 1"),
            format!("vllm:inter_token_latency_seconds_sum{{{labels}}} 0.02"),
            format!("vllm:request_time_per_output_token_seconds_sum{{{labels}}} 0.5"),
            format!("vllm:e2e_request_latency_seconds_count{{{labels}}} 1"),
            format!("vllm:prefix_cache_queries_total{{{labels}}} 20"),
            format!("vllm:prefix_cache_hits_total{{{labels}}} 16"),
            format!("gemba_requests_refused_total{{{labels}}} 1"),
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        let heads = page.lines().filter(|line| line.starts_with("# TYPE")).count();
        let names: std::collections::HashSet<&str> =
            page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert_eq!(heads, names.len(), "every family is declared once");
    }
}
