//! What the templates ask for: the report, the verdict on it, and the drawings laid out.

use askama::Template;

use super::course;
use super::digest;
use super::geometry::{self, ParetoRow, Segment, WaterfallRow};
use super::icicle::{self, Leaf};
use super::memory::{self, Areas};
use super::roofline::{self, Drawing};
use super::yamazumi::{self, YamazumiChart};
use crate::report::{CourseRow, KernelRow, Ledger, Part, Report, Seal, ValueStream};

/// The page. Every `{{ … }}` of its templates is escaped, but for drawings made of numbers and
/// the page's own style and script.
#[derive(Template)]
#[template(path = "page.html")]
pub(super) struct Page<'a> {
    report: &'a Report,
    /// The seal in a few words.
    verdict: String,
    /// What must be said loudly. Nothing where the figures may be believed.
    alarms: Vec<String>,
    roofline: Option<Drawing<'a>>,
    style: String,
    script: String,
    style_source: String,
    script_source: String,
}

impl<'a> Page<'a> {
    pub(super) fn new(report: &'a Report) -> Self {
        let style = style();
        let script = include_str!("page.js").replace("\r\n", "\n");
        Self {
            report,
            verdict: verdict(&report.seal),
            alarms: alarms(&report.seal),
            roofline: roofline::draw(&report.roofline, &report.kernels),
            style_source: digest::source(&style),
            script_source: digest::source(&script),
            style,
            script,
        }
    }

    fn stack<'p>(&self, parts: &'p [Part]) -> Vec<Segment<'p>> {
        geometry::stack(parts)
    }

    /// How wide a kernel's bar is, and how wide its floor within it.
    fn kernel_bar(&self, kernel: &KernelRow) -> (String, String) {
        (geometry::length(kernel.share), geometry::length(kernel.share * kernel.of_floor))
    }

    /// What a row is sorted by; nothing where it is no number.
    fn key(&self, figure: &f64) -> String {
        if figure.is_finite() { figure.to_string() } else { String::new() }
    }

    fn pareto<'l>(&self, ledger: &'l Ledger) -> Vec<ParetoRow<'l>> {
        geometry::pareto(ledger)
    }

    fn icicle_height(&self) -> u32 {
        icicle::height(&self.report.icicle)
    }

    fn icicle(&self) -> Vec<Leaf<'a>> {
        icicle::leaves(&self.report.icicle)
    }

    /// A place along the window.
    fn along(&self, at: &f64) -> String {
        geometry::length(*at)
    }

    /// How dense a shade is drawn.
    fn shade(&self, number: &usize) -> String {
        course::opacity(*number)
    }

    fn stretches(&self, row: &CourseRow) -> Vec<course::Block> {
        course::blocks(row)
    }

    fn waterfall(&self) -> Vec<WaterfallRow<'a>> {
        geometry::waterfall(&self.report.waterfall)
    }

    fn yamazumi(&self) -> Option<YamazumiChart<'a>> {
        yamazumi::chart(&self.report.yamazumi)
    }

    fn yamazumi_steps(&self) -> Option<YamazumiChart<'a>> {
        yamazumi::chart(&self.report.yamazumi_steps)
    }

    fn length(&self, share: &f64) -> String {
        geometry::length(*share)
    }

    fn fill(&self, level: &str) -> &'static str {
        geometry::fill(level)
    }

    /// The stages of a value stream, each with what is in process there.
    fn stages<'p>(&self, stream: &'p ValueStream) -> Vec<(Segment<'p>, &'p str)> {
        let in_process = stream.stages_in_process.iter().map(String::as_str);
        let in_process = in_process.chain(std::iter::repeat(""));
        geometry::stack(&stream.parts).into_iter().zip(in_process).collect()
    }

    fn memory(&self) -> Option<Areas<'a>> {
        memory::chart(&self.report.memory)
    }
}

/// The style of every page. A browser hashes what it parsed, and parsing turns CRLF of a checkout
/// into LF.
pub(super) fn style() -> String {
    include_str!("page.css").replace("\r\n", "\n")
}

fn verdict(seal: &Seal) -> String {
    if seal.ledgers.is_empty() {
        return "No books".to_owned();
    }
    if !seal.balanced {
        return "Books do not balance".to_owned();
    }
    // The residual is what the trial balance says, not what "balanced" ought to mean.
    let first = &seal.ledgers[0].residual;
    if seal.ledgers.iter().all(|row| row.residual == *first) {
        format!("Books balance: residual {first}")
    } else {
        "Books balance".to_owned()
    }
}

fn alarms(seal: &Seal) -> Vec<String> {
    let mut alarms = Vec::new();
    if seal.ledgers.is_empty() {
        alarms.push("There are no books: nothing on this page is checked.".to_owned());
    } else if !seal.balanced {
        let open = seal.ledgers.iter().filter(|row| row.residual != "0");
        let residuals: Vec<String> =
            open.map(|row| format!("{} {}", row.name, row.residual)).collect();
        alarms.push(format!(
            "The books do not balance; believe no figure on this page. Residual: {}.",
            residuals.join(", ")
        ));
    }
    if seal.status != "complete" {
        alarms.push(format!(
            "The run is {}: the figures cover only what was recorded.",
            if seal.status.is_empty() { "of unknown status" } else { &seal.status }
        ));
    }
    if !seal.unattributed_within_limit && !seal.ledgers.is_empty() {
        alarms.push(format!(
            "{} is unattributed, above the limit of one percent: some costs have no cause here.",
            seal.unattributed
        ));
    }
    alarms
}
