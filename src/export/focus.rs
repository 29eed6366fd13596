//! Cost rows in the shape of FOCUS 1.2 (FinOps Open Cost and Usage Specification), as estimates.
//!
//! Nobody is billed by these rows: `BilledCost` is zero, so that they can stand beside a
//! provider's own without counting anything twice, and the estimate is in `EffectiveCost`.

use std::io::{self, Write};

use crate::report::CostRecord;
use crate::unit::UnixNanos;

/// The columns, FOCUS's own first; ours begin with `x_`, as it asks for. Those of a price list
/// (`SkuMeter`, `SkuPriceDetails` and the like) hang on a `SkuId`, which nobody here gives.
pub const COLUMNS: [&str; 31] = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ResourceId",
    "ServiceCategory",
    "ServiceName",
    "Tags",
    "x_Basis",
    "x_Estimate",
    "x_RunId",
    "x_WasteCategory",
    "x_WasteCause",
    "x_WasteLevel",
];

/// A moment as FOCUS wants it, to the second. A period begins with the second it begins in, and
/// ends, exclusively, with the second after.
fn whole_second(moment: UnixNanos, ends: bool) -> String {
    const SECOND: u64 = 1_000_000_000;
    let seconds = if ends { moment.0.div_ceil(SECOND) } else { moment.0 / SECOND };
    UnixNanos(seconds * SECOND).to_string()
}

const ESTIMATE: &str = "Gemba estimate, not an invoice";

/// Writes the costs of a run whose window is `period`; `run` identifies it.
///
/// # Errors
/// What `out` says.
pub fn write_costs(
    costs: &[CostRecord],
    run: &str,
    period: (UnixNanos, UnixNanos),
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(COLUMNS)?;
    for cost in costs {
        csv.write_record(row(cost, run, period).map(|(_, cell)| cell))?;
    }
    csv.flush()
}

fn row(
    cost: &CostRecord,
    run: &str,
    (start, end): (UnixNanos, UnixNanos),
) -> [(&'static str, String); COLUMNS.len()] {
    let device = cost.device.map_or_else(String::new, |device| format!("device {device}"));
    let tags = serde_json::json!({ "cause": cost.cause, "level": cost.level, "muda": cost.muda });
    let hours = cost.hours.to_string();
    COLUMNS.map(|column| {
        let cell = match column {
            "BilledCost" => "0".to_owned(),
            "BillingAccountId" | "BillingAccountName" => "estimate".to_owned(),
            "BillingCurrency" => "USD".to_owned(),
            "BillingPeriodEnd" | "ChargePeriodEnd" => whole_second(end, true),
            "BillingPeriodStart" | "ChargePeriodStart" => whole_second(start, false),
            "ChargeCategory" => "Usage".to_owned(),
            "ChargeDescription" => format!("{ESTIMATE}: {}: {}", cost.cause, cost.definition),
            "ConsumedQuantity" | "PricingQuantity" => hours.clone(),
            "ConsumedUnit" | "PricingUnit" => "Hours".to_owned(),
            "ContractedCost" | "EffectiveCost" | "ListCost" => cost.dollars.clone(),
            "InvoiceIssuerName" | "ProviderName" | "PublisherName" => ESTIMATE.to_owned(),
            "ResourceId" => device.clone(),
            "ServiceCategory" => "AI and Machine Learning".to_owned(),
            "ServiceName" => "LLM inference".to_owned(),
            "Tags" => tags.to_string(),
            "x_Basis" => cost.basis.to_owned(),
            "x_Estimate" => "true".to_owned(),
            "x_RunId" => run.to_owned(),
            "x_WasteCategory" => cost.muda.to_owned(),
            "x_WasteCause" => cost.cause.to_owned(),
            "x_WasteLevel" => cost.level.to_owned(),
            // `ChargeClass` is for corrections: null.
            _ => String::new(),
        };
        (column, cell)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_told_in_whole_seconds_and_holds_all_of_it() {
        for (nanos, begins, ends) in [
            (0, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            (1, "1970-01-01T00:00:00Z", "1970-01-01T00:00:01Z"),
            (59_999_999_999, "1970-01-01T00:00:59Z", "1970-01-01T00:01:00Z"),
        ] {
            let moment = UnixNanos(nanos);
            assert_eq!(whole_second(moment, false), begins);
            assert_eq!(whole_second(moment, true), ends);
        }
    }
}
