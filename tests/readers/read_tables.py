"""pandas reads the ledger and the cost rows, and the report is JSON: read_tables.py RUN."""

import json
import sys
from decimal import Decimal

import pandas

run = sys.argv[1]
ledger = json.load(open(f"{run}/ledger.json"))
totals = {entry["name"]: entry["total"] for entry in ledger["commodities"]}

parquet = pandas.read_parquet(f"{run}/export/ledger.parquet")
text = pandas.read_csv(f"{run}/export/ledger.csv", dtype={"amount": str})
assert list(parquet.columns) == list(text.columns), (parquet.columns, text.columns)
assert len(parquet) == len(text) > 100
for table in (parquet, text):
    amounts = table["amount"].map(int)
    for name, total in totals.items():
        assert amounts[table["commodity"] == name].sum() == total, name

costs = pandas.read_csv(f"{run}/export/focus.csv", dtype=str, keep_default_na=False)
assert sum(map(Decimal, costs["EffectiveCost"])) * 10**12 == totals["money"]
assert set(costs["BilledCost"]) == {"0"} and set(costs["x_Estimate"]) == {"true"}
for column in ("ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodStart", "BillingPeriodEnd"):
    pandas.to_datetime(costs[column], format="ISO8601", utc=True)

report = json.load(open(f"{run}/export/benchmark_report.json"))
assert report["results"]["profiling"]["ledger"]["commodities"] == ledger["commodities"]
print(f"{len(parquet)} postings, {len(costs)} cost rows")
