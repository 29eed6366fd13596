//! A workload's figures as text for people.

use std::fmt;

use super::request::Workload;
use super::summary::{Distribution, Summary, ideal_prefix_hits};
use crate::unit::{Nanos, grouped, si_nanos};

/// Displays what a workload is: name, figures, notes.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// Its figures.
    pub summary: &'a Summary,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, summary } = self;
        writeln!(f, "workload    {} ({})", workload.name, workload.format)?;
        writeln!(f, "sha256      {}", workload.sha256)?;
        writeln!(f, "requests    {}", grouped(i128::from(summary.requests)))?;
        let (span, gap) = (Nanos(summary.span_ns), Nanos(summary.max_gap_ns));
        writeln!(f, "span        {}, longest gap {}", si_nanos(span), si_nanos(gap))?;
        for class in workload.classes.iter().filter(|_| workload.classes.len() > 1) {
            let of_class = |r: &&super::RequestSpec| workload.class_of(r).name == class.name;
            let count = workload.requests.iter().filter(of_class).count();
            writeln!(f, "class       {}: {} requests", class.name, grouped(count as i128))?;
        }
        writeln!(f, "prefix hits {} of prompt tokens, at best", ideal_prefix_hits(workload))?;
        writeln!(f)?;
        let columns = ["tokens", "sum", "mean", "min", "p50", "p90", "p99", "max"];
        row(f, columns.map(str::to_owned))?;
        row(f, cells("prompt", &summary.prompt_tokens))?;
        row(f, cells("output", &summary.output_tokens))?;
        if !workload.notes.is_empty() {
            writeln!(f)?;
        }
        workload.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}

fn cells(name: &str, d: &Distribution) -> [String; 8] {
    let whole = |tokens: u64| grouped(i128::from(tokens));
    let mean = format!("{:.1}", d.mean);
    let name = name.to_owned();
    let (p50, p90, p99) = (whole(d.p50), whole(d.p90), whole(d.p99));
    [name, whole(d.sum), mean, whole(d.min), p50, p90, p99, whole(d.max)]
}

fn row(
    f: &mut fmt::Formatter<'_>,
    [name, sum, mean, min, p50, p90, p99, max]: [String; 8],
) -> fmt::Result {
    writeln!(f, "{name:<8}{sum:>16}{mean:>12}{min:>8}{p50:>9}{p90:>9}{p99:>9}{max:>9}")
}
