//! The page that shows several runs side by side. It needs no script.

use askama::Template;

use super::digest;
use super::geometry::{self, Segment};
use super::spark::{self, Spark};
use crate::report::{Comparison, HistoryPoint, Part};

/// The page of a comparison.
#[derive(Template)]
#[template(path = "compare.html")]
pub(super) struct ComparePage<'a> {
    comparison: &'a Comparison,
    style: String,
    style_source: String,
}

impl<'a> ComparePage<'a> {
    pub(super) fn new(comparison: &'a Comparison) -> Self {
        let style = super::page::style();
        Self { comparison, style_source: digest::source(&style), style }
    }

    fn stack<'p>(&self, parts: &'p [Part]) -> Vec<Segment<'p>> {
        geometry::stack(parts)
    }

    fn spark(&self, points: &[HistoryPoint]) -> Spark {
        spark::line(points)
    }

    fn length(&self, share: &f64) -> String {
        geometry::length(*share)
    }

    fn fill(&self, level: &str) -> &'static str {
        geometry::fill(level)
    }
}
