//! Cost rows in the shape of FOCUS 1.2 (FinOps Open Cost and Usage Specification), as estimates.
//!
//! Nobody is billed by these rows: `BilledCost` is zero, so that they can stand beside a
//! provider's own without counting anything twice, and the estimate is in `EffectiveCost`.

use std::io::{self, Write};

use crate::report::CostRecord;
use crate::unit::UnixNanos;

/// The columns, FOCUS's own first; ours begin with `x_`, as it asks for.
pub const COLUMNS: [&str; 33] = [
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
    "SkuMeter",
    "SkuPriceDetails",
    "Tags",
    "x_Basis",
    "x_Estimate",
    "x_RunId",
    "x_WasteCategory",
    "x_WasteCause",
    "x_WasteLevel",
];

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
            "BillingPeriodEnd" | "ChargePeriodEnd" => end.to_string(),
            "BillingPeriodStart" | "ChargePeriodStart" => start.to_string(),
            "ChargeCategory" => "Usage".to_owned(),
            "ChargeDescription" => format!("{ESTIMATE}: {}: {}", cost.cause, cost.definition),
            "ConsumedQuantity" | "PricingQuantity" => hours.clone(),
            "ConsumedUnit" | "PricingUnit" => "Hours".to_owned(),
            "ContractedCost" | "EffectiveCost" | "ListCost" => cost.dollars.clone(),
            "InvoiceIssuerName" | "ProviderName" | "PublisherName" => ESTIMATE.to_owned(),
            "ResourceId" => device.clone(),
            "ServiceCategory" => "AI and Machine Learning".to_owned(),
            "ServiceName" => "LLM inference".to_owned(),
            "SkuMeter" => "Device hours".to_owned(),
            "Tags" => tags.to_string(),
            "x_Basis" => cost.basis.to_owned(),
            "x_Estimate" => "true".to_owned(),
            "x_RunId" => run.to_owned(),
            "x_WasteCategory" => cost.muda.to_owned(),
            "x_WasteCause" => cost.cause.to_owned(),
            "x_WasteLevel" => cost.level.to_owned(),
            // `ChargeClass` is for corrections, `SkuPriceDetails` for a price list: null.
            _ => String::new(),
        };
        (column, cell)
    })
}
