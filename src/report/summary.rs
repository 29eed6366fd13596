//! The JSON forms: what `gemba ledger --json` prints and what `summary.json` holds.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::stat::Summary;
use crate::unit::Share;
use crate::waste::{Books, Commodity, Headline, Latency};

/// What `gemba ledger RUN --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LedgerJson {
    /// Whether every ledger closes to zero.
    pub balanced: bool,
    /// How the run stands.
    pub status: String,
    /// One entry per ledger.
    pub commodities: Vec<CommodityJson>,
    /// Sums by commodity, cause, level and basis.
    pub causes: Vec<CauseJson>,
}

/// One ledger.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CommodityJson {
    /// Its code.
    pub name: &'static str,
    /// The unit of its amounts.
    pub unit: &'static str,
    /// What there was to account for.
    pub total: u128,
    /// What is not accounted for; zero in books that close.
    pub residual: i128,
    /// The share that no rule could attribute.
    pub unattributed_share: f64,
}

/// One sum.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CauseJson {
    /// The cause's code.
    pub cause: &'static str,
    /// The waste it belongs to.
    pub muda: &'static str,
    /// `value`, `necessary` or `waste`.
    pub level: &'static str,
    /// The ledger.
    pub commodity: &'static str,
    /// The amount in the ledger's unit.
    pub amount: u128,
    /// Its share of the ledger.
    pub share: f64,
    /// How the amount came to be.
    pub basis: &'static str,
}

/// Lays the books out for scripts.
#[must_use]
pub fn ledger_json(books: &Books, status: &str) -> LedgerJson {
    let mut commodities = Vec::new();
    let mut causes = Vec::new();
    for commodity in books.commodities() {
        let Some(balance) = books.trial_balance(commodity) else { continue };
        commodities.push(CommodityJson {
            name: commodity.code(),
            unit: commodity.unit(),
            total: balance.capacity,
            residual: balance.residual(),
            unattributed_share: books.unattributed(commodity).fraction().unwrap_or(0.0),
        });
        let mut sums = BTreeMap::new();
        for (key, amount) in books.postings(commodity) {
            let level = books.level(&key.account);
            *sums.entry((key.account.cause, level, key.account.basis)).or_insert(0_u128) += amount;
        }
        for ((cause, level, basis), amount) in sums {
            let share = Share::new(amount as i128, balance.capacity as i128);
            causes.push(CauseJson {
                cause: cause.code(),
                muda: books.muda(cause).code(),
                level: level.code(),
                commodity: commodity.code(),
                amount,
                share: share.fraction().unwrap_or(0.0),
                basis: basis.code(),
            });
        }
    }
    LedgerJson { balanced: books.balanced(), status: status.to_owned(), commodities, causes }
}

/// `summary.json`: the headline figures of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SummaryJson {
    /// The schema of this file.
    pub schema: &'static str,
    /// How the run stands.
    pub status: String,
    /// Whether every ledger closes to zero.
    pub balanced: bool,
    /// What is not accounted for, by ledger.
    pub residual: BTreeMap<&'static str, i128>,
    /// The share that no rule could attribute, by ledger.
    pub unattributed_share: BTreeMap<&'static str, f64>,
    /// D ÷ T0.
    pub loading: Option<f64>,
    /// A = R ÷ D.
    pub availability: Option<f64>,
    /// Y = G ÷ R.
    pub quality: Option<f64>,
    /// P = V ÷ G.
    pub performance: Option<f64>,
    /// A × Y × P = V ÷ D.
    pub oie: Option<f64>,
    /// Compute-floor time of delivered rows ÷ all device time.
    pub value_share: Option<f64>,
    /// KV memory that was of use ÷ KV memory held.
    pub kv_use: Option<f64>,
    /// Bytes moved ÷ bytes that could have been moved.
    pub bandwidth_use: Option<f64>,
    /// Cycle time ÷ takt.
    pub takt_ratio: Option<f64>,
    /// Counts.
    pub requests: RequestCounts,
    /// Waste per million accepted tokens, by ledger, in the ledger's unit.
    pub waste_per_million_tokens: BTreeMap<&'static str, f64>,
    /// Everything per million accepted tokens, by ledger, in the ledger's unit.
    pub cost_per_million_tokens: BTreeMap<&'static str, f64>,
    /// Latencies in nanoseconds.
    pub latency_ns: BTreeMap<&'static str, Summary>,
    /// Launches that were faster than their floor.
    pub broken_ceilings: u64,
    /// Whether postings name their step.
    pub by_step: bool,
}

/// Counts of requests and tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RequestCounts {
    /// Requests that came.
    pub total: u64,
    /// Delivered and accepted.
    pub completed: u64,
    /// Of those, the ones that kept the promise.
    pub within_slo: u64,
    /// Whose end the run did not see.
    pub open: u64,
    /// Prompt tokens of completed requests.
    pub prompt_tokens: u64,
    /// Prompt tokens from the prefix cache.
    pub cached_tokens: u64,
    /// Output tokens of completed requests.
    pub accepted_tokens: u64,
}

/// Lays the headline figures out for scripts.
#[must_use]
pub fn summary_json(
    books: &Books,
    headline: &Headline,
    latency: &Latency,
    status: &str,
) -> SummaryJson {
    let counts = headline.counts;
    let ladder = headline.ladder;
    let residual = |c: Commodity| Some((c.code(), books.trial_balance(c)?.residual()));
    let unattributed = |c: Commodity| (c.code(), books.unattributed(c).fraction().unwrap_or(0.0));
    let latencies = [
        ("ttft", latency.ttft),
        ("tpot", latency.tpot),
        ("itl", latency.itl),
        ("e2e", latency.e2e),
        ("queue", latency.queue),
    ];
    let per_million = |waste_only: bool| {
        let figure = |c| Some((Commodity::code(c), per_million(books, c, counts, waste_only)?));
        books.commodities().filter_map(figure).collect()
    };
    SummaryJson {
        schema: "gemba.summary/1",
        status: status.to_owned(),
        balanced: books.balanced(),
        residual: books.commodities().filter_map(residual).collect(),
        unattributed_share: books.commodities().map(unattributed).collect(),
        loading: ladder.loading().fraction(),
        availability: ladder.availability().fraction(),
        quality: ladder.quality().fraction(),
        performance: ladder.performance().fraction(),
        oie: ladder.oie().fraction(),
        value_share: ladder.value_share().fraction(),
        kv_use: headline.kv_use.fraction(),
        bandwidth_use: headline.bandwidth_use.fraction(),
        takt_ratio: headline.takt_ratio,
        requests: RequestCounts {
            total: counts.requests,
            completed: counts.completed,
            within_slo: counts.good,
            open: counts.open,
            prompt_tokens: counts.prompt_tokens,
            cached_tokens: counts.cached_tokens,
            accepted_tokens: counts.accepted_tokens,
        },
        waste_per_million_tokens: per_million(true),
        cost_per_million_tokens: per_million(false),
        latency_ns: latencies.into_iter().filter_map(|(name, s)| Some((name, s?))).collect(),
        broken_ceilings: books.broken_ceilings().launches,
        by_step: books.by_step(),
    }
}

/// A commodity per million accepted tokens; `None` without tokens.
pub(super) fn per_million(
    books: &Books,
    commodity: Commodity,
    counts: crate::waste::Counts,
    waste_only: bool,
) -> Option<f64> {
    if counts.accepted_tokens == 0 {
        return None;
    }
    let waste = crate::waste::Level::Waste;
    let amount = books.sum(commodity, |account| !waste_only || books.level(account) == waste);
    Some(amount as f64 * 1e6 / counts.accepted_tokens as f64)
}
