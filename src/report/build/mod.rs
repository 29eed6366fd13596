//! From books and projections to a report.

mod a3;
mod charts;
mod course;
mod icicle;
pub(super) mod ledgers;
pub(super) mod origins;
pub(super) mod tables;

use super::{GlossaryEntry, Report, Seal, SealRow, Tile};
use crate::unit::{Scale, Share, grouped, si_count, si_whole};
use crate::waste::{
    Books, CAUSES, Commodity, Costing, Headline, Latency, Level, MemoryMoment, RequestLine,
};

/// What a report is built from.
pub struct Findings<'a> {
    /// What ran, in a line.
    pub title: String,
    /// On what, in a line.
    pub subtitle: String,
    /// How the run stands.
    pub status: String,
    /// The command that prints the ledger.
    pub reproduce: String,
    /// The books.
    pub books: &'a Books,
    /// How they were kept.
    pub costing: Costing,
    /// The headline figures.
    pub headline: &'a Headline,
    /// What the requests experienced.
    pub latency: &'a Latency,
    /// Every request.
    pub requests: &'a [RequestLine],
    /// Memory of the first device over time.
    pub memory: &'a [MemoryMoment],
    /// The roofs of the first device: bytes per second read, operations per second by format.
    pub roofs: super::Roofline,
    /// Memory of the first device, in bytes.
    pub memory_bytes: u64,
    /// Nanoseconds of the window.
    pub window_nanos: u64,
    /// Nanoseconds that demand leaves for a token.
    pub takt_nanos: Option<f64>,
    /// What ran, on what, how: label and value.
    pub provenance: Vec<(String, String)>,
    /// What the run itself has to say: factors, sorting, what was not measured.
    pub notes: Vec<String>,
    /// What recording cost, as a sentence.
    pub observer: String,
    /// What the meters told, a sentence or more each.
    pub meters: Vec<String>,
    /// Bytes that the devices' own counters saw go to and from their memory while requests were
    /// played, or why they could not; none where there are no counters.
    pub counted: Option<Result<u128, String>>,
}

/// Builds the report of a run.
#[must_use]
pub fn build(findings: Findings<'_>) -> Report {
    let ledgers = ledgers::all(findings.books);
    let a3 = a3::a3(&findings, &ledgers);
    Report {
        seal: seal(&findings),
        tiles: tiles(&findings),
        waterfall: charts::waterfall(findings.books, &findings.headline.ladder),
        yamazumi: charts::yamazumi(&findings),
        yamazumi_steps: charts::yamazumi_steps(&findings),
        icicle: icicle::icicle(&findings),
        course: course::course(findings.books),
        latencies: tables::latencies(findings.latency),
        value_streams: tables::value_streams(&findings),
        requests: tables::requests(findings.requests),
        requests_total: findings.requests.len() as u64,
        requests_rest: tables::requests_rest(findings.requests),
        kernels: tables::kernels(findings.books.kernels()),
        memory: charts::memory(&findings),
        a3,
        origins: origins::charts(),
        cautions: cautions(&findings),
        method: method(&findings),
        glossary: glossary(),
        ledgers,
        title: findings.title,
        subtitle: findings.subtitle,
        roofline: findings.roofs,
        provenance: findings.provenance,
        reproduce: findings.reproduce,
    }
}

/// Unattributed may reach this share.
pub(super) const UNATTRIBUTED_LIMIT: f64 = 0.01;

fn seal(findings: &Findings<'_>) -> Seal {
    let books = findings.books;
    let row = |commodity: Commodity| {
        let balance = books.trial_balance(commodity)?;
        Some(SealRow {
            name: ledgers::name(commodity).to_owned(),
            capacity: ledgers::amount(commodity, balance.capacity),
            posted: ledgers::amount(commodity, balance.posted),
            residual: grouped(balance.residual()),
        })
    };
    let worst = books
        .commodities()
        .map(|commodity| books.unattributed(commodity))
        .max_by(|a, b| a.fraction().unwrap_or(0.0).total_cmp(&b.fraction().unwrap_or(0.0)))
        .unwrap_or_default();
    Seal {
        balanced: books.balanced(),
        status: findings.status.clone(),
        ledgers: books.commodities().filter_map(row).collect(),
        unattributed: worst.to_string(),
        unattributed_within_limit: worst.fraction().unwrap_or(0.0) <= UNATTRIBUTED_LIMIT,
    }
}

fn tiles(findings: &Findings<'_>) -> Vec<Tile> {
    let (headline, books) = (findings.headline, findings.books);
    let (ladder, counts) = (headline.ladder, headline.counts);
    let tile = |label: &str, value: String, note: String| Tile {
        label: label.to_owned(),
        value,
        note,
        origin: origins::tile(label),
    };
    let waste = books.sum(Commodity::DeviceTime, |a| books.level(a) == Level::Waste);
    let waste = Share::new(waste as i128, ladder.total);
    let seconds = findings.window_nanos as f64 / 1e9;
    let rate = if seconds > 0.0 { counts.accepted_tokens as f64 / seconds } else { 0.0 };
    let mut tiles = vec![
        tile(
            "Waste",
            waste.to_string(),
            "of device time could go with today's model, hardware and demand".to_owned(),
        ),
        tile(
            "OIE",
            ladder.oie().to_string(),
            format!(
                "A {} × Y {} × P {}",
                ladder.availability(),
                ladder.quality(),
                ladder.performance()
            ),
        ),
        tile(
            "Value",
            ladder.value_share().to_string(),
            "of device time was arithmetic of delivered tokens".to_owned(),
        ),
        tile(
            "Loading",
            ladder.loading().to_string(),
            "of device time was asked for, by requests or by the promise".to_owned(),
        ),
        cost_tile(findings),
        tile(
            "Accepted",
            format!("{} tokens", si_whole(counts.accepted_tokens)),
            format!(
                "{} of {} requests, {} tokens/s",
                counts.completed,
                counts.requests,
                si_count(rate)
            ),
        ),
    ];
    if let Some(ttft) = findings.latency.ttft {
        let within = Share::new(counts.good.into(), counts.requests.into());
        let p50 = Scale::nanos(ttft.p50).show(ttft.p50);
        let p99 = Scale::nanos(ttft.p99).show(ttft.p99);
        tiles.push(tile("TTFT p99", p99, format!("p50 {p50}; goodput {within} of requests")));
    }
    tiles.push(tile(
        "KV use",
        headline.kv_use.to_string(),
        "of KV memory held was live or reused".to_owned(),
    ));
    tiles
}

/// Money where there is a price, else device time.
fn cost_tile(findings: &Findings<'_>) -> Tile {
    let counts = findings.headline.counts;
    let money = super::summary::per_million(findings.books, Commodity::Money, counts, false);
    let time = |waste| {
        let nanos =
            super::summary::per_million(findings.books, Commodity::DeviceTime, counts, waste);
        nanos.map_or_else(|| "–".to_owned(), |nanos| Scale::nanos(nanos).show(nanos))
    };
    let has_price = findings.books.trial_balance(Commodity::Money).is_some();
    let (value, note) = match money.filter(|_| has_price) {
        Some(picodollars) => (
            format!("${:.2}", picodollars / 1e12),
            format!("per million accepted tokens; {} device time of it wasted", time(true)),
        ),
        None => (
            time(false),
            format!("device time per million accepted tokens; {} of it wasted", time(true)),
        ),
    };
    Tile { label: "Cost".to_owned(), value, note, origin: origins::tile("Cost") }
}

fn cautions(findings: &Findings<'_>) -> Vec<String> {
    let mut cautions = Vec::new();
    let books = findings.books;
    if !books.balanced() {
        cautions.push("The books do not balance: believe no figure of this report.".to_owned());
    }
    if findings.status != "complete" {
        let said = "What is here is what was recorded until then.";
        cautions.push(format!("The run is {}. {said}", findings.status));
    }
    let broken = books.broken_ceilings();
    let launches: u64 = books.kernels().iter().map(|kernel| kernel.launches).sum();
    if broken.launches > 0 {
        let share = Share::new(broken.launches.into(), launches.into());
        let nanos = Scale::nanos(broken.nanos as f64).show(broken.nanos as f64);
        cautions.push(format!(
            "{} launches ({share}) were faster than their floor, by {nanos} in all: a ceiling \
             was measured too low, or the data was in a nearer cache.",
            grouped(broken.launches.into())
        ));
    }
    if findings.headline.counts.open > 0 {
        cautions.push(format!(
            "{} requests were still open at the end; their work stands under wip.open.",
            findings.headline.counts.open
        ));
    }
    let counts = findings.headline.counts;
    if counts.requests > 0 && counts.completed == 0 {
        cautions.push(format!(
            "None of the {} requests was answered to its end: nothing here says how the engine \
             serves. A KV pool, a context or a time limit that is too small refuses all.",
            grouped(counts.requests.into())
        ));
    }
    cautions.extend(findings.notes.iter().cloned());
    cautions
}

fn method(findings: &Findings<'_>) -> Vec<(String, String)> {
    let costing = match findings.costing {
        Costing::UsefulFirst => {
            "Useful first: rows that were thrown away cost the kernel's calibrated time at all \
             rows less its time at the useful ones. Kernels without a calibration are split by \
             rows and marked apportioned."
        }
        Costing::Proportional => "Proportional: every row of a launch costs the same.",
    };
    let grain = if findings.books.by_step() {
        "Postings name their step."
    } else {
        "The run is large: postings are sums over all steps."
    };
    let text = |heading: &str, text: &str| (heading.to_owned(), text.to_owned());
    let mut method = vec![
        text(
            "Closing",
            "Every amount is an integer. What there was to account for comes from an identity \
             of its own (window × devices, memory × window, budgets of the launches, rows of \
             the steps, ∫N(t)dt), what is booked from the postings; the seal is their \
             difference. No account is filled by subtraction but the free memory of a device.",
        ),
        text("Thrown-away rows", costing),
        text(
            "Mechanism",
            "What is left of a kernel's time is laid against the floor of its useful work on \
             the measured ceilings: arithmetic first, then exposed weight, KV and activation \
             traffic, excess bytes, and slack.",
        ),
        text("Grain", grain),
        text("Recording", &findings.observer),
        text(
            "Latency",
            "TTFT: arrival to first token. TPOT: (end − first token) ÷ (output tokens − 1). \
             ITL: every gap between two tokens of a request. E2E: arrival to end. Percentiles \
             by nearest rank, of completed requests.",
        ),
        text(
            "Attributed is not saved",
            "A cause's amount is what it cost in this run, not what removing it would save. \
             Savings are shown only by a re-run.",
        ),
    ];
    if !findings.meters.is_empty() {
        method.push(text("Meters", &findings.meters.join(" ")));
    }
    if let Some(counted) = &findings.counted {
        method.push(text("Counters", &counters(counted.as_ref(), findings.books)));
    }
    method
}

/// What the devices' own counters saw, beside what was booked.
fn counters(counted: Result<&u128, &String>, books: &Books) -> String {
    let counted = match counted {
        Ok(counted) => *counted,
        Err(why) => return format!("The devices' own counters could not be read: {why}."),
    };
    let budget = books.moved_in_memory();
    let ratio = match budget {
        0 => "nothing was launched".to_owned(),
        budget => format!("{:.3} of the budgets", counted as f64 / budget as f64),
    };
    format!(
        "While requests were played, the devices' own counters saw {} go to and from their memory; \
         the budgets of all launches come to {}: {ratio}. The counters see what passes the last \
         cache. What stays there is in the budgets alone; what is read twice, and what a launch \
         keeps for itself, is in the counters alone.",
        ledgers::amount(Commodity::Bytes, counted),
        ledgers::amount(Commodity::Bytes, budget),
    )
}

/// Every cause of the catalogue, for glossaries.
#[must_use]
pub fn glossary() -> Vec<GlossaryEntry> {
    CAUSES
        .iter()
        .map(|entry| GlossaryEntry {
            code: entry.code,
            muda: entry.muda.code(),
            definition: entry.definition,
            formula: entry.formula,
            countermeasure: entry.countermeasure,
            verified_only: entry.verified_only,
        })
        .collect()
}
